"""What completions are read as, and what a program's source says."""

from __future__ import annotations

import ast
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azr_mlx.config import SandboxConfig
from azr_mlx.evaluation.benchmarks import extract_code
from azr_mlx.tasks.inputs import BECOMES
from azr_mlx.tasks.parse import (
    BANNED_NAMES,
    check_program,
    clean_source,
    features,
    parse_answer,
    parse_proposal,
    skeleton,
)
from azr_mlx.tasks.prose import MOST_WORDS, remark
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure

DEDUCTION, ABDUCTION, INDUCTION = TaskKind.DEDUCTION, TaskKind.ABDUCTION, TaskKind.INDUCTION
ALLOWED = SandboxConfig().allowed_imports


def test_a_completion_goes_on_from_def_f() -> None:
    text = "(x, y):\n    return x * y\nassert f(2, [3]) == [3, 3]\n\ndef g(): pass"
    proposal = parse_proposal(text, DEDUCTION, "few_shot")
    assert proposal is not None
    assert proposal.program == "def f(x, y):\n    return x * y\n"
    assert proposal.inputs == ("(2, [3])",)


def test_the_output_the_model_claims_is_not_needed() -> None:
    for end in ("assert f('a)', 1) == [1,", "assert f('a)', 1)", "assert f('a)',\n  1) == 9, 'x'"):
        proposal = parse_proposal("(s, n):\n    return s\n" + end, ABDUCTION, "few_shot")
        assert proposal is not None and proposal.inputs == ("('a)', 1)",)


def test_several_defs_are_one_program() -> None:
    text = "(x):\n    return g(x) + 1\n\ndef g(x):\n    return x * 2\nassert f(3) == 7"
    proposal = parse_proposal(text, DEDUCTION, "few_shot")
    assert proposal is not None and "def g" in proposal.program
    assert check_program(proposal.program, ALLOWED) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(x):\n    return x",  # no input
        "(x):\n    return x\nassert f(y=1) == 1",
        "(x):\n    return x\nassert f(*[1]) == 1",
        "(x):\n    return x\nassert f([1, 2",
        "(x):\n  return (\nassert f(1) == 1",
        "oo(x):\n    return x\nassert f(1) == 1",
    ],
)
def test_what_holds_no_proposal_is_none(text: str) -> None:
    assert parse_proposal(text, DEDUCTION, "few_shot") is None


def test_induction_inputs_and_message() -> None:
    text = " doubles a number\nf(1)\nf(2)\nassert f(-3) == -6\nf(2)\nnoise f(9)\nf(x=1)\n"
    proposal = parse_proposal(text, INDUCTION, "few_shot", program="P")
    assert proposal is not None
    assert proposal.message == "doubles a number"
    assert proposal.inputs == ("(1,)", "(2,)", "(-3,)")
    assert proposal.program == "P"


CHAT = """<think>```python
def f(a): return 0
```</think>
Sure. <answer>
```python
def f(a, b):
    return a + b
print(f(1, 2))
```
```input
[1, 2], [3]
```
</answer> trailing ```input
9
```"""


@pytest.mark.parametrize("cut", ["", "</answer>", "```\n</answer>"])
def test_chat_proposal_survives_missing_ends(cut: str) -> None:
    text = CHAT.partition(cut)[0] if cut else CHAT
    proposal = parse_proposal(text, DEDUCTION, "chat")
    assert proposal is not None
    assert proposal.program == "def f(a, b):\n    return a + b\n"
    assert proposal.inputs == ("([1, 2], [3])",)


def test_chat_proposal_without_an_input_block_takes_the_assert() -> None:
    text = "<answer>```python\nx\n```"
    assert parse_proposal(text, DEDUCTION, "chat") is None
    text = "Here it is:\n\ndef f(a):\n    return a\n\nassert f({1: 2}) == {1: 2}"
    proposal = parse_proposal(text, DEDUCTION, "chat")
    assert proposal is not None and proposal.inputs == ("({1: 2},)",)
    assert proposal.program == "def f(a):\n    return a\n"


