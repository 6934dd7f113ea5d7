"""Plug-ins: found, looked at before anything starts, and held to what they promise."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import yaml

from azr_mlx.config import Config, ConfigError, json_schema, load, schema
from azr_mlx.config.plugins import PlugIn, PlugInError, resolve

pytestmark = pytest.mark.pure

Write = Callable[[str, str], Path]


class Shape(Protocol):
    def __call__(self, text: str, number: int) -> float: ...


def found(name: str) -> PlugIn:
    return resolve("some.key", name, Shape)


def refused(name: str) -> str:
    with pytest.raises(ConfigError) as error:
        found(name)
    [line] = error.value.lines
    assert "\n" not in line and line.startswith(f"some.key: {name}: ")
    return line.removeprefix(f"some.key: {name}: ")


# -- the setting -----------------------------------------------------------------------------------

KEYS = ("proposer.reward", "solver.reward", "proposer.template_set", "evaluation.benchmarks")


@pytest.mark.parametrize("key", KEYS)
def test_each_of_four_settings_takes_a_function(key: str) -> None:
    assert dict(schema.flat(load(None, [f"{key}= my.own:thing_2 "])))[key] in (
        "my.own:thing_2",
        ("my.own:thing_2",),
    )


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "value", ["mine", "mine:", ":f", "a b:f", "mine:f:g", "1mine:f", "folder/mine:f", "mine:f()"]
)
def test_what_is_neither_a_name_nor_a_function_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a choice; .*name a function of your own as mod"):
        load(None, [f"{key}={value}"])


def test_the_other_settings_take_none() -> None:
    with pytest.raises(ConfigError, match=r"sequence_mean, constant\)$"):
        load(None, ["ppo.loss_aggregation=mine:f"])


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("proposer: {reward: frontier}", True),
        ("proposer: {reward: 'mine:f'}", True),
        ("proposer: {reward: ' mine.too:f '}", True),
        ("proposer: {reward: fronter}", False),
        ("proposer: {reward: 'mine:f g'}", False),
        ("solver: {reward: verdict}", True),
        ("evaluation: {benchmarks: [humaneval, 'mine:f']}", True),
        ("evaluation: {benchmarks: [humaneval, 'mine:']}", False),
    ],
)
def test_editors_are_told_the_same(text: str, good: bool, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install 'azr-mlx[dev]'")
    validator = jsonschema.Draft7Validator(json_schema.json_schema())
    assert validator.is_valid(yaml.safe_load(text)) is good
    (tmp_path / "c.yaml").write_text(text)
    if good:
        load(tmp_path / "c.yaml")
    else:
        with pytest.raises(ConfigError):
            load(tmp_path / "c.yaml")


def test_the_default_calls_no_plug_in() -> None:
    values = dict(schema.flat(Config()))
    assert not any(schema.is_function(values[key]) for key in KEYS[:3])


# -- finding ---------------------------------------------------------------------------------------


def test_the_current_folder_comes_first_and_stays_last(write: Write) -> None:
    """A file there may have the name of a library that is imported later."""
    before = list(sys.path)
    write("tabnanny.py", "def f(text, number): return 1.5")  # in the standard library, too
    write("beside.py", "VALUE = 2.5")
    write("later.py", "def f(text, number):\n    import beside\n    return beside.VALUE")
    assert found("tabnanny:f").number("a", 1) == 1.5
    assert found("later:f").number("a", 1) == 2.5
    here = str(Path.cwd())
    assert [p for p in sys.path if p != here] == [p for p in before if p != here]
    assert sys.path[-1] == here


def test_installed_modules_are_found() -> None:
    assert found("posixpath:join").name == "posixpath:join"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nothing_here:f", "no module nothing_here in "),
        ("mine_.two:f", "no module mine_.two in "),
        ("min_e:f", "did you mean mine_?"),
        ("mine_.py:f", "leave .py out: mine_"),
        ("mine_:worht", "no worht in module mine_ ("),
        ("mine_:worht", "did you mean worth?"),
        ("mine_:NUMBER", "a value of type int, and not a function; name a function"),
        ("mine_:Class", "a class, and not a function; name a function"),
        ("mine_:later", "an async function, which nobody awaits; write def"),
        ("mine_:one", "takes (text): too many positional arguments; it is called with (text, numb"),
        ("mine_:three", "missing a required argument: 'c'; it is called with (text, number)"),
        ("mine_:by_name", "missing a required"),
        ("unparsed_:f", "importing it fails: SyntaxError: "),
        ("raises_:f", "importing it fails: ZeroDivisionError: division by zero; correct the mod"),
        ("leaves_:f", "importing it fails: SystemExit: usage: none; correct the module"),
        ("lacks_:f", "importing it fails: No module named 'not_installed_'; install what it needs"),
    ],
)
def test_what_cannot_be_called_is_one_line(name: str, why: str, write: Write) -> None:
    write(
        "mine_.py",
        "NUMBER = 3\n"
        "class Class: ...\n"
        "async def later(text, number): ...\n"
        "def worth(text, number): ...\n"
        "def one(text): ...\n"
        "def three(a, b, c): ...\n"
        "def by_name(a, b, *, c): ...\n",
    )
    write("unparsed_.py", "def f(:\n")
    write("raises_.py", "1 / 0\n")
    write("leaves_.py", "raise SystemExit('usage: none')\n")
    write("lacks_.py", "import not_installed_\n")
    assert why in refused(name)


@pytest.mark.parametrize(
    ("name", "source", "why"),
    [
        (
            "outcome_",
            "class Skipped(BaseException): ...\nraise Skipped('not today')",
            "importing it fails: Skipped: not today; correct the module",
        ),
        (
            "mute_",
            "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
            "importing it fails: Odd: its message cannot be read; correct the module",
        ),
        (
            "lazy_",
            "def __getattr__(name): raise OSError(name + ' is away')",
            "looking at it fails: OSError: f is away; correct the module",
        ),
        (
            "object_",
            "class F:\n    def __call__(self, text, number): return 1.0\n"
            "    def __getattr__(self, name): raise OSError(name)\nf = F()",
            "looking at it fails: OSError: ",
        ),
        ("none_", "import sys\nsys.modules[__name__] = None", "no f in module None ("),
    ],
)
def test_whatever_is_raised_while_it_is_looked_at_is_one_line(
    name: str, source: str, why: str, write: Write
) -> None:
    write(f"{name}.py", source)
    assert why in refused(f"{name}:f")


def test_a_module_that_changes_the_path_is_imported(write: Write) -> None:
    write("clears_.py", "import sys\nsys.path = []\ndef f(text, number): return 1.0")
    before = list(sys.path)
    try:
        assert found("clears_:f").number("a", 1) == 1.0
    finally:
        sys.path[:] = before


def test_what_a_plug_in_prints_is_not_among_the_results(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("loud_.py", "print('begins')\ndef f(text, number):\n    print('works')\n    return 1.0")
    found("loud_:f").number("a", 1)
    assert capsys.readouterr() == ("", "begins\nworks\n")


def test_the_current_folder_is_the_one_before(write: Write) -> None:
    """A run's paths may be relative: elsewhere its steps could not be saved."""
    write(
        "away_.py",
        "import os, tempfile\n"
        "os.chdir('/')\n"
        "def f(text, number):\n"
        "    with tempfile.TemporaryDirectory() as folder: os.chdir(folder)\n"
        "    return 1.0\n"
        "def g(text, number):\n"
        "    os.chdir('/')\n"
        "    1 / 0\n",
    )
    here = Path.cwd()
    away = found("away_:f")
    assert Path.cwd() == here
    away.number("a", 1)
    assert Path.cwd() == here
    with pytest.raises(PlugInError, match="ZeroDivisionError"):
        found("away_:g").number("a", 1)
    assert Path.cwd() == here


