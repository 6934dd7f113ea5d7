"""A round of self-play with scripted words and the real sandbox: who is paid for what, and what is
trained on."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from azr_mlx.config import Config, HeldOutConfig, Proposer, Rollout, Solver
from azr_mlx.sandbox import Sandbox
from azr_mlx.selfplay.proposer import MOST_RESERVED
from azr_mlx.selfplay.round import Round
from azr_mlx.selfplay.round_log import RoundLog
from azr_mlx.tasks import templates
from azr_mlx.tasks.buffer import TaskBuffer
from azr_mlx.tasks.gate import Draft, Gate
from azr_mlx.tasks.parse import is_reserved, skeleton
from azr_mlx.training.algorithm import SelfPlay
from azr_mlx.types import Role, Status, Task, TaskKind
from tests.experiences import experience
from tests.fake import FakeBackend
from tests.runs import unregistered

pytestmark = pytest.mark.sandbox

CONFIG = Config(
    batch_size=2,
    task_types=("deduction",),
    max_steps=10,
    initial_difficulty=0.1,
    rollout=Rollout(form="few_shot", group_size=4, max_propose_tokens=200, max_solve_tokens=400),
    proposer=Proposer(
        references=1,
        templates_per_step=0,
        induction_inputs=4,
        reward="one_minus",
        invalid_reward=-1.0,
    ),
    solver=Solver(strategies=("direct",)),
)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as running:
        yield running


def play(sandbox, script, config=CONFIG) -> tuple[SelfPlay, FakeBackend]:
    backend = FakeBackend(script)
    game = SelfPlay(config, backend, sandbox)
    game.seed()
    return game, backend


def one_round(game, step=1) -> RoundLog:
    log = RoundLog()
    game.play(Round(game.config.seed, step), log)
    return log


def absorbed(game, log, step=1) -> dict[str, float]:
    """The step's metrics, once the memory has taken it in."""
    return log.metrics() | game.memory.absorb(step, log.experiences)


def is_proposal(prompt) -> bool:
    return prompt.strategy == ""


def proposes(body: str, args: str = "3"):
    return f"(x):\n    {body}\nassert f({args}) == ?\n"


def test_the_proposer_is_paid_for_its_own_task_and_no_other(sandbox):
    """The first project credited rewards to a fresh, unrelated sample."""
    programs = ["return x * 2 + 1", "return [x, x, x, sum(range(x))]"]
    answers = {
        "x * 2 + 1": [" 7", " 7", " 7", " 8"],
        "sum(range(x))": [" [3, 3, 3, 3]", " 0", " 0", " 0"],
    }
    proposals = iter(programs)

    def script(prompt, n):
        if is_proposal(prompt):
            return proposes(next(proposals))
        return next(
            a.pop(0)
            for key, a in answers.items()
            if prompt.text.rstrip().splitlines()[-2].endswith(tail(key))
        )

    def tail(key):
        return key if key.endswith("1") else "sum(range(x))]"

    game, _ = play(sandbox, script)
    log = one_round(game)
    experiences = log.experiences
    by_task = {t.id: t.program for t in game.memory.tasks.tasks(TaskKind.DEDUCTION)}
    paid = {
        by_task[e.task_id].splitlines()[-1].strip(): e.reward.total
        for e in experiences
        if e.role is Role.PROPOSE
    }
    assert paid["return x * 2 + 1"] == pytest.approx(1 - 3 / 4)
    assert paid["return [x, x, x, sum(range(x))]"] == pytest.approx(1 - 1 / 4)
    assert log.metrics()["propose/variance/deduction"] == pytest.approx(3 / 16)


@pytest.mark.parametrize(("guessing", "pays"), [("corrected", 0.0), ("counted", 0.5)])
def test_a_coin_toss_earns_nothing(sandbox, guessing, pays):
    """The solver guesses, and is right half of the time for ever."""
    tosses = itertools.cycle([" True", " False"])
    config = replace(CONFIG, batch_size=1, proposer=replace(CONFIG.proposer, guessing=guessing))
    script = lambda p, n: proposes("return x > 71") if is_proposal(p) else next(tosses)  # noqa: E731
    log = one_round(play(sandbox, script, config)[0])
    [proposal] = [e for e in log.experiences if e.role is Role.PROPOSE]
    assert proposal.reward.total == pays
    assert log.metrics()["propose/variance/deduction"] == 0.25, "the rate itself is as measured"


