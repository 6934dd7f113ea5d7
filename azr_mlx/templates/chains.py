"""Programs that are chains of simple operations: small enough for a model of a million parameters.

Difficulty is the length of the chain: one operation for each tenth. Values are small integers,
short lists of digits, and short words. An operation may fail on an input (the first of an empty
list); the gate refuses such a program as it does any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LETTERS = "abcde"
MOST = 9  # operations
SAME_INPUTS = 40  # draws of inputs, for each that is wanted, before there are too few distinct ones

Step = tuple[str, str]  # an expression of its argument, and the type of its value


@dataclass(frozen=True, slots=True)
class Chain:
    """A program and as many distinct inputs as could be found, as literal tuples."""

    source: str
    inputs: tuple[str, ...]
    about: str


NAMES = {"int": "n", "list": "a", "str": "s"}
WORDS = {"int": "number", "list": "list", "str": "word"}


def draw_chain(difficulty: float, rng: np.random.Generator, n_inputs: int) -> Chain:
    """A chain of round(10 x difficulty) operations, at least one."""
    length = min(max(round(10 * difficulty), 1), MOST)
    kinds = [("int",), ("list",), ("str",), ("int", "int"), ("list", "int"), ("str", "int")]
    params = kinds[int(rng.integers(len(kinds)))]
    names = [NAMES[params[0]], "m" if params == ("int", "int") else "n"][: len(params)]
    value, kind = names[0], params[0]
    lines = list[str]()
    for number in range(length):
        second = names[1] if number == 0 and len(names) > 1 else ""
        expression, kind = _step(kind, value, second, rng)
        if number < length - 1 and rng.random() < 0.5:
            lines.append(f"t = {expression}")
            value = "t"
        else:
            value = f"({expression})"
    lines.append(f"return {value}")
    source = "\n    ".join([f"def f({', '.join(names)}):", *lines])
    about = f"{' and '.join(WORDS[p] for p in params)} to {WORDS[kind]}"
    return Chain(source, _inputs(params, rng, n_inputs), about)


def _step(kind: str, v: str, second: str, rng: np.random.Generator) -> Step:
    """One operation on the value ``v``; with ``second``, the parameter of that name takes part."""
    makers = PAIRED[kind] if second else SINGLE[kind]
    expression, out = makers[int(rng.integers(len(makers)))]
    letter, other = (LETTERS[int(i)] for i in rng.integers(len(LETTERS), size=2))
    small, middle = int(rng.integers(2, 4)), int(rng.integers(1, 10))
    fields = {"v": v, "m": second, "c": middle, "k": small, "q": repr(letter), "r": repr(other)}
    return expression.format(**fields), out


# {v} is the value, {m} the second parameter; {c} a digit, {k} 2 or 3, {q} and {r} letters.
SINGLE: dict[str, tuple[Step, ...]] = {
    "int": (
        ("{v} + {c}", "int"),
        ("{v} - {c}", "int"),
        ("{c} - {v}", "int"),
        ("{v} * {k}", "int"),
        ("{v} % {c}", "int"),
        ("{v} // {k}", "int"),
        ("max({v}, {c})", "int"),
        ("min({v}, {c})", "int"),
        ("abs({v} - {c})", "int"),
        ("{v} + {v}", "int"),
        ("{v} if {v} > {c} else {c} - {v}", "int"),
        ("{v} + {k} if {v} % 2 == 0 else {v} - {k}", "int"),
        ("{v} * {k} if {v} < {c} else {v}", "int"),
        ("[{v}, {v} + {c}]", "list"),
        ("[{c}, {v}]", "list"),
        ("[{v}] * {k}", "list"),
        ("str({v})", "str"),
        ("{q} + str({v})", "str"),
    ),
    "list": (
        ("{v}[::-1]", "list"),
        ("sorted({v})", "list"),
        ("{v}[1:]", "list"),
        ("{v}[:-1]", "list"),
        ("{v}[:{k}]", "list"),
        ("{v} + [{c}]", "list"),
        ("[{c}] + {v}", "list"),
        ("{v} + {v}", "list"),
        ("[x + {c} for x in {v}]", "list"),
        ("[x - {c} for x in {v}]", "list"),
        ("[x * {k} for x in {v}]", "list"),
        ("[x % {k} for x in {v}]", "list"),
        ("[x for x in {v} if x > {c}]", "list"),
        ("[x for x in {v} if x % 2 == 0]", "list"),
        ("[max(x, {c}) for x in {v}]", "list"),
        ("[{v}[-1]] + {v}[:-1]", "list"),
        ("sum({v})", "int"),
        ("len({v})", "int"),
        ("max({v})", "int"),
        ("min({v})", "int"),
        ("{v}[0]", "int"),
        ("{v}[-1]", "int"),
        ("{v}.count({c})", "int"),
    ),
    "str": (
        ("{v}[::-1]", "str"),
        ("{v}.upper()", "str"),
        ("{v} + {q}", "str"),
        ("{q} + {v}", "str"),
        ("{v}[1:]", "str"),
        ("{v}[:-1]", "str"),
        ("{v}[:{k}]", "str"),
        ("{v} + {v}", "str"),
        ("{v}.replace({q}, {r})", "str"),
        ("''.join(sorted({v}))", "str"),
        ("{v}[-1:] + {v}", "str"),
        ("{v}.title()", "str"),
        ("{v} + str(len({v}))", "str"),
        ("len({v})", "int"),
        ("{v}.count({q})", "int"),
        ("{v}[0]", "str"),
    ),
}
PAIRED: dict[str, tuple[Step, ...]] = {
    "int": (
        ("{v} + {m}", "int"),
        ("{v} - {m}", "int"),
        ("{v} * {m}", "int"),
        ("max({v}, {m})", "int"),
        ("min({v}, {m})", "int"),
        ("abs({v} - {m})", "int"),
        ("{v} * {k} + {m}", "int"),
        ("{v} if {v} > {m} else {m} + {c}", "int"),
        ("[{v}, {m}]", "list"),
        ("[{m}, {v}]", "list"),
        ("str({v}) + str({m})", "str"),
    ),
    "list": (
        ("{v} + [{m}]", "list"),
        ("[{m}] + {v}", "list"),
        ("[x + {m} for x in {v}]", "list"),
        ("[x for x in {v} if x > {m}]", "list"),
        ("[x for x in {v} if x != {m}]", "list"),
        ("{v}[:{m}]", "list"),
        ("sum({v}) + {m}", "int"),
        ("max({v}) - {m}", "int"),
        ("{v}.count({m})", "int"),
    ),
    "str": (
        ("{v} + str({m})", "str"),
        ("str({m}) + {v}", "str"),
        ("{v}[:{m}]", "str"),
        ("{v}[{m}:]", "str"),
        ("len({v}) + {m}", "int"),
    ),
}


def _inputs(params: tuple[str, ...], rng: np.random.Generator, count: int) -> tuple[str, ...]:
    make: dict[str, Callable[[], object]] = {
        "int": lambda: int(rng.integers(0, 13)),
        "list": lambda: [int(x) for x in rng.integers(0, 10, size=rng.integers(2, 5))],
        "str": lambda: "".join(LETTERS[int(i)] for i in rng.integers(5, size=rng.integers(2, 5))),
    }
    small = {"int": lambda: int(rng.integers(0, 5))}
    found: dict[str, None] = {}
    for _ in range(SAME_INPUTS * count):
        if len(found) == count:
            break
        first, *rest = params
        values = [make[first](), *(small[p]() for p in rest)]
        found[repr(tuple(values))] = None
    return tuple(found)
