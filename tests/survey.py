"""Everything that training needs of a model, tried on a tiny random one of its architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.utils import load_adapters

from azr_mlx import rng
from azr_mlx.backends.base import Hyper, Sampling
from azr_mlx.backends.mlx import MlxBackend, adapters
from azr_mlx.backends.sampler import Stream, draw_on_host
from azr_mlx.config import Lora
from azr_mlx.errors import UsageError
from azr_mlx.training.batch import token_weights
from azr_mlx.types import Batch, Completion, Prompt
from tests.architectures import WINDOW, tiny
from tests.tiny import CharTokenizer

TEXTS = ["def f(a):", "def f(a):", "x = 1", "def f(a):", "hello there, wor", "abcdef"]
SAMPLING = [Sampling(WINDOW + 2 + 2 * i) for i in range(len(TEXTS))]  # they end one after another
KEYS = [rng.key(0, "survey", 0, i) for i in range(len(TEXTS))]
HYPER = Hyper(lr=1e-3, entropy_coef=0.01, kl_coef=0.05, micro_batch_tokens=64)
# Points along the gradient between which slopes are measured. Where a token's experts change, the
# loss jumps, so not every slope is the gradient's.
POINTS = np.array([-1e-3, -3e-4, -1e-4, 1e-4, 3e-4, 1e-3])
LORA = Lora(rank=2, scale=2.0)

Plainly = Callable[[Any, Prompt, Sampling, int], tuple[list[int], list[float]]]


@dataclass(frozen=True)
class Finding:
    """How an architecture is run, the keys of its layers that have no adapters, and whether its
    activations can be recomputed."""

    path: str
    left_out: tuple[str, ...]
    recomputed: bool


def survey(name: str, folder: Path) -> Finding:
    """Try everything; the first failure is raised as an AssertionError."""
    backend = opened(name)
    done = rollout(backend)
    batch = batch_of(done)
    check_scores(backend, batch)
    check_gradients(backend, batch)
    recomputed = check_recomputed(name, backend, batch)
    check_updates(backend, batch)
    backend.save(folder)
    check_saved(name, folder, backend)
    return Finding(backend.path, tuple(backend.left_out), recomputed)


def opened(name: str, **options: object) -> MlxBackend:
    """A backend whose adapters are not zero, so that they change what the model says."""
    backend = MlxBackend(tiny(name), CharTokenizer(), LORA, max_rows=4, **options)
    draw = np.random.default_rng(1)
    for _, layer in adapters.adapter_layers(backend.policy.lm):
        layer.lora_b = mx.array(draw.normal(size=layer.lora_b.shape).astype(np.float32) * 0.05)
    return backend


def prompts() -> list[Prompt]:
    encode = CharTokenizer().encode
    return [Prompt(t, tuple(encode(t)), prefix=2 if t.startswith("def") else 0) for t in TEXTS]


def rollout(backend: Any, plainly: Plainly | None = None) -> list[Completion]:
    """Completions that are the same as ``plainly``, or token by token with the model's own cache of
    mlx-lm."""
    done = backend.generate(prompts(), SAMPLING, KEYS)
    for prompt, sampling, key, ours in zip(prompts(), SAMPLING, KEYS, done, strict=True):
        tokens, logprobs = (plainly or token_by_token)(backend, prompt, sampling, key)
        assert list(ours.token_ids) == tokens, "rollout: other tokens"
        np.testing.assert_allclose(ours.logprobs, logprobs, atol=1e-4, err_msg="rollout")
    return done


def token_by_token(
    backend: MlxBackend, prompt: Prompt, sampling: Sampling, key: int
) -> tuple[list[int], list[float]]:
    model, stream = backend.policy.lm.eval(), Stream(key, sampling)
    cache, fed = make_prompt_cache(model), list(prompt.token_ids)
    tokens: list[int] = []
    logprobs: list[float] = []
    while len(tokens) < sampling.max_tokens and (
        not tokens or tokens[-1] not in backend.engine.eos
    ):
        logits = model(mx.array([fed]), cache=cache)[:, -1]
        token, logprob = draw_on_host(np.array(logits), [stream])
        fed = [int(token[0])]
        tokens, logprobs = tokens + fed, [*logprobs, float(logprob[0])]
    return tokens, logprobs


def batch_of(done: list[Completion]) -> Batch:
    rows = [p.token_ids + c.token_ids for p, c in zip(prompts(), done, strict=True)]
    shape = len(rows), max(map(len, rows)) + 3
    tokens, mask, sampler = (np.zeros(shape, d) for d in (np.int32, np.float32, np.float32))
    for r, (row, c) in enumerate(zip(rows, done, strict=True)):
        tokens[r, : len(row)] = row
        mask[r, len(row) - len(c.token_ids) : len(row)] = 1
        sampler[r, len(row) - len(c.token_ids) : len(row)] = c.logprobs
    noise = np.random.default_rng(2).normal(size=(2, *shape)).astype(np.float32) * mask
    return Batch(
        tokens, mask, sampler_logp=sampler, advantages=noise[0], returns=noise[1],
        weights=token_weights(mask, "sequence_mean"),
    )  # fmt: skip


def check_scores(backend: MlxBackend, batch: Batch) -> None:
    """Log-probabilities are those of the sampler and of the plain forward pass."""
    scores = backend.score(batch, "current", 1.0)
    np.testing.assert_allclose(scores.logp, batch.sampler_logp, atol=1e-4, err_msg="scores")
    logits = backend.policy._anatomy(mx.array(batch.tokens[:, :-1])).astype(mx.float32)
    plain = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    plain = np.array(mx.take_along_axis(plain, mx.array(batch.tokens[:, 1:, None]), -1))[..., 0]
    np.testing.assert_allclose(
        scores.logp[:, 1:], np.where(batch.mask[:, 1:], plain, 0), atol=1e-4, err_msg="scores"
    )


def check_gradients(backend: MlxBackend, batch: Batch) -> None:
    """Each adapter has a gradient, and their sum is the slope of the loss."""
    backend.policy.train()
    backend._clear_gradients()
    backend._accumulate_supervised(batch, 1.0)
    grads = backend._gradients()
    grads.pop("value_head")
    for path, grad in tree_flatten(grads):
        assert np.isfinite(np.array(grad)).all(), f"gradient: {path} is not finite"
    keys = adapters.by_key(backend.policy.lm)
    flat = dict(tree_flatten(grads["lm"]))
    for key, layers in keys.items():
        for part in ("lora_a", "lora_b"):
            largest = max(float(mx.abs(flat[f"{path}.{part}"]).max()) for path, _ in layers)
            assert largest > 0, f"gradient: {key}.{part} is zero"
    norm = float(np.sqrt(sum(np.square(np.array(g)).sum() for _, g in tree_flatten(grads))))
    losses = [moved_loss(backend, batch, grads, point / norm**2) for point in POINTS]
    slopes = np.diff(losses) / np.diff(POINTS)
    assert np.abs(slopes - 1).min() < 0.02, f"gradient: the slopes are {slopes} times its own"
    backend._clear_gradients()


def moved_loss(backend: MlxBackend, batch: Batch, grads: dict, step: float) -> float:
    """The loss with the adapters moved along the gradient."""
    start = backend.policy.trainable_parameters()
    moved = {k: v for k, v in start.items() if k != "value_head"}
    backend.policy.update(tree_map(lambda p, g: p + step * g, moved, grads))
    loss = backend._accumulate_supervised(batch, 1.0)
    backend.policy.update(start)
    return loss


def check_recomputed(name: str, plain: MlxBackend, batch: Batch) -> bool:
    """Recomputed activations have the same gradients, or are refused."""
    try:
        other = opened(name, grad_checkpoint=True)
    except UsageError as e:
        assert "ppo.grad_checkpoint=false" in str(e)
        return False
    found = []
    for backend in (plain, other):
        backend._clear_gradients()
        backend._accumulate(batch, HYPER)
        grads = backend._gradients()["lm"]
        found.append({path: np.array(grad) for path, grad in tree_flatten(grads)})
        backend._clear_gradients()
    size = max(np.abs(grad).max() for grad in found[0].values())
    for path, grad in found[0].items():
        np.testing.assert_allclose(found[1][path], grad, atol=1e-3 * size, err_msg="recomputed")
    return True


def check_updates(backend: MlxBackend, batch: Batch) -> None:
    """Two updates move the adapters and nothing else."""
    before = dict(tree_flatten(backend.policy.lm.parameters()))
    for _ in range(2):
        scores = backend.score(batch, "current", 1.0)
        reference = backend.score(batch, "reference", 1.0)
        moved = batch.with_(old_logp=scores.logp, ref_logp=reference.logp, values=scores.values)
        stats = backend.update(moved, HYPER)
        assert np.isfinite(stats.loss) and stats.grad_norm > 0, "update"
    for path, array in tree_flatten(backend.policy.lm.parameters()):
        changed = bool(mx.any(array != before[path]).item())
        adapter = path.endswith(("lora_a", "lora_b"))
        assert changed <= adapter, f"update: {path} is not an adapter, but changed"


def check_saved(name: str, folder: Path, backend: MlxBackend) -> None:
    """mlx-lm loads the adapters, and fused into the weights they are the same model."""
    tokens = mx.array([prompts()[0].token_ids])
    expected = np.array(backend.policy.lm.eval()(tokens))
    model = tiny(name)
    load_adapters(model, str(folder)).eval()
    scale = np.abs(np.where(np.isfinite(expected), expected, 0)).max()
    close = {"rtol": 0, "atol": 1e-4 * scale}
    np.testing.assert_allclose(np.array(model(tokens)), expected, err_msg="load", **close)
    fused = [(n, m.fuse()) for n, m in model.named_modules() if hasattr(m, "fuse")]
    model.update_modules(tree_unflatten(fused))
    np.testing.assert_allclose(np.array(model(tokens)), expected, err_msg="fuse", **close)
