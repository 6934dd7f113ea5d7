"""LiveCodeBench's problems: read from its format, asked in its words, judged by its rules.

``fixtures/livecodebench.jsonl`` has six problems of our own in the form of the published files,
most of them with their private tests as a compressed pickle.
"""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.cli import main
from azr_mlx.errors import UsageError
from azr_mlx.evaluation import benchmarks
from azr_mlx.evaluation.benchmarks import Grade, Problem, Window, livecodebench
from azr_mlx.evaluation.benchmarks.livecodebench import (
    SYSTEM,
    answer,
    pickled_text,
    same_output,
    same_value,
)
from azr_mlx.evaluation.imported_samples import score_samples
from azr_mlx.files import json_lines
from azr_mlx.sandbox import Sandbox
from azr_mlx.types import Status
from tests.judging import grade

pytestmark = pytest.mark.sandbox
PASS, FAIL, ERROR, TIMEOUT = Status.PASS, Status.FAIL, Status.ERROR, Status.TIMEOUT
FILE = Path(__file__).parent / "fixtures" / "livecodebench.jsonl"
ROWS: dict[str, dict[str, Any]] = {
    row["question_title"]: row for row in map(json.loads, FILE.read_text("utf-8").splitlines())
}
STDIN, CALLED = ROWS["Total"], ROWS["Ends of a list"]


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    found = benchmarks.load("livecodebench", FILE)
    assert found.excluded == ("LiveCodeBench/own900_d",)
    return dict(zip(ROWS, found.problems, strict=False))


def loaded(path: Path, *rows: dict[str, Any]) -> benchmarks.Benchmark:
    path.write_text(json_lines(rows), "utf-8")
    return benchmarks.load("livecodebench", path)


def cases_of(kind: str, *pairs: tuple[str, str]) -> str:
    return json.dumps([{"input": a, "output": b, "testtype": kind} for a, b in pairs])


def packed(content: object, protocol: int = 4) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(content, protocol))).decode()


# ---------------------------------------------------------------- verdicts

TOTAL = "for _ in range(int(input())):\n    print(sum(map(int, input().split())))"
SQUARES = "n = int(input())\nprint(n * (n + 1) * (2 * n + 1) // 6 % 998244353)"
SLOW = "print(sum(i * i for i in range(1, int(input()) + 1)) % 998244353)"
ENDS = "class Solution:\n    def ends(self, nums: List[int]) -> List[int]:\n        "
MEAN = "class Solution:\n    def meanAbove(self, nums: List[int], k: float) -> bool:\n        "


