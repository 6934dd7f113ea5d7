"""How completions are judged, benchmark by benchmark, on rows written by hand."""

from __future__ import annotations

import builtins
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.errors import UsageError
from azr_mlx.evaluation.benchmarks import Grade, livecodebench, load
from azr_mlx.evaluation.benchmarks.apps import (
    HEADER,
    CallCheck,
    called_examples,
    examples,
    same_output,
    same_value,
)
from azr_mlx.evaluation.benchmarks.cruxeval import arguments
from azr_mlx.evaluation.benchmarks.numpy_free import without_numpy
from azr_mlx.evaluation.benchmarks.plus import SPECIAL, PlusCheck
from azr_mlx.sandbox import JobBatch, Sandbox
from azr_mlx.types import Status
from tests.judging import grade

pytestmark = pytest.mark.sandbox
PASS, FAIL, ERROR = Status.PASS, Status.FAIL, Status.ERROR


def verdict(sandbox: Sandbox, check: PlusCheck, code: str) -> tuple[Status, float]:
    results = sandbox.run(check.jobs(code))
    found = check.grade(code, results)
    return found.status, found.share


# ---------------------------------------------------------------- HumanEval+, MBPP+

PLUS_ROW = {
    "task_id": "HumanEval/7",
    "prompt": 'def halves(xs):\n    """Half of each.\n\n    >>> halves([2])\n    [1.0]\n    """\n',
    "entry_point": "halves",
    "canonical_solution": "    return [x / 2 for x in xs]\n",
    "base_input": [[[2]], [[]]],
    "plus_input": [[[1, 2, 3]], [[10**9]]],
    "atol": 0,
}


def test_humaneval_plus_is_judged_by_what_the_reference_gives(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    path = tmp_path / "HumanEvalPlus.jsonl"
    path.write_text(json.dumps(PLUS_ROW) + "\n")
    [problem] = load("humaneval-plus", tmp_path).problems
    texts = [
        PLUS_ROW["canonical_solution"],
        "    return [x * 0.5 + 1e-9 for x in xs]\n",  # floats are compared with a tolerance
        "    return [x / 2 for x in xs if x < 5]\n",
        "    return [x // 2 for x in xs]\n",
        "    return None if len(xs) > 2 else [x / 2 for x in xs]\n",
        "    return 1 / 0\n",
    ]
    grades = grade(sandbox, [(problem, str(text)) for text in texts])
    assert [g.status for g in grades] == [PASS, PASS, FAIL, FAIL, FAIL, ERROR]
    assert [g.share for g in grades] == [1.0, 1.0, 0.75, 0.75, 0.75, 0.0]
    shown = grade(sandbox, [(problem, str(text)) for text in texts], visible=True)
    assert [g.status for g in shown] == [PASS, FAIL, PASS, PASS, PASS, ERROR]


def test_evalplus_s_own_cache_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"humaneval-plus: not on this machine; .*https://"):
        load("humaneval-plus")
    folder = tmp_path / ("Library/Caches" if sys.platform == "darwin" else "") / "evalplus"
    folder.mkdir(parents=True)
    for version in ("v0.1.9", "v0.1.10"):
        row = {**PLUS_ROW, "task_id": f"HumanEval/{version[-1]}"}
        (folder / f"HumanEvalPlus-{version}.jsonl").write_text(json.dumps(row) + "\n")
    assert load("humaneval-plus").source == "HumanEvalPlus-v0.1.10.jsonl"
    other = tmp_path / "mine.jsonl"
    other.write_text(json.dumps(PLUS_ROW) + "\n")
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", str(other))
    assert [p.id for p in load("humaneval-plus").problems] == ["HumanEval/7"]


def test_the_reference_runs_once_and_its_values_are_kept(sandbox: Sandbox) -> None:
    check = PlusCheck("f", "def f(x): return x + 1", [(1,), (2,)], 0)
    assert len(check.jobs("")) == 2
    assert verdict(sandbox, check, "def f(x): return x + 1") == (PASS, 1.0)
    assert len(check.jobs("")) == 1
    assert verdict(sandbox, check, "def f(x): return 2") == (FAIL, 0.5)


