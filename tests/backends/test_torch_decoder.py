"""Decoding on torch: steps that stay on the device draw the tokens of steps that do not."""

import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="the tiny model comes from mlx-lm")
torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="peft is not installed")

from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from azr_mlx import rng  # noqa: E402
from azr_mlx.backends.base import Hyper, Sampling  # noqa: E402
from azr_mlx.backends.microbatch import right_padded, split  # noqa: E402
from azr_mlx.backends.rollout import RolloutEngine  # noqa: E402
from azr_mlx.backends.sampler import Stream  # noqa: E402
from azr_mlx.backends.torch import TorchBackend, adapters, attention, fixed_decoder, ppo  # noqa: E402
from azr_mlx.backends.torch.decoder import TorchDecoder  # noqa: E402
from azr_mlx.backends.torch.fixed_decoder import FixedDecoder, Graphs, decoder_for  # noqa: E402
from azr_mlx.backends.torch.logprobs import Head, _after_trunk  # noqa: E402
from azr_mlx.backends.torch.model import _eos_ids  # noqa: E402
from azr_mlx.config import Lora  # noqa: E402
from azr_mlx.errors import UsageError  # noqa: E402
from azr_mlx.training.batch import collate_supervised  # noqa: E402
from azr_mlx.types import Prompt  # noqa: E402
from tests.backends.test_torch_backend import torch_model  # noqa: E402
from tests.tiny import CharTokenizer, tiny_model  # noqa: E402

pytestmark = pytest.mark.backend
TOKENIZER = CharTokenizer()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lm():
    return torch_model(tiny_model(scale=2.0)).eval()


class Waiting(TorchDecoder):
    """Draws as on a GPU, launches every step anew, and queues nothing."""

    def __init__(self, lm):
        super().__init__(lm, CPU, lookahead=True)
        self.lookahead = False

    def step(self, tokens, places, streams):
        self.lookahead = True
        try:
            return super().step(tokens, places, streams)
        finally:
            self.lookahead = False


def prompts(count: int, stop: str = "") -> list[Prompt]:
    texts = [f"def f{'x' * (i % 7)}({i % 11}" for i in range(count)]
    stops = (stop,) if stop else ()
    return [Prompt(t, tuple(TOKENIZER.encode(t)), stop=stops, prefix=5) for t in texts]


def keys(count: int) -> list[int]:
    return [rng.key(0, "test", 0, i) for i in range(count)]


def run(decoder, many, sampling, rows):
    with torch.no_grad():
        engine = RolloutEngine(decoder, TOKENIZER, rows)
        return engine.run(many, sampling, keys(len(many))), engine


def assert_alike(ours, theirs):
    assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
    assert [(c.text, c.finish) for c in ours] == [(c.text, c.finish) for c in theirs]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


class Replayed:
    """A captured step on a CPU: the operations that torch recorded, on the same arrays."""

    def __init__(self, step, board):
        self.board, self.outputs = board, None
        self.names = [n for n, v in vars(board).items() if isinstance(v, torch.Tensor)]
        own = weakref.ref(board)
        arrays = self.arrays()
        before = [a.clone() for a in arrays]

        def recorded(*given):
            for name, array in zip(self.names, given, strict=False):
                setattr(own(), name, array)
            layers = given[len(self.names) :]
            kept, own().layers = own().layers, self.layers(layers)
            try:
                return step()
            finally:
                own().layers = kept

        self.graph = make_fx(recorded)(*arrays)
        for name, array in zip(self.names, arrays, strict=False):
            setattr(board, name, array)
        for array, old in zip(arrays, before, strict=True):  # a capture computes nothing
            array.copy_(old)

    def arrays(self):
        layers = [a for past in self.board.layers.values() for a in past]
        return [getattr(self.board, n) for n in self.names] + layers

    def layers(self, flat):
        kind = type(next(iter(self.board.layers.values())))
        return {n: kind(*flat[2 * i : 2 * i + 2]) for i, n in enumerate(self.board.layers)}

    def replay(self):
        new = self.graph(*self.arrays())
        if self.outputs is None:
            self.outputs = tuple(torch.empty_like(a) for a in new)
        for output, value in zip(self.outputs, new, strict=True):
            output.copy_(value)
        return tuple(a.clone() for a in self.outputs)  # as ``Arriving`` copies them


