"""The rollout engine: same tokens as mlx-lm, whatever the batch, and honest log-probabilities."""

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from mlx_lm.generate import generate_step  # noqa: E402

from azr_mlx import rng  # noqa: E402
from azr_mlx.backends.base import Sampling  # noqa: E402
from azr_mlx.backends.mlx import MlxBackend  # noqa: E402
from azr_mlx.backends.mlx.adapters import adapter_layers  # noqa: E402
from azr_mlx.backends.mlx.rollout import RolloutEngine, sample  # noqa: E402
from azr_mlx.config import Lora  # noqa: E402
from azr_mlx.types import Batch, Prompt  # noqa: E402
from tests.tiny import EOS, CharTokenizer, tiny_model  # noqa: E402

pytestmark = pytest.mark.backend

TOKENIZER = CharTokenizer()
TEXTS = [
    "def f(a):",
    "def f(a):",
    "x = 1; y",
    "def f(b",
    "q",
    "def f(a):",
    "hello there, world",
    "def g(",
]


def prompts(texts=TEXTS, **options) -> list[Prompt]:
    return [Prompt(t, tuple(TOKENIZER.encode(t + " ")), **options) for t in texts]


def keys(count: int) -> list[int]:
    return [rng.key(0, "test", 0, i) for i in range(count)]


@pytest.fixture(scope="module")
def model():
    return tiny_model(quantized=False, scale=3.0)


def test_greedy_equals_mlx_lm_token_for_token(model):
    engine = RolloutEngine(model, TOKENIZER, max_rows=4)
    done = engine.run(prompts(), [Sampling(20, temperature=0.0)] * 8, keys(8))
    for prompt, ours in zip(prompts(), done, strict=False):
        expected = []
        for token, _ in generate_step(mx.array(prompt.token_ids), model, max_tokens=20):
            expected.append(int(token))
            if expected[-1] == EOS:
                break
        assert list(ours.token_ids) == expected


def test_a_row_does_not_depend_on_its_batch(model):
    sampling = [Sampling(5 + 3 * i) for i in range(8)]  # uneven: places are freed and refilled
    together = RolloutEngine(model, TOKENIZER, max_rows=3).run(prompts(), sampling, keys(8))
    for i in range(8):
        alone = RolloutEngine(model, TOKENIZER, max_rows=1).run(
            prompts()[i : i + 1], sampling[i : i + 1], keys(8)[i : i + 1]
        )
        assert alone[0].token_ids == together[i].token_ids
        np.testing.assert_allclose(alone[0].logprobs, together[i].logprobs, atol=1e-5)


def test_completions_are_told_in_the_step_that_ends_them(model):
    """The judge works on the first while the last are still being written."""
    engine = RolloutEngine(model, TOKENIZER, max_rows=3)
    steps = []
    sampling = [Sampling(5 + 3 * i) for i in range(8)]
    done = engine.run(prompts(), sampling, keys(8), steps.append)
    assert len(steps) == engine.model_calls[1], "one call after every decode step"
    told = [pair for step in steps for pair in step]
    assert sorted(index for index, _ in told) == list(range(8)), "each completion is told once"
    assert all(done[index] == completion for index, completion in told)
    assert steps.index(next(step for step in steps if step)) < len(steps) / 2, "not all at the end"


def test_siblings_share_one_prefill(model):
    engine = RolloutEngine(model, TOKENIZER, max_rows=16)
    done = engine.run(prompts(["def f(a):"] * 16), [Sampling(4)] * 16, keys(16))
    assert engine.model_calls[0] == 1, "one prompt, one prefill"
    assert engine.model_calls[1] == max(len(c.token_ids) for c in done), (
        "all siblings decode together"
    )
    assert len({c.token_ids for c in done}) > 8, "siblings have keys of their own"


def test_a_shared_prefix_is_prefilled_once_and_changes_no_token(model):
    prefix = "# a long preamble that every prompt has in common\n" * 4
    texts = [prefix + t for t in TEXTS]
    plain = RolloutEngine(model, TOKENIZER, max_rows=8)
    shared = RolloutEngine(model, TOKENIZER, max_rows=8)
    sampling = [Sampling(12)] * 8
    expected = plain.run(prompts(texts), sampling, keys(8))
    got = shared.run(prompts(texts, prefix=len(prefix)), sampling, keys(8))
    assert [c.token_ids for c in got] == [c.token_ids for c in expected]


