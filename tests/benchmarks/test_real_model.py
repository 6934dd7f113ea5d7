"""The real model: what is made of the reports of ``azr-mlx eval``, and what is kept of them."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace

import pytest

from azr_mlx.types import Task, TaskKind
from tests.conftest import ROOT, benchmark_script

pytestmark = pytest.mark.pure
TASK = Task.create(TaskKind.ABDUCTION, "def f(x):\n    return x", ("(5,)",), ("5",))


@pytest.fixture(scope="module")
def bench():
    with benchmark_script("real_model") as script:
        yield script


def compared(benchmark, before, after, gap, p_value=None):
    """A report's result and its comparison, of pass@1."""
    result = {
        "folder": f"evals/{benchmark}",
        "pass_at": {"1": {"value": after}},
        "statuses": {"pass": 3, "fail": 7},
    }
    comparison = {
        "benchmark": benchmark,
        "base": {
            "folder": f"evals/{benchmark}-base",
            "pass_at": {"1": {"value": before}},
            "statuses": {"pass": 2, "fail": 3, "format": 5},
        },
        "differences": {"pass@1": dict(zip(("value", "low", "high"), gap, strict=True))},
        "p_value": p_value,
        "gained": ["a", "b"],
        "lost": ["c"],
    }
    return result, comparison


def report(*parts):
    results, comparisons = zip(*(compared(*part) for part in parts), strict=True)
    return {"results": results, "comparisons": comparisons}


def write_answers(folder, *items):
    folder.mkdir(parents=True)
    rows = [{"task_id": str(i), "completion": c} for i, item in enumerate(items) for c in item]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_gains_pair_each_benchmark_with_its_own_base(bench, tmp_path):
    write_answers(tmp_path / "evals" / "cruxeval-o-base", "aab", "abc")  # 1 of 6 pairs is alike
    write_answers(tmp_path / "evals" / "cruxeval-o", "aaa", "abb")  # 4 of 6
    for name in ("cruxeval-i-base", "cruxeval-i"):
        write_answers(tmp_path / "evals" / name, "a", "b")
    found = bench.gains(
        report(
            ("cruxeval-o", 0.2, 0.3, (0.1, 0.04, 0.16), 0.5),
            ("cruxeval-i", 0.4, 0.4, (0.0, -0.08, 0.08)),
        ),
        tmp_path,
    )
    assert found["cruxeval-o alike"] == pytest.approx({"before": 1 / 6, "after": 4 / 6})
    assert "cruxeval-i alike" not in found
    assert found["cruxeval-o pass@1"] == {
        "before": 0.2, "after": 0.3, "value": 0.1, "low": 0.04, "high": 0.16,
    }  # fmt: skip
    assert found["cruxeval-o McNemar"] == {"gained": 2, "lost": 1, "p_value": 0.5}
    assert "cruxeval-i McNemar" not in found
    assert found["cruxeval-o unread"] == {"before": 0.5, "after": 0.0}
    assert found["cruxeval-o right if read"] == pytest.approx({"before": 0.4, "after": 0.3})
    lines = bench.table({"arm": "main", "sampled": found})
    assert len(lines) == len(found) and "20.0 ->  30.0  +10.0 (+4.0 to +16.0)" in lines[0]
    # The half-widths 0.06 and 0.08 add in quadrature to 0.1, and a mean of two halves them.
    mean = found["mean pass@1"]
    assert mean["value"] == pytest.approx(0.05)
    assert (mean["low"], mean["high"]) == pytest.approx((0.0, 0.1))


