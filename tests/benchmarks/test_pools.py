"""Pools of tasks are compared at one size, kind by kind and seed by seed."""

from __future__ import annotations

import json

import pytest

from tests.conftest import benchmark_script

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module")
def bench():
    with benchmark_script("pools") as script:
        yield script


def write(folder, variant, seed, programs, rate, kind="deduction"):
    with (folder / f"{variant}-{seed}.jsonl".replace(",", "+")).open("a") as out:
        for program in programs:
            row = {"kind": kind, "program": program, "solve_rate": rate}
            out.write(json.dumps(row) + "\n")


def test_sets_of_one_size_are_compared(bench, tmp_path):
    alike = [f"def f(a):\n    return a + {n}\n" for n in range(60)]
    apart = [f"def f(a):\n    return a{' + 1' * n}\n" for n in range(40)]
    for seed in (0, 1):
        write(tmp_path, "frozen", seed, alike, 1.0)
        write(tmp_path, "base", seed, apart, 0.5)
        write(tmp_path, "base", seed, ["x"], 0.5, kind="induction")
    write(tmp_path, "base,ema", 7, alike, 1.0)
    assert list(bench.of_variant(tmp_path, "base,ema")) == [7]
    pools = {name: bench.of_variant(tmp_path, name) for name in ("frozen", "base")}
    found = bench.compared(pools)
    assert found["seeds"] == [0, 1]
    assert found["left out"] == ["induction of seed 0", "induction of seed 1"]
    frozen, base = found["pools"]["frozen"], found["pools"]["base"]
    assert frozen["distinct"]["mean"]["mean"] == pytest.approx(1 / 40)
    assert base["distinct"]["mean"]["mean"] == 1.0 and base["lines"]["mean"]["mean"] == 2
    assert base["p(1 - p)"]["less the first"]["mean"] == 0.25
    assert base["p"]["less the first"]["mean"] == -0.5