def test_sampler_and_trainer_agree_on_log_probabilities(model):
    backend = MlxBackend(tiny_model(quantized=False, scale=3.0), TOKENIZER, max_rows=4)
    done = backend.generate(prompts(), [Sampling(10, temperature=0.7)] * 8, keys(8))
    width = max(len(p.token_ids) + len(c.token_ids) for p, c in zip(prompts(), done, strict=False))
    tokens, mask, sampler = (np.zeros((8, width), d) for d in (np.int32, np.float32, np.float32))
    for r, (p, c) in enumerate(zip(prompts(), done, strict=False)):
        n, m = len(p.token_ids), len(c.token_ids)
        tokens[r, : n + m], mask[r, n : n + m], sampler[r, n : n + m] = (
            p.token_ids + c.token_ids,
            1,
            c.logprobs,
        )
    scores = backend.score(Batch(tokens, mask), "current", 0.7)
    np.testing.assert_allclose(scores.logp, sampler, atol=2e-5)
    assert scores.logp.min() < -0.5


def test_stop_strings_end_a_row_and_leave_the_text(model):
    engine = RolloutEngine(model, TOKENIZER, max_rows=8)
    free = engine.run(prompts(), [Sampling(30)] * 8, keys(8))
    stop = free[0].text[4:6]
    ended = engine.run(prompts(stop=(stop,)), [Sampling(30)] * 8, keys(8))[0]
    assert ended.finish == "stop" and ended.text == free[0].text[: free[0].text.find(stop)]
    assert ended.token_ids == free[0].token_ids[: len(ended.token_ids)]
    assert len(ended.token_ids) == len(ended.text) + 2, "the tokens that ended it are trained on"


def test_the_end_token_ends_a_row(model):
    row = mx.full((1, 128), -50.0)
    row[0, EOS] = 50.0

    class Ends:
        layers = model.layers

        def __call__(self, tokens, cache=None):
            model(tokens, cache=cache)
            return mx.broadcast_to(row[:, None], (*tokens.shape, 128))

    engine = RolloutEngine(Ends(), TOKENIZER, max_rows=2)
    done = engine.run(prompts(["abc"]), [Sampling(9)], keys(1))[0]
    assert (done.token_ids, done.finish, done.text) == ((EOS,), "stop", "")


def test_sampling_follows_the_distribution():
    logits = mx.array(np.log([[0.1, 0.2, 0.0001, 0.6999]]))
    uniforms = rng.uniforms(rng.key(0, "law", 0), 20_000)
    rows = mx.broadcast_to(logits, (20_000, 4))
    ones = np.ones(20_000, np.float32)
    tokens, logprobs = sample(rows, ones, ones, uniforms)
    share = np.bincount(np.array(tokens), minlength=4) / 20_000
    np.testing.assert_allclose(share, [0.1, 0.2, 0.0001, 0.6999], atol=0.012)
    np.testing.assert_allclose(
        np.exp(np.array(logprobs[:50])),
        np.array([0.1, 0.2, 0.0001, 0.6999])[np.array(tokens[:50])],
        rtol=1e-4,
    )


@pytest.mark.parametrize("u", [0.0, 0.5, 1.0 - 2**-24])
def test_a_token_without_mass_is_never_drawn(u):
    row = np.full((1, 1000), -np.inf, np.float32)
    row[0, 17:400] = 0.0
    one = np.ones(1, np.float32)
    token, logprob = sample(mx.array(row), one, one, np.array([u], np.float32))
    assert 17 <= token.item() < 400 and np.isfinite(logprob.item())


def test_top_p_keeps_the_smallest_nucleus():
    logits = mx.array(np.log([[0.5, 0.3, 0.15, 0.05]] * 1000))
    uniforms = rng.uniforms(rng.key(0, "nucleus", 0), 1000)
    ones = np.ones(1000, np.float32)
    tokens, logprobs = sample(logits, ones, ones * 0.7, uniforms)
    assert set(np.array(tokens).tolist()) == {0, 1}
    first = np.array(logprobs)[np.array(tokens) == 0][0]
    assert np.exp(first) == pytest.approx(0.5 / 0.8, rel=1e-4), (
        "the log-probability is the nucleus's own"
    )


def test_the_reference_policy_generates_as_the_base_and_leaves_the_adapters_on(model):
    base = MlxBackend(tiny_model(scale=3.0), TOKENIZER, Lora(rank=2))
    adapted = MlxBackend(tiny_model(scale=3.0), TOKENIZER, Lora(rank=2))
    for _, layer in adapter_layers(adapted.policy.lm):
        layer.lora_b = mx.full(layer.lora_b.shape, 0.3)
    sampling = [Sampling(12)] * 8

    def tokens(backend, policy):
        done = backend.generate(prompts(), sampling, keys(8), policy=policy)
        return [c.token_ids for c in done]

    plain, learned = tokens(base, "current"), tokens(adapted, "current")
    assert learned != plain, "the adapters change nothing: this test would prove nothing"
    assert tokens(adapted, "reference") == plain
    assert tokens(adapted, "current") == learned
