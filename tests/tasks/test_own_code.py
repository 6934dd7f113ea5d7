"""Functions of a user's own code, as programs: what they need comes with them, and nothing runs."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.errors import UsageError
from azr_mlx.tasks import code_folder
from azr_mlx.tasks.code_folder import MOST_BYTES, MOST_BYTES_READ, functions_in
from azr_mlx.tasks.own_code import OwnFunction, Rules, read_module

pytestmark = pytest.mark.pure
RULES = Rules(("math", "re", "functools"), 2000)


def own(source: str, name: str) -> OwnFunction:
    module = read_module(source)
    assert module is not None
    (found,) = [one for one in module.functions(RULES) if one.name == name]
    return found


MODULE = '''
from __future__ import annotations
import math, os
from functools import lru_cache as cached
from mine import Widget

VOWELS: str = "aeiou"
WEIGHTS = [1, 2]
print(open("/etc/passwd").read())

def vowels(text: str, more: Widget = None) -> int:
    """How many vowels a text has.

    >>> vowels("hello")
    2
    >>> vowels(text="sky")
    0
    """
    return sum(_is_vowel(c) for c in text)

@cached
def _is_vowel(c):
    return c in VOWELS

def power(n: int):
    return 1 if n == 0 else 2 * power(n - 1)

def root(x):
    return math.sqrt(x)

class Box:
    def __init__(self, n):
        self.n = n

def boxed(n):
    return Box(n).n * WEIGHTS[1]

assert vowels("hello") == 2
if __name__ == "__main__":
    print(power(3), vowels(input()), root(*[1]), boxed(n=4))
'''


def test_a_function_comes_with_what_it_needs_and_no_more() -> None:
    found = own(MODULE, "vowels")
    assert found.reason == ""
    assert found.program == (
        "from functools import lru_cache as cached\nVOWELS = 'aeiou'\n\n"
        "def f(text, more=None):\n    return sum((_is_vowel(c) for c in text))\n\n"
        "@cached\ndef _is_vowel(c):\n    return c in VOWELS\n"
    )
    assert found.inputs == ["('hello',)", "('sky',)"], "doctests first, and each once"
    assert found.message == "How many vowels a text has."
    power = own(MODULE, "power")
    assert power.program == "def f(n):\n    return 1 if n == 0 else 2 * f(n - 1)\n"
    assert power.inputs == ["(3,)"]
    assert own(MODULE, "root").program.startswith("import math\n\ndef f(x)"), "without os"
    boxed = own(MODULE, "boxed")
    assert "class Box" in boxed.program and "WEIGHTS = [1, 2]" in boxed.program
    assert boxed.inputs == ["(4,)"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os\ndef g(x):\n    return os.listdir(x)", "import"),
        ("from . import near\ndef g(x):\n    return near(x)", "import"),
        ("from math import *\ndef g(x):\n    return sqrt(x)", "unknown_name"),
        ("def g(x):\n    return open(x).read()", "banned"),
        ("def g(x):\n    print(x)", "no_return"),
        ("def g():\n    return 1", "no_params"),
        ("N = 1\nN = 2\ndef g(x):\n    return x + N", "changing_name"),
        ("N = 1\nN += 2\ndef g(x):\n    return x + N", "changing_name"),
        ("T = {}\nT['a'] = 1\ndef g(x):\n    return T.get(x, 0)", "changing_name"),
        ("T = []\nfor i in 1, 2:\n    T.append(i)\ndef g(x):\n    return x in T", "changing_name"),
        ("class A: pass\nA.n = 1\ndef g(x):\n    return A.n + x", "changing_name"),
        ("N = 1\ndef g(x):\n    global N\n    N += x\n    return N", "changing_name"),
        ("def f(x):\n    return x\ndef g(x):\n    return f(x)", "not_renamed"),
        ("def g(x):\n    f = 1\n    return g(x - f)", "not_renamed"),
        ("def g(x):\n    return '%s'" % ("a" * 3000), "too_large"),
        ("@app.route('/')\ndef g(x):\n    return x", "unknown_name"),
    ],
)
def test_what_cannot_be_a_task_says_why(source: str, reason: str) -> None:
    assert own(source, "g").reason == reason


def test_what_only_a_script_does_changes_nothing() -> None:
    source = "T = [1]\ndef g(x):\n    return x in T\nif __name__ == '__main__':\n    T.append(2)\n"
    found = own(source, "g")
    assert found.reason == "" and found.program.startswith("T = [1]")


def test_a_table_that_many_functions_use_is_written_out_once() -> None:
    table = "T = {" + ", ".join(f"{i}: 'word{i}'" for i in range(20_000)) + "}\n"
    module = read_module(table + "".join(f"def g{i}(x):\n    return T[x]\n" for i in range(50)))
    assert module is not None
    began = time.perf_counter()
    assert {one.reason for one in module.functions(RULES)} == {"too_large"}
    assert time.perf_counter() - began < 5, "0.3 s on a machine with nothing else to do"


def test_names_that_are_local_stay() -> None:
    total = "def total(xs):\n    total = 0\n    for f in xs:\n        total += f\n    return total"
    found = own(total, "total")
    assert found.program == total.replace("def total", "def f") + "\n"
    typed = "def g(x):\n    if x:\n        y: int = x\n        z: Any\n    return y"
    assert own(typed, "g").program == "def f(x):\n    if x:\n        y = x\n    return y\n"
    keyword = "def g(x):\n    return dict(g=x, f=1)"
    assert "dict(g=x, f=1)" in own(keyword, "g").program


def test_tests_and_other_things_are_no_functions() -> None:
    module = read_module("def test_a(x):\n    return x\nasync def b(x):\n    return x\nc = 1")
    assert module is not None and module.functions(RULES) == []


@pytest.mark.parametrize(
    "source",
    [
        "def g(x):\n    return " + "(" * 500 + "x" + ")" * 500,
        "def g(x):\n    return " + "-" * 20_000 + "x",
        "def g(x):\n    return x + 1" + "0" * 5000,
        "def g(x):\n    return x + 0x1" + "0" * 5000,
        "\n".join(f"def g{i}(x):\n    return g{i + 1}(x)" for i in range(300)),
        "def g(x):\n    return x\n" + "g(" * 90 + "1" + ")" * 90,
        "class A:\n    nonlocal x\ndef g(x):\n    return A",
        "def g(x):\n    '''\n    >>> g(\n  bad\n    '''\n    return x",
        "def g(x, x):\n    return x",
        "x: int\ndef g(y):\n    return x + y",
    ],
)
def test_any_text_gets_an_answer(source: str) -> None:
    module = read_module(source)
    if module is not None:
        module.functions(RULES)


# -- folders ---------------------------------------------------------------------------------------


def test_calls_in_files_that_import_the_function_count(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text("def slug(t, sep='-'):\n    return sep.join(t.split())\n")
    (tmp_path / "tests").mkdir()
    test = "from words import slug\ndef test_it():\n    assert slug('a b', sep='_') == 'a_b'\n"
    (tmp_path / "tests" / "test_words.py").write_text(test)
    (tmp_path / "other.py").write_text("from elsewhere import slug\nslug('another')\n")
    (found,), left_out = functions_in(tmp_path, RULES)
    assert found.inputs == ["('a b', '_')"] and not left_out.total()


def test_a_method_of_a_thing_is_no_call_of_the_function_that_has_its_name() -> None:
    source = """