@pytest.mark.parametrize(("repeats", "costs"), [("malformed", -1.0), ("wrong", -0.5)])
def test_repeating_the_output_pays_if_it_is_right_and_can_cost_more_if_not(sandbox, repeats, costs):
    """`sorted` gives its output back and `x + [1]` does not; half of the answers are the output."""
    programs = iter([("return sorted(x)", "[2, 1]"), ("return x + [1]", "[3]")])
    answers = itertools.cycle(["([1, 2])", "([3, 1])", "([1, 2])", "([3, 1])"])
    solver = replace(CONFIG.solver, repeats=repeats)
    config = replace(CONFIG, task_types=("abduction",), solver=solver)

    def script(prompt, n):
        return proposes(*next(programs)) if is_proposal(prompt) else next(answers)

    log = one_round(play(sandbox, script, config)[0])
    kinds = {e.task_id: e for e in log.experiences if e.role is Role.PROPOSE}
    solved = [(e.completion.text, e.reward.total) for e in log.experiences if e.role is Role.SOLVE]
    assert len(kinds) == 2 and sorted(set(solved)) == sorted(
        {
            ("([1, 2])", 1.0),  # of sorted: right
            ("([3, 1])", -0.5),  # of sorted: wrong, and no repetition
            ("([1, 2])", -0.5),
            ("([3, 1])", costs),  # of x + [1]: the output itself
        }
    ), solved
    assert log.metrics()["repeats/abduction"] == 0.5


def test_extremes_earn_nothing_and_rejections_cost(sandbox):
    """p = 1 and p = 0 teach nothing (Eq. 4); an invalid program costs; an unreadable text costs."""
    texts = iter([proposes("return x + 40"), "no program at all"])
    game, _ = play(sandbox, lambda p, n: next(texts) if is_proposal(p) else " 43")
    experiences = one_round(game).experiences
    proposals = [e for e in experiences if e.role is Role.PROPOSE]
    assert [e.reward.total for e in proposals] == [0.0, -1.0]
    assert [e.verdict.status for e in proposals] == [Status.OK, Status.FORMAT]
    solved = [e for e in experiences if e.role is Role.SOLVE]
    assert len(solved) == 4 and all(e.reward.total == 1.0 for e in solved)
    assert len({e.group for e in solved}) == 1 and solved[0].group not in {
        e.group for e in proposals
    }


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return undefined_name", "error"),
        ("import os\n    return os.getpid() + x", "import"),
        ("return object()", "invalid_value"),
        ("return list({str(i) for i in range(40)})[:x]", "nondeterministic"),
        ("return [*range(x)] * 10 ** 9", "memory"),
    ],
)
def test_what_the_gate_refuses_is_counted_by_reason(sandbox, body, reason):
    game, _ = play(sandbox, lambda p, n: proposes(body), replace(CONFIG, batch_size=1))
    log = one_round(game)
    experiences, row = log.experiences, absorbed(game, log)
    assert row[f"propose/reject/{reason}"] == 1.0, {k: v for k, v in row.items() if "reject" in k}
    assert experiences[0].reward.total == -1.0 and len(experiences) == 1


def test_the_shares_of_what_is_refused_are_parts_of_a_whole(sandbox):
    """Shapes that are kept for held-out tasks are refused, too, if without a reward."""
    kept = [f"return {' + '.join(['x'] * n)}" for n in range(1, 60)]
    body = next(b for b in kept if is_reserved(f"def f(x):\n    {b}\n"))
    texts = iter([proposes(body), proposes(body), proposes("return undefined_name")])
    config = replace(CONFIG, batch_size=3, held_out=HeldOutConfig(tasks=1))
    game, _ = play(sandbox, lambda p, n: next(texts), config)
    log = one_round(game)
    row = absorbed(game, log)
    assert row["propose/reject/reserved"] == pytest.approx(2 / 3)
    assert row["propose/reject/error"] == pytest.approx(1 / 3)
    assert row["propose/count"] == 3 and row["propose/valid_rate/deduction"] == 0.0
    assert len(log.experiences) == 1, "only what is paid can be trained on"
    assert [done.text for _, done in log.written] == [
        proposes(body),
        proposes(body),
        log.paid[0].experience.completion.text,
    ], "but the model wrote them all"
    assert row["len/mean"] == np.mean([len(done.token_ids) for _, done in log.written])


