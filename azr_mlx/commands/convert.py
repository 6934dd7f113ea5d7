"""``azr-mlx convert``: convert a Hugging Face folder, hub repository or ``.gguf`` file for MLX.

The report says how much quantising changed each token's log-probability on a fixed text.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from azr_mlx.config import MODES, Quantization
from azr_mlx.errors import ModelUsageError
from azr_mlx.files import whole_folder
from azr_mlx.models.folder import check_quantization, convert_folder, link_folder, read_config
from azr_mlx.models.locate import Source, locate
from azr_mlx.models.measure import bits_per_weight, float_dtype, logprobs
from azr_mlx.models.template import check_template
from azr_mlx.tasks.chat import TemplateError


class ConvertError(ModelUsageError):
    """A conversion that cannot be done as asked."""


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What was written, and what quantising changed.

    ``logp_change_*`` are in nats per token of a fixed text of ``measured_tokens``; all three are
    None if nothing was quantised. ``kept``
    counts the matrices of a GGUF file whose blocks were kept bit for bit, ``dequantized`` those
    that had to be dequantised. ``quantization`` is mlx-lm's entry in config.json; None if the model
    has none.
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
    measured_tokens: int | None

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
    keep_quantized: bool = False,
    warn: Callable[[str], None] = lambda text: None,
) -> ConvertReport:
    """Convert a folder, hub repository, ``.gguf`` file or ``package:NAME/FILE`` into ``mlx_path``.

    What is written is dense, unless ``quantize`` is set, or ``keep_quantized``, which keeps the
    blocks of a GGUF file that MLX has, too. ``warn`` is called with one line, before weights are
    fetched, if the chat template fails.

    Raises ConvertError if ``mlx_path`` exists or the arguments conflict, ModelError if the
    model cannot be found or converted. The folder is complete or absent, even after Ctrl-C.
    """
    target = Path(os.path.expanduser(mlx_path)).absolute()
    quantization = _quantization(quantize, q_bits, q_group_size, q_mode)
    check_quantization(quantization, dtype)
    if os.path.lexists(target):
        raise ConvertError(
            f"--mlx-path {str(mlx_path)!r} exists", "name another folder or remove it"
        )
    try:
        check_template(hf_path, revision)
    except TemplateError as error:
        warn(str(error))
    source = locate(hf_path, revision)
    with whole_folder(target) as work:
        kept, dequantized, quantized = _write(source, work, quantization, dtype, keep_quantized)
        changes = _measure(source, work, dtype) if quantized else None
        return _report(source, target, work, (kept, dequantized), changes)


def _quantization(quantize: bool, bits: int | None, group: int | None, mode: str) -> Quantization:
    """The quantisation asked for, with mlx-lm's defaults for the mode; bits 0 if none was."""
    if mode not in MODES:
        raise ConvertError(f"--q-mode {mode!r} is not known", f"take one of {', '.join(MODES)}")
    if not quantize:
        if bits or group or mode != "affine":
            raise ConvertError(
                "--q-bits, --q-group-size and --q-mode need --quantize", "add --quantize"
            )
        return Quantization(bits=0)
    if bits == 0:
        raise ConvertError("--q-bits 0 quantises nothing", "leave --quantize out")
    usual = MODES[mode]
    return Quantization(bits or usual.bits, group or usual.group_size, mode)


def _write(
    source: Source,
    work: Path,
    quantization: Quantization,
    dtype: str | None,
    keep_quantized: bool,
) -> tuple[int, int, bool]:
    """(GGUF matrices kept, GGUF matrices dequantised, whether anything was quantised here)."""
    if source.path.is_dir():
        if keep_quantized:
            raise ConvertError(
                f"--keep-quantized is for .gguf files, and {source.path} is a folder",
                "leave it out",
            )
        if quantization.bits and "quantization" in read_config(source.path):
            raise ConvertError(
                f"{source.path} is already quantised", "convert the model that it was made from"
            )
        convert_folder(source.path, work, quantization, dtype)
        return 0, 0, quantization.bits > 0
    from azr_mlx.models.gguf import import_gguf

    done = import_gguf(source.path, work, quantization, dtype, keep_quantized)
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
        bits_per_weight=round(bits_per_weight(model), 3),
        bytes=sum(path.stat().st_size for path in work.iterdir()),
        kept=counts[0],
        dequantized=counts[1],
        logp_change_mean=None if changes is None else float(changes.mean()),
        logp_change_max=None if changes is None else float(changes.max()),
        measured_tokens=None if changes is None else len(changes),
    )


def _measure(source: Source, work: Path, dtype: str | None) -> np.ndarray:
    """How much quantising changed the log-probability of each token of the text, as absolute
    values, float64 [tokens]."""
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