@pytest.mark.parametrize(
    ("title", "code", "expected"),
    [
        ("Total", TOTAL, Grade(PASS, 1.0)),
        ("Total", f"def main():\n    n = 0\n{TOTAL}".replace("\nfor", "\n    for").replace(
            "\n    print", "\n        print") + "\nif __name__ == '__main__':\n    main()",
            Grade(PASS, 1.0)),
        ("Total", f"{TOTAL}\nreturn", Grade(PASS, 1.0)),
        ("Total", "stdin.readline()\nfor l in stdin:\n    print(reduce(add, map(int, l.split())))",
            Grade(PASS, 1.0)),
        ("Total", TOTAL.replace("sum", "max"), Grade(FAIL, 0.0)),
        ("Total", "input()\nfor _ in 1, 2:\n    print(sum(map(int, input().split())))",
            Grade(ERROR, 1 / 3)),
        ("Total", "print('3\\n7')", Grade(FAIL, 1 / 3)),
        ("Total", "def solve(:", Grade(ERROR, 0.0)),
        ("Total", "import os\nos.abort()", Grade(Status.KILLED, 0.0)),
        ("Halves", "from decimal import *\nprint(*(Decimal(x) / 2 for x in input().split()))",
            Grade(PASS, 1.0)),
        ("Halves", "print(*(int(x) / 2 for x in input().split()))", Grade(FAIL, 2 / 3)),
        ("Sum of squares", SQUARES, Grade(PASS, 1.0)),
        ("Sum of squares", SLOW, Grade(TIMEOUT, 2 / 3)),
        ("Ends of a list", f"{ENDS}return [min(nums), max(nums)]", Grade(PASS, 1.0)),
        ("Ends of a list", f"{ENDS}return min(nums), max(nums)", Grade(PASS, 1.0)),
        ("Ends of a list", f"{ENDS}print(nums)\n        return [min(nums), max(nums)]\nprint(1)",
            Grade(PASS, 1.0)),
        ("Ends of a list", f"{ENDS}return [min(nums), max(nums)]\n"
            "if __name__ == '__main__':\n    print(Solution().ends(input()))", Grade(PASS, 1.0)),
        ("Ends of a list", "def ends(nums):\n    return [min(nums), max(nums)]", Grade(PASS, 1.0)),
        ("Ends of a list", "list = tuple = print = None\n"
            "def ends(nums):\n    return [min(nums), max(nums)]", Grade(PASS, 1.0)),
        ("Ends of a list", f"{ENDS}return [nums[0], nums[0]]", Grade(FAIL, 1 / 3)),
        ("Ends of a list", f"{ENDS}return sorted(nums)[::2]", Grade(FAIL, 2 / 3)),
        ("Ends of a list", f"{ENDS}return {{min(nums), max(nums)}}", Grade(ERROR, 0.0)),
        ("Ends of a list", f"{ENDS}return [1, 3][len(nums)]", Grade(ERROR, 0.0)),
        ("Ends of a list", f"{ENDS}while len(nums) > 1: pass\n        return nums * 2",
            Grade(TIMEOUT, 1 / 3)),
        ("Ends of a list", "class Solution:\n    def start(self, nums): return nums",
            Grade(ERROR, 0.0)),
        ("Ends of a list", "class Same(list):\n    def __eq__(self, other): return True\n"
            f"{ENDS}return Same(nums)", Grade(FAIL, 0.0)),
        ("Mean above", f"{MEAN}return mean(nums) > k", Grade(PASS, 1.0)),
        ("Mean above", f"{MEAN}return int(mean(nums) > k)", Grade(PASS, 1.0)),
        ("Mean above", f"{MEAN}return str(mean(nums) > k).lower()", Grade(FAIL, 0.0)),
        ("Mean above", f"{MEAN}return float('nan')", Grade(ERROR, 0.0)),
        ("Mean above", f"{MEAN}return exit(0)", Grade(FAIL, 0.0)),
    ],
)  # fmt: skip
def test_each_verdict(
    sandbox: Sandbox, problems: dict[str, Problem], title: str, code: str, expected: Grade,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(livecodebench, "LIMITS", replace(livecodebench.LIMITS, cpu_s=1.0))
    [found] = grade(sandbox, [(problems[title], code)])
    assert (found.status, found.share) == (expected.status, pytest.approx(expected.share))


def test_nothing_that_is_expected_enters_the_sandbox(problems: dict[str, Problem]) -> None:
    for title, secret in (("Sum of squares", "n * (n"), ("Ends of a list", "[-7, 0]")):
        problem = problems[title]
        for code in ("", "pass"):
            jobs = problem.check.jobs(code)
            assert len(jobs) == 3 and all(job.expect_stdout is None for job in jobs)
            assert not any(secret in str(job) for job in jobs)


def test_a_method_may_have_long_lists_and_return_them(sandbox: Sandbox, tmp_path: Path) -> None:
    """As the published tests have: a list of 100,000 numbers is no Python literal of a job."""
    numbers = json.dumps(list(range(10**9, 10**9 + 100_000)))
    private = cases_of("functional", (numbers, numbers))
    row = {**CALLED, "public_test_cases": "[]", "private_test_cases": packed(private)}
    [problem] = loaded(tmp_path / "x.jsonl", row).problems
    found = grade(sandbox, [(problem, f"{ENDS}return nums"), (problem, f"{ENDS}return nums[1:]")])
    assert [g.status for g in found] == [PASS, FAIL]


def test_a_program_may_read_long_lines(sandbox: Sandbox, tmp_path: Path) -> None:
    private = cases_of("stdin", ("1 " * 4_000_000, "4000000"))
    row = {**STDIN, "public_test_cases": "[]", "private_test_cases": packed(private)}
    [problem] = loaded(tmp_path / "x.jsonl", row).problems
    [found] = grade(sandbox, [(problem, "print(input().count('1'))")])
    assert found == Grade(PASS, 1.0)


@pytest.mark.parametrize(("column", "length"), [(0, (15 << 20) + 1), (1, (16 << 20) + 1)])
def test_a_test_that_no_job_has_room_for_leaves_its_problem_out(
    tmp_path: Path, column: int, length: int
) -> None:
    pair = ["1", "1"]
    pair[column] = "1" * length
    row = {**STDIN, "private_test_cases": packed(cases_of("stdin", (pair[0], pair[1])))}
    found = loaded(tmp_path / "x.jsonl", row, ROWS["Halves"])
    assert found.excluded == ("LiveCodeBench/own900_a",)


def test_the_public_tests_are_visible(sandbox: Sandbox, problems: dict[str, Problem]) -> None:
    hard_coded = (problems["Total"], "print('3\\n7')")
    assert grade(sandbox, [hard_coded], visible=True) == [Grade(PASS, 1.0)]
    assert grade(sandbox, [hard_coded])[0].status is FAIL


def test_the_result_has_the_levels_and_the_window(
    sandbox: Sandbox, problems: dict[str, Problem]
) -> None:
    window = Window.given("2024-01-06", "2024-03-16")
    found = benchmarks.load("livecodebench", FILE, window)
    found = replace(found, problems=found.problems[::-1])
    samples = {p.id: ["pass"] for p in found.problems}
    samples["LiveCodeBench/own900_a"] = [TOTAL]
    samples["LiveCodeBench/own900_c"] = [SQUARES]
    result = score_samples(found, samples, sandbox, window=window)
    at = {
        name: level["pass_at"]["1"]["value"] for name, level in result.to_json()["levels"].items()
    }
    assert list(at.items()) == [("easy", 0.5), ("medium", 0.0), ("hard", 1.0)]
    assert result.protocol.subset == "all since 2024-01-06 until 2024-03-16"
    first = score_samples(found, samples, sandbox, window=window, limit=2)
    assert first.protocol.subset == "first 2 of all since 2024-01-06 until 2024-03-16"


# ---------------------------------------------------------------- comparison


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        ("1\n2\n", "1\n2", True), ("  1 \n2\t\r\n\n", "\n1\n2", True), ("", "\n", True),
        ("1\n\n2", "1\n2", False), ("1 2", "1\n2", False), ("1", "1\n1", False), ("", "0", False),
        ("1.0", "1", True), ("1e3 2", "1000  2.00", True), ("+7 007", "7 7", True),
        ("50000000000000000", "50000000000000001", False), ("0.3333333", "0.3333334", False),
        ("a  b", "a b", False), ("YES", "Yes", False), ("x 1.0", "x 1", False), ("1 2", "1", False),
        ("nan", "NaN", False), ("nan", "nan", True), ("snan", "1", False),
        ("inf", "Infinity", True),
        ("1e99999999999999999999", "1", False), ("2 1", "1 2", False),
    ],
)  # fmt: skip
def test_what_is_the_same_output(given: str, wanted: str, same: bool) -> None:
    assert same_output(given, wanted) is same


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        ("\n[1, 2]\n", "[1,2]", True), ("debug\n\n[1, 2]\n", "[1,2]", True), ("1", "1.0", True),
        ("true", "true", True), ("1", "true", True), ('"1"', "1", False), ("null", "null", True),
        ("", "null", False), ("[1]\n2", "[1]", False), ("NaN", "NaN", False),
        ("None", "null", False), ("[" * 100_000, "[]", False), ("9" * 5000, "9", False),
        ("0.1", "0.10000000000000001", True),
    ],
)  # fmt: skip
def test_what_is_the_same_value(given: str, wanted: str, same: bool) -> None:
    assert same_value(given, wanted) is same


