"""The rotary embedding of a GGUF file, in the words of mlx-lm and transformers, and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from azr_mlx.errors import ModelError, ModelUsageError
from azr_mlx.models.gguf.reader import GgufFile, load

FACTORS = "rope_freqs.weight"
_TOLERANCE = 1e-4  # relative, of a frequency
_USUAL_LENGTH = 8192  # that Llama 3 was trained with
_ORIGINAL = "original_max_position_embeddings"
# mlx-lm's values for what is not said.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, _ORIGINAL: _USUAL_LENGTH}
_EDGE = 1e-6  # a share this near to 0 or 1 is 0 or 1


def rotary(file: GgufFile, width: int, scalings: tuple[str, ...], partial: bool) -> dict[str, Any]:
    """The rotary base and its scaling, in the places where mlx-lm and transformers 5 read them.

    ``scalings`` are those that may be written; ``partial`` says whether only the first dimensions
    of a head may be rotated. Raises ModelError.
    """
    rotated = file.count("rope.dimension_count", width)
    if rotated > width or (rotated != width and not partial):
        raise ModelError(
            f"{file.path}: rotary embedding of {rotated} of {width} dimensions is not supported",
            "convert the Hugging Face folder instead",
        )
    theta = file.number("rope.freq_base", 10000.0)
    if theta <= 1:
        raise file.wrong("rope.freq_base", theta, "is not above 1")
    scaling = _scaling(file, theta, width)
    if scaling and scaling["rope_type"] not in scalings:
        raise ModelError(
            f"{file.path}: rotary scaling {scaling['rope_type']!r} of {file.architecture} is not "
            "supported",
            "convert the Hugging Face folder instead",
        )
    parameters = {"rope_theta": theta, **(scaling or {"rope_type": "default"})}
    rope = {"rope_theta": theta, "rope_parameters": parameters}
    return {**rope, "rope_scaling": scaling} if scaling else rope


def _scaling(file: GgufFile, theta: float, width: int) -> dict[str, Any] | None:
    """As llama.cpp reads it: linear unless another type is named, and none without a factor."""
    kind = file.key("rope.scaling.type", "linear")
    factor = file.number("rope.scaling.factor", file.number("rope.scale_linear", 0.0)) or 1.0
    attention = file.number("rope.scaling.attn_factor", 1.0)
    if kind not in ("none", "linear", "yarn"):
        raise ModelError(
            f"{file.path}: rotary scaling {kind!r} is not supported",
            "convert the Hugging Face folder instead",
        )
    if factor < 0 or (factor < 1 and kind == "yarn"):
        raise file.wrong("rope.scaling.factor", factor, "is too small")
    plain = kind == "none" or factor == 1
    if attention != 1 and (plain or kind != "yarn"):
        raise file.wrong("rope.scaling.attn_factor", attention, "is supported for yarn only")
    if FACTORS in file.tensors:
        if not plain:
            raise ModelError(
                f"{file.path}: it has {FACTORS} and rotary scaling {kind!r}, too",
                "convert the Hugging Face folder instead",
            )
        return _from_factors(file, theta, width)
    if plain:
        return None
    if kind == "yarn":
        return _yarn(file, factor, attention)
    return {"rope_type": "linear", "factor": factor}


def _yarn(file: GgufFile, factor: float, attention: float) -> dict[str, Any]:
    """YaRN. Queries and keys are multiplied by attention (0.1 ln(factor) + 1): mlx-lm has the
    coefficient of the logarithm as ``mscale``, transformers the product."""
    longer = 0.1 * math.log(factor)
    scale = attention * (longer + 1)
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": file.count(
            "rope.scaling.original_context_length", file.count("context_length")
        ),
        "beta_fast": file.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": file.number("rope.scaling.yarn_beta_slow", 1.0),
        "attention_factor": scale,
        "mscale": (scale - 1) / longer,
    }


def _from_factors(file: GgufFile, theta: float, width: int) -> dict[str, Any] | None:
    """The scaling that divides the frequencies by the file's factors."""
    weight = load(file.tensors[FACTORS]).weight
    factors = np.asarray(weight, dtype=np.float64).reshape(-1)
    if len(factors) == width // 2 and np.isfinite(factors).all() and factors.min() > 0:
        if np.allclose(factors, factors[0], rtol=_TOLERANCE):
            same = float(factors.mean())
            near = math.isclose(same, 1, rel_tol=_TOLERANCE)
            return None if near else {"rope_type": "linear", "factor": same}
        length = file.count("rope.scaling.original_context_length", _USUAL_LENGTH)
        for highest in _highest(factors, theta, width):
            scaling = _fit(factors, theta, width, highest, length)
            if scaling and np.allclose(
                factors, llama3_factors(scaling, theta, width), rtol=_TOLERANCE
            ):
                return scaling
    raise ModelError(
        f"{file.path}: {FACTORS} holds rotary factors that are not Llama 3's",
        "convert the Hugging Face folder instead",
    )


