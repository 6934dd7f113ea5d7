"""Held-out tasks: apart from all that is trained on, the same for every run, compared fairly."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from math import exp
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest

from azr_mlx.commands.train import _can_go_on as can_go_on
from azr_mlx.commands.train import _held_out as compared_at_the_start
from azr_mlx.commands.train import _run as end_run
from azr_mlx.commands.train import _show_gain as show_gain
from azr_mlx.config import Config, HeldOutConfig, Proposer, Rollout, Solver
from azr_mlx.config.shipped import config_dir
from azr_mlx.errors import Interrupted, UsageError
from azr_mlx.evaluation import held_out
from azr_mlx.evaluation.held_out import BeforeAndAfter, HeldOut, HeldOutLine, Record, mean_line
from azr_mlx.evaluation.progress import Silent
from azr_mlx.evaluation.statistics import Estimate
from azr_mlx.monitoring import report
from azr_mlx.monitoring.terminal import Display, gain_line, held_out_table, standing_line
from azr_mlx.selfplay.round import Round
from azr_mlx.selfplay.round_log import RoundLog
from azr_mlx.tasks import parse
from azr_mlx.tasks.gate import REJECT_REASONS, Draft, GateRules, gate
from azr_mlx.tasks.prompts import load_form
from azr_mlx.training.run import Trainer
from azr_mlx.types import TaskKind
from tests.fake import FakeBackend

pytestmark = pytest.mark.sandbox

CONFIG = Config(
    batch_size=6,
    max_steps=2,
    kl_penalty="none",
    rollout=Rollout(form="compact", group_size=2, max_propose_tokens=60, max_solve_tokens=20),
    proposer=Proposer(
        references=1, induction_inputs=4, templates_per_step=12, template_set="chains"
    ),
    solver=Solver(strategies=("direct",)),
    held_out=HeldOutConfig(tasks=5, in_range=0.2, harder=0.3),
)


def knowing(prompt, n):
    """Solves every deduction, no other kind: it knows the outputs."""
    return KNOWN.get(prompt.text, " 0")


KNOWN: dict[str, str] = {}


class Told(Silent):
    """What a reporter heard: (label, total, how much of it was done)."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int, int]] = []

    def start(self, label: str, total: int, done: int) -> None:
        self.said.append((label, total, done))

    def advance(self, count: int = 1) -> None:
        label, total, done = self.said[-1]
        self.said[-1] = (label, total, done + count)


@pytest.fixture(scope="module")
def held(sandbox):
    made = HeldOut(CONFIG, FakeBackend(knowing), sandbox, load_form("compact"))
    for task in [t for group in made.tasks.values() for t in group]:
        if task.kind is TaskKind.DEDUCTION:
            KNOWN[made.solver.form.solve(task).text] = f" {task.outputs[0]}"
    return made


def test_tasks_are_of_reserved_shapes_distinct_and_the_same_each_time(held, sandbox):
    told = Told()
    again = HeldOut(CONFIG, FakeBackend(knowing), sandbox, held.solver.form, progress=told)
    assert again.tasks == held.tasks
    assert told.said == [("tasks", 30, 30)]
    for group in held.tasks.values():
        assert [sum(t.kind is k for t in group) for k in TaskKind] == [5, 5, 5]
        for kind in TaskKind:
            shapes = [parse.skeleton(t.program) for t in group if t.kind is kind]
            assert len(set(shapes)) == len(shapes)
        assert all(parse.is_reserved(t.program) for t in group)
    assert all(t.difficulty <= 0.2 for t in held.tasks["in_range"])
    assert all(t.difficulty == 0.3 for t in held.tasks["harder"])


def test_the_gate_keeps_reserved_shapes_out_where_something_is_held_out(held, sandbox):
    task = held.tasks["in_range"][0]
    draft = Draft(parse.Proposal(task.program, task.inputs), TaskKind.DEDUCTION)
    assert gate([draft], sandbox, GateRules.from_config(CONFIG))[0].reason == "reserved"
    assert gate([draft], sandbox, GateRules.from_config(Config()))[0].task is not None
    assert "reserved" in REJECT_REASONS


