"""What a function needs of its program, wherever it stands, and what only shows what it does."""

from __future__ import annotations

import ast
import contextlib
import io
import time

import pytest

from azr_mlx.evaluation.benchmarks import extract_code
from azr_mlx.tasks.parse import parse_answer, parse_proposal
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure

F = "def f(x):\n    return T[x]\n"


def value(code: str | None, name: str = "f") -> object:
    """What the function returns for 2."""
    assert code is not None
    made: dict[str, object] = {"__name__": "solution"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, made)  # ours, not a model's
        return made[name](2)  # type: ignore[operator]


def read(code: str) -> list[str | None]:
    """The code as it is read in each way."""
    block = f"Sure:\n```python\n{code}```\nDone."
    whole = parse_answer(code, TaskKind.INDUCTION, "chat")
    return [extract_code(block, "f"), parse_answer(block, TaskKind.INDUCTION, "chat"), whole]


FILLS = [
    "T = []\nfor i in range(9):\n    T.append(i * i)\n",
    "T = []\nfor i in range(9):\n    T.append(i * i)\n    print(i)\n",
    "T = [1]\nwhile len(T) < 9:\n    T.append(T[-1] * 2)\n",
    "T = []\nif not T:\n    T.extend([1, 2, 3])\n",
    "T = {}\ntry:\n    T.update({2: 5})\nexcept TypeError:\n    pass\n",
    "import contextlib\nT = {}\nwith contextlib.suppress(KeyError):\n    T.update({2: 5})\n",
    "T = {}\nmatch 3:\n    case 3:\n        T.update({2: 1})\n",
    "T = {}\ndef build():\n    T[2] = 4\nbuild()\n",
    "T = {}\ndef build(t):\n    t[2] = 4\nbuild(T)\n",
    "T = {}\ndef build(*, t):\n    t[2] = 4\nbuild(t=T)\n",
    "T = {}\ndef build(t=T):\n    t[2] = 4\nbuild()\n",
    "T = {}\ndef build():\n    T[2] = 4\n    print('built', T)\nbuild()\n",
    "T = {}\ndef build():\n    T[2] = 4\n    assert T\nbuild()\n",
    "T = {}\ndef put(i):\n    T[i] = 4\nfor i in range(5):\n    put(i)\n",
    "T = {}\ndef put(i):\n    T[i] = 4\ndef build():\n    for i in range(5):\n"
    "        put(i)\nbuild()\n",
    "T = {}\ndef put(t):\n    t[2] = 4\ndef build(t):\n    put(t)\nbuild(T)\n",
    "T = {}\ndef build():\n    def put(i):\n        T[i] = i\n    put(2)\nbuild()\n",
    "T = None\ndef build():\n    global T\n    T = [1, 2, 3]\nbuild()\n",
    "T = {}\nbuild = lambda: T.update({2: 3})\nbuild()\n",
    "T = {}\nclass Builder:\n    def run(self):\n        T[2] = 7\nb = Builder()\nb.run()\n",
    "T = {}\nclass Builder:\n    def __init__(self, t):\n        t[2] = 7\nBuilder(T)\n",
    "T = {}\ndef build():\n    T[2] = 4\n    return True\nok = build()\n",
    "T = []\n[T.append(i) for i in range(5)]\n",
    "T = []\n_ = [T.append(i) for i in range(5)]\n",
    "T = []\nlist(map(T.append, range(5)))\n",
    "T = {}\ndef put(i):\n    T[i] = 1\nlist(map(put, range(5)))\n",
    "from heapq import heapify\nT = [1, 2, 0]\nheapify(T)\n",
    "import heapq\nT = [0, 5, 1, 7]\nleast = heapq.heappop(T)\n",
    "from bisect import insort\nT = [3, 4]\ninsort(T, 1)\n",
    "T = [3, 4, 5, 6]\nlast = T.pop(0)\n",
    "T = [3, 4, 5, 6]\ndel T[0]\n",
    "A = []\nT = A\nfor i in range(5):\n    A.append(i)\n",
    "A = []\nfor i in range(5):\n    A.append(i)\nT = [a * 2 for a in A]\n",
    "class T:\n    def __class_getitem__(cls, i):\n        return cls.v\nsetattr(T, 'v', 3)\n",
    "T = {}\ndef named(k):\n    def wrap(g):\n        T[k] = 5\n        return g\n    return wrap\n"
    "print('x')\n@named(2)\ndef two():\n    return 2\n",
]


