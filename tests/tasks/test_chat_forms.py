r"""Answers and proposals in the forms that chat models write them in. What a person reads without
doubt is read; what a person would ask about is None."""

from __future__ import annotations

import time

import pytest

from azr_mlx.tasks.parse import parse_answer, parse_proposal
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure

DEDUCTION, ABDUCTION, INDUCTION = TaskKind.DEDUCTION, TaskKind.ABDUCTION, TaskKind.INDUCTION
F = "def f(s, n):\n    return s[n:] + s[:n]\n"
RIGHT = "'llohe'"
INPUT = "('hello', 2)"

SHORT_VALUES = [
    "f('hello', 2) = 'llohe'",
    "assert f('hello', 2) == 'llohe'",
    "f('hello', 2) -> 'llohe'",
    "f('hello', 2) → 'llohe'",
    "f('hello', 2) returns 'llohe'.",
    "`f('hello', 2)` = `'llohe'`",
    "`f('hello', 2)` returns `'llohe'`.",
    ">>> f('hello', 2)\n'llohe'",
    ">>> s = 'hello'\n>>> f(s, 2)\n'llohe'",
    "result = 'llohe'",
    "**'llohe'**",
    "**`'llohe'`**",
    "So the answer is 'llohe'",
    "So the answer is 'llohe'.",
    "Therefore, the final output is: **'llohe'**",
    "The call of `f` returns `'llohe'`.",
    "The call returns 'llohe'.",
    "The output of `f('hello', 2)` is `'llohe'`.",
    "**Output of `f('hello', 2)`:** `'llohe'`",
    "### Final Answer: `'llohe'`",
    "**Answer: 'llohe'**",
    "**Final answer:**\n\n`'llohe'`",
    r"$\boxed{'llohe'}$",
    r"The final answer is \boxed{\text{'llohe'}}.",
    "Return value: 'llohe'",
    "Returns: 'llohe'",
    "=> 'llohe'",
    "The function returns the string 'llohe'.",
    "Result: `'llohe'` (the first 2 letters moved)",
    "Output: 'llohe', because the first two letters move.",
    "f('hello', 2) returns 'llo' + 'he' = 'llohe'",
    "'llo' + 'he' = 'llohe'",
]


@pytest.mark.parametrize("text", SHORT_VALUES)
@pytest.mark.parametrize("block", ["", "output", "text", "python"])
def test_a_value_in_few_words(text: str, block: str) -> None:
    whole = f"```{block}\n{text}\n```" if block else text
    assert parse_answer(whole, DEDUCTION, "chat", F) == RIGHT


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 5.", "5"),
        ("**Answer:** 5.", "5"),
        ("The answer is 5.", "5"),
        ("5.", "5"),
        ("Answer: -5.", "-5"),
        ("Answer: 5.0.", "5.0"),
        ("Answer: 0.5", "0.5"),
        ("Answer: [5, 6].", "[5, 6]"),
        ("```output\n5.\n```", "5.0"),  # as Python, since it is no sentence
        ("```output\nAnswer: 5.\n```", "5"),
        ("result = {'a': 1}", "{'a': 1}"),
        ("result = 2 + 3 = 5", "5"),
        ("result = 'a=b'", "'a=b'"),
        ("f([1]) = sum([1]) = 1", "1"),
        (r"\[ \boxed{[1, 2]} \]", "[1, 2]"),
        (r"$$\boxed{\{1, 2\}}$$", "{1, 2}"),
        (r"\boxed{5} or \boxed{6}", None),
        ("The answer is not 5.", None),
        ("The answer is 5 or 6.", None),
        ("The answer is probably 5.", None),
        ("x is 3, and the value is 4", None),
        ("The value of n is 2.", None),
        ("`n` is `2`.", None),
        ("The value of `n` is `2`.", None),
        ("f('ab', 1) returns 'ba': wrong", None),
        ("f('a', 1) = 'a'\nf('b', 1) = 'b'", "'b'"),
        ("```output\nf('a', 1) = 'a'\nf('b', 1) = 'b'\n```", None),
        ("```output\n'a'\n'b'\n```", None),
        ("```\n>>> f('a', 1)\n'a'\n>>> f('b', 1)\n'b'\n```", None),
        ("The call returns `True`. It tests `n > 3`.", "True"),
        ("The function returns `0` if `n` is negative.", None),
        ("Answer: 5 (or 6)", None),
        ("'a' = 'b'", None),
        ("n - 1 = 2", None),
        ("s[2:] = 'llo'", None),
        ("n = 2", None),
    ],
)
def test_a_value_that_is_read_or_not(text: str, answer: str | None) -> None:
    assert parse_answer(text, DEDUCTION, "chat") == answer