def test_a_run_meets_no_reserved_shape_and_pays_nothing_for_one(tmp_path, held, sandbox):
    reserved = held.tasks["in_range"][0]
    proposal = reserved.program.strip().removeprefix("def f")
    args = reserved.inputs[0]
    text = f"{proposal}\nassert f{args}"
    backend = FakeBackend(lambda prompt, n: text if prompt.text.endswith("\ndef f") else " 0")
    trainer = Trainer(CONFIG, tmp_path, backend, sandbox, display=Display(2, quiet=True))
    trainer.start()
    log = RoundLog()
    trainer.selfplay.play(Round(CONFIG.seed, 1), log)
    experiences = log.experiences
    paid = [e for e in experiences if e.role.value == "propose"]
    assert {e.kind for e in paid} == {TaskKind.INDUCTION}, "a reserved proposal was paid"
    row = log.metrics()
    assert row["propose/reject/reserved"] > 0
    assert "propose/valid_rate/deduction" not in row
    seen = [t.program for k in TaskKind for t in trainer.selfplay.memory.tasks.tasks(k)]
    assert len(seen) > 20
    assert not any(map(parse.is_reserved, seen))
    heads = {program.splitlines()[0] for program in seen}
    assert heads <= {f"def f({p}):" for p in ("n", "a", "s", "n, m", "a, n", "s, n")}, (
        "tasks are not of the configured set of templates"
    )


def test_measuring_judges_every_answer_and_a_gain_is_paired(held):
    before = held.backend.forgotten
    told = held.progress = Told()
    good = held.measure()
    answers = 30 * (1 + CONFIG.held_out.draws)
    assert told.said == [("answers", answers, answers)]
    assert held.backend.forgotten == before + 1, "the next step would begin from what this read"
    assert set(good) == {"greedy", "sampled"}
    assert all(len(v) == CONFIG.held_out.draws == 4 for v in good["sampled"].values())
    kinds = {t.id: t.kind for group in held.tasks.values() for t in group}
    passed = {kinds[i] for i, v in good["greedy"].items() if v == [1.0]}
    assert TaskKind.DEDUCTION in passed
    bad = {way: {i: [0.0] * len(v) for i, v in found.items()} for way, found in good.items()}
    lines = held_out.compare(held.tasks, bad, good, "greedy")["in_range"]
    assert [line.name for line in lines] == ["deduction", "abduction", "induction", "mean"]
    assert lines[0].gain.value == 1.0 and lines[0].before.value == 0.0
    assert lines[0].tasks == 5 and lines[3].tasks == 15
    assert lines[3].gain.value == pytest.approx(sum(x.gain.value for x in lines[:3]) / 3)


def test_intervals_of_the_mean_add_in_quadrature():
    one = Estimate(0.5, 0.2, 0.8)
    line = mean_line([HeldOutLine(name, 4, one, one, one) for name in "ab"])
    assert line.gain.value == 0.5
    assert line.gain.low == pytest.approx(0.5 - 0.3 * 2**0.5 / 2)


def test_the_gain_is_said_in_words_and_only_what_the_interval_bears_out():
    share = Estimate(0.5, 0.2, 0.8)

    def lines(*gain, tasks=30):
        kind = HeldOutLine("deduction", 4, share, share, Estimate(0.9, 0.8, 1.0))
        return [kind, HeldOutLine("mean", tasks, share, share, Estimate(*gain))]

    found = {"in_range": lines(0.027, -0.01, 0.06), "harder": lines(-0.05, -0.08, -0.02)}
    assert gain_line("greedy", found) == (
        "in short, greedy answers: no clear change in range, worse by 5.0 points one step harder"
    )
    found = {"in_range": lines(0.137, 0.101, 0.173)}
    assert gain_line("sampled", found) == (
        "in short, sampled answers: better by 13.7 points in range"
    )
    found = {"in_range": lines(0.137, 0.101, 0.173, tasks=24)}
    assert gain_line("sampled", found) == (
        "in short, sampled answers: 24 tasks are too few to tell in range"
    )