def test_gains_are_apart_for_what_a_repetition_solves(bench, monkeypatch, tmp_path):
    solved = {"a": True, "b": True, "c": False, "d": False}
    monkeypatch.setattr(bench, "tasks_of", lambda options, name: dict.fromkeys(solved, TASK))
    monkeypatch.setattr(bench, "solved_by_repeating", lambda tasks: solved)
    for folder, answers in (("old", "0110"), ("new", "1110")):
        rows = zip("abcd", answers, strict=True)
        lines = [
            json.dumps({"task_id": item, "completion": f"({'5' if repeats == '1' else '4'}) == 5"})
            for item, repeats in rows
        ]
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "samples.jsonl").write_text("\n".join(lines))
    verdicts = lambda *shares: {  # noqa: E731
        item: ["pass"] * n + ["fail"] * (4 - n) for item, n in zip("abcd", shares, strict=True)
    }
    after = {"benchmark": "cruxeval-i", "folder": "new", "tasks": verdicts(4, 2, 1, 0)}
    comparisons = [{"base": {"folder": "old", "tasks": verdicts(2, 2, 1, 1)}}]
    found = bench.by_repeating(
        Namespace(out=tmp_path), {"results": [after], "comparisons": comparisons}
    )
    repeated, others = found["cruxeval-i repeated"], found["cruxeval-i others"]
    assert repeated["items"] == others["items"] == 2
    assert (repeated["before"], repeated["after"], repeated["value"]) == (0.5, 0.75, 0.25)
    assert (others["before"], others["after"], others["value"]) == (0.25, 0.125, -0.125)
    assert found["cruxeval-i repeating"] == {"before": 0.5, "after": 0.75}
    assert found["cruxeval-i repeated, repeating"] == {"before": 0.5, "after": 1.0}
    assert found["cruxeval-i others, repeating"] == {"before": 0.5, "after": 0.5}


def test_two_runs_are_compared_by_item(bench, monkeypatch, tmp_path):
    solved = {"0": True, "1": False, "2": False}
    monkeypatch.setattr(bench, "tasks_of", lambda options, name: dict.fromkeys(solved, TASK))
    monkeypatch.setattr(bench, "solved_by_repeating", lambda tasks: solved)

    def report(*items):
        tasks = {str(i): list(verdicts) for i, verdicts in enumerate(items)}
        return {"results": [{"benchmark": "cruxeval-o", "tasks": tasks}]}

    right, wrong = "pass", "fail"
    other = report([right, wrong], [wrong, wrong], [wrong, wrong])
    (tmp_path / "other-sampled.json").write_text(json.dumps(other))
    given = Namespace(out=tmp_path, against="other")
    found = bench.against(given, report([right, wrong], [right, right], [right, wrong]))
    assert found["cruxeval-o"]["before"] == pytest.approx(1 / 6)
    assert found["cruxeval-o"]["after"] == pytest.approx(4 / 6)
    assert found["cruxeval-o"] == pytest.approx(found["mean"])
    assert found["cruxeval-o repeated"]["value"] == 0
    assert found["cruxeval-o others"]["value"] == pytest.approx(0.75)
    assert 0 <= found["mean"]["low"] < found["mean"]["value"] == pytest.approx(0.5)


def options(tmp_path, **given):
    folder = tmp_path / "shipped"
    folder.mkdir()
    (tmp_path / "named-code.json").write_text('{"at": "code"}')
    for way in ("sampled", "greedy"):
        (tmp_path / f"named-{way}.json").write_text(json.dumps({"at": "/home/somebody/x"}))
    given = {"arm": "main", "code": False, **given}
    return Namespace(out=tmp_path, name="named", ship=folder, **given)


@pytest.mark.parametrize(
    ("given", "files"),
    [
        ({}, ["gains.json", "greedy.json", "sampled.json"]),
        ({"code": True}, ["code.json", "gains.json", "greedy.json", "sampled.json"]),
        ({"arm": "shuffled"}, [f"shuffled-{n}.json" for n in ("gains", "greedy", "sampled")]),
    ],
)
def test_what_was_measured_is_added_to_a_shipped_folder(bench, tmp_path, given, files):
    asked = options(tmp_path, **given)
    assert bench.ship(asked, {"arm": asked.arm}) == 0
    assert sorted(p.name for p in asked.ship.iterdir()) == files
    for file in asked.ship.iterdir():
        assert "somebody" not in file.read_text()


def test_a_run_is_not_shipped_over_an_older_one(tmp_path):
    script = ROOT / "benchmarks" / "real_model.py"
    words = ["--model", "m", "--data", str(tmp_path), "--ship", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out"), *words], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--ship" in done.stderr and not (tmp_path / "out").exists()
