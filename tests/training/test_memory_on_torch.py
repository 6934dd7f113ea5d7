"""The memory plan on torch: it decides whether layers are recomputed, and refuses nothing."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from azr_mlx.config import load  # noqa: E402
from azr_mlx.training import memory  # noqa: E402
from azr_mlx.training.memory.estimate import Planner  # noqa: E402

pytestmark = pytest.mark.backend


@pytest.fixture
def cuda(monkeypatch):
    """A GPU with so many free bytes."""

    def gpu(free: int):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 80 * 10**9))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "a GPU")

    return gpu


def config(*overrides: str):
    return load("qwen2.5-coder-0.5b", ["backend=torch", *overrides])


def update_of(c, again: str) -> int:
    c = load("qwen2.5-coder-0.5b", [f"ppo.grad_checkpoint={again}"])
    return memory.planner_of(c, backend="torch").update(c).total


def test_free_memory_on_the_gpu_decides_about_recomputing(cuda):
    cuda(0)
    without, again = update_of(config(), "false"), update_of(config(), "true")
    assert again < without
    for free, expected in ((without, "false"), (without - 1, "true"), (again - 1, "false")):
        cuda(free)
        assert memory.fitting(config(), "torch").ppo.grad_checkpoint == expected, free


def test_a_limit_that_is_given_holds_on_a_gpu_too(cuda):
    cuda(0)
    gigabytes = (update_of(config(), "false") - 1) / 1e9
    cuda(10**12)
    limited = config(f"memory_limit_gb={gigabytes}")
    assert memory.fitting(limited, "torch").ppo.grad_checkpoint == "true"


def test_bytes_of_weights_are_those_that_torch_loads(cuda):
    cuda(0)
    shape = memory.planner_of(config(), backend="torch").shape
    every = shape.matrices() + shape.vectors()
    blocks = shape.layers * sum(i * o for i, o in shape.linears().values())

    def weights(*overrides: str) -> int:
        c = config(*overrides)
        return memory.planner_of(c, backend="torch").weights(c)

    assert weights("quantization.bits=0") == weights("quantization.bits=3") == 2 * every
    assert weights("quantization.bits=8") == blocks + 2 * (every - blocks)
    assert weights("quantization.bits=4") == pytest.approx(0.5625 * blocks + 2 * (every - blocks))


def test_a_cpu_has_the_plan_of_mlx_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    c = config()
    ours = memory.planner_of(c, backend="torch")
    theirs = Planner(ours.shape, "cpu", ours.prompt_tokens, ours.proposal_tokens)
    assert ours.peaks(c) == theirs.peaks(c)


def test_a_dry_run_says_where_the_figures_come_from(cuda):
    cuda(80 * 10**9)
    text = memory.describe(config())
    assert "# memory, update:" in text and text.endswith(" of 80.0 GB: fits\n")
    assert "# torch: " in text and "formulas of MLX" in text


def test_keys_and_values_are_bounded_in_sixteen_bits_on_a_gpu(cuda, monkeypatch):
    bounded = config("rollout.kv_budget_mb=100")
    cuda(10**10)
    on_gpu = memory.kv_tokens_of(bounded, "torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_gpu == pytest.approx(2 * memory.kv_tokens_of(bounded, "torch"), abs=1)