def test_tuples_count_as_lists_only_outermost(sandbox: Sandbox, tmp_path: Path) -> None:
    """As in the reference, which compares ``[(1, 2)]`` with ``[[1, 2]]``."""
    public = cases_of("functional", ("[1, 2]", "[[1, 2]]"))
    row = {**CALLED, "public_test_cases": public, "private_test_cases": "[]"}
    [problem] = loaded(tmp_path / "x.jsonl", row).problems
    codes = [f"{ENDS}return [nums],", f"{ENDS}return [(1, 2)]"]
    public = cases_of("functional", ("[1, 2]", '{"1": 2}'))
    row = {**row, "public_test_cases": public}
    [keyed] = loaded(tmp_path / "y.jsonl", row).problems
    cases = [*((problem, code) for code in codes), (keyed, f"{ENDS}return {{1: 2}}")]
    assert [g.status for g in grade(sandbox, cases)] == [FAIL, ERROR, ERROR]
    assert grade(sandbox, [(problem, f"{ENDS}return (nums,)")])[0].status is PASS


# ---------------------------------------------------------------- asking and reading


def test_a_chat_model_is_asked_in_livecodebench_s_words(problems: dict[str, Problem]) -> None:
    class Tokenizer:
        chat_template = "a template"

        def apply_chat_template(self, turns: list[dict[str, str]], **_: Any) -> str:
            return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns)

        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [ord(c) for c in text]

    def asked(title: str, protocol: str, strategy: str = "direct") -> str:
        spec, given = livecodebench.SPEC, problems[title]
        return benchmarks.prompt(given, spec, protocol, Tokenizer(), strategy).text  # type: ignore[arg-type]

    program, method = asked("Total", "chat"), asked("Ends of a list", "chat")
    assert program.startswith(
        f"<system>{SYSTEM}<user>### Question:\nThe first line has n, "
    ) and program.endswith(
        "### Format: Read the inputs from stdin solve the problem and write the answer to stdout "
        "(do not directly test on the sample inputs). Enclose your code within delimiters as "
        "follows. Ensure that when the python program runs, it reads the inputs, runs the "
        "algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )
    assert method.endswith(
        "### Format: You will use the following starter code to write the solution to the problem "
        "and enclose your code within delimiters.\n```python\n"
        f"{CALLED['starter_code']}\n```\n\n### Answer: (use the provided format with backticks)\n\n"
    )
    assert "step by step" in asked("Total", "chat", "step_by_step")
    for title in ("Total", "Ends of a list"):
        text = asked(title, "base")
        assert text.count("### Question\n") == text.count("### Answer\n\n") == 2
        assert text.endswith("### Answer\n\n")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na = 1\n```", "a = 1"),
        ("Like\n```\nold\n```\nor\n```python\nnew = 1\n  x\n```\nDone.", "new = 1\n  x"),
        ("<think>```\nno\n```</think>```py\r\nyes\r\n```", "yes"),
        ("<think>```\nno\n```", ""),
        ("```python\nnot closed", ""),
        ("print(1)", ""),
        ("", ""),
    ],
)
def test_the_answer_is_between_the_last_two_fences(text: str, code: str) -> None:
    assert answer(text, "any") == code


