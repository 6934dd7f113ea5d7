"""Answers of chat models and the programs that are read out of them: fixtures/answers.yaml."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from azr_mlx.evaluation.benchmarks import cruxeval, extract_code
from azr_mlx.evaluation.benchmarks.cruxeval import answer
from azr_mlx.types import Status

pytestmark = pytest.mark.pure

ANSWERS = yaml.safe_load((Path(__file__).parent / "fixtures" / "answers.yaml").read_text("utf-8"))


def test_there_are_enough_of_them() -> None:
    assert len({row["name"] for row in ANSWERS}) == len(ANSWERS) >= 40


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row["name"])
def test_code_is_extracted_from(row: dict[str, str]) -> None:
    assert extract_code(row["answer"], row.get("entry", "f")) == row["code"]


@given(st.text(alphabet="`~ \n\r\tdefclasimport()<>/think:=fx1\"'", max_size=200))
def test_extraction_is_total(text: str) -> None:
    assert isinstance(extract_code(text, "f"), str)


@pytest.mark.parametrize("more", ["()", ".a", "[0]", "(" * 9, ".a()", "+ 1", "if 1 else f"])
@pytest.mark.parametrize("times", [150, 450, 900, 5000])
def test_code_that_is_nested_deeply_is_read(more: str, times: int) -> None:
    code = f"def f(x):\n    return x\nf{more * times}\n"
    for text in (code, f"```python\n{code}```"):
        assert extract_code(text, "f").startswith("def f(x):")
    assert isinstance(answer(f"assert f(1) == f{more * times}"), str)


def test_what_is_left_of_a_program_is_one() -> None:
    for row in ANSWERS:
        code = extract_code(row["answer"], row.get("entry", "f"))
        if row["name"] not in ("a mistake in it", "a refusal", "a body only"):
            ast.parse(code)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("assert f(1) == 2\n[/ANSWER]", "assert f(1) == 2"),
        ("[ANSWER]\nassert f(1) == 2\n[/ANSWER] because", "assert f(1) == 2"),
        ("So:\n[ANSWER] 2 [/ANSWER]", "2"),
        ("```python\nassert f(1) == 2\n```", "assert f(1) == 2"),
        ("<think>assert f(1) == 3</think>\nassert f(1) == 2", "assert f(1) == 2"),
        ("It doubles.\n\nassert f(1) == 2\n\nThat is it.", "assert f(1) == 2"),
        ("[ANSWER]\n[1, 2]", "[1, 2]"),
        ("", ""),
        (
            "[ANSWER]\nassert f(4) == [\n    4,\n    5,\n]\n[/ANSWER]",
            "assert f(4) == [\n    4,\n    5,\n]",
        ),
        ("assert f(4) == {\n  'a': 1,\n}\nThat is it.", "assert f(4) == {\n  'a': 1,\n}"),
        ("assert f(1) == 2\nassert f(4) == [\n1]", "assert f(4) == [\n1]"),
        ("[4,\n 5]", "[4,\n 5]"),
        ("So it is:\n{'a': 1,\n 'b': [\n 2]}", "{'a': 1,\n 'b': [\n 2]}"),
        ("f(\n  4\n)", "f(\n  4\n)"),
        ("assert f(1) == [2", "assert f(1) == [2"),
        ("[ANSWER]5[/ANSWER] I put it in [ANSWER] tags.", "5"),
        ("[ANSWER]4[/ANSWER] no, [ANSWER]5[/ANSWER]", "5"),
        ("assert f(4) == '''a\n\n\nb'''", "assert f(4) == '''a\n\n\nb'''"),
        ("[ANSWER]\n'''a\n```\nb'''\n[/ANSWER]", "'''a\n```\nb'''"),
        ("```\n[1,\n\n 2]\n```", "[1,\n\n 2]"),
        ("[ANSWER]\n```python\nassert f(1) == 2\n```\n[/ANSWER]", "assert f(1) == 2"),
        ("No idea.\n\nReally.", "Really."),
    ],
)
def test_cruxeval_s_answers(text: str, found: str) -> None:
    assert answer(text) == found


@pytest.mark.parametrize(
    "code",
    [
        "fact = lambda n: 1 if n < 2 else n * fact(n - 1)\n",
        "try:\n    from math import factorial as fact\nexcept ImportError:\n    print('none')\n",
        "def fact(n):\n    s = 'a\u2028b\x0cc\x85d'\n    return n\n",
    ],
)
def test_what_defines_the_function_is_kept(code: str) -> None:
    assert extract_code(f"```python\n{code}print(1)\n```", "fact").strip() == code.strip()


ROW = {
    "id": "sample_0",
    "code": "def f(n):\n    return [n, n + 1]",
    "input": "4",
    "output": "[4, 5]",
}


@pytest.mark.parametrize(
    "text",
    [
        "assert f(4) == [4, 5], 'msg'",
        "assert f(4) == [4, 5];",
        "assert\tf(4) == [4, 5]",
        "assert(f(4) == [4, 5])",
        "assert (f(4) == [4, 5])  # the list",
        "assert(f(4) == [4, 5], 'msg')",
        "assert(\n    f(4)\n    == [4, 5]\n)",
        "assert f(4) == (\n    [4,\n 5]\n), 'it is'",
        "assert f(1) == [1, 2]; assert f(4) == [4, 5]",
        "It is:\n[ANSWER]\nassert(f(4) == [\n4, 5]), \\\n 'msg'\n[/ANSWER]",
        "[4, 5]\n# the list",
    ],
)
def test_assertions_are_read_as_python_does(text: str) -> None:
    found = answer(text)
    problem = cruxeval.parse_output(ROW)
    assert problem is not None
    assert problem.check.grade(found, []).status is Status.PASS
    if "assert" in text:
        assert cruxeval.arguments(ROW["code"], found) == "(4,)"


@pytest.mark.parametrize(
    "text", ["4  # because", "n=4  # x", "f(4)  # it", "[ANSWER]\nn = 4  # (\n[/ANSWER]", "(4) # )"]
)
def test_a_comment_may_follow_arguments(text: str) -> None:
    assert cruxeval.arguments(ROW["code"], answer(text)) == "(4,)"


@pytest.mark.parametrize(
    "text", ["assert f(4) != [4, 5]", "assert not f(4) == [4, 5]", "assert f(4) == [4, 5] or 1"]
)
def test_an_assertion_of_something_else_is_no_answer(text: str) -> None:
    problem = cruxeval.parse_output(ROW)
    assert problem is not None
    assert problem.check.grade(answer(text), []).status is Status.FORMAT


def test_a_program_may_hold_the_words_of_the_prompt() -> None:
    code = "def f(output, n):\n    return f'{output}-{n}' + '{input}{code}'"
    row = {**ROW, "code": code, "input": "'{output}', 4", "output": "'{output}-4{input}{code}'"}
    shown, asked = cruxeval.parse_output(row), cruxeval.parse_input(row)
    assert shown is not None and asked is not None
    assert shown.prompt.endswith(
        f"[PYTHON]\n{code}\nassert f('{{output}}', 4) == ??\n[/PYTHON]\n[ANSWER]\n"
    )
    assert asked.prompt.endswith(
        f"[PYTHON]\n{code}\nassert f(??) == {row['output']}\n[/PYTHON]\n[ANSWER]\n"
    )