def test_a_repeated_program_is_a_duplicate_the_second_time(sandbox):
    """A reference implementation served stale tasks as new."""
    game, _ = play(
        sandbox,
        lambda p, n: proposes("return x - 900") if is_proposal(p) else " 1",
        replace(CONFIG, batch_size=1),
    )
    first, second = (one_round(game, step).experiences for step in (1, 2))
    assert first[0].verdict.status is Status.OK
    assert second[0].verdict.status is Status.INVALID and len(second) == 1
    assert len(game.memory.tasks.new(TaskKind.DEDUCTION, 2)) == 0


@pytest.mark.parametrize(("cost", "pays"), [(1.0, -1.0), (0.25, -0.25)])
def test_a_duplicate_can_cost_less_than_what_does_not_run(sandbox, cost, pays):
    programs = itertools.cycle(["return x - 900", "return undefined_name"])
    config = replace(CONFIG, proposer=replace(CONFIG.proposer, duplicate_cost=cost))
    script = lambda p, n: proposes(next(programs)) if is_proposal(p) else " 1"  # noqa: E731
    game, _ = play(sandbox, script, config)
    one_round(game)
    proposals = [e for e in one_round(game, 2).experiences if e.role is Role.PROPOSE]
    assert [e.reward.total for e in proposals] == [pays, -1.0]


def test_templates_top_up_what_the_model_fails_to_propose(sandbox):
    config = replace(CONFIG, proposer=replace(CONFIG.proposer, templates_per_step=3))
    game, _ = play(sandbox, lambda p, n: "nothing" if is_proposal(p) else " 0", config)
    log = one_round(game)
    experiences, row = log.experiences, absorbed(game, log)
    assert row["propose/templates"] == 3 and row["propose/valid"] == 0
    assert len([e for e in experiences if e.role is Role.SOLVE]) == 3 * 4


def test_without_proposals_all_tasks_are_from_templates(sandbox):
    config = replace(CONFIG, batch_size=0, proposer=replace(CONFIG.proposer, templates_per_step=3))
    game, backend = play(sandbox, lambda prompt, n: " 0", config)
    log = one_round(game)
    assert not any(is_proposal(prompt) for prompt in backend.prompts)
    assert {e.role for e in log.experiences} == {Role.SOLVE} and len(log.experiences) == 12
    assert absorbed(game, log)["propose/count"] == 0


def test_all_kinds_are_proposed_solved_and_judged(sandbox):
    """Perfect answers to every kind are judged right: the judge is not merely strict."""
    config = replace(
        CONFIG,
        task_types=("deduction", "abduction", "induction"),
        batch_size=3,
        proposer=replace(CONFIG.proposer, templates_per_step=6),
    )
    game, _backend = play(sandbox, lambda p, n: "" if is_proposal(p) else perfect(game, p), config)
    log = one_round(game)
    solved = [e for e in log.experiences if e.role is Role.SOLVE]
    assert {e.kind for e in solved} == set(TaskKind)
    wrong = [(e.kind, e.completion.text, e.verdict) for e in solved if not e.verdict.passed]
    assert not wrong
    row = absorbed(game, log)
    assert [row[f"solve_rate/{k.value}"] for k in TaskKind] == [1.0, 1.0, 1.0]
    assert len(game.memory.solutions) > 0 and unregistered(row) == []


def perfect(game, prompt) -> str:
    """The right answer, taken from the buffer."""
    from azr_mlx.tasks.prompts import arguments

    for kind in TaskKind:
        for task in game.memory.tasks.tasks(kind):
            if game.solver.form.solve(task, "direct").text != prompt.text:
                continue
            if kind is TaskKind.DEDUCTION:
                return f" {task.outputs[0]}"
            if kind is TaskKind.ABDUCTION:
                return f"({arguments(task.inputs[0])}) == {task.outputs[0]}"
            return (
                task.program.partition("def f")[2]
                if task.program.startswith("def f")
                else task.program
            )
    raise AssertionError(prompt.text)


