"""What several ranks share out: every row once, about equal costs, the same on every rank."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azr_mlx.backends.base import Sampling
from azr_mlx.backends.ranks import Alone, gather, own_part, run_shared, share
from azr_mlx.backends.select import choose, launcher
from azr_mlx.errors import UsageError
from azr_mlx.types import Batch, Completion, Prompt

pytestmark = pytest.mark.pure


def rank(i: int, size: int) -> SimpleNamespace:
    return SimpleNamespace(rank=i, size=size)


@given(st.lists(st.floats(0, 1000), max_size=40), st.integers(1, 5))
def test_every_row_is_one_rank_s(costs, size):
    parts = [share(rank(i, size), costs) for i in range(size)]
    rows = [row for part in parts for row in range(len(costs))[part]]
    assert rows == list(range(len(costs)))


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60), st.integers(2, 4))
def test_costs_are_about_equal(costs, size):
    totals = [sum(costs[share(rank(i, size), costs)]) for i in range(size)]
    assert max(totals) <= sum(costs) / size + max(costs) + 1e-6


def test_a_rank_trains_on_its_own_rows_and_sees_them_where_they_are():
    mask = np.zeros((5, 8), np.float32)
    for row, length in enumerate((8, 2, 2, 0, 8)):
        mask[row, 1:length] = 1
    batch = Batch(tokens=np.ones((5, 8), np.int32), mask=mask)
    parts = [own_part(rank(i, 2), batch).mask for i in range(2)]
    np.testing.assert_array_equal(parts[0] + parts[1], mask)
    assert all(part.any() for part in parts)
    assert own_part(Alone(), batch) is batch


def test_a_prompt_that_rows_share_is_paid_once():
    """Eight rows of one long prompt cost what two rows of as long prompts of their own do."""
    tokens = np.arange(10 * 64, dtype=np.int32).reshape(10, 64)
    tokens[:8, :56] = 7
    mask = np.zeros((10, 64), np.float32)
    mask[:, 56:] = 1
    own = own_part(rank(0, 2), Batch(tokens=tokens, mask=mask)).mask
    assert own.any(axis=1).tolist() == [True] * 8 + [False] * 2


class Replayed:
    """Rank 0 of two; the other one's messages are known."""

    rank, size = 0, 2

    def __init__(self, other: bytes = b""):
        self.other, self.sent = other, b""

    def gather_bytes(self, data: bytes) -> list[bytes]:
        self.sent = data
        return [data, self.other]


def completion(i: int) -> Completion:
    return Completion((i, 0), (-0.1 * i, -1 / 3), "stop", 2**63 + i, f"t{i}\ud800", "<think>")


def test_completions_come_back_in_order_bit_for_bit_and_are_told_once():
    prompts = [Prompt(str(i), (i + 1,)) for i in range(4)]
    sampling = [Sampling(5)] * 4

    def run(prompts, sampling, keys, on_step):
        assert on_step is None
        return [completion(k) for k in keys]

    told = []
    theirs = json.dumps([asdict(completion(k)) for k in (2, 3)]).encode()
    done = run_shared(Replayed(theirs), run, prompts, sampling, [0, 1, 2, 3], told.append)
    assert done == [completion(k) for k in range(4)]
    assert told == [list(enumerate(done))]


def test_floats_are_gathered_as_they_are():
    values = [0.1, 1 / 3, -1e-300, 3.0]
    assert gather(Replayed(b"[]"), values)[0] == values
    assert gather(Alone(), values) == [values]


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, ("", "")),
        ({"WORLD_SIZE": "1"}, ("", "")),
        ({"WORLD_SIZE": "2"}, ("torch", "torchrun")),
        ({"MLX_HOSTFILE": "/tmp/hosts"}, ("mlx", "mlx.launch")),
        ({"NCCL_HOST_IP": "10.0.0.1", "MLX_WORLD_SIZE": "2"}, ("mlx", "mlx.launch")),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, ("mlx", "mpirun")),
        ({"PMI_SIZE": "no number"}, ("", "")),
    ],
)
def test_what_started_the_ranks_is_known_by_its_variables(variables, found, monkeypatch):
    started_by(variables, monkeypatch)
    assert launcher() == found


def started_by(variables, monkeypatch):
    ours = ("WORLD_SIZE", "MLX_HOSTFILE", "MLX_IBV_DEVICES", "MLX_JACCL_COORDINATOR")
    for name in (*ours, "NCCL_HOST_IP", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_ranks_of_the_other_backend_are_refused(monkeypatch):
    """They would be as many runs that know nothing of one another."""
    started_by({"WORLD_SIZE": "2"}, monkeypatch)
    with pytest.raises(UsageError, match=r"backend: mlx: torchrun has started .* --backend torch"):
        choose("mlx")
    started_by({"MLX_HOSTFILE": "/tmp/hosts"}, monkeypatch)
    with pytest.raises(UsageError, match=r"backend: torch: mlx.launch has started"):
        choose("torch")


def test_auto_follows_the_launcher(monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    started_by({"WORLD_SIZE": "2"}, monkeypatch)
    assert choose("auto") == ("torch", "auto: started by torchrun")