STEPS = """Let's execute the function step by step:

1. `s[n:]` is `s[2:]`, which gives `'llo'`.
2. `s[:n]` is `s[:2]`, which gives `'he'`.
3. Concatenating them gives `'llo' + 'he'`.
"""

GIVEN = "```input\nf('hello', 2)\n```\n"
ANSWERS = [  # name, text, value
    ("steps, then a labelled line", STEPS + "\n**Output:** `'llohe'`", RIGHT),
    ("steps and a line in one paragraph", "s[2:] = 'llo'\ns[:2] = 'he'\nOutput: 'llohe'", RIGHT),
    ("steps, then a sentence", STEPS + "\nSo, the function returns `'llohe'`.", RIGHT),
    ("steps only", STEPS, None),
    ("a remark after it", "**Answer:** `'llohe'`\n\nThe first two letters go to the end.", RIGHT),
    ("a doubt after it", "**Answer:** `'llohe'`\n\nWait, that is the wrong order.", None),
    ("two labelled lines", "Output: 'a'\n\nOutput: 'b'\n\nI am done.", None),
    ("a step's output", "Output: 'llo'\n\nFinal output: 'llohe'\n\nDone.", RIGHT),
    ("a repeated question", f"```python\n{F}```\n{GIVEN}```output\n'llohe'\n```", RIGHT),
    ("a repeated program", f"```python\n{F}```\n\nThe call returns `'llohe'`.", RIGHT),
    ("an input block last", "```output\n'llohe'\n```\n```input\nf('hello', 2)\n```", RIGHT),
    ("titles", "**Input:**\n```\nf('hello', 2)\n```\n**Output:**\n```\n'llohe'\n```", RIGHT),
    ("titles, other way", "Output:\n```\n'llohe'\n```\nInput:\n```\nf('hello', 2)\n```", RIGHT),
    ("a comment", f"```python\n{F}\nprint(f('hello', 2))  # Output: 'llohe'\n```", RIGHT),
    ("a comment below", "```python\nprint(f('hello', 2))\n# Output: 'llohe'\n```", RIGHT),
    ("a variable", f"```python\n{F}\nresult = f('hello', 2)\nprint(result)  # 'llohe'\n```", RIGHT),
    ("steps in code", "```python\nt = 'hello'[2:]  # 'llo'\nf('hello', 2)  # 'llohe'\n```", RIGHT),
    ("two comments", "```python\nprint(f('a', 1))  # 'a'\nprint(f('b', 1))  # 'b'\n```", None),
    ("an unquoted text", "```python\nprint(f('hello', 2))  # llohe\n```", None),
    ("JSON", '```json\n{"output": "llohe"}\n```', RIGHT),
    ("JSON without a block", '{"output": "llohe"}', RIGHT),
    ("a JSON text", '```json\n"llohe"\n```', RIGHT),
    ("code, then prose", "```python\n'llo' + 'he'\n```\nSo the answer is `'llohe'`.", RIGHT),
    ("two answers", "```\n'llohe'\n```\nSo the answer is `'ohell'`.", None),
    ("the same twice", "```\n'llohe'\n```\nSo the answer is `'llohe'`.", RIGHT),
    ("the reason below", "```\n'llohe'\n```\nThis is because `s[2:]` is `'llo'`.", RIGHT),
    ("only a value first", "`'llohe'`\n\nThe first two letters go to the end.", RIGHT),
    ("a sentence first", "The call returns 'llohe'.\n\n### Explanation\nSlices.", RIGHT),
    ("a step first", "f('ab', 1) returns 'ba'.\n\nSo the letters move.", None),
    ("a last call", "f('ab', 1) = 'b' + 'a' = 'ba'\nf('hello', 2) = 'llo' + 'he' = 'llohe'", RIGHT),
    ("code without a block", "print(f('hello', 2))  # 'llohe'", RIGHT),
    ("a label above a block", "The call will return:\n\n```python\n'llohe'\n```\nDone.", RIGHT),
    ("a title of both", "The result of the call:\n```\n'llohe'\n```", RIGHT),
    ("a title of code", f"It returns:\n```python\ns[n:] + s[:n]\n```\nSo it gives {RIGHT}.", RIGHT),
    ("LaTeX around a text", "The answer is:\n$$\n\\boxed{\\texttt{'llohe'}}\n$$", RIGHT),
    ("an unquoted boxed text", "$\\boxed{\\text{llohe}}$", None),
    ("a boxed line", STEPS + "\nThe final answer is $\\boxed{'llohe'}$.", RIGHT),
    ("a quoted call", "When we call `f('hello', 2)`, it returns `'llohe'`.", RIGHT),
    ("a heading", "### Execution\n\nSlices are joined.\n\n### Output\n\n'llohe'", RIGHT),
    ("a heading, then a remark", "### Output\n`'llohe'`\n\n### Explanation\nSlices.", RIGHT),
    ("a thought", "<think>\nOutput: 'a'\n</think>\n\nOutput: 'llohe'", RIGHT),
    ("a blank before the colon", "Output : 'llohe'", RIGHT),
    ("tags", "<output>'llohe'</output>", RIGHT),
    ("a mark of the byte order", "\ufeff'llohe'", RIGHT),
    ("the returned text", "The returned string is 'llohe'.", RIGHT),
    ("what it should return", "The function should return 'llohe'.", RIGHT),
    ("politeness", "Sure! The answer is:\n\n'llohe'\n\nLet me know if it helps.", RIGHT),
    ("an exclamation", "The answer is 'llohe'!", RIGHT),
    ("a correction", "Output: 'a'\nCorrected output: 'llohe'", RIGHT),
    ("a corrected block", "```output\n'a'\n```\nThat is wrong.\n\nOutput: 'llohe'", RIGHT),
    ("a block, then a remark", "```output\n'llohe'\n```\nThis actually joins slices.", RIGHT),
    ("called wrong", "Output: 'a' (wrong)", None),
    ("no longer so", "The result is no longer `'a'`.", None),
    ("at the beginning", "Initially, the result is `'a'`.", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "value"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_what_a_call_returns(name: str, text: str, value: str | None) -> None:
    assert parse_answer(text, DEDUCTION, "chat", F) == value


def test_json_is_read_as_python() -> None:
    text = '```json\n{"a": true, "b": [null]}\n```'
    assert parse_answer(text, DEDUCTION, "chat", F) == "{'a': True, 'b': [None]}"
    own = "def f(x):\n    return {'result': x}\n"
    text = '```json\n{"result": 5}\n```'
    assert parse_answer(text, DEDUCTION, "chat", own) == "{'result': 5}"
    inputs = ("({'result': 5},)",)
    assert parse_answer(text, DEDUCTION, "chat", F, inputs) == "{'result': 5}"
    assert parse_answer(text, DEDUCTION, "chat", F, ("(5,)",)) == "5"
    assert parse_answer("```output\n{'result': 5}\n```", DEDUCTION, "chat", F) == "{'result': 5}"


INPUTS = [  # name, text, arguments
    ("an output below", "```python\nprint(f('hello', 2))\n```\n```output\n'llohe'\n```", INPUT),
    ("a message", "```message\nmoves letters\n```\n```python\nf('hello', 2)\n```", INPUT),
    ("only the output", "```output\n'llohe'\n```", None),
    ("titles", "Input:\n```\nf('hello', 2)\n```\nOutput:\n```\n'llohe'\n```", INPUT),
    ("labels", "Input: f('hello', 2)\nOutput: 'llohe'", INPUT),
    ("bold label", "**Answer:** `f('hello', 2)`", INPUT),
    ("bold", "**f('hello', 2)**", INPUT),
    ("boxed", r"$\boxed{f('hello', 2)}$", INPUT),
    ("a sentence", "So the input is f('hello', 2).", INPUT),
    ("a title of both", "The input for this output:\n```\nf('hello', 2)\n```", INPUT),
    ("a value that is returned", "The call returns:\n```\n'llohe'\n```", None),
    ("a sentence that gives both", "The call `f('hello', 2)` returns `'llohe'`.", INPUT),
    ("with an equals sign", "Therefore f('hello', 2) = 'llohe'.", INPUT),
    ("parameters", "So `s = 'hello'` and `n = 2`.", INPUT),
    ("joined parameters", "Input: s = 'hello' and n = 2", INPUT),
    ("boxed with a text in it", r"$$\boxed{f(\text{'hello'}, 2)}$$", INPUT),
    ("a label, then trials", "f('llohe', 2): no.\n\nAnswer: f('hello', 2)", INPUT),
    ("parameters that differ", "Either `s = 'hello'` and `n = 2` or `s = 'a'`.", None),
    ("one of two parameters", "Take `n = 2`.", None),
    ("a remark after it", "f('hello', 2)\n\nThe last two letters came first.", INPUT),
    ("a label, then a remark", "**Input:** `f('hello', 2)`\n\nThis gives it.", INPUT),
    ("a label and values", "**Input:** `'hello', 2`\n\nThis gives it.", INPUT),
    ("two calls", "f('hello', 2)\nf('ohell', 1)", None),
    ("a call that is wrong", "f('llohe', 2) is wrong.", None),
    ("a repeated program", f"```python\n{F}\nprint(f('hello', 2))\n```", INPUT),
    ("a program, then a call", f"```python\n{F}```\nThe call is `f('hello', 2)`.", INPUT),
    ("a printed variable", "```python\nt = f('hello', 2)\nprint(t)  # 'llohe'\n```", INPUT),
    ("variables", "```python\ns = 'hello'\nn = 2\nprint(f(s, n))\n```", INPUT),
    ("JSON", '```json\n{"s": "hello", "n": 2}\n```', INPUT),
    ("JSON in an object", '```json\n{"input": {"s": "hello", "n": 2}}\n```', INPUT),
    ("two blocks that differ", "```\nf('hello', 2)\n```\nSo the call is `f('a', 1)`.", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "args"), INPUTS, ids=[row[0] for row in INPUTS])
def test_what_is_put_in(name: str, text: str, args: str | None) -> None:
    assert parse_answer(text, ABDUCTION, "chat", F) == args


NUMBERS = "def f(n, k=2):\n    return [0] * n\n"


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("The input is 3.", "(3,)"),
        ("Input: -3.", "(-3,)"),
        ("**3.**", "(3,)"),
        ("n = 3.", "(3,)"),
        ("The input is n=3 and k=1.", "(3, 1)"),
        ("Input: 3.\n\nIt gives three zeros.", "(3,)"),
        ("The input is 3.5.", "(3.5,)"),
        ("3.0", "(3.0,)"),
        ("```input\n3.\n```", "(3.0,)"),
        ("```input\n3,\n1\n```", "(3, 1)"),
        ("```input\n[\n  3,\n],\n1,\n```", "([3], 1)"),
    ],
)
def test_numbers_that_are_put_in(text: str, args: str) -> None:
    assert parse_answer(text, ABDUCTION, "chat", NUMBERS) == args