# ---------------------------------------------------------------- the files


def test_private_tests_are_the_same_in_every_packing(tmp_path: Path) -> None:
    tests = cases_of("stdin", ("1\nä", "2"))
    packings = [tests, f" {tests}\n", *(packed(tests, protocol) for protocol in range(6))]
    rows = [{**STDIN, "private_test_cases": text} for text in packings]
    found = [loaded(tmp_path / "x.jsonl", row) for row in rows]
    assert len({benchmark.sha256 for benchmark in found}) == 1
    assert all(len(b.problems[0].check.jobs("")) == 2 for b in found)
    other = {**STDIN, "private_test_cases": tests.replace("2", "3")}
    assert loaded(tmp_path / "x.jsonl", other).sha256 != found[0].sha256


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/azr-mlx-was-unpickled"),)


@pytest.mark.parametrize("content", [Hostile(), ["[]"], b"[]", 1, None, {"a": "b"}, ("a", "b")])
@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_anything_but_a_text_is_refused_unread(content: object, protocol: int) -> None:
    with pytest.raises(ValueError, match="the pickle is not one text"):
        pickled_text(pickle.dumps(content, protocol))
    assert not Path("/tmp/azr-mlx-was-unpickled").exists()


@pytest.mark.parametrize("text", ["", "[]", "ä\n" * 50_000, "\ud800"])
@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_a_text_is_read_and_its_parts_are_refused(text: str, protocol: int) -> None:
    whole = pickle.dumps(text, protocol)
    assert pickled_text(whole) == text
    for part in (whole[: len(whole) // 2], whole[:-1], b"", whole + b".", whole[:-1] + whole):
        with pytest.raises(ValueError, match="the pickle is not one text"):
            pickled_text(part)


WRONG_TYPE = cases_of("interactive", ("1", "2"))
NO_OUTPUT = json.dumps([{"input": "1", "testtype": "stdin"}])
PRIVATE = ROWS["Halves"]["private_test_cases"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"private_test_cases": " "}, "private_test_cases is empty; a problem without"),
        ({"private_test_cases": PRIVATE[:-24]}, "the compressed tests are cut short"),
        ({"private_test_cases": PRIVATE[:-3]}, "neither a list nor base64"),
        ({"private_test_cases": "AAAA" + PRIVATE[4:]}, "cannot be decompressed"),
        ({"private_test_cases": packed(["[]"])}, "the pickle is not one text"),
        ({"private_test_cases": packed("[{]")}, "private_test_cases: not JSON"),
        ({"private_test_cases": packed("{}")}, "private_test_cases is not a list"),
        (
            {"private_test_cases": packed(NO_OUTPUT)},
            "a test has an input, an output and a testtype",
        ),
        ({"private_test_cases": packed("[3]")}, "a test has an input, an output and a testtype"),
        ({"private_test_cases": []}, "private_test_cases is not text"),
        ({"public_test_cases": WRONG_TYPE}, "'interactive' is neither stdin nor functional"),
        ({"public_test_cases": "oops"}, "public_test_cases: not JSON"),
        ({"metadata": '{"func_name": "f("}'}, "metadata is not an object whose func_name"),
        ({"metadata": "[]"}, "metadata is not an object whose func_name"),
        ({"difficulty": "extreme"}, "'extreme' is none of easy, medium, hard"),
        ({"question_id": 3}, "question_id is not text"),
        ({"question_content": None}, "question_content is not text"),
        ({"starter_code": None}, "starter_code is not text"),
    ],
)
def test_a_bad_row_is_one_clear_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        loaded(tmp_path / "test.jsonl", ROWS["Halves"], {**STDIN, **change})
    told = str(caught.value)
    assert told.startswith("test.jsonl, row 2: not a row of livecodebench (") and "\n" not in told
    assert "huggingface.co/datasets/livecodebench/code_generation_lite" in told