F = "def f(a, b):\n    return a + b\n"
PROGRAM = F.rstrip()


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{F}\nprint(f(1, 2))\n```",
        f"```python\n{F}\nprint(f(1, 2))",
        f"```python\n{F}\nf(1, 2)  # 3\n```\nThis adds two numbers, as f(3, 4) does.",
        f"```python\n{F}\nresult = f(1, 2)\nprint('It is', result)\n```",
        f"```python\n{F}\nx = 1\noutput = f(x, 2)\nprint(output)\n```",
        f"```python\n{F}\nassert f(1, 2) == 3\n```",
        f"```python\n{F}\nif __name__ == '__main__':\n    print(f(1, 2))\n```",
        f"Here it is:\n```python\n{F}```\nAnd a call:\n```python\nf(1, 2)\n```\nIt returns `3`.",
        f"```python\n{F}```\n```input\nf(1, 2)\n```",
        f"```python\n{F}```\n```inputs\nf(1, 2) -> 3\n```",
        f"```python\n{F}```\n**Input:** `f(1, 2)`\n```input\n- f(1, 2)\n```",
        f"```python\n{F}```\nprint(f(1, 2))",
        f"```python\n{F}\nprint(f(1, 2))\n```\n```python\ndef f(c):\n    return c\nf(7)\n```",
    ],
)
def test_an_input_that_a_chat_proposal_calls_f_with(text: str) -> None:
    proposal = parse_proposal(text, DEDUCTION, "chat")
    assert proposal is not None and proposal.inputs == ("(1, 2)",)
    assert proposal.program.rstrip() == PROGRAM, "what only uses f is not of the program"


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{F}```",
        f"```python\n{F}```\n```output\nf(1, 2)\n```"[: len(F) + 20],
        f"```python\n{F}\ninput('f(1, 2)')\n```",
        "```python\ndef f(a):\n    return f(a - 1)\n```",
        f"```python\n{F}```\nIt adds 1 and 2.",
        f"```python\n{F}\ndef g(a):\n    return f(a, 2)\n```",
    ],
)
def test_a_chat_proposal_without_a_call_is_none(text: str) -> None:
    assert parse_proposal(text, DEDUCTION, "chat") is None


def test_a_variable_that_a_function_reads_is_of_the_program() -> None:
    text = "```python\ndef f(a):\n    return a * K\n\nK = 7\nx = 2\nprint(f(x))\n```"
    proposal = parse_proposal(text, DEDUCTION, "chat")
    assert proposal is not None and proposal.inputs == ("(2,)",)
    assert proposal.program == "def f(a):\n    return a * K\n\nK = 7\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```message\nadds\n```\n```input\nf(1, 2)\nf(3, 4)\n```", "adds"),
        ("It adds.\n\n```python\nf(1, 2)\nprint(f(3, 4))\n```", "It adds."),
        ("It adds.\n```\n1. f(1, 2)\n2. f(3, 4)\n```", "It adds."),
        ("```message\nadds\n```\n- f(1, 2)\n- f(3, 4)\n", "adds"),
        ("f(1, 2) == 3\nf(3, 4) == 7", ""),
    ],
)
def test_inputs_and_a_message_as_chat_models_write_them(text: str, message: str) -> None:
    proposal = parse_proposal(text, INDUCTION, "chat", program=F)
    assert proposal is not None
    assert (proposal.inputs, proposal.message) == (("(1, 2)", "(3, 4)"), message)


def test_chat_induction_proposal() -> None:
    text = "<answer>\n```input\n1, 2\n```\n```input\n3, 4\n```\n```message\nadds\n```</answer>"
    proposal = parse_proposal(text, INDUCTION, "chat", program="P")
    assert proposal is not None
    assert (proposal.inputs, proposal.message) == (("(1, 2)", "(3, 4)"), "adds")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 3", "3"),
        (" [1, 'a']  # so", "[1, 'a']"),
        (" 3, 'a message'", "3"),  # the message of the assert statement
        (" 'a b'\n\nassert f(1) == 5", "'a b'"),
        (" t = 0, t = 5\nassert f([1]) == 5", "5"),
        (" f(1) == 2\nassert f(1) == 2\n# so\nassert f(3) == {\n 'a': 1}", "{'a': 1}"),
        (" 0 or True", None),
        (" 3 == 3", None),
        (" [1, 2", None),
        ("\nassert f(2) == 4", "4"),
        ("", None),
        (" 3) or (True", None),
    ],
)
def test_deduction_answers_of_completions(text: str, answer: str | None) -> None:
    assert parse_answer(text, DEDUCTION, "few_shot") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("('ab', 2) == 'abab'", "('ab', 2)"),
        ("(3)", "(3,)"),
        ("((1, 2)) == 3  # found", "((1, 2),)"),
        (" 9 = 5 + 4\nassert f([5, 4]) == 9", "([5, 4],)"),
        ("(0) or (True) == 3", None),
        ("(0) or (True", None),
        ("(0); f(1)", None),
        ("(x=1) == 3", "(1,)"),
        ("(*x) == 3", None),
        (" 5", None),
        ("(1, 2", None),
    ],
)
def test_abduction_answers_of_completions(text: str, answer: str | None) -> None:
    assert parse_answer(text, ABDUCTION, "few_shot") == answer


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("(x):\n    return x + 1", "def f(x):\n    return x + 1\n"),
        (
            " add one\ndef f(x):\n    return x + 1\nassert f(1) == 2",
            "def f(x):\n    return x + 1\n",
        ),
        ("(x):\n    return x\n\nfor i in", "def f(x):\n    return x\n"),
        ("(x):\n  return (", None),
        ("no code", None),
    ],
)
def test_induction_answers_of_completions(text: str, program: str | None) -> None:
    assert parse_answer(text, INDUCTION, "few_shot") == program


@pytest.mark.parametrize(
    ("text", "kind", "answer"),
    [
        ("<think>```output\n1\n```</think><answer>```output\n[2]\n```</answer>", DEDUCTION, "[2]"),
        (
            "<think>\n```output\n1\n```\n</think>\n<answer>\n```output\n[2]\n```\n</answer>",
            DEDUCTION,
            "[2]",
        ),
        ("<answer>\n```output\n[2]", DEDUCTION, "[2]"),
        ("<answer>'a'</answer>", DEDUCTION, "'a'"),
        ("```\nf(1) == 4\n```", DEDUCTION, "4"),
        ("```text\n[2]\n```", DEDUCTION, "[2]"),
        ("```md\n```output\n[2]\n```\n```", DEDUCTION, "[2]"),
        ("<answer>\n```input\n(1, 2), 3\n```", ABDUCTION, "((1, 2), 3)"),
        ("<answer>\n```input\nf(1, 'x')\n```", ABDUCTION, "(1, 'x')"),
        ("<answer>\n```input\n0) or (True\n```", ABDUCTION, None),
        ("```python\ndef f(x):\n    return x\n```", INDUCTION, "def f(x):\n    return x\n"),
        ("I do not know.", DEDUCTION, None),
        ("`[1]`", DEDUCTION, "[1]"),
        ("Output: [1]", DEDUCTION, "[1]"),
        ("**Output:** `'a'`", DEDUCTION, "'a'"),
        ("```output\nOutput: 3\n```", DEDUCTION, "3"),
        ("First this.\n\nThe answer is: 5", DEDUCTION, "5"),
        ("The call returns `[1, 2]`.", DEDUCTION, "[1, 2]"),
        ("The value is not `3`.", DEDUCTION, None),
        ("x is `3`, and the value is `4`", DEDUCTION, None),
        ("Output: 3 or 4 I think", DEDUCTION, None),
        ("f([1], 2) returns [1]", ABDUCTION, "([1], 2)"),
        ("```python\nprint(f([1], 2))\n```", ABDUCTION, "([1], 2)"),
        ("The call is `f([1], 2)`.", ABDUCTION, "([1], 2)"),
        ("Input: f([1], 2)", ABDUCTION, "([1], 2)"),
        ("```input\n1. f([1], 2)\n```", ABDUCTION, "([1], 2)"),
        ("```input\nf([1], 2)\nf([1], 2)\n```", ABDUCTION, "([1], 2)"),
        ("```input\nf([1], 2)\nf([2], 3)\n```", ABDUCTION, None),
    ],
)
def test_chat_answers(text: str, kind: TaskKind, answer: str | None) -> None:
    assert parse_answer(text, kind, "chat") == answer


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(x):\n    return x", None),
        ("import collections.abc\nfrom math import gcd\ndef f(x):\n    return gcd(x, 4)", None),
        (
            "class A:\n    def m(self): return 1\ndef f(x):\n    g = lambda y: y\n    return g(x)",
            None,
        ),
        ("def f(input):\n    return input + 1", None),
        ("def f(x):\n    def g():\n        yield x\n    return list(g())", None),
        ("def f(x) return x", "syntax"),
        ("def g(x):\n    return x", "no_f"),
        ("class A:\n    def f(self, x): return x", "no_f"),
        ("def f():\n    return 1", "no_params"),
        ("def f(*, x):\n    return 1", "no_params"),
        ("def f(x):\n    x += 1", "no_return"),
        ("def f(x):\n    def g(): return 1", "no_return"),
        ("def f(x):\n    yield x\n    return 3", "no_return"),
        ("import os\ndef f(x):\n    return x", "import"),
        ("def f(x):\n    import os.path\n    return x", "import"),
        ("import mathematics\ndef f(x):\n    return x", "import"),
        ("from . import a\ndef f(x):\n    return x", "import"),
        ("from statistics import random\ndef f(x):\n    return x", "import"),
        ("def f(x):\n    return open(x)", "banned"),
        ("def f(x):\n    print(x)\n    return x", None),
        ("def f(x):\n    return eval(x)", "banned"),
        ("def f(x):\n    return ().__class__.__bases__", "banned"),
        ("import re\ndef f(x):\n    return re.sys.argv", "banned"),
        ("from datetime import datetime\ndef f(x):\n    return datetime.now()", "banned"),
        ("def f(x):\n    return " + "1 + " * 9000 + "1", "too_large"),
        ("def f(x):\n    return " + "(" * 300 + "1" + ")" * 300, "syntax"),
    ],
)
def test_check_program(source: str, reason: str | None) -> None:
    assert check_program(source, ALLOWED) == reason