CODE = f"```python\n{F}```\n"
PROPOSALS = [  # name, text, arguments
    ("a labelled call", CODE + "Example call: `f('hello', 2)`", INPUT),
    ("a bold label", CODE + "**Example call:** `f('hello', 2)`", INPUT),
    ("a label above", CODE + "Call:\n`f('hello', 2)`", INPUT),
    ("an item", CODE + "- Input: f('hello', 2)", INPUT),
    ("values", CODE + "Input: 'hello', 2", INPUT),
    ("values in bold", CODE + "**Input:** `'hello', 2`\n**Output:** `'llohe'`", INPUT),
    ("a titled block", CODE + "Input:\n```\n'hello', 2\n```\nOutput:\n```\n'llohe'\n```", INPUT),
    ("a usage", CODE + "### Example usage:\n```python\nprint(f('hello', 2))\n```", INPUT),
    ("an unlabelled block", f"Here is one:\n\n```\n{F}\nprint(f('hello', 2))", INPUT),
    ("a commented print", f"```python\n{F}\nprint(f('hello', 2))  # 'llohe'\n```", INPUT),
    ("a quoted call", CODE + "Calling `f('hello', 2)` returns `'llohe'`.", INPUT),
    ("a comment", f"```python\n{F}\n# Example: f('hello', 2) -> 'llohe'\n```", INPUT),
    (
        "a main function",
        f"```python\n{F}\ndef main():\n    print(f('hello', 2))\n\nmain()\n```",
        INPUT,
    ),
    ("a variable with a star", f"```python\n{F}\nt = ('hello', 2)\nprint(f(*t))\n```", INPUT),
    ("an expected output", CODE + "Output: 'llohe'", None),
    ("another function", CODE + "F('hello', 2)", None),
    ("a plain remark", CODE + "Note: it moves 2 letters.", None),
]