def test_a_frozen_proposer_is_measured_and_not_trained(sandbox):
    config = replace(CONFIG, proposer=replace(CONFIG.proposer, train=False))
    texts = iter([proposes("return x + 77"), proposes("return [x] + [77]")])
    game, _ = play(sandbox, lambda p, n: next(texts) if is_proposal(p) else " 80", config)
    log = one_round(game)
    experiences, trained = log.experiences, log.trained
    assert {e.role for e in trained} == {Role.SOLVE} and any(
        e.role is Role.PROPOSE for e in experiences
    )


def test_a_step_trains_on_what_is_to_be_trained_on_and_nothing_else(sandbox):
    ppo = replace(CONFIG.ppo, entropy_coef=0.01)  # no row is left out for want of an advantage
    config = replace(CONFIG, proposer=replace(CONFIG.proposer, train=False), ppo=ppo)
    texts = iter([proposes("return x + 76"), proposes("return [x] + [76]")])
    game, backend = play(sandbox, lambda p, n: next(texts) if is_proposal(p) else " 79", config)
    log, _ = game.step(Round(config.seed, 1))
    rows = sum(len(batch) for batch, *_ in backend.updates)
    assert rows == len(log.trained) * config.ppo.epochs < len(log.experiences) * config.ppo.epochs


def test_without_reuse_the_measuring_rollouts_are_not_trained_on(sandbox):
    """The paper's flow: estimates are thrown away; new tasks, then old ones, are solved once."""
    rollout = replace(CONFIG.rollout, reuse_rollouts=False)
    config = replace(CONFIG, rollout=rollout, batch_size=3)
    texts = iter([proposes("return x + 78"), proposes("return [x] * 2 + [79]"), "nothing"])
    answers = iter([" 81"] * 4 + [" 0"] * 8 + [" [3, 3, 79]"] * 20)
    game, _ = play(sandbox, lambda p, n: next(texts if is_proposal(p) else answers), config)
    log = one_round(game)
    new = {t.id for t in game.memory.tasks.new(TaskKind.DEDUCTION, 1)}
    experiences = log.experiences
    solved = [e for e in experiences if e.role is Role.SOLVE]
    trained = [e for e in log.trained if e.role is Role.SOLVE]
    assert len(new) == 2 and len(solved) == 2 * 4 + 3
    assert len(trained) == config.batch_size and len({e.task_id for e in trained}) == 3
    assert new < {e.task_id for e in trained}
    paid = [e.reward.total for e in experiences if e.role is Role.PROPOSE]
    assert paid == [0.0, 0.0, -1.0], "the measuring rollouts alone decide: p was 1 and 0"


def test_without_reuse_old_tasks_take_the_place_of_what_was_refused_of_their_own_kind(sandbox):
    """The paper's flow solves as many tasks of each kind, whichever kind's proposals failed."""
    rollout = replace(CONFIG.rollout, reuse_rollouts=False)
    kinds = ("deduction", "abduction")
    config = replace(CONFIG, task_types=kinds, rollout=rollout, batch_size=6)
    config = replace(config, proposer=replace(CONFIG.proposer, references=4))
    bodies = iter([f"return x + {[1] * (i + 2)}" for i in range(6)])
    script = lambda p, n: proposes(next(bodies), "[3]") if is_proposal(p) else " 0"  # noqa: E731
    game, _ = play(sandbox, script, config)
    draft = game.proposer._draft

    def of_deduction_only(r, asked, completion):
        one = draft(r, asked, completion)
        return one if asked.kind is TaskKind.DEDUCTION else replace(one, proposal=None)

    game.proposer._draft = of_deduction_only
    log = one_round(game)
    valid = Counter(one.task.kind for one in log.validated if one.task)
    solved = Counter(e.kind for e in log.trained if e.role is Role.SOLVE)
    assert valid == {TaskKind.DEDUCTION: 3}
    assert solved == {TaskKind.DEDUCTION: 3, TaskKind.ABDUCTION: 3}