def test_dates_matter_for_a_window_only(tmp_path: Path) -> None:
    path, row = tmp_path / "x.jsonl", {**STDIN, "contest_date": "31/10/2024"}
    assert len(loaded(path, row).problems) == 1
    with pytest.raises(UsageError, match="contest_date '31/10/2024' is not a date like 2024-10-31"):
        benchmarks.load("livecodebench", path, Window.given("2024-01-01", None))


def test_a_functional_test_without_a_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a functional test, and its metadata has no func_name"):
        loaded(tmp_path / "x.jsonl", {**CALLED, "metadata": "{}"})


def test_the_name_decides_how_tests_run(sandbox: Sandbox, tmp_path: Path) -> None:
    public = cases_of("stdin", ("[2, 1]", "[1, 2]"))
    [problem] = loaded(tmp_path / "x.jsonl", {**CALLED, "public_test_cases": public}).problems
    [found] = grade(sandbox, [(problem, f"{ENDS}return [min(nums), max(nums)]")])
    assert found == Grade(PASS, 1.0)


def test_a_method_s_test_of_other_than_json_leaves_its_problem_out(tmp_path: Path) -> None:
    for pair in (("[1", "1"), ("1", "one"), ("1\n\n2", "1")):
        row = {**CALLED, "public_test_cases": cases_of("functional", pair)}
        found = loaded(tmp_path / "x.jsonl", row, STDIN)
        assert found.excluded == ("LiveCodeBench/9001",) and len(found.problems) == 1


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livecodebench, "_MAX_TESTS", 1 << 20)
    with pytest.raises(UsageError, match="the compressed tests are of 1048576 bytes or more"):
        loaded(tmp_path / "x.jsonl", {**STDIN, "private_test_cases": packed("a" * (4 << 20))})