def rotary_keys(
    args: Any, width: int, scalings: tuple[str, ...]
) -> tuple[dict[str, Any], np.ndarray | None]:
    """The metadata keys of mlx-lm's arguments of a model, and the contents of ``FACTORS``, float32
    [width / 2], if there is such a tensor. The reverse of ``rotary``.

    Raises ModelUsageError for a scaling that a file of this architecture cannot have.
    """
    scaling = getattr(args, "rope_scaling", None) or {}
    kind = scaling.get("type") or scaling.get("rope_type", "default")  # as mlx-lm reads it
    rotated = int(width * getattr(args, "partial_rotary_factor", 1.0))
    theta = float(args.rope_theta)
    keys = {"rope.dimension_count": rotated, "rope.freq_base": theta}
    if kind == "default":
        return keys, None
    if kind not in scalings or scaling.get("mscale_all_dim"):
        raise ModelUsageError(
            f"rotary scaling {kind!r} of a {args.model_type} cannot be written as GGUF",
            "use --to hf or --to mlx",
        )
    if kind == "llama3":
        whole = {**_LLAMA3, **scaling}
        keys["rope.scaling.original_context_length"] = whole[_ORIGINAL]
        return keys, llama3_factors(whole, theta, width).astype(np.float32)
    keys |= {"rope.scaling.type": kind, "rope.scaling.factor": float(scaling["factor"])}
    return keys | (_yarn_keys(scaling) if kind == "yarn" else {}), None


def _yarn_keys(scaling: dict[str, Any]) -> dict[str, Any]:
    """The reverse of ``_yarn``, with the defaults of mlx-lm, which reads ``mscale`` alone."""
    longer = 0.1 * math.log(scaling["factor"])
    keys = {
        "rope.scaling.original_context_length": scaling.get(_ORIGINAL, 4096),
        "rope.scaling.yarn_beta_fast": float(scaling.get("beta_fast", 32)),
        "rope.scaling.yarn_beta_slow": float(scaling.get("beta_slow", 1)),
    }
    attention = (scaling.get("mscale", 1) * longer + 1) / (longer + 1)
    near = math.isclose(attention, 1, rel_tol=_EDGE)
    return keys if near else {**keys, "rope.scaling.attn_factor": attention}


def _per_turn(theta: float, width: int) -> np.ndarray:
    """1 / wavelength of each pair of dimensions, float64 [width / 2]."""
    inverse: np.ndarray = theta ** -(np.arange(0, width, 2) / width) / (2 * np.pi)
    return inverse


def _highest(factors: np.ndarray, theta: float, width: int) -> list[float]:
    """What the factor of the longest waves may be: the largest one, or, if all waves of the file
    are too short to show it, one beyond."""
    largest = float(factors.max())
    turns, inverse = _per_turn(theta, width)[-2:], 1 / factors[-2:]
    limit = inverse[1] - turns[1] * (inverse[0] - inverse[1]) / (turns[0] - turns[1])
    return [largest, float(2 / (max(limit, 0) + 1 / largest))]


def _fit(
    factors: np.ndarray, theta: float, width: int, highest: float, length: int
) -> dict[str, Any] | None:
    """Llama 3's scaling through the factors. Between its two limits the share of the unscaled
    frequency is a straight line in 1 / wavelength, which two points determine."""
    turns = _per_turn(theta, width)
    share = (1 / factors - 1 / highest) / (1 - 1 / highest)
    between = np.flatnonzero((share > _EDGE) & (share < 1 - _EDGE))
    if len(between) >= 2:
        slope, offset = np.polyfit(turns[between], share[between], 1)
    else:  # any line that rises fast enough; one that ends at a point would do so ambiguously
        whole, none = np.flatnonzero(share >= 1 - _EDGE), np.flatnonzero(share <= _EDGE)
        points = np.concatenate([whole[-1:], between, none[:1]])
        slope = 1.1 * (np.diff(share[points]) / np.diff(turns[points])).max(initial=0)
        at = between if len(between) else points
        offset = share[at].mean() - slope * turns[at].mean()
    if slope <= 0 or offset >= 0:
        return None
    low = -offset * length / slope
    return {
        "rope_type": "llama3",
        "factor": highest,
        "low_freq_factor": float(low),
        "high_freq_factor": float(low + length / slope),
        "original_max_position_embeddings": length,
    }


def llama3_factors(scaling: dict[str, Any], theta: float, width: int) -> np.ndarray:
    """Llama 3.1's divisors of the rotary frequencies (transformers), float64 [width / 2]."""
    length, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((length * _per_turn(theta, width) - low) / (high - low), 0, 1)
    factors: np.ndarray = 1 / ((1 - smooth) / factor + smooth)
    return factors