def before_and_after(run, held, resumed=False):
    record = held_out.recorded(run, held.config, resumed=resumed)
    return BeforeAndAfter(run, held, record)


def test_the_gain_is_written_and_a_run_that_goes_on_keeps_its_start(tmp_path, held, capsys):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "solve_rate/deduction": i / 10}) + "\n" for i in range(1, 8))
    )
    first = before_and_after(tmp_path, held)
    first.measure_before()
    held.backend.script = lambda prompt, n: " 'never'"
    again = before_and_after(tmp_path, held, resumed=True)
    again.measure_before()
    assert again.record.before == first.record.before, "the start was measured anew"
    assert again.record.tasks == held.tasks and not again.record.after
    for way, found in again.measure_after(7).items():
        Display(2).table(held_out_table(way, found))
    page = report.write(report.read(tmp_path)).read_text()
    assert "in range" in page and "one step harder" in page and "-100.0" in page
    both = Record.read(tmp_path)
    assert both.before == first.record.before and both.after != both.before
    assert both.after_step == 7 and both.is_of(7, last=9) and not both.is_of(9, last=9)
    shown = capsys.readouterr().err
    assert "gain in points" in shown and "-100.0" in shown


def test_what_was_measured_after_an_earlier_step_is_measured_again(tmp_path, held, monkeypatch):
    compared = before_and_after(tmp_path, held)
    compared.measure_before()
    compared.measure_after(1)
    trainer = SimpleNamespace(
        config=CONFIG, run_dir=tmp_path, display=Display(2, quiet=True), step=CONFIG.max_steps
    )
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="train --resume"):
        patched.setattr(held, "measure", ctrl_c)
        end_run(trainer, compared, leads=True)
    assert end_run(trainer, compared, leads=True) == 0
    assert Record.read(tmp_path).after_step == CONFIG.max_steps


def test_what_was_solved_before_training_is_said_in_the_mean_of_the_kinds(tmp_path, held):
    compared = before_and_after(tmp_path, held)
    said = []
    compared.measure_before(said.append)
    count = sum(map(len, held.tasks.values()))
    assert f"{count} tasks (5 of each kind and difficulty), each with a greedy" in said[0]
    line = standing_line(compared.record)
    for way, answers in held_out.WAYS.items():
        right, tasks = compared.record.before[way], held.tasks["in_range"]
        kinds = [fmean(fmean(right[t.id]) for t in tasks if t.kind is k) for k in TaskKind]
        assert f"{answers}: in range {fmean(kinds):.1%}, one step harder " in line


def ctrl_c():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"held_out": HeldOutConfig(tasks=6, in_range=0.2, harder=0.3)}, "held_out.tasks: 6"),
        ({"rollout": replace(CONFIG.rollout, temperature=0.5)}, "rollout.temperature: 0.5"),
        ({"solver": Solver(strategies=("step_by_step",))}, "solver.strategies: 'step_by_step'"),
        ({"rollout": replace(CONFIG.rollout, thinking="on")}, "rollout.thinking: 'on'"),
    ],
)
def test_what_could_not_be_compared_is_refused_before_training(tmp_path, held, changed, key):
    Record(held_out.settings(CONFIG), held.tasks, {"greedy": {}}, {}).write(tmp_path)
    with pytest.raises(UsageError, match=key):
        held_out.recorded(tmp_path, replace(CONFIG, **changed), resumed=True)


def older(settings):
    """As a record was before it said by which rules answers were judged, and in which form."""
    later = ("rollout.thinking", "form_sha256", "grading")
    return {key: value for key, value in settings.items() if key not in later}