import json, mylib as lib
from . import near

def get(row):
    return row["k"] * 2

def load(cfg, text):
    return [cfg.get("a"), text.split("|"), json.get("b"), lib.get({"k": 1}), near.get({"k": 2})]

def split(text):
    \"\"\"
    >>> "a b".split(" ")
    >>> split("ab")
    \"\"\"
    return list(text)

assert get({"k": 4}) == 8
"""
    assert own(source, "get").inputs == ["({'k': 4},)", "({'k': 1},)", "({'k': 2},)"]
    assert own(source, "split").inputs == ["('ab',)"]


def test_many_calls_cost_no_more_than_those_that_are_kept() -> None:
    """40,000 of them took half a minute, also for a function that is refused."""
    calls = "".join(f"assert f({i}) == {i}\n" for i in range(20_000))
    small = "def f(n):\n" + "".join(f"    n = n + {i}\n" for i in range(30)) + "    return n\n"
    refused = "import os\ndef f(n):\n    return os.getpid()\n"
    for source, count in ((small, 64), (refused, 0)):
        module = read_module(source + calls)
        assert module is not None
        began = time.process_time()
        (found,) = module.functions(RULES)
        assert time.process_time() - began < 1
        assert len(found.inputs) == count and bool(found.reason) == (count == 0)


def test_one_large_file_hides_nothing(tmp_path: Path) -> None:
    with (tmp_path / "a_generated.py").open("wb") as huge:
        huge.truncate(MOST_BYTES_READ + 1)
    (tmp_path / "b.py").write_text("def g(x):\n    return x\n")
    functions, left_out = functions_in(tmp_path, RULES)
    assert [one.name for one in functions] == ["g"] and left_out == Counter({"unreadable files": 1})


def test_a_folder_that_cannot_be_read_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a user without the right to see what is in it; root sees all."""
    (tmp_path / "b.py").write_text("def g(x):\n    return x\n")
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "c.py").write_text("def h(x):\n    return x\n")
    really = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return really(path)

    monkeypatch.setattr(os, "scandir", refusing)
    functions, left_out = functions_in(tmp_path, RULES)
    assert [one.name for one in functions] == ["g"] and left_out == Counter(
        {"unreadable folders": 1}
    )


