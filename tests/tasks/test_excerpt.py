"""Which part of a text is a program, and which of its statements a function needs."""

from __future__ import annotations

import ast
import time

import pytest

from azr_mlx.evaluation.benchmarks import extract_code
from azr_mlx.tasks.excerpt import Room, completed, joined, longest, needed_by
from azr_mlx.tasks.parse import parse_answer, parse_proposal
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure

OWN = "def f(s):\n    return sum(c in VOWELS for c in s)\n"
MEMO = "def f(n):\n    return f.memo.get(n) or g(n)\n"
G = "def g(n):\n    return 1\n"
PLAIN = "def f(n):\n    return n\n"


def induction(code: str) -> str | None:
    return parse_answer(f"```python\n{code}```", TaskKind.INDUCTION, "chat")


@pytest.mark.parametrize(
    "above",
    [
        "VOWELS = 'aeiou'\n\n",
        "MOD: int = 7\nVOWELS = 'a'\n",
        "import math\nVOWELS = 'a'\n",
        "try:\n    import math\nexcept ImportError:\n    math = None\nVOWELS = 'a'\n",
        "VOWELS = []\ndef build():\n    VOWELS.append('a')\nbuild()\n",
        "@staticmethod\ndef g():\n    pass\nVOWELS = 'a'\n",
        "".join(f"V{i} = {i}\n" for i in range(200)) + "VOWELS = 'a'\n",
    ],
)
def test_what_stands_above_f_belongs_to_it(above: str) -> None:
    assert induction(above + OWN) == above + OWN
    assert parse_answer(f"So:\n\n{above}{OWN}", TaskKind.INDUCTION, "chat") == above + OWN
    proposal = parse_proposal(
        f"```python\n{above}{OWN}```\n```input\n'abc'\n```", TaskKind.DEDUCTION, "chat"
    )
    assert proposal is not None and proposal.program == above + OWN
    assert proposal.inputs == ("('abc',)",)


@pytest.mark.parametrize("word", ["Python", "solution.py", "'''Doc.'''", "Note: linear", "# it"])
def test_a_word_above_a_program_is_no_part_of_it(word: str) -> None:
    assert induction(f"{word}\nVOWELS = 'a'\n{OWN}") == f"VOWELS = 'a'\n{OWN}"


@pytest.mark.parametrize(
    ("behind", "kept"),
    [
        ("f.memo = {}\nprint('hi')\n" + G, "f.memo = {}\n" + G),
        ("'text'\n" + G, G),
        ("if True: pass\nx = 5\n" + G + "print(f(2))\n", G),
        (G + "@property\ndef main():\n    pass\nprint(1)\n", G),
        ("print(f(3))\nfrom m import g\n", "from m import g\n"),
    ],
)
def test_what_f_needs_is_kept_wherever_it_stands(behind: str, kept: str) -> None:
    assert induction(MEMO + behind) == MEMO + kept


@pytest.mark.parametrize(
    "behind",
    [
        "for x in [1]:\n    assert f(x) == 3\n",
        "while True: print(f(int(input())))\n",
        "try:\n    n = int(input())\nexcept EOFError: pass\n",
        "with open('x') as h: print(f(h))\n",
        "n = 3\nprint(f(n))\n",
        "Note: linear\n",
        "def main():\n    print(f(2))\nmain()\n",
        "assert f(1) == 1\n\ndef f(m):\n    return m + 1\n",
    ],
)
def test_what_f_does_not_need_is_left_out(behind: str) -> None:
    assert induction(PLAIN + behind) == PLAIN


TALLY = "def tally(word):\n    return {c: word.count(c) for c in word}\n"


@pytest.mark.parametrize(
    "answer",
    [
        f"```python\n```python\n{TALLY}```\n```",
        f"[BEGIN]\n{TALLY}[DONE]",
        f"{TALLY}\nDone\n",
        f"{TALLY}\nComplexity: O(n)\n",
        f"{TALLY}\nComplexity, linear\n",
        f"```python\n!pip install x\n{TALLY}```",
        "```python\nfrom collections import Counter\n%matplotlib inline\ndef tally(w):\n"
        "    return dict(Counter(w))\n```",
        f"```python\nHere is the solution:\n{TALLY}```",
        f"```python\nsolution.py\n{TALLY}```",
        f"```python\n{TALLY}text = sys.stdin.readline(); n = int(text)\n```",
        f"```python\n{TALLY}if len(sys.argv) < 2: raise SystemExit('usage')\n```",
        f"```python\n{TALLY}x = open('nope.txt').read()\n```",
        f"```python\n{TALLY}```\nIn short:\n"
        "```python\ndef tally(word):\n    ...\n    return out\n```",
        f"```python\n{TALLY}```\nIn short:\n```python\ndef tally(word):\n    return ...\n```",
        "1. ```python\n" + "".join(f"   {line}\n" for line in TALLY.splitlines()) + "   ```\n",
        f"```python\n{TALLY.rstrip()}```",
        "```python\nfrom collections import Counter\n```\nThen:\n```python\ndef tally(w):\n"
        "    return dict(Counter(w))\n```",
        "```python\ndef tally(w):\n    return helper(w)\n```\nwith\n```python\nN = 0\n"
        "def helper(w):\n    return {c: w.count(c) + N for c in w}\nprint(helper(1))\n```",
        f"```python\n{TALLY}DATA = [\n" + "    (1, 2),\n" * 1000,
    ],
)
def test_a_function_is_found_where_models_put_it(answer: str) -> None:
    made: dict[str, object] = {}
    exec(extract_code(answer, "tally"), made)  # ours, not a model's
    assert made["tally"]("aab") == {"a": 2, "b": 1}  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    [
        "@property\n" * 200,
        "@a\n" * 5000,
        "def f(x)\n" * 5000,
        "```\n" * 8000,
        "```python\ndef f(x:\n```\n" * 2000,
        '```python\ndef f():\n    """\n```\n' * 2000,
        "~~~ \n~~~\n" * 2000,
        "x = 1\n" * 1500 + "def f(x)\n" * 1000,
        " " * 20_000 + "x```",
        "```python\ndef f(x):\n    return x\n" + "D = [\n" * 3000,
    ],
)
def test_broken_programs_are_read_to_an_end(text: str) -> None:
    began = time.perf_counter()
    extract_code(text, "f")
    for kind in TaskKind:
        parse_answer(text, kind, "chat")
        parse_proposal(text, kind, "chat")
    assert time.perf_counter() - began < 20, "2 s on a machine with nothing else to do"


