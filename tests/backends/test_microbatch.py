"""Micro-batches: every trained token once, prompts that are shared read once, budgets kept."""

import numpy as np
import pytest

from azr_mlx.backends.microbatch import Stage, split
from azr_mlx.training.batch import collate_supervised

pytestmark = pytest.mark.pure


def random_rows(seed: int, groups: int = 4, size: int = 4) -> list[tuple[list[int], list[int]]]:
    """Prompts in two families that begin alike, several completions each."""
    draw = np.random.default_rng(seed)
    starts = [draw.integers(1, 90, n).tolist() for n in (40, 25)]
    prompts = [
        starts[g % 2] + draw.integers(1, 90, draw.integers(1, 12)).tolist() for g in range(groups)
    ]
    return [
        (prompts[i // size], draw.integers(1, 90, draw.integers(1, 30)).tolist())
        for i in range(groups * size)
    ]


def read_back(stages: tuple[Stage, ...], row: int) -> list[int]:
    """What the row of the last stage has before it and in it, without padding."""
    tokens: list[int] = []
    for stage in reversed(stages):
        tokens = stage.tokens[row, : stage.lengths[row]].tolist() + tokens
        row = int(stage.parent[row])
    return tokens


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("budget", [1, 200, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_every_trained_token_is_read_once_behind_all_that_precedes_it(seed, budget, share):
    batch = collate_supervised(random_rows(seed), pad_multiple=1)
    seen = np.zeros_like(batch.mask)
    for micro in split(batch, budget, share):
        last = micro.stages[-1]
        width = last.tokens.shape[1]
        for row, column, index in zip(micro.rows, micro.columns, micro.index, strict=True):
            seen[row, column] += 1
            local, at = divmod(int(index), width)
            read = read_back(micro.stages, local)
            before = len(read) - int(last.lengths[local]) + at + 1
            assert read[:before] == batch.tokens[row, :column].tolist()
    np.testing.assert_array_equal(seen, batch.mask)


@pytest.mark.parametrize("share", [True, False])
def test_a_micro_batch_keeps_to_its_budget_unless_it_is_one_row(share):
    batch = collate_supervised(random_rows(1), pad_multiple=1)
    for budget in (80, 200, 500):
        for micro in split(batch, budget, share):
            assert micro.cost <= budget or len(set(micro.rows.tolist())) == 1


def test_what_rows_share_is_read_once():
    batch = collate_supervised(random_rows(2, groups=4, size=8), pad_multiple=1)
    shared = sum(m.cost for m in split(batch, 4096))
    apart = sum(m.cost for m in split(batch, 4096, share=False))
    assert shared < apart / 2, "prompts of 30 to 50 tokens for 8 rows each are most of the cost"
    assert max(len(m.stages) for m in split(batch, 4096)) == 3, "the families' beginnings, too"


def test_rows_of_prompts_of_their_own_are_read_in_one_stage():
    draw = np.random.default_rng(0)
    rows = [(draw.integers(1, 90, 9).tolist(), draw.integers(1, 90, 5).tolist()) for _ in range(6)]
    assert [len(m.stages) for m in split(collate_supervised(rows), 4096)] == [1]


def test_a_prompt_of_one_token_has_nothing_to_share():
    rows = [([7], [1, 2]), ([7], [3])]
    micro = split(collate_supervised(rows, pad_multiple=1), 4096)
    assert [len(m.stages) for m in micro] == [1]
    assert sum(len(m.index) for m in micro) == 3


def test_a_batch_without_a_trained_token_has_no_micro_batch():
    batch = collate_supervised([([1, 2], [3])])
    batch.mask[:] = 0
    assert split(batch, 100) == []