def test_what_is_left_out_of_a_folder(tmp_path: Path) -> None:
    code, outside = tmp_path / "code", tmp_path / "outside"
    for folder in (code / ".git", code / "venv", code / "deep" / "er", outside):
        folder.mkdir(parents=True)
        (folder / "a.py").write_text(f"def {folder.name.strip('.')}(x):\n    return x\n")
    (code / "link").symlink_to(outside)
    (code / "link.py").symlink_to(outside / "a.py")
    (code / "loop").symlink_to(code)
    (code / "binary.py").write_bytes(b"\0\1\2\3")
    (code / "latin.py").write_bytes("a = 'café'".encode("latin-1"))
    (code / "two.py").write_text("print 'Python 2'")
    os.mkfifo(code / "pipe.py")  # would be waited for
    with (code / "huge.py").open("wb") as huge:
        huge.truncate(MOST_BYTES + 1)
    (code / "data.txt").write_text("def no(x):\n    return x\n")
    functions, left_out = functions_in(code, RULES)
    assert [one.name for one in functions] == ["er"]
    assert left_out == {"links": 3, "unreadable files": 4}


def test_a_single_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    for content, why in (
        (b"\0\1\2\3", "not UTF-8 text"),
        ("café".encode("latin-1"), "not UTF-8 text"),
        (b"print 'Python 2'", "not Python"),
        (b"#" * (MOST_BYTES + 1), "at most 1 MB"),
    ):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=why):
            functions_in(file, RULES)


@pytest.mark.parametrize("folder", [True, False])
def test_no_more_functions_are_read_than_half_a_minute_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    """Files of a few bytes each, or one generated file, may hold any number of them."""
    monkeypatch.setattr(code_folder, "MOST_FUNCTIONS", 5)
    (tmp_path / "a.py").write_text("".join(f"def a{i}(x): return x + {i}\n" for i in range(4)))
    (tmp_path / "b.py").write_text("".join(f"def b{i}(x): return x - {i}\n" for i in range(7)))
    found, left_out = functions_in(tmp_path if folder else tmp_path / "b.py", RULES)
    assert [one.name for one in found][-2:] == (["a3", "b0"] if folder else ["b3", "b4"])
    assert len(found) == 5
    assert left_out == Counter({"functions beyond what is read": 6 if folder else 2})