def test_the_longest_program_that_a_text_begins_with() -> None:
    assert longest("a = 1\nb = (\n2\n", Room()) == "a = 1\n"
    assert longest("a = 1\nb c\n", Room()) == "a = 1\n" and longest("b c", Room()) == ""
    assert longest("a = '''\n" * 3, Room()) == "a = '''\na = '''\n"


def test_names_are_followed_through_functions() -> None:
    code = "def f(x):\n    return g(x)\nprint(1)\ndef g(x):\n    return T[x]\n"
    code += "T = {}\nT[1] = 2\nU = 3\n"
    tree = ast.parse(code)
    assert [node.lineno for node in needed_by(tree.body, "f")] == [1, 4, 6, 7]
    everything = needed_by(tree.body, "f", all_definitions=True)
    assert [node.lineno for node in everything] == [1, 4, 6, 7]


def test_what_is_imported_from_the_future_stays_in_front() -> None:
    future = "from __future__ import annotations\n"
    code = "def f(x: K) -> int:\n    return N\n"
    assert completed(future + code, ["N = 3\n"]) == f"{future}N = 3\n{code}"
    cut = "def f(x:\n"
    assert joined("N = 3\n", future + cut) == f"{future}N = 3\n{cut}"
    assert joined("N = 3\n", future.rstrip()) == f"{future}N = 3\n"
    text = "def f():\n    return '''\nfrom __future__ import annotations\n'''\n"
    assert joined("N = 3\n", text) == "N = 3\n" + text


def test_code_is_completed_by_what_it_lacks_alone() -> None:
    code = "def f(x):\n    return g(x) + len(x)\n"
    other = "def g(x):\n    return h(x)\ndef h(x):\n    return 1\n"
    other += "def k(x):\n    return 2\nprint(g(1))\n"
    whole = completed(code, [other])
    assert whole == "def g(x):\n    return h(x)\ndef h(x):\n    return 1\n" + code
    assert completed(code, ["not python"]) == code and completed("(", [other]) == "("


WHOLE = "def f(x):\n    y = x + 1\n    return y\n"


@pytest.mark.parametrize(
    "later",
    [
        "def f(x):\n",
        "def f(x) -> int\n",
        "def f(x):\n    # your code here\n",
        "def f(x):\n    return (x +\n",
        "def f(x):\n    return {c: x.count(c) for c in\n",
        "class T:\n    def f(self, x):\n        return 1\n",
        "class T:\n    @staticmethod\n    def f(x): return 1\nassert T.f(1) == 1\n",
        "def g(x):\n    def f(y):\n        return y\n    return f(x)\n",
        "from solution import f\nclass T:\n    def f(self): return f(1)\n",
        "def f(x):\n    return None\n",
        "from typing import overload\n@overload\ndef f(x: int) -> int: ...\n",
        "f = f(3)\nclass T:\n    def f(self): return 2\n",
    ],
)
@pytest.mark.parametrize("end", ["```", "```\nThat is it.", ""])
def test_a_block_that_is_no_program_does_not_replace_one(later: str, end: str) -> None:
    text = f"```python\n{WHOLE}```\nThen:\n```python\n{later}{end}"
    assert extract_code(text, "f") == WHOLE
    assert parse_answer(text, TaskKind.INDUCTION, "chat") == WHOLE


@pytest.mark.parametrize("cut", ["def f(x):\n    y = 1\n    ret", "def f(x):\n    y = x + 1\n"])
def test_a_block_that_is_cut_does_not_replace_a_whole_one(cut: str) -> None:
    whole = f"```python\n{WHOLE}```\n"
    assert extract_code(f"{whole}Or:\n```python\n{cut}", "f") == WHOLE
    assert extract_code(f"````md\n{whole}````\nOr:\n```python\n{cut}", "f") == WHOLE
    assert extract_code(f"```python\n{cut}", "f") == cut, "there is no other"
    assert extract_code(f"```python\ndef f(x): ...\n```\n```python\n{cut}", "f") == cut


@pytest.mark.parametrize(
    "last",
    [
        "def f(x):\n    return x\n",
        "if True:\n    def f(x):\n        return x\n",
        "def f(x):\n    return x\nclass P:\n    def f(self, x): ...\n",
        "@overload\ndef f(x: int): ...\ndef f(x):\n    return x\n",
        "def g(x):\n    return x\nf = g\ndef h():\n    def f(): ...\n",
    ],
)
def test_the_last_program_counts(last: str) -> None:
    text = f"```python\n{WHOLE}```\nBetter:\n```python\n{last}```"
    assert extract_code(text, "f") == last
    assert extract_code(text.removesuffix("```").rstrip() + "```", "f").rstrip() == last.rstrip()


def test_a_lambda_is_a_program_too() -> None:
    text = "```python\nimport math\n```\n```python\nf = lambda x: x\n```\n```python\nf(1)\n```"
    assert extract_code(text, "f") == "f = lambda x: x\n"