class Recorded(Graphs):
    """``Graphs`` without a GPU."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder, self.captured = decoder, 0

    def _capture(self, step):
        self.captured += 1
        return Replayed(step, self.decoder.board)


CASES = {  # rows, places, sampling, stop string
    "all at once": (8, 8, lambda i: Sampling(4 + 2 * i), ""),
    "places are used again": (24, 3, lambda i: Sampling(4 + i % 9), "e"),
    "top-p and greedy rows": (7, 4, lambda i: Sampling(9, 0.5 * (i % 3), (1.0, 0.8)[i % 2]), ""),
    "long rows": (2, 2, lambda i: Sampling(30 + 240 * i), ""),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("graphs", [False, True])
def test_steps_on_the_device_draw_the_same_tokens(lm, case, graphs):
    count, rows, make, stop = CASES[case]
    many, sampling = prompts(count, stop), [make(i) for i in range(count)]
    plain, _ = run(Waiting(lm), many, sampling, rows)
    decoder = FixedDecoder(lm, CPU)
    if graphs:
        decoder.graphs = Recorded(decoder)
    fixed, engine = run(decoder, many, sampling, rows)
    assert_alike(fixed, plain)
    if graphs:
        assert 0 < decoder.graphs.captured < engine.model_calls[1] / 2


@pytest.mark.parametrize("graphs", [False, True])
def test_keys_and_values_move_within_their_arrays(lm, monkeypatch, graphs):
    monkeypatch.setattr(fixed_decoder, "GRAIN", 1)
    monkeypatch.setattr(fixed_decoder, "SLACK", 4)
    moves = []
    plain_move = fixed_decoder.FixedLayer.move
    monkeypatch.setattr(
        fixed_decoder.FixedLayer, "move", lambda *a: moves.append(a[1:]) or plain_move(*a)
    )
    many, sampling = prompts(12), [Sampling(4 + i % 5) for i in range(12)]
    decoder = FixedDecoder(lm, CPU)
    if graphs:
        decoder.graphs = Recorded(decoder)
    fixed, _ = run(decoder, many, sampling, 3)
    assert len(moves) >= 2 * lm.config.num_hidden_layers
    assert_alike(fixed, run(Waiting(lm), many, sampling, 3)[0])


def test_a_queued_step_changes_no_token(lm):
    many, sampling = prompts(9, "e"), [Sampling(3 + 2 * i) for i in range(9)]
    plain, _ = run(Waiting(lm), many, sampling, 4)
    assert_alike(run(TorchDecoder(lm, CPU, lookahead=True), many, sampling, 4)[0], plain)


def test_the_arrays_serve_the_next_rollout_too(lm):
    decoder = FixedDecoder(lm, CPU)
    first, _ = run(decoder, prompts(8), [Sampling(12)] * 8, 8)
    board = decoder.board
    again, _ = run(decoder, prompts(8), [Sampling(12)] * 8, 8)
    fewer, _ = run(decoder, prompts(3), [Sampling(8)] * 3, 8)
    assert decoder.board is board, "smaller rollouts fit"
    assert again == first
    assert [c.token_ids for c in fewer] == [c.token_ids[:8] for c in first[:3]]
    run(decoder, prompts(9), [Sampling(2)] * 9, 9)
    assert decoder.board is not board


def test_nothing_is_sent_to_the_device_while_no_place_changes(lm, monkeypatch):
    """Uploads are counted: they may not depend on the number of steps."""
    sent = []
    plain = fixed_decoder.upload
    monkeypatch.setattr(fixed_decoder, "upload", lambda *a: sent.append(a) or plain(*a))
    counts = []
    for steps in (5, 30):
        sent.clear()
        run(FixedDecoder(lm, CPU), prompts(4), [Sampling(steps)] * 4, 4)
        counts.append(len(sent))
    assert counts[0] == counts[1] > 0


def test_a_step_that_cannot_be_captured_runs_as_it_is(lm):
    class Refusing(Graphs):
        def _capture(self, step):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    decoder = FixedDecoder(lm, CPU)
    decoder.graphs = Refusing()
    many, sampling = prompts(4), [Sampling(10)] * 4
    with pytest.warns(RuntimeWarning, match="without CUDA graphs: operation not permitted"):
        fixed, _ = run(decoder, many, sampling, 4)
    assert_alike(fixed, run(Waiting(lm), many, sampling, 4)[0])
    assert decoder.graphs is None


def test_the_environment_turns_graphs_off(lm, monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.delenv(fixed_decoder.SWITCH, raising=False)
    assert type(decoder_for(lm, CPU)) is TorchDecoder
    assert type(decoder_for(lm, cuda)) is FixedDecoder
    monkeypatch.setenv(fixed_decoder.SWITCH, "off")
    assert type(decoder_for(lm, cuda)) is TorchDecoder
    monkeypatch.setenv(fixed_decoder.SWITCH, "maybe")
    with pytest.raises(UsageError, match=f"{fixed_decoder.SWITCH}=maybe: set it to off"):
        decoder_for(lm, cuda)


def test_int8_is_not_captured(lm, monkeypatch):
    """A capture that fails leaves PyTorch's allocator unable to free what it holds."""
    monkeypatch.setattr(lm, "is_loaded_in_8bit", True, raising=False)
    assert type(decoder_for(lm, torch.device("cuda"))) is TorchDecoder