@pytest.mark.parametrize("fills", FILLS)
def test_what_fills_a_table_is_kept(fills: str) -> None:
    for code in (fills + F, F + fills, f"{F}print('hi')\n{fills}"):
        wanted = value(code)
        for found in read(code):
            assert value(found) == wanted, found
    blocks = f"```python\n{fills}```\nThen:\n```python\n{F}```\n"
    assert value(extract_code(blocks, "f")) == wanted


REBOUND = [
    "def f(x):\n    return x + 1\n_old = f\ndef f(x):\n    return _old(x) * 2\n",
    "def f(x):\n    return x + 1\n_old = f\nf = lambda x: _old(x) * 2\n",
    "def f(x):\n    return x + 1\ndef twice(g):\n    return lambda x: g(g(x))\nf = twice(f)\n",
    "def f(x):\n    return x + 1\nprint(f(1))\ndef twice(g):\n    return lambda x: g(g(x))\n"
    "f = twice(f)\nprint(f(2))\n",
    "def f(x):\n    return x + 1\nf = (lambda g: lambda x: g(x) * 5)(f)\n",
    "import functools\ndef f(x, n=0):\n    return x + n\nf = functools.partial(f, n=4)\n",
    "def f(x):\n    return x + 1\ndef twice(g):\n    return lambda x: g(g(x))\n"
    "try:\n    f = twice(f)\nexcept TypeError:\n    pass\n",
    "def f(x):\n    return x + 1\n_old = f\nK = 3\ndef g(x):\n    return _old(x) + K\n"
    "def f(x):\n    return g(x) * 2\n",
]


@pytest.mark.parametrize("code", REBOUND)
def test_a_function_made_of_the_first_is_kept(code: str) -> None:
    wanted = value(code)
    for found in read(code):
        assert value(found) == wanted, found


def test_a_later_definition_that_stays_has_what_it_needs() -> None:
    code = "def f(x):\n    return x\nassert f(1) == 1\nK = 3\ndef f(x):\n    return x + K\n"
    assert value(extract_code(code, "f")) == 5
    code = "def f(x):\n    return x\nCASES = [f(1)]\n@pick(CASES)\ndef test(x):\n    pass\n"
    assert value(extract_code(code, "f")) == 2, "what could not be reached goes, too"


OWN = (
    "def f(x):\n    if x not in memo:\n        memo[x] = h(x) + f(x - 1) if x > 0 else 0\n"
    "    return memo[x]\ndef h(x):\n    seen.append(x)\n    return T[x % 2]\n"
    "memo = {}\nseen = []\nT = [1, 2]\n"
)
SHOWS = [
    "print(f(3))\n",
    "f(3)\n",
    "assert f(1) == 1\n",
    "def main():\n    print(f(3))\nmain()\n",
    "def main():\n    n = int(input())\n    memo.clear()\n    print(f(n))\nmain()\n",
    "for i in range(3):\n    print(i, f(i))\n",
    "for t in T:\n    print(t)\n",
    "for k, v in memo.items():\n    print(k, v)\n",
    "print(T, len(T), sorted(T))\n",
    "import json\nprint(json.dumps(T))\n",
    "def demo():\n    print(h(3))\ndemo()\n",
    "def test_f():\n    assert f(1) == 2\ntest_f()\n",
    "def check(candidate):\n    assert candidate(1) == 5\ncheck(f)\n",
    "def test_a():\n    assert f(1) == 2\nTESTS = [test_a]\ndef run():\n    for t in TESTS:\n"
    "        t()\nrun()\n",
    "class Check:\n    def run(self):\n        assert f(1) == 3\nc = Check()\nc.run()\n",
    "def show(t):\n    print(t)\nshow(T)\n",
    "def display(t):\n    print(t)\ndef show(t):\n    display(t)\nshow(memo)\n",
    "with open('x') as f:\n    data = f.read()\n",
    "f = open('x')\nlines = f.readlines()\n",
    "f = f(3)\nprint(f)\n",
    "import sys\nsys.stdout.write(str(T))\n",
    "from pprint import pprint\npprint(T)\n",
    "while True:\n    memo.clear()\n    print(f(int(input())))\n",
    "if __name__ == '__main__':\n    T.append(3)\n    print(T)\n",
    "x = int(input())\nprint(x)\n",
]


