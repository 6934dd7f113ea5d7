"""``azr-mlx convert``: a Hugging Face folder, a hub repository or a ``.gguf`` file to MLX's format.

Says what quantising did to the model: the change of each token's log-probability on a fixed text.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from azr_mlx.config import Quantization
from azr_mlx.errors import ModelUsageError
from azr_mlx.files import whole_folder
from azr_mlx.models.folder import (
    MODE_DEFAULTS,
    Source,
    check_quantization,
    convert_folder,
    link_folder,
    locate,
    read_config,
    to_float32,
)

MEASURED_TEXT = """\
def count_vowels(text: str) -> int:
    return sum(1 for letter in text.lower() if letter in "aeiou")

assert count_vowels("Reasoning about code") == 9
The train leaves at 14:35 and takes 1 hour 40 minutes, so it arrives at 16:15.
The café's naïve rule failed twice: “never” is not “rarely”.
"""


Text = tuple[Sequence[int], Sequence[int]]


class ConvertError(ModelUsageError):
    """A conversion that cannot be done as asked."""


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What was written, and what quantising it changed.

    ``logp_change_*`` are nats per token of a fixed text; None where nothing was quantised.
    ``kept`` counts the matrices of a GGUF file whose blocks were kept bit for bit, ``dequantized``
    those that had to be dequantised; ``quantization`` is mlx-lm's entry in config.json, None for a
    model without one.
    """

    source: str
    revision: str | None
    path: str
    model_type: str
    dtype: str
    quantization: dict[str, Any] | None
    bits_per_weight: float
    bytes: int
    kept: int
    dequantized: int
    logp_change_mean: float | None
    logp_change_max: float | None
    measured_tokens: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def convert(
    hf_path: str,
    mlx_path: Path,
    *,
    quantize: bool = False,
    q_bits: int | None = None,
    q_group_size: int | None = None,
    q_mode: str = "affine",
    dtype: str | None = None,
    revision: str | None = None,
) -> ConvertReport:
    """Convert a folder, hub repository, ``.gguf`` file or ``package:NAME/FILE`` into ``mlx_path``.

    Raises ConvertError where ``mlx_path`` exists or the arguments conflict, ModelError where the
    model cannot be found or converted. The folder is whole or absent, also after Ctrl-C.
    """
    target = Path(mlx_path).expanduser().absolute()
    quantization = _quantization(quantize, q_bits, q_group_size, q_mode)
    check_quantization(quantization, dtype)
    if target.exists() or target.is_symlink():
        raise ConvertError(
            f"--mlx-path {str(mlx_path)!r} exists", "name another folder or remove it"
        )
    source = locate(hf_path, revision)
    with whole_folder(target) as work:
        kept, dequantized, quantized = _write(source, work, quantization, dtype)
        changes = _measure(source, work, dtype) if quantized else None
        return _report(source, target, work, (kept, dequantized), changes)


def _quantization(quantize: bool, bits: int | None, group: int | None, mode: str) -> Quantization:
    """mlx-lm's defaults by mode; bits 0 where nothing is to be quantised."""
    if mode not in MODE_DEFAULTS:
        raise ConvertError(
            f"--q-mode {mode!r} is not known", f"take one of {', '.join(MODE_DEFAULTS)}"
        )
    if not quantize:
        if bits or group or mode != "affine":
            raise ConvertError(
                "--q-bits, --q-group-size and --q-mode mean nothing alone", "add --quantize"
            )
        return Quantization(bits=0)
    if bits == 0:
        raise ConvertError("--q-bits 0 quantises nothing", "leave --quantize out")
    usual_group, usual_bits = MODE_DEFAULTS[mode]
    return Quantization(bits or usual_bits, group or usual_group, mode)


def _write(
    source: Source, work: Path, quantization: Quantization, dtype: str | None
) -> tuple[int, int, bool]:
    """(GGUF matrices kept, GGUF matrices dequantised, whether anything was quantised here)."""
    if source.path.is_dir():
        if quantization.bits and "quantization" in read_config(source.path):
            raise ConvertError(
                f"{source.path} is quantised already", "convert the model it was made from"
            )
        convert_folder(source.path, work, quantization, dtype)
        return 0, 0, quantization.bits > 0
    from azr_mlx.models.gguf import import_gguf

    done = import_gguf(source.path, work, quantization, dtype)
    return done.kept, done.dequantized, done.quantized > 0


