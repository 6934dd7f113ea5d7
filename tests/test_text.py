"""Figures as text for people."""

from __future__ import annotations

import pytest

from azr_mlx.text import counted, duration, storage

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 kB"), (2_400, "2 kB"), (1e6, "1 MB"), (657e6, "657 MB"), (10.14e9, "10.1 GB")],
)
def test_a_size_has_the_unit_that_fits(size, text):
    assert storage(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (7_384, "2 h 3 min")],
)
def test_a_duration_has_two_units_at_most(seconds, text):
    assert duration(seconds) == text


def test_one_of_something_is_not_many():
    assert [counted(n, "step") for n in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