def test_a_folder_holds_the_files_of_a_release(tmp_path: Path) -> None:
    rows = list(ROWS.values())
    for name, part in (("test.jsonl", rows[:2]), ("test2.jsonl", rows[2:])):
        (tmp_path / name).write_text(json_lines(part))
    found, whole = (
        benchmarks.load("livecodebench", tmp_path),
        benchmarks.load("livecodebench", FILE),
    )
    assert found.problems == whole.problems and found.sha256 == whole.sha256
    (tmp_path / "test3.jsonl").write_text(json_lines(rows[:1]))
    with pytest.raises(UsageError, match="LiveCodeBench/own900_a is in it more than once"):
        benchmarks.load("livecodebench", tmp_path)


def test_without_a_file_it_says_what_to_download(tmp_path: Path) -> None:
    for data in (None, tmp_path):
        with pytest.raises(UsageError, match=r"give as --data a file test\.jsonl"):
            benchmarks.load("livecodebench", data)


# ---------------------------------------------------------------- the window


@pytest.mark.parametrize(
    ("since", "until", "ids"),
    [
        (None, None, "own900_a own900_b own900_c 9001 9002"),
        ("2024-02-10", None, "own900_b own900_c 9001 9002"),
        (None, "2024-02-10", "own900_a own900_b 9001"),
        ("2024-02-10", "2024-02-10", "own900_b 9001"),
        ("2024-02-11", "2024-04-19", "own900_c"),
    ],
)
def test_a_window_has_both_of_its_days(since: str | None, until: str | None, ids: str) -> None:
    found = benchmarks.load("livecodebench", FILE, Window.given(since, until))
    assert [p.id.removeprefix("LiveCodeBench/") for p in found.problems] == ids.split()


def test_what_is_outside_the_window_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json_lines([{**STDIN, "private_test_cases": "?"}, ROWS["Halves"]]))
    window = Window.given("2024-02-01", None)
    assert len(benchmarks.load("livecodebench", path, window).problems) == 1


@pytest.mark.parametrize(
    ("since", "until", "message"),
    [
        ("2024-13-01", None, r"--since 2024-13-01: is not a day; write it like 2024-10-31"),
        (None, "May", r"--until May: is not a day; write it like 2024-10-31"),
        ("2024-02-02", "2024-02-01", r"the first day is after the last"),
    ],
)
def test_a_wrong_window_is_one_clear_line(
    since: str | None, until: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Window.given(since, until)


def test_a_window_without_problems_and_one_for_problems_without_dates(tmp_path: Path) -> None:
    window = Window.given("2030-01-01", None)
    with pytest.raises(UsageError, match="no livecodebench problem with tests since 2030-01-01"):
        benchmarks.load("livecodebench", FILE, window)
    with pytest.raises(UsageError, match="--since, --until: the problems of mbpp have no dates"):
        benchmarks.load("mbpp", FILE, window)


# ---------------------------------------------------------------- the command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = tmp_path / "samples.jsonl"
    rows = [
        {"task_id": "LiveCodeBench/own900_b", "completion": "print(1)"},
        {"task_id": "LiveCodeBench/9001", "completion": f"{ENDS}return [min(nums), max(nums)]"},
    ]
    samples.write_text(json_lines(rows))
    words = ["eval", "--benchmark", "livecodebench", "--quiet", "--samples", str(samples)]
    window = ["--since", "2024-02-10", "--until", "2024-02-10"]
    assert main([*words, "--data", str(FILE), *window]) == 0
    said = capsys.readouterr().out
    assert "livecodebench pass@1: 50.0%" in said and "easy (1 tasks): pass@1: 100.0%" in said
    assert "2 tasks (all since 2024-02-10 until 2024-02-10)" in said
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json_lines([{**STDIN, "private_test_cases": PRIVATE[:-24]}]))
    for more in (
        ["--data", str(bad)],
        ["--data", str(FILE), "--since", "soon"],
        ["--data", str(FILE), "--until", "2020-01-01"],
        [],
    ):
        assert main([*words, *more]) == 2
        told = capsys.readouterr()
        assert told.err.count("\n") == 1 and not told.out