def test_many_samples_of_a_problem_run_its_reference_once(tmp_path: Path) -> None:
    path = tmp_path / "HumanEvalPlus.jsonl"
    path.write_text(json.dumps(PLUS_ROW) + "\n")
    [problem] = load("humaneval-plus", tmp_path).problems
    ran = []

    class Counting(Sandbox):
        def batch(self) -> JobBatch:
            made = super().batch()
            submit = made.submit
            made.submit = lambda job: (ran.append(job.id), submit(job))  # type: ignore[method-assign]
            return made

    good, bad = str(PLUS_ROW["canonical_solution"]), "    return xs\n"
    with Counting(workers=2) as box:
        ran.clear()  # of the self-test at the start
        first = grade(box, [(problem, good), (problem, bad), (problem, good)])
        again = grade(box, [(problem, bad)])
    assert [g.status for g in first + again] == [PASS, FAIL, PASS, FAIL]
    # The good samples say what the reference says.
    assert ran == ["reference", "code", "code"]


def test_values_that_cannot_come_back_judge_nobody(sandbox: Sandbox) -> None:
    """Left out of the share, and where there is nothing else there is no pass."""
    code = "def f(n): return 'a' * n"
    check = PlusCheck("f", code, [(1,), (200_000,), (2,)], 0)
    assert verdict(sandbox, check, "def f(n): return 'a'") == (FAIL, 0.5)
    assert verdict(sandbox, check, code) == (PASS, 1.0)
    nothing = PlusCheck("f", "def f(n): return iter([n])", [(1,), (2,)], 0)
    assert verdict(sandbox, nothing, "def f(n): return n") == (Status.INVALID, 0.0)


def test_a_root_is_judged_by_the_polynomial_alone(sandbox: Sandbox) -> None:
    """As EvalPlus does: near the reference's root a steep polynomial is far from zero."""
    check = PlusCheck(
        "find_zero", "def find_zero(c): return 1000.0", [([-(10.0**9), 0, 0, 1],)], 1e-4
    )
    assert verdict(sandbox, check, "def find_zero(c): return 1000.00005") == (FAIL, 0.0)
    assert verdict(sandbox, check, "def find_zero(c): return 1000.0") == (PASS, 1.0)


def test_a_reference_that_fails_passes_nobody(sandbox: Sandbox) -> None:
    check = PlusCheck("f", "def f(x): return 1 / x", [(0,)], 0)
    assert verdict(sandbox, check, "def f(x): return 1 / x") == (Status.INVALID, 0.0)


def test_arguments_that_are_no_literals_travel_in_the_program(sandbox: Sandbox) -> None:
    inf = float("inf")
    rows = [
        (inf, 1), (-inf, 2), ([inf], "inf"), ("a" * 200_000, 3), ("to inf and nan's end", (inf,)),
        ({"inf": {inf}}, set()), (complex(1, inf), ({1: ()}, [])),
    ]  # fmt: skip
    code = "def f(x, y): return (str(x)[:20], str(y))"
    check = PlusCheck("f", code, rows, 0)
    assert check.more and verdict(sandbox, check, code) == (PASS, 1.0)
    shown = [(str(x)[:20], str(y)) for x, y in rows]
    assert check._expected == tuple(shown)
    wrong = "def f(x, y): return (str(x)[:20], '1')"
    assert verdict(sandbox, check, wrong) == (FAIL, pytest.approx(1 / 7))


@pytest.mark.parametrize(
    ("name", "args", "expected", "right", "wrong"),
    [
        ("similar_elements", ((1, 2), (2, 3)), (2, 5), (5, 2), (2,)),
        ("text_match_three", ("a",), True, "text", None),
        ("text_match_three", ("a",), None, None, "text"),
        ("check_str", ("a",), True, True, False),
        ("are_equivalent", (1, 2), True, False, None),
        ("sum_div", (8,), 7, 0, 1),
        ("surface_Area", (3, 4), 33, 35, 34),
        ("digit_distance_nums", (123, 56), 0, 1 + 3 + 3, 8),
        ("find_zero", ([-2, 1],), 2.0, 2.00001, 2.1),
    ],
)
def test_rules_of_their_own(
    name: str, args: tuple[Any, ...], expected: Any, right: Any, wrong: Any
) -> None:
    rule = SPECIAL[name]
    assert rule(args, right, expected)
    assert name == "are_equivalent" or not rule(args, wrong, expected)


# ---------------------------------------------------------------- APPS


def apps_row(number: int, tests: Any, level: str = "interview", **more: Any) -> dict[str, Any]:
    row = {
        "problem_id": number,
        "question": "Add.",
        "solutions": json.dumps(["print(sum(map(int, input().split())))"]),
        "input_output": json.dumps(tests) if tests is not None else "",
        "difficulty": level,
        "starter_code": "",
    }
    return {**row, **more}


