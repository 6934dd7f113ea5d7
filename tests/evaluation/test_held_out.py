"""Held-out tasks: apart from all that is trained on, the same for every run, compared fairly."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from azr_mlx.commands.train import _held_out as compared_at_the_start
from azr_mlx.config import Config, HeldOutConfig, Proposer, Rollout, Solver
from azr_mlx.config.shipped import config_dir
from azr_mlx.errors import UsageError
from azr_mlx.evaluation import held_out
from azr_mlx.evaluation.held_out import BeforeAndAfter, HeldOut, HeldOutLine, Record, mean_line
from azr_mlx.evaluation.statistics import Estimate
from azr_mlx.monitoring import report
from azr_mlx.monitoring.terminal import Display, held_out_table
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


@pytest.fixture(scope="module")
def held(sandbox):
    made = HeldOut(CONFIG, FakeBackend(knowing), sandbox, load_form("compact"))
    for task in [t for group in made.tasks.values() for t in group]:
        if task.kind is TaskKind.DEDUCTION:
            KNOWN[made.solver.form.solve(task).text] = f" {task.outputs[0]}"
    return made


def test_tasks_are_of_reserved_shapes_distinct_and_the_same_each_time(held, sandbox):
    again = HeldOut(CONFIG, FakeBackend(knowing), sandbox, held.solver.form)
    assert again.tasks == held.tasks
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
    good = held.measure()
    assert held.backend.forgotten == before + 1, "the next step would begin from what this read"
    assert set(good) == {"greedy", "sampled"}
    assert all(len(v) == held_out.SAMPLES for v in good["sampled"].values())
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
    for way, found in again.measure_after().items():
        Display(2).table(held_out_table(way, found))
    page = report.write(report.read(tmp_path)).read_text()
    assert "in range" in page and "one step harder" in page and "-100.0" in page
    both = Record.read(tmp_path)
    assert both.before == first.record.before and both.after != both.before
    shown = capsys.readouterr().err
    assert "gain in points" in shown and "-100.0" in shown


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


def test_fewer_shapes_than_asked_are_named(tmp_path, held):
    few = {name: group[:2] for name, group in held.tasks.items()}
    made = HeldOut(CONFIG, held.backend, held.solver.sandbox, held.solver.form, few)
    in_range, harder = BeforeAndAfter(tmp_path, made, None).shortage
    assert "in range: 2 tasks instead of 15" in in_range and "2 tasks instead" in harder
