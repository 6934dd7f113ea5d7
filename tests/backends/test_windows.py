"""Sliding windows: which tokens a layer sees, in a rollout and across the stages of an update."""

import numpy as np
import pytest

from azr_mlx.backends.kv_places import Past, Places

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx.backends.mlx import MlxBackend  # noqa: E402
from azr_mlx.backends.mlx.prefix_sharing import Extended, Span  # noqa: E402
from tests import architectures  # noqa: E402
from tests.survey import HYPER, LORA, batch_of, opened, rollout  # noqa: E402
from tests.tiny import CharTokenizer  # noqa: E402

pytestmark = pytest.mark.backend

LENGTHS = [7, 2, 0, 5]  # of the rows, before the first step


class NumpyArrays:
    def of(self, values):
        return values

    def zeros(self, shape, like):
        return np.zeros(shape, like.dtype)

    def settle(self, arrays):
        pass


def numbered(lengths, layers=3):
    """Keys [rows, 1, T, 1] that are the number of their token, from 1."""
    keys = np.tile(np.arange(1, max(lengths) + 1.0)[None, None, :, None], (len(lengths), 1, 1, 1))
    return type("Reading", (), {"layers": [Past(keys, keys)] * layers})()


@pytest.mark.parametrize("window", [1, 3, 6, 50])
def test_each_row_reads_the_last_tokens_of_its_window(window):
    places = Places(NumpyArrays(), [None, window, window], len(LENGTHS), 16, refilled=False)
    places.reserve(max(LENGTHS))
    places.put([0, 1, 2, 3], [(i, n) for i, n in enumerate(LENGTHS)], numbered(LENGTHS))
    for step in range(1, 6):
        places.open_step()
        new = np.array([n + step for n in LENGTHS], float)[:, None, None, None]
        for layer, limit in zip(places.caches, (None, window, window), strict=True):
            mask, (keys, _) = (
                layer.make_mask(1, window_size=limit),
                layer.update_and_fetch(new, new),
            )
            assert keys.shape[2] <= (limit or 16), "no more is read than the window"
            for row, length in enumerate(LENGTHS):
                seen = keys[row, 0, :, 0] if mask is None else keys[row, 0, mask[row, 0, 0], 0]
                last = length + step
                first = 1 if limit is None else max(1, last - limit + 1)
                assert seen.tolist() == list(range(first, last + 1))
        places.close_step()


def test_a_mask_may_be_narrower_than_the_layer_but_not_wider():
    """A model's cache may keep more than its window; if it keeps less, its own is used."""
    places = Places(NumpyArrays(), [6], 1, 16, refilled=False)
    places.reserve(8)
    places.put([0], [(0, 8)], numbered([8], layers=1))
    places.open_step()
    assert (
        places.caches[0].make_mask(1, window_size=4)[0, 0, 0].tolist() == [False] * 2 + [True] * 4
    )
    assert places.caches[0].make_mask(1) is None
    with pytest.raises(NotImplementedError, match="shorter"):
        places.caches[0].make_mask(1, window_size=7)


@pytest.mark.parametrize("window", [None, 1, 3, 5, 100])
def test_a_stage_sees_the_window_of_each_row_across_gaps(window):
    """Three stages of rows with different lengths: what is seen is what one row alone would see."""
    lengths, parents = [[4], [3, 1], [2, 5, 4]], [[0], [0, 0], [1, 0, 1]]
    span = None
    for own, parent in zip(lengths, parents, strict=True):
        stage = {"tokens": mx.zeros((len(own), max(own) + 1), mx.int32)}
        stage |= {"lengths": mx.array(own), "parent": mx.array(parent), "full": 0}
        span = Span(stage, span)
    mask = np.array(Extended(span, None, window).make_mask(6))
    slots = [5, 4, 6]  # the width of each stage
    for row, parent in enumerate(parents[2]):
        before = [lengths[0][parents[1][parent]], lengths[1][parent], lengths[2][row]]
        held = np.concatenate([np.arange(w) < n for w, n in zip(slots, before, strict=True)])
        for query in range(lengths[2][row]):
            count = before[0] + before[1] + query + 1
            seen = np.flatnonzero(mask[row, 0, query])
            expected = np.flatnonzero(held)[:count][-(window or count) :]
            assert seen.tolist() == expected.tolist()


def test_a_layer_without_a_window_is_masked_as_before():
    stage = {"tokens": mx.zeros((2, 4), mx.int32), "lengths": mx.array([4, 2]), "full": 0}
    layer = Extended(Span(stage, None), None)
    assert layer.make_mask(4) == "causal"
    assert layer.make_mask(4, window_size=4) == "causal", "nothing is out of sight"
    assert layer.make_mask(4, window_size=3).shape[-2:] == (4, 4)


@pytest.mark.parametrize("name", ["gemma3_text", "gpt_oss", "olmo3", "ministral3"])
def test_prompts_are_read_once_and_change_no_update(name):
    shared = opened(name)
    apart = MlxBackend(architectures.tiny(name), CharTokenizer(), LORA, share_prompts=False)
    apart.policy.update(shared.policy.parameters())
    batch = batch_of(rollout(shared))
    assert shared.path == "shared"
    stages = [len(micro.stages) for micro in shared._micro_batches(batch, 64)]
    assert max(stages) > 1, "no prompt was shared"
    stats = [backend.update(batch, HYPER) for backend in (shared, apart)]
    assert stats[0].loss == pytest.approx(stats[1].loss, rel=1e-4)
    assert stats[0].grad_norm == pytest.approx(stats[1].grad_norm, rel=1e-3)
