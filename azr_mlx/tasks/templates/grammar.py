"""A typed grammar of expressions that cannot fail, filled by one generator's choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

LETTERS = "abcdeilmnorst"
MODULI = (7, 10, 11, 13, 17, 50, 97, 101, 1000)


class Pen:
    """Random choices and a typed grammar of expressions, all from one generator."""

    def __init__(self, rng: np.random.Generator, difficulty: float) -> None:
        self.rng = rng
        self.d = float(min(max(difficulty, 0.0), 1.0))

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def between(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def scale(self, low: int, high: int) -> int:
        """Between ``low`` and ``high``, near the difficulty's place in that range."""
        mid = low + self.d * (high - low)
        return int(min(max(round(mid + self.rng.normal(0.0, 0.6)), low), high))

    def num(self, names: Sequence[str], depth: int) -> str:
        """An integer expression over integer names; never divides by what may be 0."""
        if depth <= 0:
            return self.pick(names)
        a, b = self.num(names, depth - 1), self._second(names, depth)
        if a == b:  # `x - x` is trivial
            b = str(self.between(1, 9))
        c = self.between(2, 9)
        forms = [
            f"({a} + {b})",
            f"({a} - {b})",
            f"({a} * {c} + {b})",
            f"({a} * {c})",
            f"({b} - {a} * {c})",
            f"({a} + {c})",
            f"abs({a} - {c})",
            f"max({a}, {b} + {c})",
            f"({a} // {c} + {b})",
            f"({a} % {c} + {b})",
            f"(min({a}, {c}) + {b})",
            f"({a} if {self.test(names, 0)} else {b} + {c})",
            f"sum(range(abs({a}) % {c}))",
            f"len(str({a}))",
            f"int(str(abs({a}))[::-1])",
            f"divmod({a}, {c})[{self.between(0, 1)}]",
            f"pow({self.between(2, 3)}, {a} % {c})",
        ]
        return self.pick(forms[: 10 + round(self.d * 7)])

    def _second(self, names: Sequence[str], depth: int) -> str:
        """The other operand: as deep, shallow, or a constant."""
        if self.chance(0.2):
            return str(self.between(1, 9))
        return self.num(names, depth - 1 if self.chance(0.4) else 0)

    def test(self, names: Sequence[str], depth: int) -> str:
        """A condition over integer names."""
        a, b = self.pick(names), self.pick(names)
        c = self.between(2, 5)
        forms = [
            f"{a} > {self.between(0, 6)}",
            f"{a} % {c} == {self.between(0, c - 1)}",
            f"{a} % 2 == 0",
            f"{a} < {b if b != a else self.between(3, 12)}",
            f"{a} % {c} != 0",
            f"{a} + {b if b != a else f'{b} % {c}'} > {self.between(3, 12)}",
        ]
        first = self.pick(forms)
        if depth <= 0 or self.chance(0.5):
            return first
        joined = f"{first} {self.pick(['and', 'or'])} {self.test(names, depth - 1)}"
        return f"not ({joined})" if self.chance(0.2) else f"({joined})"

    def nums(self, seq: str, names: Sequence[str], depth: int) -> str:
        """A list-of-integers expression over the list ``seq``."""
        if depth <= 0:
            return seq
        inner = self.nums(seq, names, depth - 1)
        element = self.num(["x", "x", *names], min(depth, 2))
        forms = [
            f"[{element} for x in {inner}]",
            f"{inner}[::-1]",
            f"sorted({inner})",
            f"[{element} for x in {inner} if {self.test(['x'], 0)}]",
            f"{inner}[1:]",
            f"({inner} + [{self.num(names, 1) if names else f'len({seq})'}])",
            f"[{self.num(['i', 'x'], 1)} for i, x in enumerate({inner})]",
            f"sorted({inner}, key=lambda x: ({self.num(['x'], 1)}, x))",
            f"[x + y for x, y in zip({inner}, {seq}[1:])]",
            f"[{self.num(['x', 'y'], 1)} for x, y in zip({inner}, {seq}[::-1])]",
            f"sorted(set({inner}))",
            f"[y for x in {inner} for y in (x, {element})]",
            f"({inner}[{self.between(1, 2)}:] + {inner}[:{self.between(1, 2)}])",
        ]
        return self.pick(forms[: 6 + round(self.d * 7)])

    def fold(self, seq: str, names: Sequence[str]) -> str:
        """An integer made of a list of integers."""
        element = self.num(["x", *names], 1)
        forms = [
            f"sum({seq})",
            f"(max({seq}, default=0) + len({seq}))",
            f"sum({element} for x in {seq})",
            f"(sum({seq}) - min({seq}, default=0))",
            f"(sum({seq}[::2]) - sum({seq}[1::2]))",
            f"sum({element} for x in {seq} if {self.test(['x'], 0)})",
            f"sum(i * x for i, x in enumerate({seq}))",
            f"(len({seq}) * 10 + len(set({seq})))",
            f"sum(x * y for x, y in zip({seq}, {seq}[1:]))",
        ]
        return self.pick(forms[: 5 + round(self.d * 4)])

    def text(self, name: str, depth: int) -> str:
        """A string expression over the string ``name``."""
        if depth <= 0:
            return name
        inner = self.text(name, depth - 1)
        a, b = self.pick(LETTERS), self.pick(LETTERS)
        every = f"i % {self.between(2, 3)} == 0"
        cond = self.pick([f"c != '{a}'", f"c in 'aeiou{b}'", f"c > '{a}'", "c.isalpha()"])
        case = self.pick(["upper", "title", "swapcase", "capitalize"])
        forms = [
            f"{inner}[::-1]",
            f"{inner}.{case}()",
            f"({inner} + '{a}')",
            f"({name} + {inner})",
            f"{inner}.replace('{a}', '{b}')",
            f"({inner} + str(len({name})))",
            f"{inner}[1:]",
            f"''.join(sorted({inner}))",
            f"({inner}[-1:] + {inner}[:-1])",
            f"''.join(c for c in {inner} if {cond})",
            f"'{a}'.join({inner})",
            f"''.join(c * {self.between(2, 3)} if {cond} else c for c in {inner})",
            f"''.join(x + y for x, y in zip({inner}, {name}[::-1]))",
            f"''.join(chr((ord(c) + {self.between(1, 9)}) % 26 + 97) for c in {inner})",
            f"''.join(c.upper() if {every} else c for i, c in enumerate({inner}))",
        ]
        return self.pick(forms[: 8 + round(self.d * 7)])

    @property
    def depth(self) -> int:
        return self.scale(1, 3)