@pytest.mark.parametrize(("name", "text", "args"), PROPOSALS, ids=[row[0] for row in PROPOSALS])
def test_what_a_proposal_calls(name: str, text: str, args: str | None) -> None:
    proposal = parse_proposal(text, DEDUCTION, "chat")
    assert (None if proposal is None else proposal.inputs) == (None if args is None else (args,))
    if proposal is not None:
        assert proposal.program.partition("\n\n#")[0].rstrip() == F.rstrip()


HOSTILE = [
    "*" * 50_000,
    "output of " + "*" * 50_000,
    "The output of " + " " * 50_000,
    "\\boxed{" * 14_000,
    "`f(" * 30_000,
    "result" + "=1" * 40_000,
    "# " * 50_000,
    "'" + "#" * 50_000,
    "Output:\n" * 12_000,
    "Output: 1\n" * 10_000,
    ">>> f(1)\n" * 10_000,
    "$" * 50_000,
    "the " * 25_000 + "answer is 5",
    "{" * 50_000,
    "Input: `" * 10_000,
    "f(1) = " * 10_000,
    "answer is " * 10_000 + "(" * 10_000,
    "`f(1)` and `2` " * 7000,
    "s = 1 and " * 10_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("block", ["", "output", "json", "python"])
def test_long_texts_are_read_in_time(text: str, block: str) -> None:
    whole = f"```{block}\n{text}\n```" if block else text
    began = time.process_time()
    for kind in TaskKind:
        parse_answer(whole, kind, "chat", F)
        parse_proposal(CODE + whole, kind, "chat", F)
    assert time.process_time() - began < 5


VARIABLES = "s = 'hello'\nn = 2\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{CODE}```python\n{VARIABLES}print(f(s, n))\n```",
        f"{CODE}For example:\n\n```\n{VARIABLES}result = f(s, n=n)\nprint(result)\n```\nDone.",
        f"{CODE}```python\n{VARIABLES}assert f(s, n) == 'llohe'\n```",
        f"{CODE}```python\nt = ('hello', 2)\nprint(f(*t))\n```\n```output\n'llohe'\n```",
        f"{CODE}```python\ndef main():\n    s, n = 'a', 1\n    s = 'hello'\n    print(f(s, 2))\n"
        "main()\n```",
        f"{CODE}```python\n{VARIABLES}```\nand\n```python\nprint(f(s, n))\n```",
        f"```python\n{F}\n{VARIABLES}```\nCall it:\n```python\nprint(f(s, n))\n```",
        f"```python\n{F}```\nUsage:\n```python\nif __name__ == '__main__':\n    s = 'hello'\n"
        "    print(f(s, 2))\n```",
        f"The signature:\n```python\ndef f(s, n):\n```\n{CODE}```python\n{VARIABLES}f(s, n)\n```",
    ],
)
def test_an_input_may_be_given_by_variables(text: str) -> None:
    proposal = parse_proposal(text, DEDUCTION, "chat")
    assert proposal is not None and proposal.inputs == (INPUT,)
    assert proposal.program.startswith(F)


def test_inputs_for_induction_may_be_given_by_variables() -> None:
    text = f"```message\nIt turns.\n```\n```python\n{VARIABLES}print(f(s, n))\n```\n"
    text += "```python\ns = 'ab'\nprint(f(s, 1))\n```"
    proposal = parse_proposal(text, INDUCTION, "chat", F)
    assert proposal is not None and proposal.inputs == (INPUT, "('ab', 1)")