def test_a_dotted_entry_allows_itself_and_not_its_parent() -> None:
    assert check_program("import os.path\ndef f(x):\n    return x", ["os.path"]) is None
    assert check_program("from os import path\ndef f(x):\n    return x", ["os.path"]) is None
    assert check_program("import os\ndef f(x):\n    return x", ["os.path"]) == "import"


A = 'def f(x):\n    """Doc."""\n    y = x + 1  # note\n    return max(y, 2)\n'


def test_skeleton_ignores_names_constants_and_words() -> None:
    same = "def f(number: int) -> int:\n    total: int = number + 77\n    return max(total, 5)"
    assert skeleton(A) == skeleton(same)
    assert skeleton(A) != skeleton(same.replace("max", "min"))
    assert skeleton(A) != skeleton(same.replace("+", "-"))
    assert skeleton("not python (") != skeleton("nor ( this")


def test_clean_source_drops_what_gives_answers_away() -> None:
    assert clean_source(A) == "def f(x):\n    y = x + 1\n    return max(y, 2)\n"
    assert clean_source('def f(x):\n    "only"') == "def f(x):\n    pass\n"


def test_features_count_what_they_say() -> None:
    counted = features(
        "def f(x):\n    if x and x > 1:\n        return 1\n    return [i for i in x if i]"
    )
    assert counted["cyclomatic"] == 5  # 1 + if + and + comprehension + its condition
    tree = ast.parse("def f(x):\n    return x")
    assert features("def f(x):\n    return x")["ast_nodes"] == len(list(ast.walk(tree)))
    assert features("def f(x):\n    return x")["depth"] == 5
    assert features("(") == {"ast_nodes": 0, "depth": 0, "cyclomatic": 0}