@pytest.mark.parametrize("kinds", [("induction",), ("deduction", "abduction", "induction")])
def test_induction_goes_on_when_every_program_has_its_task(sandbox, kinds):
    proposer = replace(CONFIG.proposer, seed_tasks="identity")
    config = replace(CONFIG, task_types=kinds, batch_size=3, proposer=proposer)
    calls = "\nf(1)\nf(2)\nf('a')\nf([])\n"
    game, _ = play(sandbox, lambda p, n: " it is itself" + calls if is_proposal(p) else "", config)
    for step in range(1, 5):
        log = one_round(game, step)
        absorbed(game, log, step)
    assert any(one.by_model for one in log.validated)


def test_each_induction_proposal_of_a_round_has_a_program_of_its_own(sandbox):
    """Two of one program would be of one shape, and the second refused whatever it says."""
    p = replace(CONFIG.proposer, templates_per_step=1)
    config = replace(CONFIG, task_types=("induction",), batch_size=12, proposer=p)
    calls = "\nf(1)\nf(2)\nf(3)\nf(5)\n"
    game, _ = play(sandbox, lambda p, n: " it" + calls if is_proposal(p) else "", config)
    known = [skeleton(task.program) for task in game.memory.tasks.programs()]
    validated = [one for one in one_round(game).validated if one.by_model]
    asked = [skeleton(one.proposed.draft.proposal.program) for one in validated]
    assert len(asked) == len(set(asked)) == 12 and 0 < len(known) < 12, "templates give the rest"
    assert set(known) < set(asked)
    assert not any(one.result.reason == "duplicate" for one in validated)


def test_a_run_without_templates_asks_for_no_more_induction_than_it_has_programs(sandbox):
    """It grows its tasks alone: nothing is taken from templates, and nothing refused for want."""
    proposer = replace(CONFIG.proposer, seed_tasks="identity")
    kinds = ("deduction", "abduction", "induction")
    config = replace(CONFIG, task_types=kinds, batch_size=9, proposer=proposer)
    game, _ = play(sandbox, lambda p, n: "", config)
    validated = one_round(game).validated
    of = Counter(one.proposed.draft.kind for one in validated)
    assert of == {TaskKind.DEDUCTION: 3, TaskKind.ABDUCTION: 3, TaskKind.INDUCTION: 1}


@pytest.mark.parametrize("batch_size", [1, 9])
def test_a_run_without_templates_takes_no_program_from_them(sandbox, batch_size):
    """Not even for induction, when the only program that there is has its task already."""
    proposer = replace(CONFIG.proposer, seed_tasks="identity")
    kinds = ("deduction", "abduction", "induction")
    config = replace(CONFIG, task_types=kinds, batch_size=batch_size, proposer=proposer)
    calls = "\nf(1)\nf(2)\nf('a')\nf([])\n"
    game, _ = play(sandbox, lambda p, n: " it is itself" + calls if is_proposal(p) else "", config)
    asked = Counter()
    for step in range(1, 7):
        log = one_round(game, step)
        absorbed(game, log, step)
        asked[step] += sum(v.proposed.draft.kind is TaskKind.INDUCTION for v in log.validated)
    assert game.memory.tasks.count(TaskKind.INDUCTION) == sum(asked.values()) == 1
    [task] = game.memory.tasks.tasks(TaskKind.INDUCTION)
    assert "return a" in task.program


def test_templates_are_of_new_shapes_and_harder_if_there_are_no_others(sandbox):
    """Chains of one operation have some 70 shapes, and the buffer keeps hundreds of tasks."""
    p = replace(CONFIG.proposer, template_set="chains")
    game, _ = play(sandbox, lambda p, n: "", replace(CONFIG, proposer=p))
    kind, shapes, levels = TaskKind.DEDUCTION, set(), list[float]()
    known = {skeleton(task.program) for task in game.memory.tasks.tasks(kind)}
    for step in range(1, 9):
        drafts = game.proposer.templates(Round(0, step), [(kind, 0.1)] * 12)
        new = {skeleton(draft.proposal.program) for draft in drafts}
        assert len(new) == 12 and not new & (shapes | known)
        assert all(result.task for result in game.proposer.gate.admit(drafts))
        shapes |= new
        levels += [draft.difficulty for draft in drafts]
    assert levels[:12] == [0.1] * 12 and max(levels) == 0.2
    hardest = replace(p, hardest_template=0.1)
    game, _ = play(sandbox, lambda p, n: "", replace(CONFIG, proposer=hardest))
    drafts = game.proposer.templates(Round(0, 1), [(kind, 0.1)] * 96)
    assert len(drafts) == 96 and {draft.difficulty for draft in drafts} == {0.1}


