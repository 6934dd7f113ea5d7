"""Converting a ``.gguf`` file to an MLX folder, with its tokenizer and chat template.

Q4_0, Q4_1 and Q8_0 are affine groups of 32, so their integers, scales and offsets are kept bit for
bit. K-quants and Q5 are dequantised by the package ``gguf``, and quantised again if asked for. The
config.json that is written works for mlx-lm and for transformers. The layouts are described in
ggml's docs/gguf.md and in llama.cpp's convert_hf_to_gguf.py and ggml-quants.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from azr_mlx.config import Quantization
from azr_mlx.files import whole_folder
from azr_mlx.models.gguf.architecture import build_config
from azr_mlx.models.gguf.reader import read
from azr_mlx.models.gguf.tokenizer import build_tokenizer
from azr_mlx.models.gguf.weights import (
    check_complete,
    check_loads,
    natural_dtype,
    quantization_entries,
    renamed,
    requantize,
    write_config,
    write_weights,
)

__all__ = ["Imported", "import_gguf"]


@dataclass(frozen=True, slots=True)
class Imported:
    """How many matrices kept their blocks, were dequantised and were quantised, and the type of the
    floating-point arrays."""

    kept: int
    dequantized: int
    quantized: int
    dtype: str


def import_gguf(
    path: Path, target: Path, quantization: Quantization, dtype: str | None = None
) -> Imported:
    """Convert ``path`` into the MLX folder ``target``, which must not exist.

    Matrices with blocks that MLX supports are kept as they are, unless most of the file consists of
    such blocks with more bits than ``quantization`` asks for. In that case they are quantised to
    ``bits``, if that is not 0; so are matrices without such blocks. ``dtype`` is the type of scales
    and plain tensors. Its default is float16, the type of GGUF's scales (with float32, MLX's
    dequantisation is exact too), or bfloat16 or float32 if the file holds nothing else. Raises
    ModelError, and then leaves no incomplete folder.
    """
    file = read(path)
    config = build_config(file)
    tensors = dict(renamed(file, config))
    check_complete(tensors, config, path)
    dtype = dtype or natural_dtype(tensors)
    done, kept, dequantized, quantized = requantize(tensors, quantization, dtype)
    config["torch_dtype"] = config["dtype"] = dtype
    modes = quantization_entries(done)
    if modes:
        config["quantization"] = modes
    with whole_folder(target) as work:
        work.mkdir()
        write_weights(work, done)
        write_config(work, config, file)
        build_tokenizer(file, work)
        check_loads(work, path)
    return Imported(kept, dequantized, quantized, dtype)