@pytest.mark.parametrize("shows", SHOWS)
def test_a_demonstration_is_left_out(shows: str) -> None:
    for found in read(OWN + shows):
        tree = ast.parse(found or "")
        kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
        rest = [ast.unparse(node) for node in tree.body if not isinstance(node, kinds)]
        assert rest == ["memo = {}", "seen = []", "T = [1, 2]"]
        assert value(found) == 3


@pytest.mark.parametrize("shows", ["def g():\n    print(1)\ng()\n", "print(1)\n", "run_tests()\n"])
def test_what_only_shows_above_a_function_is_left_out(shows: str) -> None:
    found = extract_code(f"```python\n{shows}T = [1, 2, 3]\n{F}```", "f")
    assert found == shows.partition("g()\n")[0] * shows.startswith("def") + f"T = [1, 2, 3]\n{F}"


@pytest.mark.parametrize(
    "sets",
    [
        "from sys import setrecursionlimit\nsetrecursionlimit(5000)\n",
        "exec('T = [1, 2, 3]')\n",
        "class C:\n    pass\nsetattr(C, 'a', 3)\n",
    ],
)
def test_what_is_set_up_above_a_function_stays(sets: str) -> None:
    assert extract_code(f"```python\n{sets}{F}print(f(2))\n```", "f") == sets + F


def test_a_proposal_keeps_what_fills_its_table() -> None:
    program = F + FILLS[0]
    proposal = parse_proposal(f"{program}assert f(2) == 4\n", TaskKind.DEDUCTION, "few_shot")
    assert proposal is not None and value(proposal.program) == 4


@pytest.mark.parametrize(
    "code",
    [
        "".join(f"def a{i + 1}():\n    a{i}()\n" for i in range(3000)) + "a9()\n" * 3000,
        "".join(f"a{i + 1} = a{i}\na{i}.append(a{i + 1})\n" for i in range(3000)),
        "_old = f\ndef f(x):\n    return _old(x)\n" * 1500,
        "f = g(f)\n" * 3000,
        "T.append(" * 90 + "1" + ")" * 90,
        "x = 1\n" * 9000,
        "T = []; " + "T.append(1); " * 5000 + "print(1)\n",
    ],
)
def test_long_programs_are_read_in_time(code: str) -> None:
    began = time.process_time()
    extract_code(F + code, "f")
    assert time.process_time() - began < 10, "2 s on a machine with nothing else to do"


@pytest.mark.parametrize(
    "behind",
    [
        "from heapq import heapify; T = [1, 2, 0]; heapify(T)\nprint(f(1))\n",
        "T = [3]; print(T); T.append(1)\nT.append(2); T.append(4); print(f(1))\n",
        "T = [3]\nT.append(1); T.append(2)\nprint(f(1)); T.append(\n  5)\nassert f(9)\n",
        "print('é'); T = ['é',\n 'b', 'ü']; print(T)\n",
    ],
)
def test_statements_that_share_a_line_are_told_apart(behind: str) -> None:
    made = "\n".join(line for line in behind.splitlines() if "assert" not in line) + "\n"
    wanted = value(F + made)
    for found in read(F + behind):
        assert found is not None and value(found) == wanted and "print" not in found, found
