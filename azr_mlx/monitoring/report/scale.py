"""Axes: the position of a value on the drawing, and the values that have ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from azr_mlx.text import number

WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 428, 24, 194
SMALLEST = 1e-300  # the decade below a number that is hardly one would be 0
DECADES = 3.0  # values that span more powers of 10 than this get a logarithmic axis


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps ``low`` to ``high`` in the data onto ``start`` to ``end`` in the drawing. ``marks`` are
    the values with ticks, if they are not to be chosen."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    name: str = "step"
    marks: tuple[float, ...] = ()

    def __call__(self, value: float) -> float:
        low, high = self._flat(self.low), self._flat(self.high)
        return self.start + (self._flat(value) - low) / (high - low) * (self.end - self.start)

    def _flat(self, value: float) -> float:
        return math.log10(value) if self.log else value


def x_scale(first: float, last: float) -> Scale:
    half = 0.5 if first == last else 0.0
    return Scale(first - half, last + half, LEFT, RIGHT)


def y_scale(low: float, high: float, unit: str) -> Scale:
    """A vertical axis. It starts at 0 if that takes little room, and shares end at 100 % at
    most."""
    if low > 0 and high / low > 10**DECADES:
        least = max(10 ** math.floor(math.log10(low)), SMALLEST)
        return Scale(least, _decade_above(high), BOTTOM, TOP, log=True)
    if low >= 0 and (low < 0.6 * high or unit == "%"):
        low = 0.0
    if low == high:
        around = max(1.0, 0.1 * abs(low))  # next to a large number 1 is nothing
        low, high = (low - around, high + around) if low else (0.0, 1.0)
    room = 0.05 * (high - low)
    top = min(high + room, 1.0) if unit == "%" and high <= 1.0 else high + room
    return Scale(low - room if low else 0.0, top, BOTTOM, TOP)


def _decade_above(high: float) -> float:
    return float(10 ** math.ceil(math.log10(high * 1.0001)))


def ticks(scale: Scale, unit: str, wanted: int = 5) -> list[tuple[float, str]]:
    """(value, label) of the ticks, at round numbers."""
    if scale.marks:
        return [(value, number(value)) for value in scale.marks]
    if scale.log:
        first, last = round(math.log10(scale.low)), round(math.log10(scale.high))
        stride = max(1, math.ceil((last - first) / wanted))
        return [(10.0**e, number(10.0**e, unit)) for e in range(first, last + 1, stride)]
    spacing = _round_spacing((scale.high - scale.low) / wanted)
    if unit == "steps":
        spacing = max(1.0, spacing)
    first, last = math.ceil(scale.low / spacing - 1e-9), math.floor(scale.high / spacing + 1e-9)
    values = [i * spacing for i in range(first, last + 1)]
    return [(value, number(value, unit, spacing)) for value in values]


def _round_spacing(raw: float) -> float:
    """``raw`` rounded up to 1, 2 or 5 times a power of 10."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(float(f"{m * power:.6g}") for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