def _report(
    source: Source, target: Path, work: Path, counts: tuple[int, int], changes: np.ndarray | None
) -> ConvertReport:
    from mlx_lm import utils

    with redirect_stdout(sys.stderr):
        model, config = utils.load_model(work, lazy=True)
    return ConvertReport(
        source=source.identity,
        revision=source.revision,
        path=str(target),
        model_type=str(config["model_type"]),
        dtype=float_dtype(model),
        quantization=config.get("quantization"),
        bits_per_weight=round(_bits_per_weight(model), 3),
        bytes=sum(path.stat().st_size for path in work.iterdir()),
        kept=counts[0],
        dequantized=counts[1],
        logp_change_mean=None if changes is None else float(changes.mean()),
        logp_change_max=None if changes is None else float(changes.max()),
        measured_tokens=0 if changes is None else len(changes),
    )


def _bits_per_weight(model: Any) -> float:
    from mlx_lm import utils

    compute: Any = utils.compute_bits_per_weight
    return float(compute(model))


def float_dtype(model: Any) -> str:
    """The commonest type of the floating-point arrays: scales, and what is not quantised."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    sizes: dict[str, int] = {}
    arrays: Any = tree_flatten(model.parameters())
    for _, array in arrays:
        if mx.issubdtype(array.dtype, mx.floating):
            name = str(array.dtype).removeprefix("mlx.core.")
            sizes[name] = sizes.get(name, 0) + array.size
    return max(sizes, key=lambda name: sizes[name])


def _measure(source: Source, work: Path, dtype: str | None) -> np.ndarray:
    """|change of log-probability| by quantising, of the text's tokens: float64 [tokens]."""
    with tempfile.TemporaryDirectory(
        dir=work.parent, prefix=f"{work.name}.", suffix=".tmp"
    ) as temporary:
        full = Path(temporary, "full")
        if source.path.is_dir():
            link_folder(source.path, full)
        else:
            from azr_mlx.models.gguf import import_gguf

            import_gguf(source.path, full, Quantization(bits=0), dtype)
        before = logprobs(full)
    changes: np.ndarray = np.abs(logprobs(work) - before)
    return changes


def logprobs(
    folder: Path, texts: Sequence[Text] | None = None, adapters: Path | None = None
) -> np.ndarray:
    """log p of every token that follows given those before it, float64 [tokens], of each of
    ``texts``: (token ids that are given, token ids that follow); if none, of a fixed text.

    On a CPU the weights are dequantised to float32 first, the only type that its products are fast
    in. Raises ConvertError where one is not finite.
    """
    import mlx.core as mx
    from mlx_lm.utils import load

    from azr_mlx.commands.generate import attach

    with redirect_stdout(sys.stderr):
        model, tokenizer = load(str(folder))[:2]
    if mx.default_device() == mx.cpu:
        to_float32(model)
    if adapters is not None:
        attach(model, adapters)
    if texts is None:
        ids = tokenizer.encode(MEASURED_TEXT)
        texts = [(ids[:1], ids[1:])]
    values = np.concatenate([_following(model, *text) for text in texts])
    if not all(map(math.isfinite, values)):
        raise ConvertError(
            f"{folder.name}: the model's log-probabilities are not finite", "try --dtype float32"
        )
    return values


def _following(model: Any, given: Sequence[int], following: Sequence[int]) -> np.ndarray:
    import mlx.core as mx

    ids = mx.array([*given, *following])
    logits = model(ids[None, :-1])[0, len(given) - 1 :].astype(mx.float32)
    chosen = mx.take_along_axis(logits, ids[len(given) :, None], axis=-1)[:, 0]
    return np.asarray(chosen - mx.logsumexp(logits, axis=-1), dtype=np.float64)