def test_more_parameters_with_defaults_do(write: Write) -> None:
    write(
        "more_.py",
        "import functools\n"
        "def f(text, number=1, scale=2.0): return number * scale\n"
        "def g(*all): return len(all)\n"
        "class Rewards:\n"
        "    def __call__(self, text, number): return number\n"
        "h, i = Rewards(), functools.partial(f, scale=3)\n",
    )
    assert [found(f"more_:{name}").number("a", 2) for name in "fghi"] == [4.0, 2.0, 2.0, 6.0]


class Unreadable(float):
    def __float__(self) -> float:
        raise ValueError("no number")


# -- calling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (True, 1.0), (np.float32(0.5), 0.5), (np.int64(2), 2.0), (np.True_, 1.0)],
)
def test_what_counts_as_a_float(value: Any, number: float) -> None:
    got = PlugIn("k", "m:f", lambda: value).number()
    assert got == number and type(got) is float


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "returned None, and not a float"),
        ("1", "returned a value of type str, and not a float"),
        (np.zeros(1), "returned a value of type ndarray, and not a float"),
        (1j, "returned a value of type complex, and not a float"),
        (float("nan"), "returned nan, and not a finite float"),
        (float("-inf"), "returned -inf, and not a finite float"),
        (10**400, "returned inf, and not a finite float"),
        (-1e10, "returned -10000000000.0, and not one of 1e+09 at most"),
        (np.timedelta64(1, "s"), "returned a value of type timedelta64, and not a float"),
    ],
)
def test_what_does_not(value: Any, why: str) -> None:
    with pytest.raises(PlugInError) as error:
        PlugIn("k", "m:f", lambda: value).number()
    assert str(error.value) == f"k: m:f: {why}; correct the function"