HOSTILE = [
    "(" * 100_000,
    "(x):\n return " + "-" * 50_000 + "1\nassert f(1) == 1",
    "(x):\n    return x\nassert f(" + "[" * 5000 + "]" * 5000 + ") == 1",
    "(x):\n    return x\nassert f(0x" + "f" * 15_000 + ") == 1",
    "(x):\n    return x\nassert f('\ud800') == 1",
    "\0(x):\n    return x\nassert f(1) == 1",
    "(x):\n    return '''\nassert f('''",
    "```" * 30_000,
    "<think>" * 20_000,
    "def \n" * 20_000,
    "assert f(" * 10_000,
    "assert f(\n" * 9_000,
    "f(" * 40_000,
    " 1" + "+1" * 9_000,
    "x." * 9_000 + "x",
    "# coding: utf-7\n(x)",
    "~" * 20_000 + "`",
    "```" + "a" * 20_000 + "`",
    "a" + " " * 20_000 + "x",
    "f(1)" + " " * 20_000 + "x",
    "f(" * 80 + ")" * 80,
    "(x):\n    return x\nif x == 0x" + "f" * 4000 + ": f(1)",
    "(x):\n    raise V(0x" + "f" * 4000 + ")",
    "```md\n" * 2000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("form", ["few_shot", "chat"])
def test_hostile_texts_are_read_to_an_end(text: str, form: str) -> None:
    began = time.perf_counter()
    for kind in TaskKind:
        for wrapped in (text, f"```python\ndef f{text}\n```\n```input\n{text}"):
            parse_proposal(wrapped, kind, form)
            answer = parse_answer(wrapped, kind, form)
            assert answer is None or isinstance(answer, str)
    for source in (text, "def f" + text):
        check_program(source, ALLOWED)
        assert len(skeleton(source)) == 16
        assert features(source)["depth"] >= 0
        clean_source(source)
    extract_code(text, "f")
    assert time.perf_counter() - began < 20, "most take less than 0.1 s, the slowest 2 s"


def test_a_remark_is_looked_for_in_linear_time() -> None:
    """The longest sentence that is read."""
    began = time.perf_counter()
    blanks = " " * (MOST_WORDS - 2)
    assert remark(f"a{blanks}x") is None and remark(f"1{blanks[9:]}because") == "1"
    assert BECOMES.match("f(1)" + 10 * blanks + "x", 4) is None
    assert time.perf_counter() - began < 2, "0.01 s; a minute if blanks could be shared out"


PIECES = st.sampled_from(
    [
        "def f",
        "(x):\n",
        "    return x\n",
        "assert f(",
        "1, 'a'",
        ") == ",
        "3",
        "\n",
        "\n\n",
        "```",
        "```python\n",
        "```input\n",
        "<answer>",
        "</answer>",
        "</think>",
        "f(",
        "[",
        "]",
        "'",
        '"""',
        "\\",
        " or ",
        "#",
        "é",
        "\ud800",
        "\0",
        "yield ",
        "import os\n",
        "print(",
        "lambda: ",
        "0x",
        "1e999",
    ]
)


@settings(max_examples=60)
@given(st.lists(PIECES | st.text(max_size=5), max_size=25).map("".join))
def test_every_text_is_read(text: str) -> None:
    for kind in TaskKind:
        for form in ("few_shot", "chat"):
            proposal = parse_proposal(text, kind, form)
            if proposal is not None:
                assert proposal.inputs and all(ast.parse(i, mode="eval") for i in proposal.inputs)
            answer = parse_answer(text, kind, form)
            if answer is not None:
                ast.parse(answer)
    check_program(text, ALLOWED)
    skeleton(text)
    features(text)


def test_banned_names_leave_the_ordinary_builtins() -> None:
    ordinary = {"len", "sum", "range", "sorted", "map", "zip", "isinstance", "hash", "set", "repr"}
    assert not ordinary & BANNED_NAMES


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" [\n    1,\n    2,\n]\n", "[1, 2]"),
        (" [\n    1,\n\n    2,\n]\n\ndef f(x):\n", "[1, 2]"),
        (" (1,\n 2)\n\nassert f(3) == 4\n", "(1, 2)"),
        (" '''a\nb'''\n", r"'a\nb'"),
        (" '''a\n\nb'''\n\ndef f(x):\n", r"'a\n\nb'"),
        (" {'a': 1,  # one\n 'b': [\n2]}\nThat is it.", "{'a': 1, 'b': [2]}"),
        (" 'a' \\\n 'b'\n", "'ab'"),
        (" (\n 'a'\n 'b'\n), 'no'\n", "'ab'"),
        ("assert f([1]) == '''a\n\nb'''", r"'a\n\nb'"),
        ("# steps\nassert f([\n  1\n]) == [\n1,\n\n2]\n\nassert f(2) == 3", "[1, 2]"),
        ("assert f('''a\n\nb''') == 3\n", "3"),
        (" 5\n 6\n", "5"),
        (" [1, 2\n\nassert f(2) == [3]\n", None),
        (" '''a\n\nb", None),
        (" \n5", None),
    ],
)
def test_a_completion_may_take_several_lines(text: str, value: str | None) -> None:
    assert parse_answer(text, DEDUCTION, "few_shot") == value


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("(\n    [1],\n    2,\n) == [1]\n", "([1], 2)"),
        (" ([1,\n\n  2]) == [1]\n\ndef f(x):\n", "([1, 2],)"),
        ("('''a\n\nb''') == 3\n", r"('a\n\nb',)"),
        ("assert f('''a\n\nb''', 2) == 3\n", r"('a\n\nb', 2)"),
        ("(\n 1\n) == [\n 2]\n", "(1,)"),
        ("([1]\n\nassert f([2]) == 3\n", None),
        ("(\n 1\n) is it\n", None),
    ],
)
def test_arguments_may_take_several_lines(text: str, args: str | None) -> None:
    assert parse_answer(text, ABDUCTION, "few_shot") == args


@pytest.mark.parametrize("text", [" [\n" * 30_000, " '''\n\n" * 20_000, "(" + "1,\n" * 30_000])
def test_a_completion_without_an_end_is_read_in_time(text: str) -> None:
    began = time.process_time()
    for kind in (DEDUCTION, ABDUCTION):
        parse_answer(text, kind, "few_shot")
        parse_answer("assert f(1) ==" + text, kind, "few_shot")
    assert time.process_time() - began < 10, "1 s on a machine with nothing else to do"
