"""The rollout engine: same tokens as mlx-lm, whatever the batch, and honest log-probabilities."""

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from mlx_lm.generate import generate_step  # noqa: E402

from azr_mlx import rng  # noqa: E402
from azr_mlx.backends.base import Sampling  # noqa: E402
from azr_mlx.backends.kv_places import Layer  # noqa: E402
from azr_mlx.backends.mlx import MlxBackend  # noqa: E402
from azr_mlx.backends.mlx.adapters import adapter_layers  # noqa: E402
from azr_mlx.backends.mlx.decoder import MlxDecoder, draw_on_device  # noqa: E402
from azr_mlx.backends.mlx.own_caches import CacheDecoder  # noqa: E402
from azr_mlx.backends.rollout import RolloutEngine  # noqa: E402
from azr_mlx.backends.sampler import Stream, draw_on_host  # noqa: E402
from azr_mlx.config import Lora  # noqa: E402
from azr_mlx.errors import AzrError, UsageError  # noqa: E402
from azr_mlx.types import Batch, Prompt  # noqa: E402
from tests import architectures  # noqa: E402
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
    engine = RolloutEngine(MlxDecoder(model), TOKENIZER, max_rows=4)
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
    together = RolloutEngine(MlxDecoder(model), TOKENIZER, max_rows=3).run(
        prompts(), sampling, keys(8)
    )
    for i in range(8):
        alone = RolloutEngine(MlxDecoder(model), TOKENIZER, max_rows=1).run(
            prompts()[i : i + 1], sampling[i : i + 1], keys(8)[i : i + 1]
        )
        assert alone[0].token_ids == together[i].token_ids
        np.testing.assert_allclose(alone[0].logprobs, together[i].logprobs, atol=1e-5)


def test_completions_are_told_in_the_step_that_ends_them(model):
    """The judge works on the first while the last are still being written."""
    engine = RolloutEngine(MlxDecoder(model), TOKENIZER, max_rows=3)
    steps = []
    sampling = [Sampling(5 + 3 * i) for i in range(8)]
    done = engine.run(prompts(), sampling, keys(8), steps.append)
    assert len(steps) == engine.model_calls[1], "one call after every decode step"
    told = [pair for step in steps for pair in step]
    assert sorted(index for index, _ in told) == list(range(8)), "each completion is told once"
    assert all(done[index] == completion for index, completion in told)
    assert steps.index(next(step for step in steps if step)) < len(steps) / 2, "not all at the end"


def test_siblings_share_one_prefill(model):
    engine = RolloutEngine(MlxDecoder(model), TOKENIZER, max_rows=16)
    done = engine.run(prompts(["def f(a):"] * 16), [Sampling(4)] * 16, keys(16))
    assert engine.model_calls[0] == 1, "one prompt, one prefill"
    assert engine.model_calls[1] == max(len(c.token_ids) for c in done), (
        "all siblings decode together"
    )
    assert len({c.token_ids for c in done}) > 8, "siblings have keys of their own"


def test_a_shared_prefix_is_prefilled_once_and_changes_no_token(model):
    prefix = "# a long preamble that every prompt has in common\n" * 4
    texts = [prefix + t for t in TEXTS]
    plain = RolloutEngine(MlxDecoder(model), TOKENIZER, max_rows=8)
    shared = RolloutEngine(MlxDecoder(model), TOKENIZER, max_rows=8)
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
    engine = RolloutEngine(MlxDecoder(model), TOKENIZER, max_rows=8)
    free = engine.run(prompts(), [Sampling(30)] * 8, keys(8))
    stop = free[0].text[4:6]
    ended = engine.run(prompts(stop=(stop,)), [Sampling(30)] * 8, keys(8))[0]
    assert ended.finish == "stop" and ended.text == free[0].text[: free[0].text.find(stop)]
    assert ended.token_ids == free[0].token_ids[: len(ended.token_ids)]
    assert len(ended.token_ids) == len(ended.text) + 2, "the tokens that ended it are trained on"


def test_the_end_token_ends_a_row(model):
    trunk = model
    row = mx.full((1, 128), -50.0)
    row[0, EOS] = 50.0

    class Ends:
        layers, model = trunk.layers, trunk.model

        def __call__(self, tokens, cache=None):
            trunk(tokens, cache=cache)
            return mx.broadcast_to(row[:, None], (*tokens.shape, 128))

    engine = RolloutEngine(MlxDecoder(Ends()), TOKENIZER, max_rows=2)
    done = engine.run(prompts(["abc"]), [Sampling(9)], keys(1))[0]
    assert (done.token_ids, done.finish, done.text) == ((EOS,), "stop", "")


def streams(count: int, **options) -> list[Stream]:
    return [Stream(key, Sampling(1, **options)) for key in keys(count)]


