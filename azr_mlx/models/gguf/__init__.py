"""Converting a ``.gguf`` file to an MLX folder, with its tokenizer and chat template.

Q4_0, Q4_1 and Q8_0 are affine groups of 32, so their integers, scales and offsets can be kept bit
for bit. All other types are dequantised by the package ``gguf``. The config.json that is written
works for mlx-lm and for transformers. The layouts are described in ggml's docs/gguf.md and in
llama.cpp's convert_hf_to_gguf.py and ggml-quants.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azr_mlx.config import Quantization
from azr_mlx.models.folder import filling
from azr_mlx.models.gguf.architecture import architecture_of, build_config
from azr_mlx.models.gguf.reader import GgufFile, parts_of, read
from azr_mlx.models.gguf.tokenizer import Vocabulary, write_tokenizer
from azr_mlx.models.gguf.weights import (
    Plan,
    check_loads,
    convert_tensors,
    quantization_entries,
    write_config,
    write_weights,
)

__all__ = ["Imported", "check_gguf", "import_gguf", "parts_of"]


@dataclass(frozen=True, slots=True)
class Imported:
    """How many matrices kept their blocks, were dequantised and were quantised, and the type of the
    floating-point arrays."""

    kept: int
    dequantized: int
    quantized: int
    dtype: str


def import_gguf(
    path: Path,
    target: Path,
    quantization: Quantization,
    dtype: str | None = None,
    keep_blocks: bool = False,
) -> Imported:
    """Convert ``path``, a file or any part of a split one, into the MLX folder ``target``, which
    must not exist.

    With ``bits`` 0 the model becomes dense. Otherwise matrices with blocks that MLX supports are
    kept as they are, unless most of the file consists of such blocks with more bits than
    ``quantization`` asks for; those are quantised to ``bits``, and so are matrices without such
    blocks. With ``keep_blocks`` all blocks that MLX supports are kept, whatever ``bits`` is.
    ``dtype`` is the type of scales and plain tensors. Its default is float16, the type of GGUF's
    scales (with float32, MLX's dequantisation is exact too), or bfloat16 or float32 if the file
    holds nothing else. Raises ModelError, and then leaves no incomplete folder.
    """
    file, config, vocabulary = _described(path)
    plan = Plan.of(file, quantization, dtype, keep_blocks)
    done = convert_tensors(file, architecture_of(file), config, plan)
    config["torch_dtype"] = config["dtype"] = plan.dtype
    modes = quantization_entries(done.tensors)
    if modes:
        config["quantization"] = modes
    with filling(target) as work:
        work.mkdir()
        write_weights(work, done.tensors)
        write_config(work, config, vocabulary.ends())
        write_tokenizer(vocabulary, work)
        check_loads(work, path)
    return Imported(done.kept, done.dequantized, done.quantized, plan.dtype)


def check_gguf(path: Path) -> None:
    """Raise ModelError if ``import_gguf`` would refuse what the header says of the model. No
    weights are read."""
    _described(path)


def _described(path: Path) -> tuple[GgufFile, dict[str, Any], Vocabulary]:
    """A file's header, and the config.json and the vocabulary that it describes. Raises
    ModelError."""
    file = read(path)
    config = build_config(file)
    vocabulary = Vocabulary.of(file)
    return file, config | vocabulary.config_entries(), vocabulary
