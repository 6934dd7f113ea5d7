"""Arguments for template programs, by input type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from azr_mlx.tasks.templates.grammar import LETTERS, Pen


def _value(pen: Pen, kind: str) -> Any:
    """One argument of an input type, larger as the difficulty grows."""
    size = pen.between(2, 3 + round(pen.d * 4))
    reach = 9 + round(pen.d * 50)
    if kind.startswith("ops:"):
        ops = kind[4:].split(",")
        return [pen.between(1, 9), pen.between(1, 9)] + [
            pen.between(1, 9) if pen.chance(0.45) else pen.pick(ops) for _ in range(size + 1)
        ]
    make: dict[str, Callable[[], Any]] = {
        "int": lambda: pen.between(-reach // 3, reach),
        "nat": lambda: pen.between(1, 20 * reach),
        "small": lambda: pen.between(1, 6 + round(pen.d * 10)),
        "tiny": lambda: pen.between(1, 12),
        "nums": lambda: [pen.between(-reach // 4, reach) for _ in range(size)],
        "text": lambda: _word(pen),
        "words": lambda: [_word(pen) for _ in range(size)],
        "table": lambda: {_word(pen): pen.between(0, reach) for _ in range(size)},
        "grid": lambda: [
            [pen.between(0, 9) for _ in range(min(size, 3))] for _ in range(pen.between(2, 3))
        ],
        "nested": lambda: _nested(pen, 2),
    }
    return make[kind]()


def _word(pen: Pen) -> str:
    return "".join(pen.pick(LETTERS) for _ in range(pen.between(2, 4 + round(pen.d * 4))))


def _nested(pen: Pen, depth: int) -> list[Any]:
    return [
        pen.between(0, 12) if depth == 0 or pen.chance(0.6) else _nested(pen, depth - 1)
        for _ in range(pen.between(2, 3))
    ]


def draw_inputs(pen: Pen, params: dict[str, str], count: int) -> tuple[str, ...]:
    """``count`` distinct argument tuples as literals; fewer where 20 tries for each do not find
    them.
    """
    found: dict[str, None] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        found[repr(tuple(_value(pen, kind) for kind in params.values()))] = None
        pen.d = min(1.0, pen.d + 0.01)  # a small space of inputs widens until it holds enough
    return tuple(found)
