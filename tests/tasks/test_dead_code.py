# ruff: noqa: E501
"""What a program carries for show is taken away; what plays a part stays."""

import ast

import numpy as np
import pytest

from azr_mlx.tasks import templates
from azr_mlx.tasks.parse import clean_source, shape, skeleton
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure

PLAIN = "def f(x):\n    return x + 1\n"
SHOW = {
    "after a return": "def f(x):\n    return x + 1\n    y = [x] * 3\n    return sorted(y)\n",
    "after a raise in a branch": "def f(x):\n    return x + 1\n    if x:\n        raise ValueError\n        x = 2\n",
    "a first f": "def f(x):\n    return [v for v in x if v]\n\ndef f(x):\n    return x + 1\n",
    "three of them": "def f(x):\n    pass\ndef f(y):\n    pass\ndef f(x):\n    return x + 1\n",
    "a first f before an import": "def f(x):\n    return 0\nimport math\ndef f(x):\n    return x + 1\n",
    "a function that nobody calls": "def g(x):\n    return x * 2\ndef f(x):\n    return x + 1\n",
    "functions that only the unused call": "def h(x):\n    return x * 2\ndef g(x):\n    return h(x)\ndef f(x):\n    return x + 1\n",
    "a function that calls itself alone": "def g(x):\n    return g(x)\ndef f(x):\n    return x + 1\n",
    "an inner function": "def f(x):\n    def g(y):\n        return y\n    return x + 1\n",
    "an import": "import math\nfrom itertools import chain as c\ndef f(x):\n    import re\n    return x + 1\n",
    "a value that nobody reads": "K = 7\ndef f(x):\n    y = 3\n    return x + 1\n",
    "texts and names as statements": "def f(x):\n    'why'\n    x\n    ...\n    pass\n    return x + 1\n",
    "a branch that is never taken": "def f(x):\n    if False:\n        x = x * 2\n    return x + 1\n",
    "a branch that is always taken": "def f(x):\n    if 1:\n        return x + 1\n    else:\n        return x\n    return 5\n",
    "a loop that is never entered": "def f(x):\n    while 0:\n        x += 1\n    return x + 1\n",
    "an else for nothing": "def f(x):\n    for v in ():\n        pass\n    else:\n        pass\n    return x + 1\n",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in SHOW if name != "an else for nothing"])
def test_what_is_for_show_goes(name: str) -> None:
    assert clean_source(SHOW[name]) == PLAIN
    assert skeleton(SHOW[name]) == skeleton(PLAIN)
    assert shape(SHOW[name]) == shape(PLAIN)


def test_a_function_under_another_name_is_cleaned_inside() -> None:
    code = (
        SHOW["after a return"].replace("return x", "K = 3\n    return x").replace("def f", "def g")
    )
    assert clean_source(code) == PLAIN.replace("def f", "def g")


def test_an_else_for_nothing_goes() -> None:
    assert "else" not in clean_source(SHOW["an else for nothing"])


def test_all_branches_that_leave_end_a_block() -> None:
    code = "def f(x):\n    if x > 1:\n        return 1\n    elif x:\n        return 2\n    else:\n        return 3\n"
    assert clean_source(code + "    return x * x\n") == clean_source(code)


KEPT = {
    "a generator": "def f(x):\n    return g(x)\n\ndef g(x):\n    return\n    yield x\n",
    "a class and its parts": "class A:\n    k = 3\n\n    def m(self):\n        return self.k\n\ndef f(x):\n    return A().m() + x\n",
    "a function that a call finds": "def g(x):\n    return x\n\ndef f(x):\n    return g(x)\n",
    "a first f that was called": "def f(x):\n    return x\nk = f(2)\n\ndef f(x):\n    return x + k\n",
    "a decorator": "import functools\n\n@functools.cache\ndef f(x):\n    return x\n",
    "a default that is computed": "k = []\n\ndef g(x=k.append(1)):\n    return x\n\ndef f(x):\n    return len(k)\n",
    "a value that is read later": "K = 7\n\ndef f(x):\n    return x + K\n",
    "a value that is added to": "def f(x):\n    t = 0\n    for v in x:\n        t += v\n    return x\n",
    "a value that is deleted": "def f(x):\n    t = 0\n    del t\n    return x\n",
    "a global": "k = 0\n\ndef f(x):\n    global k\n    k = x\n    return 1\n",
    "a statement that does something": "def f(x):\n    x.append(1)\n    return x\n",
    "a loop with an end": "def f(x):\n    while True:\n        x += 1\n        if x > 9:\n            break\n    return x\n",
    "a value that is computed": "def f(x):\n    y = 1 // x\n    return x\n",
    "functions of a module without f": "K = 7\n\ndef g(x):\n    return x + 1\n\ndef h(x):\n    return x\n",
    "a function in a branch": "if K:\n\n    def g(x):\n        return x + 1\n",
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_what_plays_a_part_stays(name: str) -> None:
    assert clean_source(KEPT[name]) == ast.unparse(ast.parse(KEPT[name])) + "\n"


@pytest.mark.parametrize("which", ["programs", "chains"])
def test_programs_of_templates_lose_nothing(which: str) -> None:
    for seed in range(100):
        draw = np.random.default_rng(seed)
        program = templates.draw(TaskKind.DEDUCTION, 0.1 + seed % 9 / 10, draw, which=which).program
        assert clean_source(program) == program


@pytest.mark.parametrize(
    "source",
    [
        "def f(x):\n" + "    return x\n" * 500,
        "def f(x):\n    return x\n    " + "(" * 80 + "x" + ")" * 80 + "\n",
        "if 0:\n    def f(x):\n        return x\n",
        "def g(x):\n    return x\n",
        "x = 1\n",
        "",
        "def f(x):\n"
        + "".join("    " * i + "if x:\n" for i in range(1, 90))
        + "    " * 90
        + "return 1\n",
    ],
)
def test_any_program_gives_a_program(source: str) -> None:
    once = clean_source(source)
    ast.parse(once)
    assert clean_source(once) == once