def test_a_number_that_cannot_be_read_is_its_error() -> None:
    with pytest.raises(PlugInError, match="k: m:f: ValueError: no number"):
        PlugIn("k", "m:f", lambda: Unreadable(1.0)).number()


def test_an_error_says_where_in_the_file(write: Write) -> None:
    write("fails_.py", "import json\n\ndef f(text, number):\n    return json.loads('{')\n")
    with pytest.raises(PlugInError, match=r"JSONDecodeError: .* \(fails_.py, line 4\); correct"):
        found("fails_:f").number("a", 1)
    # Not by sys.exit: W&B, if a test has begun a run of it, puts its own in the place of that.
    write("ends_.py", "import sys\ndef f(text, number): raise SystemExit\n")
    with pytest.raises(PlugInError, match=r"ends_:f: SystemExit: SystemExit \(ends_.py"):
        found("ends_:f").number("a", 1)


def test_whatever_it_raises_is_its_error(write: Write) -> None:
    write(
        "odd_.py",
        "import asyncio\n"
        "class Odd(Exception):\n"
        "    def __str__(self): raise ValueError\n"
        "class Leaves(Exception):\n"
        "    def __str__(self): raise SystemExit\n"
        "def f(text, number): raise Odd\n"
        "def h(text, number): raise Leaves\n"
        "def g(text, number): raise asyncio.CancelledError\n",
    )
    with pytest.raises(PlugInError, match="Odd: its message cannot be read"):
        found("odd_:f").number("a", 1)
    with pytest.raises(PlugInError, match="Leaves: its message cannot be read"):
        found("odd_:h").number("a", 1)
    with pytest.raises(PlugInError, match="CancelledError"):
        found("odd_:g").number("a", 1)


def test_ctrl_c_is_not_an_error_of_the_function(write: Write) -> None:
    write("slow_.py", "def f(text, number): raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        found("slow_:f").number("a", 1)


def test_the_file_of_a_function_is_known_by_its_hash(write: Write) -> None:
    file = write("known_.py", "from math import copysign\ndef f(text, number): return 1.0\n")
    first = found("known_:f").source_sha256()
    assert len(first) == 64 and found("known_:f").file == str(file)
    assert found("known_:copysign").source_sha256() == first, (
        "written in C: the module that names it"
    )
    file.write_text("def f(text, number): return 2.0\n")
    assert found("known_:f").source_sha256() not in ("", first)
    file.unlink()
    assert found("known_:f").source_sha256() == ""