def test_shapes_that_have_run_out_are_searched_for_once_in_a_round(sandbox, monkeypatch):
    """There are some 70 of one operation, and each search draws 200 templates."""
    p = replace(CONFIG.proposer, template_set="chains", hardest_template=0.1)
    game, _ = play(sandbox, lambda p, n: "", replace(CONFIG, proposer=p))
    drawn = list[TaskKind]()
    draw = templates.draw

    def counted(kind, *how):
        drawn.append(kind)
        return draw(kind, *how)

    monkeypatch.setattr(templates, "draw", counted)
    deduction, abduction = TaskKind.DEDUCTION, TaskKind.ABDUCTION
    drafts = game.proposer.templates(Round(0, 1), [(deduction, 0.1)] * 300 + [(abduction, 0.1)] * 4)
    shapes = {skeleton(draft.proposal.program) for draft in drafts[:300]}
    assert len(shapes) > 50, "they ran out too soon"
    assert drawn.count(deduction) < 2 * MOST_RESERVED + 50 * 40
    assert len({skeleton(d.proposal.program) for d in drafts[300:]}) == 4, "of another kind"


def test_no_more_first_tasks_are_made_than_the_buffer_holds(sandbox, monkeypatch):
    drafts, admit = list[Draft](), Gate.admit

    def counted(gate, given, **how):
        drafts.extend(given)
        return admit(gate, given, **how)

    monkeypatch.setattr(Gate, "admit", counted)
    proposer = replace(CONFIG.proposer, references=6)
    game, _ = play(sandbox, lambda p, n: "", replace(CONFIG, task_buffer_size=2, proposer=proposer))
    assert game.memory.tasks.count(TaskKind.DEDUCTION) == 2 and len(drafts) < 10


def test_kinds_take_turns_where_there_are_fewer_tasks_than_kinds(sandbox):
    config = replace(
        CONFIG,
        task_types=("deduction", "abduction", "induction"),
        proposer=replace(CONFIG.proposer, templates_per_step=1),
    )
    game, _ = play(sandbox, lambda p, n: "", config)
    drawn = set()
    for step in (1, 2, 3):
        drawn |= {one.task.kind for one in one_round(game, step).validated if one.task}
    assert drawn == set(TaskKind)


def test_groups_without_contrast_are_resampled(sandbox):
    config = replace(
        CONFIG,
        rollout=replace(CONFIG.rollout, resample=2),
        proposer=replace(CONFIG.proposer, templates_per_step=1),
    )
    game, _ = play(sandbox, lambda p, n: "x" if is_proposal(p) else "not a literal (", config)
    log = one_round(game)
    experiences, row = log.experiences, absorbed(game, log)
    assert row["resampled"] == 2
    assert len({e.group for e in experiences if e.role is Role.SOLVE}) == 1 + 2 * config.batch_size


def test_templates_alone_are_resampled_and_nothing_is_proposed(sandbox):
    config = replace(
        CONFIG,
        batch_size=0,
        rollout=replace(CONFIG.rollout, resample=2),
        proposer=replace(CONFIG.proposer, templates_per_step=2),
    )
    game, backend = play(sandbox, lambda p, n: "not a literal (", config)
    calls, generate = [], backend.generate
    backend.generate = lambda prompts, *more: calls.append(prompts) or generate(prompts, *more)
    log = one_round(game)
    assert absorbed(game, log)["resampled"] == 2
    assert len({e.group for e in log.experiences if e.role is Role.SOLVE}) == 2 + 2 * 2
    assert len(calls) == 3 and all(calls), "the model was asked for no proposals"


