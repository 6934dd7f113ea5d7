"""Programs that are chains of simple operations: small enough for a model of a million parameters.

Difficulty is the length of the chain: one operation for each tenth. Values are small integers,
short lists of digits, and short words. An operation may fail on an input (the first of an empty
list); the gate refuses such a program as it does any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LETTERS = "abcde"
MOST = 9  # operations
SAME_INPUTS = 40  # draws per wanted input before a chain counts as having too few distinct ones


class Step(NamedTuple):
    """An operation: an expression of its argument, the type of its value, and its name."""

    expression: str
    out: str
    name: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A program, as many distinct inputs as could be found (literal tuples), and what it does: the
    names of its operations, in order."""

    source: str
    inputs: tuple[str, ...]
    about: str


NAMES = {"int": "n", "list": "a", "str": "s"}


def draw_chain(difficulty: float, rng: np.random.Generator, n_inputs: int) -> Chain:
    """A chain of round(10 x difficulty) operations, at least one."""
    length = min(max(round(10 * difficulty), 1), MOST)
    kinds = [("int",), ("list",), ("str",), ("int", "int"), ("list", "int"), ("str", "int")]
    params = kinds[int(rng.integers(len(kinds)))]
    names = [NAMES[params[0]], "m" if params == ("int", "int") else "n"][: len(params)]
    value, kind = names[0], params[0]
    lines, about = list[str](), list[str]()
    for number in range(length):
        second = names[1] if number == 0 and len(names) > 1 else ""
        step = _step(kind, value, second, rng)
        expression, kind = step.expression, step.out
        about.append(step.name)
        if number < length - 1 and rng.random() < 0.5:
            lines.append(f"t = {expression}")
            value = "t"
        else:
            value = f"({expression})"
    lines.append(f"return {value}")
    source = "\n    ".join([f"def f({', '.join(names)}):", *lines])
    return Chain(source, _inputs(params, rng, n_inputs), ", ".join(about))


def _step(kind: str, v: str, second: str, rng: np.random.Generator) -> Step:
    """One operation on the value ``v``; with ``second``, the parameter of that name takes part."""
    makers = PAIRED[kind] if second else SINGLE[kind]
    step = makers[int(rng.integers(len(makers)))]
    letter, other = (LETTERS[int(i)] for i in rng.integers(len(LETTERS), size=2))
    small, middle = int(rng.integers(2, 4)), int(rng.integers(1, 10))
    fields = {"v": v, "m": second, "c": middle, "k": small, "q": repr(letter), "r": repr(other)}
    return step._replace(expression=step.expression.format(**fields))


