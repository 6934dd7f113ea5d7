"""``generate --tests``: which strategy is taken, what is judged, and which tests are refused."""

from __future__ import annotations

import pytest

from azr_mlx.backends.base import Sampling
from azr_mlx.commands.generate import Generation
from azr_mlx.commands.generate_tested import Assertions, Question, read_tests, solve, strategies_for
from azr_mlx.errors import UsageError
from azr_mlx.evaluation.strategies import INSTRUCTIONS, STRATEGIES

pytestmark = pytest.mark.sandbox

TESTS = Assertions("assert add(1, 2) == 3\nassert add(2, 2) == 4\n", "add")
SAMPLING = Sampling(64, 0.0)


class Answers:
    """A model with an answer for each strategy."""

    def __init__(self, *, has_template: bool = True, **bodies: str):
        self.has_template, self.bodies, self.asked = has_template, bodies, []

    def complete(self, prompt, sampling, *, raw=False, system="", on_text=None) -> Generation:
        named = [name for name, words in INSTRUCTIONS.items() if words and words in prompt]
        strategy = named[0] if named else "direct"
        self.asked.append((prompt, strategy, raw, system))
        return Generation(self.bodies.get(strategy, "no idea"), "stop", 1, 1, 1.0, 1.0, 1.0)


def fenced(body: str) -> str:
    return f"Sure:\n```python\ndef add(a, b):\n    {body}\n```\n"


def test_strategies_are_tried_in_turn_until_the_tests_pass():
    model = Answers(direct=fenced("return a - b"), test_driven=fenced("return a + b"))
    said = []
    tries = solve(model, Question("Add.", SAMPLING, system="be"), TESTS, on_try=said.append)
    assert [t.strategy for t in tries] == [
        "direct",
        "step_by_step",
        "test_driven",
    ] and said == tries
    assert tries[-1].passed and tries[-1].code == "def add(a, b):\n    return a + b\n"
    assert [t.status.value for t in tries] == ["fail", "error", "pass"]
    assert "add(1, 2) == 3: got -1" in tries[0].line()
    assert model.asked[0] == ("Add.", "direct", False, "be")


def test_where_none_passes_the_last_try_is_there():
    tries = solve(Answers(chain_of_thought=fenced("return 3")), Question("Add.", SAMPLING), TESTS)
    assert len(tries) == 4 and not tries[-1].passed and "return 3" in tries[-1].code


def test_a_program_that_cheats_does_not_pass():
    for body in ("import os; os._exit(0)", "raise SystemExit(0)", "return type('', (), {})"):
        tries = solve(Answers(direct=fenced(body)), Question("Add.", SAMPLING), TESTS, ("direct",))
        assert not tries[-1].passed


def test_a_base_model_s_text_is_continued_up_to_where_the_function_ends():
    model = Answers(has_template=False, direct="    return a + b\n\nprint(unknown)\n")
    asked = Question("def add(a, b):\n", SAMPLING)
    [one] = solve(model, asked, TESTS, strategies_for(model, "auto", raw=False))
    assert one.passed and one.code == "def add(a, b):\n    return a + b\n"


def test_instructions_need_a_chat_model():
    chat, base = Answers(), Answers(has_template=False)
    assert strategies_for(chat, "auto", raw=False) == STRATEGIES
    assert strategies_for(chat, "test_driven", raw=False) == ("test_driven",)
    assert strategies_for(chat, "auto", raw=True) == ("direct",)
    with pytest.raises(UsageError, match="an instruction to a chat model"):
        strategies_for(base, "test_driven", raw=False)
    with pytest.raises(UsageError, match="--strategy quick: take direct"):
        strategies_for(chat, "quick", raw=False)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("assert add(1, 2) == 3", "add"),
        ("assert sorted(merge([2], [1])) == [1, 2]", "merge"),
        ("from math import sqrt\nassert sqrt(area(4)) == 2", "area"),
        ("def test_it():\n    assert add(1, 2) == 3", "add"),
        ("for i in range(3):\n    assert twice(i) == 2 * i", "twice"),
        ("assert Stack().empty()", "Stack"),
    ],
)
def test_the_tested_function_is_found(text, name, tmp_path):
    (tmp_path / "t.py").write_text(text)
    assert read_tests(tmp_path / "t.py").name == name


@pytest.mark.parametrize(
    "text",
    [
        "def test_it():\n    assert add(1, 2) == 3\n",
        "def test_it(a=1, *, b=2):\n    assert add(a, b) == 3\n",
        "def test_it():\n    if add(1, 2) != 3:\n        raise AssertionError\n",
        "def test_a():\n    assert True\ndef check(x):\n    assert x\n"
        "def test_b():\n    check(add(1, 2) == 3)\n",
    ],
)
def test_functions_named_test_are_called(text, tmp_path):
    (tmp_path / "t.py").write_text(text)
    tests = read_tests(tmp_path / "t.py")
    right, wrong = (
        solve(Answers(direct=fenced(b)), Question("Add.", SAMPLING), tests, ("direct",))
        for b in ("return a + b", "return a - b")
    )
    assert right[-1].passed and not wrong[-1].passed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "asserts nothing"),
        ("print(add(1, 2))", "asserts nothing"),
        ("def check():\n    assert add(1, 2) == 3", "asserts nothing"),
        ("def test_it(x):\n    assert add(1, x) == 3", "test_it has parameters"),
        ("async def test_it():\n    assert add(1, 2) == 3", "test_it is async"),
        ("def test_it():\n    add(1, 2)", "asserts nothing"),
        ("assert (", "not Python"),
        (None, "cannot be read"),
    ],
)
def test_tests_that_any_program_would_pass_are_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / "t.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_tests(tmp_path / "t.py")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tests_of_any_editor_are_read(encoding, end, tmp_path):
    text = 'assert f() == """naïve\nend"""\nassert f()\n'
    (tmp_path / "t.py").write_bytes(text.replace("\n", end).encode(encoding))
    read = read_tests(tmp_path / "t.py")
    assert read.text.strip() == text.strip() and read.name == "f"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("assert f() == 'é'".encode("latin-1"), "looks like Latin-1 .*save it as UTF-8"),
        ("assert f()".encode("utf-16-le"), "looks like UTF-16"),
        (b"assert f()\0", "not Python"),
        (b"assert f" + b"(" * 100_000, "not Python"),
        (b"assert f() == " + b"-" * 100_000 + b"1", "not Python"),
    ],
)
def test_tests_that_are_not_text_are_refused(data, message, tmp_path):
    (tmp_path / "t.py").write_bytes(data)
    with pytest.raises(UsageError, match=message):
        read_tests(tmp_path / "t.py")