def test_a_run_of_other_rules_goes_on_without_a_comparison(tmp_path, held):
    """Its induction tasks were judged on hidden pairs alone, and chat had other prompts."""
    Record(older(held_out.settings(CONFIG)), held.tasks, {"greedy": {}}, {}).write(tmp_path)
    on = replace(CONFIG, rollout=replace(CONFIG.rollout, thinking="on"))
    for config in (CONFIG, on, replace(CONFIG, proposer=Proposer(induction_inputs=6))):
        record = held_out.recorded(tmp_path, config, resumed=True)
        assert "judged by other rules" in record.outdated(config)
        said = []
        display = SimpleNamespace(warn=said.append)
        assert compared_at_the_start(config, tmp_path, record, None, None, display) is None
        assert len(said) == 1 and "cannot be compared" in said[0] and "\n" not in said[0]
    assert not Record.read(tmp_path).after, "what was measured stays as it is"


def test_a_run_of_other_rules_that_was_not_trained_is_measured_anew(tmp_path, held):
    Record(older(held_out.settings(CONFIG)), held.tasks, {"greedy": {}}, {}).write(tmp_path)
    again = before_and_after(tmp_path, held)
    again.measure_before()
    assert Record.read(tmp_path).settings == json.loads(json.dumps(held_out.settings(CONFIG)))
    assert set(again.record.before) == {"greedy", "sampled"}
    assert not held_out.recorded(tmp_path, CONFIG, resumed=True).outdated(CONFIG)


def test_a_form_that_says_something_else_under_its_name_is_not_compared(tmp_path, held):
    form = tmp_path / "own.yaml"
    form.write_text((config_dir() / "prompts" / "compact.yaml").read_text())
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, form=str(form)))
    Record(held_out.settings(config), held.tasks, {"greedy": {}}, {}).write(tmp_path)
    assert not held_out.recorded(tmp_path, config, resumed=True).outdated(config)
    form.write_text(form.read_text().replace("hint:", "hint: really"))
    record = held_out.recorded(tmp_path, config, resumed=True)
    assert record.outdated(config) == f"the prompt form {form} has changed"
    other = replace(CONFIG, rollout=replace(CONFIG.rollout, form="few_shot"))
    with pytest.raises(UsageError, match=r"rollout\.form: 'few_shot'.*keep that"):
        held_out.recorded(tmp_path, other, resumed=True)


def test_a_run_that_began_without_held_out_tasks_has_nothing_to_compare(tmp_path):
    assert held_out.recorded(tmp_path, CONFIG, resumed=False) is None
    with pytest.raises(UsageError, match=r"held_out\.tasks: 5: .* solved none at its start"):
        held_out.recorded(tmp_path, CONFIG, resumed=True)


# -- pass@k ----------------------------------------------------------------------------------------

COUNTS = [(0, 3), (1, 1), (2, 5), (6, 6)]  # right answers of six, before and after, by task


def record_of(held, counts=COUNTS, draws=6):
    """A record of one distribution, deduction tasks alone, with so many right answers."""
    tasks = [t for t in held.tasks["in_range"] if t.kind is TaskKind.DEDUCTION][: len(counts)]
    before, after = (
        {t.id: [1.0] * c[i] + [0.0] * (draws - c[i]) for t, c in zip(tasks, counts, strict=True)}
        for i in (0, 1)
    )
    greedy = {t.id: [0.0] for t in tasks}
    both = ({"greedy": greedy, "sampled": verdicts} for verdicts in (before, after))
    return Record(held_out.settings(CONFIG), {"in_range": tasks}, *both)