def test_a_head_of_its_own_can_be_captured(lm, monkeypatch):
    """Numbers that the host sends within a step cannot be."""
    hidden = torch.ones(2, lm.config.hidden_size)
    expected = lm.lm_head(hidden)
    monkeypatch.setattr(torch, "tensor", None)
    torch.testing.assert_close(_after_trunk(lm, hidden), expected)


def test_decoding_reads_keys_and_values_without_copies_for_each_head(monkeypatch):
    """Several heads share keys and values: attention in a decode step gets these as they are."""
    lm, seen = torch_model(tiny_model(scale=2.0)).eval(), []
    attention.use_grouped(lm)
    plain = torch.nn.functional.scaled_dot_product_attention

    def noted(query, key, *rest, **options):
        seen.append(key.shape[1])
        return plain(query, key, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    run(FixedDecoder(lm, CPU), prompts(1), [Sampling(6)], 1)
    shared = lm.config.num_key_value_heads
    assert shared < lm.config.num_attention_heads
    assert set(seen) == {shared} and len(seen) > 6 * lm.config.num_hidden_layers


@pytest.mark.parametrize("kind", [TorchDecoder, FixedDecoder])
@pytest.mark.parametrize("shared", [True, False])
def test_a_mask_becomes_numbers_once_for_all_layers(monkeypatch, kind, shared):
    """Of a mask of true and false each layer would make numbers, with three operations."""
    lm, masks = torch_model(tiny_model(scale=2.0)).eval(), []
    if shared:
        attention.use_grouped(lm)
    plain = torch.nn.functional.scaled_dot_product_attention

    def noted(*given, **options):
        masks.append(options["attn_mask"])
        return plain(*given, **options)

    decoder, many, sampling = kind(lm, CPU), prompts(3), [Sampling(6)] * 3
    expected, _ = run(decoder, many, sampling, 3)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    assert_alike(run(decoder, many, sampling, 3)[0], expected)
    depth = lm.config.num_hidden_layers
    passes = [masks[i : i + depth] for i in range(0, len(masks), depth)]
    assert depth > 1 and len(passes) > 5
    assert all(mask.dtype == torch.float32 for mask in masks)
    assert all(len({mask.data_ptr() for mask in one}) == 1 for one in passes)
    monkeypatch.setattr(decoder.trunk.config, "_attn_implementation_internal", "eager")
    assert attention.added(masks[0] > 0, decoder.trunk.config, torch.float32).dtype == torch.bool


def as_on_a_gpu() -> tuple[TorchBackend, torch.device]:
    """A backend in bfloat16 on torch's "meta" device, on which nothing is computed: it refuses
    arrays of two devices in one operation, and numbers of its own on the host, as a GPU's graph
    does."""
    lm, there = torch_model(tiny_model(scale=2.0)).bfloat16(), torch.device("meta")
    attention.use_grouped(lm)
    backend = TorchBackend(lm, TOKENIZER, Lora(rank=2, dropout=0.1), grad_checkpoint=True)
    backend.policy.to(there)
    backend.parameters = adapters.named_parameters(lm)
    for parameter in backend.parameters.values():  # there is no autocast on this device
        parameter.data = parameter.data.bfloat16()
    head = backend.policy.lm.get_output_embeddings().weight
    maps = Head(lambda h: h @ head.T, lambda delta, h: delta @ head, plain=True)
    backend.policy.head_map = maps
    return backend, there


def test_an_update_stays_on_its_device(monkeypatch):
    backend, there = as_on_a_gpu()
    monkeypatch.setattr(ppo, "autocast", lambda head: nullcontext())
    rows = [(range(1, 30), [5, 6, 7]), (range(1, 30), [5, 6]), ([*range(1, 20), 40, 41], [5, 6])]
    batch = collate_supervised([(tuple(prompt), answer) for prompt, answer in rows])
    batch = batch.with_(**{name: np.zeros_like(batch.mask) for name in ppo.OPTIONAL})
    (micro,) = split(batch, 10_000)
    assert len(micro.stages) == 3
    hyper = Hyper(lr=1.0, entropy_coef=0.1, kl_coef=0.1, tis_cap=2.0, dual_clip=3.0)
    loss, sums = ppo.ppo_loss(backend.policy, ppo.arrays_of(batch, micro, there), 7.0, hyper)
    loss.backward()
    assert all(one.device == there for one in (loss, *sums.values()))
    grads = [parameter.grad for parameter in backend.parameters.values()]
    assert all(grad.device == there for grad in grads)


@pytest.mark.parametrize("kind", [TorchDecoder, FixedDecoder])
def test_a_step_stays_on_its_device(kind):
    backend, there = as_on_a_gpu()
    backend.policy.eval()
    also = {} if kind is FixedDecoder else {"lookahead": True}
    decoder = kind(backend.policy.lm, there, **also)
    decoder.read_off = backend.policy.head_map.logits
    prompt, drawn = tuple(range(1, 30)), None
    streams = [Stream(7, Sampling(8, 0.5 * i, 0.9)) for i in range(3)]
    with torch.no_grad():
        places = decoder.places(3, 60, False)
        places.reserve(len(prompt))
        reading = decoder.read(right_padded([prompt], [0]), None)
        places.put([0, 1, 2], [(0, len(prompt))] * 3, reading)
        for _ in range(3):
            places.open_step()
            tokens = decoder.inputs([1, 2, 3], [drawn is not None] * 3, drawn)
            drawn, logprobs = decoder.step(tokens, places, streams)
            places.close_step()
        places.keep([0, 2])
    assert drawn.device == logprobs.device == there


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no CUDA device here")
@pytest.mark.parametrize("case", CASES)
def test_cuda_graphs_draw_the_same_tokens(case):
    count, rows, make, stop = CASES[case]
    gpu = torch.device("cuda")
    there = torch_model(tiny_model(scale=2.0)).eval().to(gpu)
    attention.use_grouped(there)
    many, sampling = prompts(count, stop), [make(i) for i in range(count)]
    plain, _ = run(TorchDecoder(there, gpu), many, sampling, rows)
    decoder = FixedDecoder(there, gpu)
    fixed, _ = run(decoder, many, sampling, rows)
    assert decoder.graphs is not None and any(decoder.graphs.made.values())
    assert_alike(fixed, plain)


def test_a_completion_ends_as_in_mlx_lm():
    """A fine-tune for chats may end its turns with a token that only its tokenizer names."""

    def ends(generation, config, tokenizer):
        model = SimpleNamespace(
            generation_config=SimpleNamespace(eos_token_id=generation),
            config=SimpleNamespace(eos_token_id=config),
        )
        return _eos_ids(model, SimpleNamespace(eos_token_id=tokenizer))

    assert ends(2, 5, 7) == {2, 7} and ends([2, 3], None, 2) == {2, 3}
    assert ends(None, 5, None) == {5} and ends(None, None, 7) == {7}
