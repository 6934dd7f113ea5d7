"""The report of a run: all that its folder has, and nothing that a model wrote is markup."""

from __future__ import annotations

import gzip
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from azr_mlx import cli, run_folder
from azr_mlx.config import load, to_yaml
from azr_mlx.errors import AzrError, UsageError
from azr_mlx.evaluation.held_out import WAYS, Record
from azr_mlx.monitoring import report
from azr_mlx.monitoring.metrics import REGISTRY
from azr_mlx.monitoring.report import charts, curves, figures
from azr_mlx.monitoring.report.data import HeldOutFound
from azr_mlx.monitoring.report.scale import ticks, y_scale
from azr_mlx.monitoring.report.tasks import lineages
from azr_mlx.tasks.task_files import rows_of
from azr_mlx.types import Prompt, Role, Status, Task, TaskKind
from tests.experiences import experience

pytestmark = pytest.mark.pure

HOSTILE = (
    "</pre><script>alert(1)</script><img src=http://x.test/a onerror=alert(2)>\u202e\x1b[2J&\x00"
)


def keys() -> list[str]:
    """One or two keys of each registered metric but the step."""
    found = []
    for metric in REGISTRY[1:]:
        for which in (0, 1):
            parts = re.split(r"\{([^}]*)\}", metric.name)
            parts[1::2] = [(p or "one|two").split("|")[which] for p in parts[1::2]]
            found.append("".join(parts))
    return list(dict.fromkeys(found))


def write_run(folder: Path, steps: int, *, text: str = HOSTILE) -> Path:
    """A run's folder with every metric, each on a course of its own."""
    folder.mkdir(parents=True)
    names = keys()
    rows = (
        {
            "step": s,
            **{k: 0.1 + i % 7 / 10 + (s * (i + 1) % 97) / 1000 for i, k in enumerate(names)},
        }
        for s in range(1, steps + 1)
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(to_yaml(load("quickstart")))
    start = {"time": "2026-11-26T01:00:00", "backend": "mlx (it imports)", "platform": "Linux"}
    (folder / "run.json").write_text(json.dumps({"starts": [start]}))
    (folder / "rollouts").mkdir()
    for step in {1, steps}:
        experiences = [
            experience(
                prompt=Prompt(f"prompt {text}", (1, 2)),
                text=f"completion {text}",
                detail=f"detail {text}",
                status=status,
                role=role,
                kind=kind,
                step=step,
            )
            for role in Role
            for kind in TaskKind
            for status in (Status.PASS, Status.FAIL)
        ]
        lines = "".join(json.dumps(e.to_json()) + "\n" for e in experiences)
        (folder / "rollouts" / f"step_{step:06d}.jsonl").write_text(lines)
    return folder


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text of each figure."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: list[str] = []
        self.open = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "figure":
            self.figures.append("")
        self.open = self.open or tag == "figure"

    def handle_endtag(self, tag):
        self.open = self.open and tag != "figure"

    def handle_data(self, data):
        if self.open:
            self.figures[-1] += f" {data}"

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "first", 40)


@pytest.fixture(scope="module")
def text(run) -> str:
    return report.write(report.read(run)).read_text("utf-8")


def test_every_metric_has_a_figure_with_axes_a_unit_and_what_is_healthy(text):
    page = Page(text)
    drawn = [m for m in REGISTRY[1:] if m.chart != "none"]
    assert len(page.figures) >= len(drawn)
    said = " ".join(page.figures)
    for metric in drawn:
        title = metric.description[0].upper() + metric.description[1:]
        [own] = [f for f in page.figures if f.strip().startswith(title)][:1] or [""]
        assert own, f"{metric.name}: no figure"
        healthy = f"Healthy: {metric.healthy.replace('`', '')}"  # names are set as code
        assert "".join(healthy.split()) in "".join(own.split()), metric.name
        assert metric.unit in own, metric.name
    assert said.count(" step ") >= len(page.figures), "an x axis without its name"
    assert len(page.named("svg")) >= len(page.figures)


def test_nothing_that_a_model_wrote_is_markup(text):
    page = Page(text)
    assert len(page.named("script")) == 1 and page.named("img") == []
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert not set(text) & {"\x1b", "\u202e", "\x00"}
    assert "&lt;script&gt;alert(1)" in text and "[U+202E]" in text


def test_the_page_loads_nothing_and_sends_nothing(text):
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "srcset", "formaction"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    [policy] = [m["content"] for m in page.named("meta") if "Policy" in str(m.get("http-equiv"))]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "@import" not in text and "url(" not in text.partition("</style>")[0].replace(
        "url(#", ""
    )
    assert not any("style" in attributes for _, attributes in page.tags), "the policy forbids it"