def test_rounds_of_a_step_draw_differently_and_share_no_group():
    first, second = Round(seed=3, step=5).rounds(2)
    one, two, next_step = (r.key("solve", 0) for r in (first, second, Round(3, 6)))
    assert len({one, two, next_step, first.key("solve", 1), first.key("propose", 0)}) == 5
    assert first.draw("replay").random() != second.draw("replay").random()
    assert first.draw_of_step("distill").random() == second.draw_of_step("distill").random()
    groups = [r.new_group() for r in (first, second, first, second)]
    assert len(set(groups)) == 4


def test_a_task_that_is_being_solved_is_not_replayed_with_it(sandbox):
    config = replace(CONFIG, proposer=replace(CONFIG.proposer, templates_per_step=4))
    game, _ = play(sandbox, lambda p, n: "", config)
    known = {t.id for t in game.memory.tasks.tasks(TaskKind.DEDUCTION)}
    new = set(sorted(known)[: len(known) // 2])
    again = {t.id for t in game.memory.replay(Round(0, 1), len(known), without=new)}
    assert again and again.isdisjoint(new)


def test_what_is_replayed_follows_buffer_choice(sandbox):
    shares = {}
    for choice in ("uniform", "learnable"):
        solver = replace(CONFIG.solver, buffer_choice=choice)
        config = replace(CONFIG, solver=solver, task_types=("deduction",))
        memory = play(sandbox, lambda p, n: "", config)[0].memory
        tasks = memory.tasks.tasks(TaskKind.DEDUCTION)
        for task in tasks[1:]:
            memory.tasks.record(task.id, 100, 100)
        drawn = [memory.replay(Round(0, step), 1)[0].id for step in range(60)]
        shares[choice] = drawn.count(tasks[0].id) / len(drawn), 1 / len(tasks)
    (uniform, fair), (learnable, _) = shares["uniform"], shares["learnable"]
    assert uniform < fair + 0.2 and learnable > 0.6, shares


def test_a_solution_that_was_cut_off_is_not_learned_from_again(sandbox):
    """It may be right so far, but its end was never drawn."""
    task = Task.create(TaskKind.DEDUCTION, "def f(x):\n    return x\n", ("(1,)",), ("1",))
    game, _ = play(sandbox, lambda p, n: "")
    for finish, kept in (("length", 0), ("stop", 1)):
        one = replace(experience(finish=finish), task_id=task.id)
        assert game.memory.absorb(1, [one])["buffer/solutions"] == kept


def test_templates_are_never_of_a_shape_that_is_kept_for_held_out_tasks(sandbox):
    config = replace(CONFIG, held_out=HeldOutConfig(tasks=1))
    game, _ = play(sandbox, lambda p, n: "", config)
    drafts = game.proposer.templates(Round(0, 1), [(TaskKind.DEDUCTION, 0.3)] * 64)
    assert not any(is_reserved(d.proposal.program) for d in drafts)
    assert any(
        is_reserved(templates.draw(TaskKind.DEDUCTION, 0.3, Round(0, 1).draw("t", i)).program)
        for i in range(64)
    ), "no template has such a shape: this test would prove nothing"


def fill(buffer: TaskBuffer, solved: Sequence[int]) -> TaskBuffer:
    """The buffer with these deductions only, each solved so often in ten tries."""
    buffer.restore([])
    for i, right in enumerate(solved):
        program = f"def f(x):\n    return {' + '.join(['x'] * (i + 2))}"
        made = Task.create(TaskKind.DEDUCTION, program, ("(1,)",), (str(i + 2),))
        buffer.add(made)
        buffer.record(made.id, 10, right)
    return buffer


@pytest.mark.parametrize(("choice", "rate"), [("difficulty", 0.8), ("solve_rate", 0.3)])
def test_the_setting_decides_which_tasks_a_proposal_is_shown(sandbox, choice, rate):
    """At a level of 0.2: those of a difficulty of 0.2, or those near the rate that is aimed at."""
    p = replace(CONFIG.proposer, references=1, reference_choice=choice, target_solve_rate=0.3)
    game, _ = play(sandbox, lambda p, n: "", replace(CONFIG, proposer=p))
    buffer = fill(game.memory.tasks, [3, 8] * 10)
    rounds = [Round(0, step) for step in range(60)]
    drawn = [game.proposer._references(r, TaskKind.DEDUCTION, 0, 0.2)[0] for r in rounds]
    assert sum(buffer.solve_rate(task.id) == rate for task in drawn) > 45


def test_references_can_be_any_tasks(sandbox):
    """As in the paper: whatever the level, and however often they are solved."""
    p = replace(CONFIG.proposer, references=1, reference_choice="uniform")
    game, _ = play(sandbox, lambda p, n: "", replace(CONFIG, proposer=p))
    buffer = fill(game.memory.tasks, [10] * 10 + [0] * 10)
    rounds = [Round(0, step) for step in range(400)]
    drawn = [game.proposer._references(r, TaskKind.DEDUCTION, 0, 0.2)[0] for r in rounds]
    easy = sum(buffer.solve_rate(task.id) == 1.0 for task in drawn)
    assert 160 < easy < 240 and len({task.id for task in drawn}) == 20
    few = replace(p, references=99)
    game, _ = play(sandbox, lambda p, n: "", replace(CONFIG, proposer=few))
    shown = game.proposer._references(Round(0, 1), TaskKind.DEDUCTION, 0, 0.2)
    assert len(shown) == len({task.id for task in shown}) == game.memory.tasks.count(shown[0].kind)


def test_templates_are_no_harder_than_the_hardest(sandbox):
    chains = replace(CONFIG.proposer, template_set="chains")
    r, drawn = Round(0, 1), {}
    for most in (0.2, 0.9):
        config = replace(CONFIG, proposer=replace(chains, hardest_template=most))
        game, _ = play(sandbox, lambda p, n: "", config)
        drawn[most] = game.proposer.templates(r, [(TaskKind.DEDUCTION, 0.6)] * 8)
        assert {draft.difficulty for draft in drawn[most]} == {min(most, 0.6)}
    short, long = (sum(len(d.proposal.program) for d in drawn[most]) for most in (0.2, 0.9))
    assert short < 0.7 * long


def test_a_task_has_the_level_that_its_length_says(sandbox):
    """A proposal that was asked for at one level and is as long as templates of another."""
    wanted = {"return x + 40": 0.1, f"return {' + '.join(['x * 2'] * 7)}": 0.6}
    for levels in ("asked", "measured"):
        p = replace(CONFIG.proposer, template_set="chains", levels=levels)
        programs = iter(wanted)
        script = lambda p, n: proposes(next(programs)) if is_proposal(p) else " 1"  # noqa: B023, E731
        game, _ = play(sandbox, script, replace(CONFIG, proposer=p))
        tasks = [v.task for v in one_round(game).validated if v.by_model]
        found = [task.difficulty for task in tasks]
        if levels == "asked":
            assert len(set(found)) == 1
        else:
            assert found == [pytest.approx(level, abs=0.1) for level in wanted.values()]


def test_the_difficulty_reaches_the_prompt(sandbox):
    """In the first project it never did."""
    prompts = {}
    for difficulty in (0.1, 0.9):
        config = replace(CONFIG, initial_difficulty=difficulty, final_difficulty=difficulty)
        game, backend = play(sandbox, lambda p, n: "", config)
        one_round(game)
        prompts[difficulty] = backend.prompts[0].text.rstrip().splitlines()[-2]
    assert prompts[0.1] != prompts[0.9]


def test_state_survives_a_json_round_trip(sandbox):
    import json

    config = replace(
        CONFIG,
        task_types=("deduction", "abduction", "induction"),
        proposer=replace(CONFIG.proposer, templates_per_step=3),
    )
    game, _ = play(sandbox, lambda p, n: " 1" if n % 2 else "", config)
    for step in (1, 2):
        absorbed(game, one_round(game, step), step)
    state, rows = json.loads(json.dumps([game.memory.to_json(), game.memory.tasks.to_json()]))
    other, _ = play(sandbox, lambda p, n: " 1" if n % 2 else "", config)
    other.memory.restore(state, rows)
    a, b = one_round(game, 3).experiences, one_round(other, 3).experiences
    assert [e.prompt for e in a] == [e.prompt for e in b]
    assert [e.to_json()["reward"] for e in a] == [e.to_json()["reward"] for e in b]
    assert np.isfinite([e.reward.total for e in a]).all()