ADD = {"inputs": ["1 2\n", "3 4\n", "5 6\n", "7 8\n"], "outputs": ["3\n", "7\n", "11\n", "15\n"]}
CALLS = {"fn_name": "add", "inputs": [[1, 2], [[1], [2]]], "outputs": [3, [[1, 2]]]}


def test_apps_counts_cases_and_leaves_out_problems_without_any(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    rows = [
        apps_row(1, ADD),
        apps_row(2, CALLS, "introductory"),
        apps_row(3, {"inputs": [], "outputs": []}),
        apps_row(4, None),
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load("apps", path)
    assert found.excluded == ("APPS/0003", "APPS/0004")
    assert [p.level for p in found.problems] == ["interview", "introductory"]
    assert [p.id for p in load("apps-introductory", path).problems] == ["APPS/0002"]
    with pytest.raises(UsageError, match="holds no apps-competition problem"):
        load("apps-competition", path)
    stdin, call = found.problems
    cases = [
        (stdin, "print(sum(map(int, input().split())))"),
        (stdin, "a, b = map(int, input().split())\nprint(a + b if a < 6 else 0)"),
        (stdin, "a, b = map(int, input().split())\nprint(a + b + 0.0)"),
        (stdin, "a, b = map(int, input().split())\nif a < 4:\n    print(a + b)\n    return\n1 / 0"),
        (call, "def add(a, b): return a + b"),
        (call, "class Solution:\n    def add(self, a, b): return a + b if type(a) is int else 0"),
        (call, "def plus(a, b): return a + b"),
    ]
    grades = grade(sandbox, cases)
    assert [g.share for g in grades] == [1.0, 0.75, 1.0, 0.5, 1.0, 0.5, 0.0]
    assert [g.status for g in grades] == [PASS, FAIL, PASS, ERROR, PASS, FAIL, ERROR]


def test_tests_of_apps_that_are_no_lists_are_not_read_letter_by_letter(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    rows = [apps_row(1, {"inputs": "12", "outputs": "23"}), apps_row(2, {**ADD, "fn_name": None})]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load("apps", path)
    assert found.excluded == ("APPS/0001",)
    assert [(p.id, p.entry_point) for p in found.problems] == [("APPS/0002", "")]


def test_calls_of_apps_that_nobody_can_write_cost_their_problem_and_no_more(tmp_path: Path) -> None:
    """Users of the published files report numbers of more digits than Python reads."""
    huge = '{"fn_name": "f", "inputs": [[' + "9" * 5000 + ']], "outputs": [1]}'
    shown = {"inputs": ["9" * 5000 + "\n"], "outputs": ["1\n"]}  # a text may have as many
    deep: Any = 1
    for _ in range(90):
        deep = [deep]
    others = [{"fn_name": "f", "inputs": [[v]], "outputs": [1]} for v in (float("nan"), deep)]
    rows = [{**apps_row(1, ADD), "input_output": huge}, apps_row(2, shown)]
    rows += [apps_row(3 + i, tests) for i, tests in enumerate(others)]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load("apps", path)
    assert found.excluded == ("APPS/0001", "APPS/0003", "APPS/0004")
    assert [problem.id for problem in found.problems] == ["APPS/0002"]
    path.write_text(json.dumps({**apps_row(1, ADD), "input_output": "{oops"}) + "\n")
    with pytest.raises(UsageError, match="row 1: not a row of apps"):
        load("apps", path)


@pytest.mark.parametrize("atol", [None, "1e-6", -1, float("nan"), True])
def test_a_tolerance_is_a_number(atol: object, tmp_path: Path) -> None:
    """As a text it was never reached, and right answers were called wrong."""
    path = tmp_path / "HumanEvalPlus.jsonl"
    path.write_text(json.dumps({**PLUS_ROW, "atol": atol}) + "\n")
    with pytest.raises(UsageError, match=r"row 1: .*(atol|not JSON|NaN)"):
        load("humaneval-plus", tmp_path)


def test_solutions_have_the_names_that_the_reference_gives_them(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """And no builtin is another one for them: ``pow`` takes a modulus."""
    names: dict[str, Any] = {}
    exec(HEADER, names)
    assert set(names) & set(dir(builtins)) == set()
    rows = [
        apps_row(1, {"inputs": ["16\n"], "outputs": ["4\n"]}),
        apps_row(2, {"fn_name": "p", "inputs": [[3, 4, 5]], "outputs": [1]}),
        apps_row(3, {"fn_name": "d", "inputs": [[1], [2]], "outputs": [[{"1": 2}], {"2": 3}]}),
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stdin, power, keyed = load("apps", path).problems
    cases = [
        (stdin, "stdout.write(str(int(sqrt(int(stdin.readline())))))"),
        (stdin, '"""Doc."""\nfrom __future__ import annotations\nprint(int(input()) // 4)'),
        (power, "def p(a: int, b: int, m: List[int]): return pow(a, b, m)"),
        (keyed, "def d(x): return Counter({x: x + 1})"),
    ]
    assert grade(sandbox, cases) == [Grade(PASS, 1.0)] * 4


def test_what_is_printed_without_end_is_compared_no_further_than_the_answer() -> None:
    began = time.perf_counter()
    for printed in ("a\n" * 2**21, "1" * 2**21 + "x", "a " * 2**21, "\n" * 2**21 + "3\n4"):
        for compare in (same_output, livecodebench.same_output):
            assert not compare(printed, "3")
    assert not livecodebench.same_value("[" + "[]," * 2**20 + "0]", "[0]")
    assert time.perf_counter() - began < 10, "1 s on a machine with nothing else to do"


def test_of_what_is_printed_no_more_is_kept_than_a_right_answer_can_have(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """All cases' outputs are kept until the last one has run."""
    path = tmp_path / "test.jsonl"
    answers = ["3\n", "1\n" * 50_000]
    path.write_text(json.dumps(apps_row(1, {"inputs": ["3\n", "100\n"], "outputs": answers})))
    (problem,) = load("apps", path).problems
    assert [job.limits.output_kb for job in problem.check.jobs("")] == [64, 64 + 100_000 // 64]
    right = "n = int(input())\nprint(3 if n == 3 else '1.00000\\n' * 50_000)"
    flood = "print(input() + '\\n' + ' ' * 70_000 + '4')"
    assert grade(sandbox, [(problem, right), (problem, flood)]) == [
        Grade(PASS, 1.0),
        Grade(FAIL, 0.0, "case 0: another output expected"),
    ]
    [result] = sandbox.run(problem.check.jobs(flood)[:1])
    assert result.stdout_cut and result.to_json()["stdout_cut"] and len(result.stdout) == 65_536


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        ("1000000008", "1000000007", False), ("1000000007", "1000000007.0", True),
        ("100000000.4", "100000000", False), ("+7 007 -0", "7 7 -0", True), ("100", "1", False),
        ("-5", "5", False), ("Case 1: 0.5", "Case 1: 0.5000000001", True), ("1e3", "1000", True),
        ("nan", "0", False), ("inf", "infinity", False), ("1_0", "10", False), ("1 2", "1", False),
        ("1\n2\n", "1\n2", True), ("1 2", "1\n2", False), ("  1  2 ", "1 2", True),
        ("1.0000000001", "1", True), ("1.1", "1", False), ("YES", "yes", False), ("", "", True),
        ("", "0", False), ("2 1", "1 2", False), ("1\n\n2", "1\n2", True),
        ("1\n2\n3", "1\n2", False), ("500004000.0", "500000003", False),
        ("5e8", "500000003", False),
        ("500000003.0", "500000003", True), ("3.0000000000000004", "3", True),
        ("0.333", "0.3330001", True), ("1e999999999999999999999", "1", False),
    ],
)  # fmt: skip
def test_what_is_the_same_output(given: str, wanted: str, same: bool) -> None:
    assert same_output(given, wanted) is same


def test_what_is_the_same_value() -> None:
    assert same_value((1, [2, (3,)]), [1, [2, [3]]]) and same_value([], [])
    assert same_value(3, [3], wrapped=True) and not same_value(3, [3])
    assert not same_value(3, [[3]]) and not same_value([1], [2]) and not same_value(None, [])


def test_a_list_is_not_its_first_item_and_calls_share_what_the_program_keeps(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    rows = [
        apps_row(1, {"fn_name": "h", "inputs": [[[8, 3]], [[2]]], "outputs": [[4, 1], [1]]}),
        apps_row(
            2, {"fn_name": "ends", "inputs": [[[1, 2]], [[3, 4]]], "outputs": [[1, 2], [3, 4]]}
        ),
        apps_row(
            3,
            {"fn_name": "big", "inputs": [[i] for i in range(12)], "outputs": ["a" * 100_000] * 12},
        ),
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    halves, ends, big = load("apps", path).problems
    cases = [
        (halves, "def h(xs): return [x // 2 for x in xs]"),
        (halves, "def h(xs): return xs[0] // 2"),
        (ends, "def ends(xs): return [xs[0], xs[-1]]"),
        (ends, "def ends(xs, out=[]): out += [xs[0], xs[-1]]; return out"),
        (ends, "def ends(xs):\n    while xs[0] < 3: pass\n    return xs"),
        (big, "def big(n): return 'a' * 100_000"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("azr_mlx.evaluation.benchmarks.apps.CASE_S", 0.5)
        grades = grade(sandbox, cases)
    assert [g.status for g in grades] == [PASS, FAIL, PASS, FAIL, Status.TIMEOUT, PASS]
    assert [g.share for g in grades] == [1.0, 0.0, 1.0, 0.5, 0.5, 1.0]


def test_the_samples_of_a_statement_are_its_visible_tests() -> None:
    text = (
        "Add.\n\n-----Input-----\n\nTwo.\n\n-----Examples-----\nInput\n1 2\n\nOutput\n3\n\nInput\n"
    )
    shown = examples(text + "3 4\n\nOutput\n7\n\n\n\n-----Note-----\n\nThat is it.")
    assert shown is not None
    assert shown.inputs == ("1 2\n", "3 4\n") and [x.strip() for x in shown.outputs] == ["3", "7"]
    assert examples("no examples") is None


HALVES = """Add.

-----Input-----
Two numbers.

-----Sample Input-----
1 2
3 4

-----Sample Output-----
3
7

The figure shows it.

-----Example Input 2:-----
5 6
-----Example Output 2:-----
11"""
NAMED = """Example 1:
Input: xs = [1, 2], k = 3
Output: [3]
Explanation: none.

Example 2:
Input: [4], "a, b"
Output: true

Example 3:
Input: xs = [], k = 0
Output: []
"""


def test_samples_in_halves_and_of_functions() -> None:
    shown = examples(HALVES)
    assert shown is not None
    assert shown.inputs == ("1 2\n3 4\n", "5 6\n") and shown.outputs == ("3\n7", "11")
    called = called_examples("f", NAMED)  # `true` is no literal
    assert called == CallCheck("f", ("([1, 2], 3)", "([], 0)"), ([3], []))
    assert called_examples("f", "Input: f(\nOutput: 1") is None


# ---------------------------------------------------------------- CRUXEval


@pytest.mark.parametrize(
    ("answer", "args"),
    [
        ("assert f(1, 'a') == 2", "(1, 'a')"),
        ("f(b=1, a=2)", "(2, 1)"),
        ("f(1, b=2)", "(1, 2)"),
        ("1, 2", "(1, 2)"),
        ("[1], {2: 3}", "([1], {2: 3})"),
        ("f()", "()"),
        ("f(c=1)", None),
        ("f(*[1, 2])", None),
        ("f(g(1))", None),
        ("0) or (True", None),
        ("0 or True", None),
        ("f(1) or True", None),
        ("", "()"),
    ],
)
def test_the_arguments_in_an_answer(answer: str, args: str | None) -> None:
    assert arguments("def f(a, b): return a", answer) == args


@pytest.mark.parametrize(
    ("program", "args"),
    [
        ("f = lambda n, k=1: n", "(3, 2)"),
        ("async def f(n, k=1): return n", "(3, 2)"),
        ("def g(n): return n\nf = g", "(3, 2)"),
        ("def f(n, *, k=1): return n", None),
    ],
)
def test_names_of_arguments_in_a_program_of_another_form(program: str, args: str | None) -> None:
    assert arguments(program, "f(3, k=2)") == args


@pytest.mark.parametrize(
    ("answer", "args"),
    [
        ("f(5, c=9)", "(5, 1, 9)"),
        ("f(c=9, a=5)", "(5, 1, 9)"),
        ("f(5)", "(5,)"),
        ("f(c=9)", None),
    ],
)
def test_a_parameter_that_is_passed_over_has_its_default(answer: str, args: str | None) -> None:
    assert arguments("def f(a, b=1, c=2): return a", answer) == args


HUB_TEST = """import numpy as np

def assertion(out, exp, atol):
    exact_match = out == exp
    if atol == 0 and isinstance(exp, float):
        atol = 1e-6
    if isinstance(out, np.ndarray):
        assert out.dtype == np.float64
    if not exact_match and atol != 0:
        {compare}
    else:
        assert exact_match

def check(candidate):
    for inp, exp in zip([[3.5], [1.33], [0.1]], [0.5, 0.33, 0.1]):
        assertion(candidate(*inp), exp, 0)
"""


@pytest.mark.parametrize(
    "compare",
    [
        "assert np.allclose(out, exp, rtol=1e-07, atol=atol)",
        "np.testing.assert_allclose(out, exp, rtol=1e-07, atol=atol)",
    ],
)
def test_humaneval_plus_of_the_hub_is_judged_or_refused_by_name(
    sandbox: Sandbox, tmp_path: Path, compare: str
) -> None:
    row = {
        "task_id": "HumanEval/2",
        "prompt": "def truncate_number(number: float) -> float:\n    pass\n",
        "canonical_solution": "    return number % 1.0\n",
        "entry_point": "truncate_number",
        "test": HUB_TEST.format(compare=compare),
    }
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UsageError, match="take --benchmark humaneval-plus"):
        load("humaneval", path)
    [problem] = load("humaneval-plus", path).problems
    assert "pass" not in problem.reference
    solutions = [(problem, f"    return number % 1.0 + {error}") for error in (0, 1e-9, 1e-3)]
    solutions = [(p, f"def truncate_number(number):\n{body}\n") for p, body in solutions]
    assert [g.status for g in grade(sandbox, solutions)] == [PASS, PASS, FAIL]
    path.write_text(json.dumps(row | {"test": row["test"] + "\nx = np.linalg.norm([1])\n"}) + "\n")
    with pytest.raises(UsageError, match=r"HumanEval/2 need numpy\.linalg"):
        load("humaneval-plus", path)


CHECK = "def check(candidate):\n    "


@pytest.mark.parametrize(
    "test",
    [
        f"from numpy import allclose\n{CHECK}assert allclose(candidate(1), 2)\n",
        f"import math, numpy as np\n{CHECK}assert np.allclose(candidate(1), math.sqrt(4))\n",
        f"import numpy as np; import math\n{CHECK}assert np.isclose(candidate(1), math.sqrt(4))\n",
        f"import numpy as np\n{CHECK}assert np.float64(candidate(1)) == 2\n",
        f"import numpy as np\n{CHECK}np.testing.assert_allclose(candidate(1), 2, err_msg='x')\n",
        f"import numpy\n{CHECK}assert numpy.isclose(candidate(1), 2)\n",
        f"import numpy.testing as npt\n{CHECK}npt.assert_allclose(candidate(1), 2)\n",
        f"from numpy.testing import assert_allclose as near\n{CHECK}near(candidate(1), 2)\n",
    ],
)
def test_numpy_is_stood_in_for_however_it_is_imported(test: str) -> None:
    made: dict[str, Any] = {}
    exec(without_numpy(test), made)
    made["check"](lambda n: n + 1)
    with pytest.raises(AssertionError):
        made["check"](lambda n: n + 2)


@pytest.mark.parametrize(
    ("test", "lacks"),
    [
        (f"import numpy as np\n{CHECK}assert np.array([candidate(1)])", r"numpy\.array"),
        (f"import numpy as np\n{CHECK}assert np.float32(candidate(1)) == 2", r"numpy\.float32\(\)"),
        ("from numpy import array", r"numpy\.array"),
        ("from numpy import *", r"numpy\.\*"),
        ("import numpy.linalg as la", r"numpy\.linalg"),
        ("import numpy as np\nx = np", "numpy itself"),
    ],
)
def test_what_the_stand_in_lacks_is_named(test: str, lacks: str) -> None:
    with pytest.raises(ValueError, match=lacks):
        without_numpy(test)


WAIT = (
    "import time\ndef f(s):\n    end = time.process_time() + s\n"
    "    while time.process_time() < end: pass\n    return s\n"
)


@pytest.mark.parametrize(("factor", "status"), [("0", PASS), ("1", PASS), ("20", Status.TIMEOUT)])
def test_an_input_may_take_four_times_what_the_reference_takes(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, factor: str, status: Status
) -> None:
    monkeypatch.setattr("azr_mlx.evaluation.benchmarks.plus.INPUT_S", 0.05)
    check = PlusCheck("f", WAIT, [(0.0,), (0.05,)], 0)
    code = f"{WAIT}\ng = f\ndef f(s):\n    g(s * {factor})\n    return s\n"
    for _ in range(2):  # before the reference's time is known, and after
        results = sandbox.run(check.jobs(code))
        assert check.grade(code, results).status is status