def test_samples_are_of_both_roles_and_all_kinds_good_and_bad(text):
    rows = [a for a in Page(text).named("tr") if "data-role" in a]
    cells = {(r["data-role"], r["data-kind"], r["data-verdict"]) for r in rows}
    assert len(cells) == 2 * 3 * 2
    assert {r["data-step"] for r in rows} == {"1", "40"}


def task(name: str, step: int, parents: tuple[str, ...] = (), **rest: Any) -> dict[str, Any]:
    made = Task(
        name, TaskKind.DEDUCTION, f"def f(x):\n    return {name!r}", ("(1,)",), (f"{name!r}",),
        origin_step=step, parents=parents, difficulty=rest.get("difficulty", 0.2),
    )  # fmt: skip
    tried = {"attempts": rest.get("attempts", 8), "successes": rest.get("successes", 4)}
    return {"task": made.to_json(), **tried}


def with_tasks(run: Path, rows: list[dict[str, Any]]) -> Path:
    checkpoint = run / "checkpoints" / "step_000040"
    checkpoint.mkdir(parents=True, exist_ok=True)
    with gzip.open(checkpoint / "buffer.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return run


def test_the_longest_line_of_tasks_is_the_one_that_is_shown():
    rows = rows_of(
        [
            task("seed", 0),
            task("other", 0),
            task("child", 3, ("other", "gone", "seed")),
            task("late", 9, ("seed",)),
            task("grandchild", 7, ("late", "child")),
            task("loop", 7, ("loop", "grandchild")),
        ]
    )
    [line] = lineages(rows).values()
    assert [row["id"] for row in line] == ["other", "child", "grandchild"]
    assert lineages(rows_of([task("seed", 0), task("orphan", 4, ("gone",))])) == {}


def test_tasks_are_shown_by_level_and_by_line(tmp_path):
    run = with_tasks(
        write_run(tmp_path / "run", 40),
        [
            task("seed", 0, successes=8),
            task(HOSTILE, 5, ("seed",), successes=2),
            task("hard", 6, difficulty=0.34, successes=1),
            task("untried", 7, difficulty=0.9, attempts=0, successes=0),
        ],
    )
    text = report.write(report.read(run)).read_text()
    page = Page(text)
    [ladder] = [one for one in page.figures if "by level of difficulty" in one]
    assert "deduction, 3 tasks 62.5 % → 12.5 %" in " ".join(ladder.split())
    assert "each task was shown to the model when it wrote the next" in text
    assert text.index("return &#x27;seed&#x27;") < text.index("&lt;script&gt;alert(1)")
    assert len(page.named("script")) == 1 and page.named("img") == []
    empty = report.write(report.read(with_tasks(write_run(tmp_path / "none", 2), [])))
    assert 'id="tasks"' not in empty.read_text()
    for wrong in ({"difficulty": None}, {"program": 5}, {"inputs": []}, {"origin_step": "<b>"}):
        row = task("odd", 3)
        row["task"] |= wrong
        assert "buffer.jsonl.gz could not be read" in (
            report.write(report.read(with_tasks(run, [row]))).read_text()
        )
    (run / "checkpoints" / "step_000040" / "buffer.jsonl.gz").write_bytes(b"damaged")
    assert "buffer.jsonl.gz could not be read" in report.write(report.read(run)).read_text()


def test_several_runs_have_marks_of_their_own_and_what_differs_is_of_all(run, tmp_path):
    others = [write_run(tmp_path / name, 30) for name in ("two", "three", "four")]
    (others[2] / "config.yaml").write_text(to_yaml(load("quickstart", ["ppo.advantage=gae"])))
    out = report.write(*(report.read(one) for one in (run, *others)), out=tmp_path / "all.html")
    text = out.read_text()
    assert "<title>first, two, three and four - azr-mlx</title>" in text
    assert all(f'd="{shape}"' in text for shape in charts.SHAPES[1:4])
    assert f'd="{charts.SHAPES[4]}"' not in text
    [row] = re.findall(r"<code>ppo.advantage</code></th>(.*?)</tr>", text)
    assert re.findall("<td>(.*?)</td>", row) == ["rloo", "rloo", "rloo", "gae"]


def test_more_runs_than_there_are_marks_are_refused_in_one_line(tmp_path, monkeypatch, capsys):
    for name in "abcdefg":
        write_run(tmp_path / "runs" / name, 2)
    monkeypatch.chdir(tmp_path)
    given = [part for name in "bcdefg" for part in ("--compare", f"runs/{name}")]
    assert cli.main(["report", "runs/a", *given]) == 2
    assert capsys.readouterr().err == (
        "azr-mlx: error: --compare runs/g: a chart shows 5 runs beside the first; leave some out\n"
    )
    assert cli.main(["report", "runs/a", *given[:-2]]) == 0


def refreshes(page: Path) -> list[str | None]:
    found = Page(page.read_text("utf-8")).named("meta")
    return [m["content"] for m in found if m.get("http-equiv") == "refresh"]


def test_a_run_is_followed_until_its_last_step(tmp_path, monkeypatch, capsys):
    """Before its first step, while it goes on, until it has ended."""
    run = write_run(tmp_path / "runs" / "a", 2)
    settings = ["max_steps=4", "held_out.tasks=0"]
    (run / "config.yaml").write_text(to_yaml(load("quickstart", settings)))
    steps = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").unlink()
    seen = []

    def pass_time(seconds: float) -> None:
        """Another step for every page that is written."""
        page = run / "report.html"
        seen.append((seconds, refreshes(page) if page.exists() else None))
        number = len(seen)
        row = steps[0].replace('"step": 1', f'"step": {number}', 1)
        with (run / "metrics.jsonl").open("a") as file:
            file.write(row)

    monkeypatch.setattr(time, "sleep", pass_time)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", "runs/a", "--follow", "--every", "3"]) == 0
    assert seen == [(3, None), (3, ["3"]), (3, ["3"]), (3, ["3"])]
    assert refreshes(run / "report.html") == []
    said = capsys.readouterr()
    assert said.out == "runs/a/report.html\n"
    assert said.err.splitlines() == [
        "runs/a: waiting for its first step",
        "runs/a/report.html is renewed every 3 s until the run ends: open it in a browser",
    ]


def test_following_can_be_ended_and_leaves_a_page_that_stays(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "runs" / "a", 2)

    def interrupted(seconds: float) -> None:
        assert refreshes(run / "report.html") == ["10"]
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", "--follow"]) == 130
    assert refreshes(run / "report.html") == []


def test_a_folder_that_is_no_run_is_not_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert cli.main(["report", "photos", "--follow"]) == 2
    assert "report photos: is not the folder of a run" in capsys.readouterr().err


def test_a_pause_is_refused_if_nothing_is_followed(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "runs" / "a", 2)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", "--every", "3"]) == 2
    assert "--every: is for a page that is followed; add --follow" in capsys.readouterr().err


def test_a_run_with_held_out_tasks_has_ended_when_they_are_solved(tmp_path):
    run = write_run(tmp_path / "a", 120)
    shown = report.read(run)
    assert shown.max_steps == shown.last_step == 120 and not shown.ended
    shown.held_out = HeldOutFound(solved={"greedy": {"in_range": []}})
    assert shown.ended
    assert not report.read(write_run(tmp_path / "b", 119)).ended


def test_what_was_solved_at_an_earlier_end_is_not_the_run_s(tmp_path):
    """A resumed run has held_out.json of its first end until it comes to the next one."""
    tasks = [held_task("a"), held_task("b")]
    none, each = ({way: {task.id: [right] for task in tasks} for way in WAYS} for right in (0, 1))
    record = Record({}, {"in_range": tasks}, before=none, after=each, after_step=60)
    for last, measured in ((60, True), (61, False), (120, False)):
        run = write_run(tmp_path / str(last), last)
        record.write(run)
        shown = report.read(run)
        assert bool(shown.held_out.solved) == measured and not shown.ended
        assert bool(shown.held_out.waiting) != measured, "what was solved before is still known"


def held_task(name: str) -> Task:
    program = f"def f(x):\n    return x + '{name}'"
    return Task.create(TaskKind.DEDUCTION, program, ("('',)",), (f"'{name}'",))


def test_a_figure_is_constant_only_if_every_step_has_it(tmp_path):
    """Reasons of refused proposals are written only in steps that have any."""
    run = write_run(tmp_path / "a", 8)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["propose/count"] = 12
        row.pop("propose/reject/duplicate", None)
    rows[2]["propose/reject/syntax"] = rows[5]["propose/reject/duplicate"] = 0.125
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = report.read(run)
    of = {f.name: figures.constant(f, [shown]) for f in figures.sections([shown])["Proposing"]}
    assert of["propose/reject/{}"] is None


@pytest.mark.parametrize("value", [3e17, -3e17, 1e16, 5.0, 0.0, -1e-9])
def test_an_axis_has_height_whatever_its_value(value):
    scale = y_scale(value, value, "nats")
    assert scale.low < value < scale.high or (value == 0.0 and scale.low == 0.0 < scale.high)
    assert np.isfinite(scale(value)) and ticks(scale, "nats")


def test_a_run_that_says_that_it_is_done_has_ended(tmp_path):
    run = write_run(tmp_path / "a", 120)
    run_folder.record(run, **{run_folder.ENDED: 120})
    assert report.read(run).ended
    run_folder.record(run, **{run_folder.ENDED: 60})
    assert not report.read(run).ended, "it went on since"


def test_a_collapse_of_many_magnitudes_is_drawn(tmp_path):
    run = write_run(tmp_path / "collapsed", 40)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row["ppo/ratio_max"] = 1e20 if i in (5, 6, 20, 30) else 1.0 + i / 100
        row["grad_norm"] = 5e-324 if i == 3 else 1e17 if i > 30 else 0.1
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "ppo/ratio_max" in report.write(report.read(run)).read_text()


def test_a_mean_is_never_outside_of_its_values():
    values = np.array([1.0, 2.0, 1e20, 1e20, 1.0, 1.5] + [1.0] * 30)
    assert curves.smooth(values).min() >= 1.0
    assert curves.smooth(values[:0]).size == 0


def test_two_runs_are_drawn_together_and_what_differs_is_told(run, tmp_path):
    other = write_run(tmp_path / "second", 30)
    changed = to_yaml(load("quickstart", ["ppo.advantage=gae"]))
    (other / "config.yaml").write_text(changed)
    out = report.write(report.read(run), report.read(other), out=tmp_path / "both.html")
    text = out.read_text()
    assert "<title>first and second - azr-mlx</title>" in text
    assert "What differs" in text and "<code>ppo.advantage</code>" in text
    assert "ppo.epochs</code></th>" not in text
    assert any("second" in figure for figure in Page(text).figures)


@pytest.mark.alone
def test_a_long_run_stays_small_and_is_written_quickly(tmp_path):
    run = write_run(tmp_path / "long", 5000, text="x" * 5000)
    start = time.perf_counter()
    path = report.write(report.read(run))
    seconds = time.perf_counter() - start
    assert path.stat().st_size < 5e6
    assert seconds < 10, "2 s on a machine with nothing else to do"


def test_what_is_missing_or_broken_is_a_note_and_no_failure(tmp_path):
    run = write_run(tmp_path / "odd", 3)
    with (run / "metrics.jsonl").open("a") as f:
        f.write('{"step": 4, "grad_norm": NaN, "lr": Infinity, "unheard_of": 3.0}\n[1]\n{"step": 5')
    (run / "config.yaml").write_text("a: [")
    (run / "run.json").write_text('{"starts": 3}')
    (run / "held_out.json").write_text("{}")
    with (run / "rollouts" / "step_000001.jsonl").open("ab") as f:
        f.write(b'{"cut off \xff')
    read = report.read(run)
    assert read.broken == {"grad_norm": 1, "lr": 1} and read.last_step == 4
    text = report.write(read).read_text()
    assert "config.yaml could not be read" in text and "unheard_of" in text
    (run / "rollouts" / "step_000001.jsonl").unlink()
    (run / "config.yaml").unlink()
    assert report.write(report.read(run)).exists()


def test_what_cannot_be_shown_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no such folder; give runs/NAME"):
        report.locate(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match=r"no step in metrics\.jsonl"):
        report.read(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no run with metrics in runs/"):
        report.locate("latest")
    run = report.read(write_run(tmp_path / "runs" / "a", 2))
    with pytest.raises(AzrError, match=r"Is a directory|exists"):
        report.write(run, out=tmp_path / "runs")
    with pytest.raises(AzrError, match=r"--out .*No such file"):
        report.write(run, out=tmp_path / "no" / "where.html")
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_command_writes_the_latest_run_and_its_figures_as_json(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "runs" / "a", 3)
    write_run(tmp_path / "runs" / "b", 4)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out == "runs/b/report.html\n"
    assert Path("runs/b/report.html").read_text().startswith("<!doctype html>")
    given = ["report", "runs/a", "--compare", "runs/b", "--out", "both.html", "--json"]
    assert cli.main(given) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == "both.html" and [r["steps"] for r in said["runs"]] == [3, 4]
    assert said["runs"][0]["metrics"]["entropy"]["steps"] == 3
    assert cli.main(["report", "runs/b", "--compare", "runs/a"]) == 0
    assert capsys.readouterr().out == "runs/b/compared.html\n"
    assert "runs/a" not in Path("runs/b/report.html").read_text(), "the run's own is as it was"
    assert cli.main(["report", "runs/none"]) == 2


def test_every_metric_that_is_drawn_has_a_unit_and_a_healthy_range():
    lacking = [m.name for m in REGISTRY[1:] if m.chart != "flags" and not (m.unit and m.healthy)]
    assert lacking == []