def drawn(draw, row, count: int, **options) -> tuple[np.ndarray, np.ndarray]:
    logits = mx.broadcast_to(mx.array(row, mx.float32), (count, len(row)))
    mx.eval(logits)
    tokens, logprobs = draw(logits, streams(count, **options))
    return np.array(tokens), np.array(logprobs)


def on_host(logits, streams):
    return draw_on_host(np.array(logits), streams)


DRAWS = pytest.mark.parametrize("draw", [on_host, draw_on_device])


@DRAWS
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampling_follows_the_distribution(draw, temperature):
    law = np.array([0.1, 0.2, 0.0001, 0.6999])
    tokens, logprobs = drawn(draw, np.log(law), 20_000, temperature=temperature)
    law = law ** (1 / temperature) / (law ** (1 / temperature)).sum()
    np.testing.assert_allclose(np.bincount(tokens, minlength=4) / 20_000, law, atol=0.012)
    np.testing.assert_allclose(np.exp(logprobs), law[tokens], rtol=1e-4)


@DRAWS
def test_a_large_vocabulary_is_drawn_from_in_proportion(draw):
    """More entries than a block: the two levels of the search must agree."""
    size = 1000
    mass = np.linspace(1, 3, size)
    tokens, logprobs = drawn(draw, np.log(mass), 20_000)
    law = mass / mass.sum()
    share = np.bincount(tokens // 100, minlength=10) / 20_000
    np.testing.assert_allclose(share, law.reshape(10, 100).sum(axis=1), atol=0.012)
    np.testing.assert_allclose(np.exp(logprobs), law[tokens], rtol=1e-4)


@pytest.mark.parametrize("u", [0.0, 0.5, 1.0 - 2**-24, 1.0])
def test_a_token_without_mass_is_never_drawn(u):
    row = np.full((1, 1000), -np.inf, np.float32)
    row[0, 17:400] = 0.0
    stream = Stream(0, Sampling(1))
    stream._uniforms = np.array([u], np.float32)
    token, logprob = draw_on_host(row, [stream])
    assert 17 <= token.item() < 400 and np.isfinite(logprob.item())


@DRAWS
def test_top_p_keeps_the_smallest_nucleus(draw):
    tokens, logprobs = drawn(draw, np.log([0.5, 0.3, 0.15, 0.05]), 1000, top_p=0.7)
    assert set(tokens.tolist()) == {0, 1}
    assert np.exp(logprobs[tokens == 0][0]) == pytest.approx(0.5 / 0.8, rel=1e-4), (
        "the log-probability is the nucleus's own"
    )


@DRAWS
def test_greedy_rows_take_the_arg_max_beside_rows_that_are_sampled(draw):
    logits = mx.array(np.log([[0.5, 0.3, 0.2]] * 400).astype(np.float32))
    mx.eval(logits)
    mixed = [Stream(k, Sampling(1, temperature=float(i % 2))) for i, k in enumerate(keys(400))]
    tokens, logprobs = (np.array(a) for a in draw(logits, mixed))
    assert not tokens[::2].any() and len(set(tokens[1::2].tolist())) == 3
    np.testing.assert_allclose(np.exp(logprobs[::2]), 0.5, rtol=1e-5)


class Waiting(MlxDecoder):
    """Draws on the device, and queues nothing."""

    def __init__(self, model, lookahead):
        super().__init__(model, lookahead=False)

    def step(self, tokens, places, streams):
        return draw_on_device(self.model(tokens, cache=places.caches)[:, -1], streams)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_queued_step_changes_no_token(model, top_p):
    """On a GPU a step is queued before the last one's tokens are known: rows end one step late."""
    sampling = [Sampling(5 + 3 * i, top_p=top_p) for i in range(8)]
    free = RolloutEngine(MlxDecoder(model, lookahead=True), TOKENIZER, 8).run(
        prompts(), sampling, keys(8)
    )
    stop = free[0].text[2:4]
    runs = []
    for rows, decoder in ((3, MlxDecoder), (8, MlxDecoder), (1, Waiting)):
        engine = RolloutEngine(decoder(model, lookahead=True), TOKENIZER, rows)
        steps = []
        runs.append(engine.run(prompts(stop=(stop,)), sampling, keys(8), steps.append))
        assert sorted(i for step in steps for i, _ in step) == list(range(8))
    assert [c.token_ids for c in runs[0]] == [c.token_ids for c in runs[2]]
    assert [c.token_ids for c in runs[1]] == [c.token_ids for c in runs[2]]
    assert runs[0][0].finish == "stop" and len(runs[0][0].token_ids) < len(free[0].token_ids)


def test_places_are_filled_again_for_as_long_as_rows_wait(model):
    """Far more steps than a row is long: what is read moves to the front of the buffer."""
    many = prompts([f"def f{'x' * (i % 7)}({i}" for i in range(60)])
    sampling = [Sampling(4 + i % 9) for i in range(60)]
    engine = RolloutEngine(MlxDecoder(model), TOKENIZER, max_rows=4)
    together = engine.run(many, sampling, keys(60))
    assert engine.model_calls[1] > 100, "the buffer never filled: this test proves nothing"
    for i in range(0, 60, 7):
        alone = RolloutEngine(MlxDecoder(model), TOKENIZER, 1).run(
            [many[i]], [sampling[i]], [keys(60)[i]]
        )
        assert alone[0].token_ids == together[i].token_ids
        np.testing.assert_allclose(alone[0].logprobs, together[i].logprobs, atol=1e-5)


def test_rows_are_bounded_by_the_budget_of_keys_and_values(model):
    wide, whole = [], model

    class Watched:
        layers, model = whole.layers, whole.model

        def __call__(self, tokens, cache=None):
            if isinstance(cache[0], Layer):  # a decode step, and not the prompts' reading
                wide.append(cache[0].keys.shape)
            return whole(tokens, cache=cache)

    engine = RolloutEngine(MlxDecoder(Watched()), TOKENIZER, max_rows=8, kv_tokens=300)
    done = engine.run(prompts(), [Sampling(10)] * 8, keys(8))
    assert len(done) == 8 and max(b * s for b, _, s, _ in wide) <= 300
    assert max(b for b, *_ in wide) > 1


def test_the_reference_policy_generates_as_the_base_and_leaves_the_adapters_on(model):
    base = MlxBackend(tiny_model(scale=3.0), TOKENIZER, Lora(rank=2))
    adapted = MlxBackend(tiny_model(scale=3.0), TOKENIZER, Lora(rank=2))
    for _, layer in adapter_layers(adapted.policy.lm):
        layer.lora_b = mx.full(layer.lora_b.shape, 0.3)
    sampling = [Sampling(12)] * 8

    texts = [f"a long common beginning: {text}" for text in TEXTS]

    def tokens(backend, policy):
        asked = prompts(texts, prefix=24)  # read once, and kept from call to call
        done = backend.generate(asked, sampling, keys(8), policy=policy)
        return [c.token_ids for c in done]

    plain, learned = tokens(base, "current"), tokens(adapted, "current")
    assert learned != plain, "the adapters change nothing: this test would prove nothing"
    assert tokens(adapted, "reference") == plain
    assert tokens(adapted, "current") == learned


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("name", ["gemma3_text", "qwen3_5", "falcon_h1"])
def test_places_with_the_models_own_caches_are_filled_again(name, lookahead):
    """Windows that are full, recurrent states, and rows that come and go."""
    own, prefix = architectures.tiny(name), "# a common beginning\n"
    texts = [f"{prefix}def f{'x' * (i % 7)}({i}" for i in range(20)]
    texts[5:9] = texts[4:5] * 4
    asked = prompts(texts, prefix=len(prefix))
    sampling = [Sampling(3 + i % 9) for i in range(20)]
    engine = RolloutEngine(CacheDecoder(own, True, lookahead), TOKENIZER, max_rows=4)
    together = engine.run(asked, sampling, keys(20))
    assert engine.model_calls[1] < sum(len(c.token_ids) for c in together) / 2
    single = RolloutEngine(CacheDecoder(own, False, lookahead), TOKENIZER, max_rows=1)
    alone = single.run(asked, sampling, keys(20))
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]