def chance(right, k, draws=6):
    """Brute force: the share of all choices of k answers that hold a right one."""
    chosen = list(combinations([True] * right + [False] * (draws - right), k))
    return sum(map(any, chosen)) / len(chosen)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_pass_at_k_is_the_chance_over_all_choices_paired_by_task(held, k):
    record = record_of(held)
    assert record.ks == [1, 2, 4] and record.pass_at(8) == {} == record.pass_at(3)
    line, mean = record.pass_at(k)["in_range"]
    before, after = ([chance(c[i], k) for c in COUNTS] for i in (0, 1))
    assert line.before.value == pytest.approx(fmean(before))
    assert line.after.value == pytest.approx(fmean(after)) == mean.after.value
    gaps = [b - a for a, b in zip(before, after, strict=True)]
    assert line.gain.value == pytest.approx(fmean(gaps))
    assert min(gaps) <= line.gain.low <= line.gain.value <= line.gain.high <= max(gaps)
    if k == 1:
        assert line == record.compared["sampled"]["in_range"][0]


def test_a_gain_is_paired_by_task_and_not_by_its_place(held):
    """Tasks that differ much, each a little better: unpaired the interval would reach below 0."""
    record = record_of(held, [(0, 1), (1, 3), (3, 4), (5, 6)])
    gain = record.pass_at(1)["in_range"][0].gain
    assert gain.low == pytest.approx(1 / 6) and gain.value < gain.high < 1.9 / 6
    record.after["sampled"] = dict(reversed(record.after["sampled"].items()))
    assert record.pass_at(1)["in_range"][0].gain == gain


def test_as_many_answers_are_drawn_as_asked_and_a_third_distribution_if_asked(held, sandbox):
    asked = HeldOutConfig(tasks=2, in_range=0.2, harder=0.3, hardest=0.4, draws=2)
    config = replace(CONFIG, held_out=asked)
    made = HeldOut(config, held.backend, sandbox, held.solver.form)
    assert list(made.tasks) == ["in_range", "harder", "hardest"]
    assert {t.difficulty for t in made.tasks["hardest"]} == {0.4}
    assert all(len(v) == 2 for v in made.measure()["sampled"].values())
    assert "hardest" not in held.tasks


# -- how likely right answers are ------------------------------------------------------------------


def test_tasks_that_become_solvable_are_counted_and_those_that_stop_to_be(held):
    tasks = {"in_range": [t for t in held.tasks["in_range"] if t.kind is TaskKind.DEDUCTION]}
    ids = [t.id for t in tasks["in_range"]]
    before = dict(zip(ids, (0.001, 0.9, 0.02, 0.01, 0.6), strict=True))
    after = dict(zip(ids, (0.7, 0.01, 0.9, 0.4, 0.7), strict=True))
    others = {t.id: 0.5 for t in held.tasks["in_range"] if t.id not in ids}
    line = held_out.compare_right_answers(held.tasks, before | others, after | others)["in_range"]
    assert (line.gained.value, line.lost.value) == (0.2, 0.2)
    assert line.probability.gain.value == pytest.approx(
        fmean(after.values()) - fmean([*before.values()])
    )
    assert held_out.compare_right_answers(tasks, {}, after) == {}


def test_the_right_answers_to_deduction_are_measured_if_their_words_are_fixed(held, sandbox):
    found = held.right_answers()
    deduction = [t for group in held.tasks.values() for t in group if t.kind is TaskKind.DEDUCTION]
    assert set(found) == {t.id for t in deduction}
    # The stub gives every token the probability 1/e; the only end that it knows is a line end.
    assert found[deduction[0].id] == pytest.approx(exp(-len(f" {deduction[0].outputs[0]}\n")))
    steps = replace(CONFIG, solver=Solver(strategies=("step_by_step",)))
    for config, form in ((steps, "compact"), (CONFIG, "chat")):
        other = HeldOut(config, held.backend, sandbox, load_form(form), held.tasks)
        assert other.right_answers() == {}


# -- what is shown, and files of earlier versions --------------------------------------------------