# {v} is the value, {m} the second parameter; {c} a digit, {k} 2 or 3, {q} and {r} letters.
SINGLE: dict[str, tuple[Step, ...]] = {
    "int": (
        Step("{v} + {c}", "int", "add"),
        Step("{v} - {c}", "int", "subtract"),
        Step("{c} - {v}", "int", "from"),
        Step("{v} * {k}", "int", "times"),
        Step("{v} % {c}", "int", "remainder"),
        Step("{v} // {k}", "int", "divide"),
        Step("max({v}, {c})", "int", "least"),
        Step("min({v}, {c})", "int", "most"),
        Step("abs({v} - {c})", "int", "distance"),
        Step("{v} + {v}", "int", "double"),
        Step("{v} if {v} > {c} else {c} - {v}", "int", "above"),
        Step("{v} + {k} if {v} % 2 == 0 else {v} - {k}", "int", "parity"),
        Step("{v} * {k} if {v} < {c} else {v}", "int", "below"),
        Step("[{v}, {v} + {c}]", "list", "next"),
        Step("[{c}, {v}]", "list", "pair"),
        Step("[{v}] * {k}", "list", "repeat"),
        Step("str({v})", "str", "text"),
        Step("{q} + str({v})", "str", "label"),
    ),
    "list": (
        Step("{v}[::-1]", "list", "reverse"),
        Step("sorted({v})", "list", "sort"),
        Step("{v}[1:]", "list", "tail"),
        Step("{v}[:-1]", "list", "head"),
        Step("{v}[:{k}]", "list", "take"),
        Step("{v} + [{c}]", "list", "append"),
        Step("[{c}] + {v}", "list", "prepend"),
        Step("{v} + {v}", "list", "twice"),
        Step("[x + {c} for x in {v}]", "list", "each add"),
        Step("[x - {c} for x in {v}]", "list", "each subtract"),
        Step("[x * {k} for x in {v}]", "list", "each times"),
        Step("[x % {k} for x in {v}]", "list", "each remainder"),
        Step("[x for x in {v} if x > {c}]", "list", "keep above"),
        Step("[x for x in {v} if x % 2 == 0]", "list", "keep even"),
        Step("[max(x, {c}) for x in {v}]", "list", "each least"),
        Step("[{v}[-1]] + {v}[:-1]", "list", "rotate"),
        Step("sum({v})", "int", "sum"),
        Step("len({v})", "int", "length"),
        Step("max({v})", "int", "largest"),
        Step("min({v})", "int", "smallest"),
        Step("{v}[0]", "int", "first"),
        Step("{v}[-1]", "int", "last"),
        Step("{v}.count({c})", "int", "count"),
    ),
    "str": (
        Step("{v}[::-1]", "str", "reverse"),
        Step("{v}.upper()", "str", "upper"),
        Step("{v} + {q}", "str", "append"),
        Step("{q} + {v}", "str", "prepend"),
        Step("{v}[1:]", "str", "tail"),
        Step("{v}[:-1]", "str", "head"),
        Step("{v}[:{k}]", "str", "take"),
        Step("{v} + {v}", "str", "twice"),
        Step("{v}.replace({q}, {r})", "str", "replace"),
        Step("''.join(sorted({v}))", "str", "sort"),
        Step("{v}[-1:] + {v}", "str", "echo"),
        Step("{v}.title()", "str", "title"),
        Step("{v} + str(len({v}))", "str", "measure"),
        Step("len({v})", "int", "length"),
        Step("{v}.count({q})", "int", "count"),
        Step("{v}[0]", "str", "first"),
    ),
}
PAIRED: dict[str, tuple[Step, ...]] = {
    "int": (
        Step("{v} + {m}", "int", "add"),
        Step("{v} - {m}", "int", "subtract"),
        Step("{v} * {m}", "int", "times"),
        Step("max({v}, {m})", "int", "largest"),
        Step("min({v}, {m})", "int", "smallest"),
        Step("abs({v} - {m})", "int", "distance"),
        Step("{v} * {k} + {m}", "int", "times add"),
        Step("{v} if {v} > {m} else {m} + {c}", "int", "above"),
        Step("[{v}, {m}]", "list", "pair"),
        Step("[{m}, {v}]", "list", "swap"),
        Step("str({v}) + str({m})", "str", "text"),
    ),
    "list": (
        Step("{v} + [{m}]", "list", "append"),
        Step("[{m}] + {v}", "list", "prepend"),
        Step("[x + {m} for x in {v}]", "list", "each add"),
        Step("[x for x in {v} if x > {m}]", "list", "keep above"),
        Step("[x for x in {v} if x != {m}]", "list", "keep other"),
        Step("{v}[:{m}]", "list", "take"),
        Step("sum({v}) + {m}", "int", "sum add"),
        Step("max({v}) - {m}", "int", "largest subtract"),
        Step("{v}.count({m})", "int", "count"),
    ),
    "str": (
        Step("{v} + str({m})", "str", "append"),
        Step("str({m}) + {v}", "str", "prepend"),
        Step("{v}[:{m}]", "str", "take"),
        Step("{v}[{m}:]", "str", "skip"),
        Step("len({v}) + {m}", "int", "length add"),
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
