"""The codec, the comparator and the literal parser: total, exact, and inverse to each other."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azr_mlx.sandbox import equal, literal, parse_literal
from azr_mlx.sandbox.codec import MAX_BYTES, MAX_DEPTH, CodecError, decode, encode

pytestmark = pytest.mark.sandbox

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.complex_numbers(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20)
)
_HASHABLE = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4
)
VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_HASHABLE, inner, max_size=4)
        | st.sets(_HASHABLE, max_size=4)
    ),
    max_leaves=20,
)
FEW = settings(max_examples=150, deadline=None)


@FEW
@given(VALUES)
def test_codec_round_trip(value: object) -> None:
    assert equal(decode(encode(value)), value), "a value changed on its way out of the job"


@FEW
@given(VALUES)
def test_literal_round_trip(value: object) -> None:
    assert equal(parse_literal(literal(value)), value), "the text of a value does not spell it"


@FEW
@given(st.binary(max_size=200))
def test_decode_is_total(data: bytes) -> None:
    try:
        value = decode(data)
    except CodecError:
        return
    assert equal(decode(encode(value)), value), "a decoded value must be a plain literal"


@FEW
@given(VALUES, st.data())
def test_decode_survives_damage(value: object, data: st.DataObject) -> None:
    raw = bytearray(encode(value))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    for damaged in (bytes(raw), bytes(raw[:at]), bytes(raw) + b"N"):
        try:
            decode(damaged)
        except CodecError:
            continue


@FEW
@given(st.text(max_size=60) | st.text("()[]{},:'\"01aeEjxb_-+. \n\\#", max_size=60))
def test_parse_literal_raises_value_error_only(text: str) -> None:
    try:
        value = parse_literal(text)
    except ValueError:
        return
    assert equal(parse_literal(literal(value)), value), "a parsed literal has no text of its own"


@FEW
@given(VALUES, VALUES)
def test_equal_is_symmetric_and_no_looser_than_python(a: object, b: object) -> None:
    assert equal(a, a), "a plain literal must equal itself"
    assert equal(a, b) == equal(b, a), "the comparator depends on the order of its arguments"
    if equal(a, b):
        assert a == b and type(a) is type(b), "the comparator calls different values the same"


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (True, 1, False),
        (1, 1.0, False),
        (1.0, complex(1), False),
        (0.0, -0.0, True),
        (math.nan, math.nan, False),
        ([math.nan], [math.nan], False),
        ([1], (1,), False),
        ([1, [2]], [1, [2.0]], False),
        ({1}, {True}, False),
        ({1: 2, 3: 4}, {3: 4, 1: 2}, True),
        ({1: 0}, {True: 0}, False),
        ({"a", "b"}, {"b", "a"}, True),
        ("1", b"1", False),
        (set(), {}, False),
        (frozenset({1}), {1}, False),
        (None, False, False),
        (object, object, False),
    ],
)
def test_equal_policy(a: object, b: object, same: bool) -> None:
    assert equal(a, b) is same, f"the written policy says {same} of {a!r} and {b!r}"


@pytest.mark.parametrize(
    "text",
    [
        "0 or True",
        "f()",
        "__import__('os')",
        "[x for x in ()]",
        "lambda: 0",
        "1 + 1",
        "1e999",
        "-1e999",
        "nan",
        "{[]: 1}",
        "'\\ud800'",
        "9" * 5000,
        "[" * 100_000,
        "-" * 100_000 + "1",
        "1+" * 50_000 + "1",
        "",
        "1 2",
        "\0",
        "1" * (1 << 19),
        "frozenset()",
        "0x" + "f" * 100_000,
        "f'{1}'",
        "...",
    ],
    ids=lambda text: text[:12],
)
def test_parse_literal_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        parse_literal(text)


def _deep(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


class _Int(int):
    pass


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        complex(0, math.inf),
        frozenset(),
        object(),
        int,
        _Int(1),
        [_Int(1)],
        "\ud800",
        1 << 20_000,
        _deep(MAX_DEPTH + 1),
        _deep(5000),
        "a" * (MAX_BYTES + 1),
        [0] * MAX_BYTES,
        range(3),
        bytearray(b"x"),
        set(range(5000)),
        (n for n in ()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_not_plain_literals(value: object) -> None:
    for use in (encode, literal):
        with pytest.raises(ValueError):
            use(value)


def test_cyclic_value_is_refused() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(CodecError):
        encode(value)


def test_literal_is_canonical() -> None:
    assert literal({"b", "a", "c"}) == "{'a', 'b', 'c'}", (
        "the text of a set depends on the hash seed"
    )
    assert literal({"b": 1, "a": (2,)}) == "{'b': 1, 'a': (2,)}", (
        "a dict's order is visible, so it is kept"
    )
    assert literal(set()) == "set()"
    assert literal(()) == "()"