def earlier_file(run, held):
    """As a version without pass@k and right answers wrote it; returns its content."""
    record = record_of(held, [(0, 2), (1, 1), (2, 3), (4, 4)], draws=4)
    record.settings = {k: v for k, v in record.settings.items() if k not in held_out._UNSAID}
    record.write(run)
    path = run / "held_out.json"
    row = {k: v for k, v in json.loads(path.read_text()).items() if k != "right_answers"}
    path.write_text(json.dumps(row))
    return row


def test_a_file_of_an_earlier_version_is_read_and_its_run_goes_on(tmp_path, held):
    row = earlier_file(tmp_path, held)
    record = held_out.recorded(tmp_path, CONFIG, resumed=True)
    assert (record.before, record.after) == (row["before"], row["after"])
    assert record.ks == [1, 2, 4] and record.right_answers == {}
    sixteen = replace(CONFIG, held_out=replace(CONFIG.held_out, draws=16))
    with pytest.raises(UsageError, match=r"held_out\.draws: 16: .* with 4; keep that"):
        held_out.recorded(tmp_path, sixteen, resumed=True)
    compared = BeforeAndAfter(
        tmp_path, HeldOut(CONFIG, held.backend, None, held.solver.form, record.tasks), record
    )
    compared.measure_before()
    assert compared.record.before == row["before"], "the start was measured anew"
    assert not compared.record.right_before, "what was not measured at the start is not made up"


def test_greedy_comes_first_then_sampled_then_pass_at_16(tmp_path, held, capsys):
    config = replace(CONFIG, held_out=replace(CONFIG.held_out, draws=16))
    held = HeldOut(config, held.backend, held.solver.sandbox, held.solver.form, held.tasks)
    compared = BeforeAndAfter(tmp_path, held, None)
    compared.measure_before()
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "entropy": 0.5}\n')
    waiting = report.write(report.read(tmp_path)).read_text()
    assert "one step harder before training (sampled as in training). They have not" in waiting
    show_gain(compared, 2, Display(2))
    shown = capsys.readouterr().err
    places = [shown.index(text) for text in ("solved, greedy", "solved, sampled", "pass@16")]
    assert places == sorted(places) and shown.count("pass@16") == 2
    tables, _, words = shown.partition("mean probability")
    assert "pass@8" not in shown and max(map(len, tables.splitlines())) <= 80
    assert words.index("in short, greedy") < words.index("in short, sampled")
    assert "mean probability of the right answer, deduction: in range" in " ".join(shown.split())
    run = report.read(tmp_path)
    page = report.write(run).read_text().partition("<script>")[0]  # all of it without scripts
    assert "the model solved" not in page
    for text in ("pass@k, in range", "pass@k, one step harder", "pass@16", 'class="band f1"'):
        assert text in page
    assert "from under 1/64 to over 1/2" in page and page.index("greedy") < page.index("sampled as")
    figures = report.to_json(run)
    assert list(figures["held_out"]) == ["greedy", "sampled"]
    assert list(figures["pass_at_k"]) == ["1", "2", "4", "8", "16"]
    assert set(figures["right_answers"]["in_range"]) > {"gained", "lost", "gain"}
    two = report.write(run, report.read(tmp_path), out=tmp_path / "two.html").read_text()
    assert f"{tmp_path.name}: pass@k, in range" in two


def test_ctrl_c_before_the_first_step_says_how_to_go_on():
    told = pytest.raises(Interrupted, match="train --resume runs/first")
    with told, can_go_on(Path("runs/first"), leads=True):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), can_go_on(Path("/tmp/of-a-rank"), leads=False):
        raise KeyboardInterrupt


def test_fewer_shapes_than_asked_are_named(tmp_path, held):
    few = {name: group[:2] for name, group in held.tasks.items()}
    made = HeldOut(CONFIG, held.backend, held.solver.sandbox, held.solver.form, few)
    in_range, harder = BeforeAndAfter(tmp_path, made, None).shortage
    assert "in range: 2 tasks instead of 15" in in_range and "2 tasks instead" in harder
