"""Row reductions over logits: by GPU kernels if there are any, otherwise in plain MLX.

``row_logprob`` and ``sample_rows`` choose between the two. The ``_mlx`` versions compute the same
with MLX's own operations; a CPU always uses them. The choice is made before the call, since calling
a Metal kernel without Metal raises an error. ``AZR_MLX_KERNELS=off`` chooses plain MLX.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import Any

import mlx.core as mx

from azr_mlx.config.shipped import kernel_source
from azr_mlx.errors import UsageError

# How often each (kernel name, path) has been called in this process. Within mx.compile only tracing
# counts.
ENGAGED: Counter[tuple[str, str]] = Counter()

SWITCH = "AZR_MLX_KERNELS"
DTYPES = (mx.float32, mx.bfloat16, mx.float16)
_SUFFIX = {"metal": ".metal", "cuda": ".cu"}
_SIMD = 32  # threads that reduce without a barrier, on Apple and on NVIDIA GPUs
# Half of the hardware's limit, which is lower for kernels that use many registers. Not tuned on any
# device.
_MAX_THREADS = 512
_ENTRIES_PER_THREAD = 8
_ARGUMENTS = {
    "logprob": (
        ("logits", "targets", "inv_temperature"),
        ("logp", "entropy", "delta", "entropy_delta"),
    ),
    "sample": (("logits", "temperature", "keys"), ("tokens", "logp")),
}
_built: dict[tuple[Any, ...], Any] = {}


def path() -> str:
    """Which implementation a call would use now: "metal", "cuda" or "mlx".

    Raises ``UsageError`` if ``AZR_MLX_KERNELS`` is neither "off", "on" nor empty.
    """
    switch = os.environ.get(SWITCH, "").strip().lower()
    if switch not in ("", "on", "off"):
        raise UsageError(f"{SWITCH}={switch}: set it to off (plain MLX) or on (GPU kernels)")
    if switch == "off" or mx.default_device().type != mx.gpu:
        return "mlx"
    for name in _SUFFIX:
        if _available(name):
            return name
    return "mlx"


def row_logprob(
    logits: mx.array,
    targets: mx.array,
    inv_temperature: mx.array | float,
    gradient: bool,
    entropy_gradient: bool,
) -> tuple[mx.array, mx.array, mx.array | None, mx.array | None]:
    """(logp, entropy, delta, entropy_delta) of rows of logits, with z = logits * inv_temperature.

    ``logits`` [N, V] float32, bfloat16 or float16, ``targets`` [N] in [0, V), ``inv_temperature`` a
    number or an array of one element. logp [N] = z[y] - logsumexp(z) and entropy [N] =
    -sum p log p are float32 nats; delta [N, V] = softmax(z) - onehot(y) (minus d logp / dz) and
    entropy_delta [N, V] = -p (log p + entropy) (d entropy / dz) have the logits' dtype, and are
    None unless asked for. Logits may be -inf, but a row of only -inf gives NaN. The result cannot
    be differentiated. Raises ``ValueError`` if shapes or dtypes do not fit.
    """
    _check("logits", logits, 2, DTYPES)
    _check_rows("targets", targets, logits, 1)
    chosen = path() if logits.size else "mlx"
    ENGAGED["logprob", chosen] += 1
    if chosen == "mlx":
        return row_logprob_mlx(logits, targets, inv_temperature, gradient, entropy_gradient)
    rows = logits.shape[0]
    scale = mx.array(inv_temperature, dtype=mx.float32).reshape(1)
    template = [("GRADIENT", bool(gradient)), ("ENTROPY_GRADIENT", bool(entropy_gradient))]
    # No output can be left out, so one that the template does not write has a single element.
    full, stub = (logits.shape, (1,))
    logp, entropy, delta, entropy_delta = _launch(
        "logprob",
        chosen,
        [logits, targets.astype(mx.int32), scale],
        template,
        [(rows,), (rows,), full if gradient else stub, full if entropy_gradient else stub],
        [mx.float32, mx.float32, logits.dtype, logits.dtype],
    )
    return logp, entropy, delta if gradient else None, entropy_delta if entropy_gradient else None


def row_logprob_mlx(
    logits: mx.array,
    targets: mx.array,
    inv_temperature: mx.array | float,
    gradient: bool,
    entropy_gradient: bool,
) -> tuple[mx.array, mx.array, mx.array | None, mx.array | None]:
    """``row_logprob`` in MLX's own operations: the CPU path.

    Exponentials are computed once, and there are never more than two arrays of the logits' size,
    because each operation can overwrite an input that nothing else needs any more.
    """
    if not logits.size:
        none = mx.zeros((0,))
        return none, none, logits if gradient else None, logits if entropy_gradient else None
    scale = mx.array(inv_temperature, dtype=mx.float32).reshape(1)
    z = logits.astype(mx.float32)
    z = (z - z.max(axis=-1, keepdims=True)) * scale
    chosen = mx.take_along_axis(z, targets[:, None], axis=-1)[:, 0]
    # e^-80 stands for 0, since 0 * -inf would be NaN and numbers that underflow are slow.
    z = mx.maximum(z, -80.0)
    p = mx.power(math.e, z)  # on a CPU twice as fast as MLX's exp
    # A matrix product sums in blocks, which is more exact: MLX's sum of 50,000 numbers has a
    # relative error of 5e-5.
    total = p[:, None, :] @ mx.ones((p.shape[-1],))
    lse = mx.log(total)[:, 0]
    entropy = lse - (p[:, None, :] @ z[:, :, None])[:, 0, 0] / total[:, 0]
    delta = entropy_delta = None
    if gradient or entropy_gradient:
        # The entropy must be computed first: then nothing else needs p, which may be overwritten.
        p = p / mx.depends([total], [entropy])[0]
    if entropy_gradient:
        entropy_delta = p * ((lse - entropy)[:, None] - z)
        entropy_delta = entropy_delta.astype(logits.dtype)
    if gradient:
        delta = p.at[mx.arange(p.shape[0]), targets].add(-1.0).astype(logits.dtype)
    return chosen - lse, entropy, delta, entropy_delta


def sample_rows(
    logits: mx.array, temperature: mx.array, keys: mx.array
) -> tuple[mx.array, mx.array]:
    """(tokens int32 [B], logp float32 [B]): one token per row, and its log-probability in nats.

    ``logits`` [B, V] are float32, bfloat16 or float16. ``temperature`` [B] 0 is greedy: the arg max
    of the logits, with its log-probability at temperature 1. A row's token depends only on its own
    logits, temperature and key (``keys`` [B, 2], uint32). The random bits are those of
    ``mx.random`` for that key, and Gumbel noise g picks arg max z + g. Every path gives the same
    token, except for rounding. A logit of -inf is never drawn; a row of only -inf gives NaN. Raises
    ``ValueError`` if shapes or dtypes do not fit.
    """
    _check("logits", logits, 2, DTYPES)
    _check("keys", keys, 2, (mx.uint32,))
    _check_rows("temperature", temperature, logits, 1)
    _check_rows("keys", keys, logits, 2)
    chosen = path() if logits.size else "mlx"
    ENGAGED["sample", chosen] += 1
    if chosen == "mlx":
        return sample_rows_mlx(logits, temperature, keys)
    rows = logits.shape[0]
    tokens, logp = _launch(
        "sample",
        chosen,
        [logits, temperature.astype(mx.float32), keys],
        [],
        [(rows,), (rows,)],
        [mx.int32, mx.float32],
    )
    return tokens, logp


def sample_rows_mlx(
    logits: mx.array, temperature: mx.array, keys: mx.array
) -> tuple[mx.array, mx.array]:
    """``sample_rows`` in MLX's own operations: the CPU path.

    With e = -log(u), arg max z - log(e) is arg max p / e, so one softmax is enough for both the
    choice and the log-probability.
    """
    rows, size = logits.shape
    if not rows:
        return mx.zeros((0,), mx.int32), mx.zeros((0,))
    greedy = temperature <= 0
    x = logits.astype(mx.float32)
    # Before dividing by the temperature, so that large logits are not rounded.
    x = x - x.max(axis=-1, keepdims=True)
    p = mx.softmax(x / mx.where(greedy, 1, temperature)[:, None], axis=-1, precise=True)
    # As in the kernels, u = 1 - v, and v - (1 - u) is the rounding error of 1 - v.
    v = mx.vmap(lambda key: mx.random.uniform(shape=(size,), key=key))(keys)
    v = mx.maximum(v, 2.0**-33)
    u = 1 - v
    e = mx.maximum((v - (1 - u)) - mx.log(u), v)
    tokens = mx.where(greedy, mx.argmax(x, axis=-1), mx.argmax(p / e, axis=-1))
    logp = mx.log(mx.take_along_axis(p, tokens[:, None], axis=-1)[:, 0])
    return tokens.astype(mx.int32), logp


def _available(name: str) -> bool:
    module = getattr(mx, name, None)
    probe = getattr(module, "is_available", None)
    return bool(probe and probe() and hasattr(mx.fast, f"{name}_kernel"))


def _threads(size: int) -> int:
    """The number of threads for a row of ``size`` entries: whole simd groups, with a few entries
    per thread."""
    groups = -(-size // (_ENTRIES_PER_THREAD * _SIMD))
    return min(_SIMD * max(groups, 1), _MAX_THREADS)


def _launch(
    name: str,
    chosen: str,
    inputs: list[mx.array],
    template: list[tuple[str, Any]],
    shapes: list[tuple[int, ...]],
    dtypes: list[Any],
) -> list[mx.array]:
    """Run a kernel, with one group of threads per row of the logits (``inputs[0]``)."""
    rows, size = inputs[0].shape
    threads = _threads(size)
    template = [("T", inputs[0].dtype), *template]
    # MLX passes an input of fewer than 8 elements in another address space, so the kernel's source
    # differs.
    small = "".join(str(int(x.size < 8)) for x in inputs)
    return _kernel(name, chosen, tuple(template), small)(
        inputs=inputs,
        template=template,
        grid=(rows * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=shapes,
        output_dtypes=dtypes,
    )


def _kernel(name: str, chosen: str, template: tuple[tuple[str, Any], ...], small: str) -> Any:
    """The kernel object. It is built once per template; MLX compiles it at the first call."""
    key = (name, chosen, template, small)
    if key not in _built:
        header, body = kernel_source(name + _SUFFIX[chosen])
        inputs, outputs = _ARGUMENTS[name]
        make = mx.fast.metal_kernel if chosen == "metal" else mx.fast.cuda_kernel
        _built[key] = make(
            name=f"azr_{name}_{small}",
            input_names=list(inputs),
            output_names=list(outputs),
            header=header,
            source=body,
        )
    return _built[key]


def _check(name: str, x: mx.array, ndim: int, dtypes: tuple[Any, ...]) -> None:
    if x.ndim == 2 and not x.shape[1]:
        raise ValueError(f"{name}: rows without entries, {x.shape}")
    if x.ndim != ndim or x.dtype not in dtypes:
        kinds = ", ".join(str(d).rpartition(".")[2] for d in dtypes)
        raise ValueError(f"{name}: {ndim} dimensions of {kinds}, not {x.dtype} {x.shape}")


def _check_rows(name: str, x: mx.array, logits: mx.array, ndim: int) -> None:
    want = (logits.shape[0], 2)[:ndim]
    if x.shape != want:
        raise ValueError(f"{name}: shape {x.shape}, not {want} for logits {logits.shape}")
