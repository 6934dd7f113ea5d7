"""The published figures are those of their sources, and nothing is set beside what it is not."""

from __future__ import annotations

import datetime
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from azr_mlx.evaluation import published_scores
from azr_mlx.evaluation.benchmarks import Grade
from azr_mlx.evaluation.protocol import Protocol
from azr_mlx.evaluation.published_scores import Comparable, load, table
from azr_mlx.evaluation.result import BenchmarkResult, Sample, TaskResult
from azr_mlx.types import Status
from tests.conftest import SHARED

pytestmark = pytest.mark.pure

EVALPLUS = {
    "humaneval": "humaneval",
    "humaneval-plus": "humaneval+",
    "mbpp": "mbpp",
    "mbpp-plus": "mbpp+",
}
APPS = {"apps-introductory", "apps-interview", "apps-competition"}


def test_every_figure_has_a_source_with_a_date_and_a_protocol():
    published = load()
    sources, models = published.sources, published.models
    for source in sources.values():
        assert source.where.startswith("https://") and source.what and source.protocol
        assert datetime.date(2020, 1, 1) < datetime.date.fromisoformat(source.date)
    assert {m.source for m in models} == sources.keys(), "a source without a figure, or the reverse"
    assert len({m.name for m in models}) == len(models)
    for m in models:
        assert m.kind in ("base", "chat", "tuned")
        assert set(m.figures) <= published.sizes.keys()
        assert set(m.figures) in (set(EVALPLUS), APPS), "unknown cells are null, not left out"
        assert all(f is None or 0 <= f <= 100 for f in m.figures.values())


def test_the_leaderboard_s_figures_are_the_leaderboard_s():
    file = SHARED / "evalplus-leaderboard.json"
    if not file.exists():
        pytest.skip("no leaderboard in ../shared/data")
    published = json.loads(file.read_text())
    models = load().models
    own = [m for m in models if m.source == "evalplus"]
    assert len(own) >= 8
    for m in own:
        row = published[m.entry]
        theirs = {ours: row["pass@1"][name] for ours, name in EVALPLUS.items()}
        assert m.figures == theirs, m.name
        assert row["prompted"] == (m.kind == "chat"), m.name


def test_the_published_samples_have_the_published_figures():
    folder = SHARED / "qwen2.5-coder-1.5b"
    if not folder.exists():
        pytest.skip("no published samples in ../shared/data")
    theirs = {}
    for name in ("humaneval", "mbpp"):
        result = json.loads((folder / f"1.5b-base__{name}__result.json").read_text())
        theirs |= {key: value["pass@1"] for key, value in result.items()}
    models = load().models
    [own] = [m for m in models if m.entry == "1.5b-base"]
    assert own.figures == {ours: theirs[name] for ours, name in EVALPLUS.items()}


def result(name: str = "humaneval", passed: int = 41, of: int = 164, **protocol) -> BenchmarkResult:
    stated = Protocol(
        benchmark=name,
        prompt="base: function to complete",
        shots=0,
        strategy="direct",
        extraction="up to the first stop string",
        stop=(),
        limits={},
        data_sha256="",
        model="",
        model_sha256="",
        adapter="",
        adapter_sha256="",
        temperature=0.2,
        top_p=1.0,
        max_tokens=512,
        seed=0,
        subset="all",
        tasks=of,
        samples_per_task=1,
    )
    grades = [Grade(Status.PASS, 1.0)] * passed + [Grade(Status.FAIL, 0.0)] * (of - passed)
    tasks = tuple(TaskResult(str(i), (Sample(str(i), 0, "", g),)) for i, g in enumerate(grades))
    return BenchmarkResult(replace(stated, **protocol), tasks, (1,), (), (), "strong", "file", 0.0)


def shown(*ours: Comparable) -> str:
    found = table(ours)
    assert found is not None
    text = io.StringIO()
    Console(width=120, file=text).print(found[0])
    return text.getvalue() + "\n".join(found[1])


def test_ours_stand_beside_the_published_ones_with_both_protocols():
    text = shown(Comparable("mine", [result()]), Comparable("its base", [result(passed=0)]))
    lines = [line.split() for line in text.splitlines()]
    assert ["mine", "25.0", *published_scores.OURS.split()] in lines
    assert ["its", "base", "0.0", *published_scores.OURS.split()] in lines
    assert ["Claude", "2", "chat", "69.5", "evalplus"] in lines
    assert "1 a task at temperature 0.2" in text and "greedy, zero-shot" in text
    assert "Figures of different protocols cannot be compared" in text
    assert "GPT-2" not in text, "it has no figure for this benchmark"


def test_a_cell_that_nobody_has_published_is_empty():
    text = shown(Comparable("mine", [result(), result("mbpp", of=500)]))
    lines = [line.split() for line in text.splitlines()]
    assert ["Claude", "2", "chat", "69.5", "evalplus"] in lines
    assert ["CodeLlama-7B", "base", "37.8", "59.5", "evalplus"] in lines


@pytest.mark.parametrize(
    "one",
    [
        result(subset="first 163"),
        result(of=163),
        result("cruxeval-i"),
        replace(result(), missing=("x",)),
    ],
)
def test_a_part_of_a_benchmark_and_one_without_figures_are_set_beside_nothing(one):
    assert table([Comparable("mine", [one])]) is None


def test_problems_without_tests_count_as_part_of_the_whole():
    assert table([Comparable("mine", [replace(result(of=163), excluded=("x",))])]) is not None