def test_rows_that_must_be_alike_are_decoded_prompt_by_prompt():
    engine = RolloutEngine(CacheDecoder(architectures.tiny("llama4"), False), TOKENIZER, max_rows=2)
    done = engine.run(prompts(["def f(a):", "x = 1"] * 3), [Sampling(4)] * 6, keys(6))
    longest = [max(len(done[i].token_ids) for i in group) for group in ((0, 2), (4,), (1, 3), (5,))]
    assert engine.model_calls == [4, sum(longest)], "at most two rows of one prompt at a time"


def test_a_model_without_a_layer_for_adapters_is_told_the_names():
    with pytest.raises(UsageError, match=r"lora\.keys: nothing.*self_attn\.q_proj") as refusal:
        MlxBackend(tiny_model(), TOKENIZER, Lora(keys=("nothing",)))
    assert "\n" not in str(refusal.value)
    for unknown in ("typo", "lm_head", "model.embed_tokens"):
        keys = ("self_attn.q_proj", unknown)
        with pytest.raises(UsageError, match=rf"lora\.keys: {unknown}: no layer"):
            MlxBackend(tiny_model(), TOKENIZER, Lora(keys=keys))


def test_a_model_that_gives_no_numbers_ends_the_run():
    model = tiny_model()
    model.model.norm.weight = model.model.norm.weight * float("nan")
    engine = RolloutEngine(MlxDecoder(model), TOKENIZER, max_rows=2)
    for temperature in (0.0, 1.0):
        with pytest.raises(AzrError, match=r"not numbers.*lower learning_rate"):
            engine.run(prompts(["def f(a):"]), [Sampling(4, temperature)], keys(1))
