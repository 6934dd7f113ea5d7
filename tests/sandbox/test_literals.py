"""The codec, the comparator and the literal parser: total, exact, and inverse to each other."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from azr_mlx.sandbox import equal, literal, parse_literal
from azr_mlx.sandbox.jail.codec import MAX_BYTES, MAX_DEPTH, CodecError, decode, encode

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


# ---------------------------------------------------------------- properties of the codec

SOME = settings(max_examples=80, deadline=None)
PLAIN = (type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set)


def _parts(value: Any) -> list[Any]:
    """The value and all that is in it."""
    inner = [*value.keys(), *value.values()] if type(value) is dict else value
    if type(value) not in (list, tuple, set, dict):
        return [value]
    return [value, *(part for item in inner for part in _parts(item))]


@SOME
@given(VALUES)
def test_every_type_survives_exactly(value: object) -> None:
    """Types, the sign of zero and the order of a dict's items too, which ``equal`` leaves aside."""
    decoded = decode(encode(value))
    if not any(type(part) is set for part in _parts(value)):  # whose order is the hash seed's
        assert repr(decoded) == repr(value)
    assert sorted(str(type(p)) for p in _parts(decoded)) == sorted(
        str(type(p)) for p in _parts(value)
    ), "a type changed on its way out of the job"


# Bytes that look like an encoding: tags, counts and contents put together at random.
_PIECES = (
    st.sampled_from([b"N", b"T", b"F", b"I", b"D", b"C", b"S", b"B", b"L", b"U", b"E", b"M", b"O"])
    | st.integers(0, 4).map(lambda n: struct.pack("<I", n))
    | st.sampled_from([1 << 31, (1 << 32) - 1, MAX_BYTES]).map(lambda n: struct.pack("<I", n))
    | st.tuples(st.sampled_from([b"S", b"B", b"I"]), st.binary(max_size=4)).map(
        lambda pair: pair[0] + struct.pack("<I", len(pair[1])) + pair[1]
    )
    | st.tuples(st.sampled_from([b"L", b"U", b"E", b"M"]), st.integers(0, 3)).map(
        lambda pair: pair[0] + struct.pack("<I", pair[1])
    )
    | st.floats().map(lambda x: struct.pack("<cd", b"D", x))
)


def _check_total(data: bytes) -> None:
    try:
        value = decode(data)
    except CodecError:
        return
    assert all(type(part) in PLAIN for part in _parts(value)), "decoded to what is no literal"
    assert equal(value, value) and equal(decode(encode(value)), value)


@SOME
@given(st.lists(_PIECES, max_size=12).map(b"".join))
def test_decode_is_total_on_what_looks_like_an_encoding(data: bytes) -> None:
    _check_total(data)


@SOME
@given(VALUES, VALUES, st.data())
def test_decode_is_total_on_spliced_encodings(a: object, b: object, data: st.DataObject) -> None:
    """Bytes changed, cut out, put in, and the beginning of one value with the end of another."""
    raw, other = bytearray(encode(a)), encode(b)
    for _ in range(data.draw(st.integers(1, 4))):
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(raw))] * 2)))
        raw[start : min(end, start + 6)] = data.draw(st.binary(max_size=6))
    cut = data.draw(st.integers(0, len(other)))
    for damaged in (bytes(raw), bytes(raw) + other[cut:], other[:cut] + bytes(raw)):
        _check_total(damaged)


@pytest.mark.parametrize("tag", [b"L", b"U", b"E", b"M"])
@pytest.mark.parametrize("count", [MAX_BYTES, 1 << 24, (1 << 32) - 1])
def test_a_claimed_count_costs_nothing(tag: bytes, count: int) -> None:
    with pytest.raises(CodecError):
        decode(tag + struct.pack("<I", count) + b"N" * 100)


@pytest.mark.parametrize("tag", [b"L", b"U", b"E", b"M"])
def test_decode_of_deep_nesting_is_refused(tag: bytes) -> None:
    with pytest.raises(CodecError):
        decode((tag + struct.pack("<I", 1)) * 20_000 + b"N")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"E" + struct.pack("<I", 2) + b"TT", "a member twice"),
        (b"E" + struct.pack("<I", 2) + b"T" + encode(1), "True and 1 are one member"),
        (b"M" + struct.pack("<I", 2) + b"TNTN", "a key twice"),
        (b"E" + struct.pack("<I", 1) + encode([]), "a member that has no hash"),
        (b"M" + struct.pack("<I", 1) + encode({}) + b"N", "a key that has no hash"),
        (struct.pack("<cd", b"D", math.nan), "NaN"),
        (struct.pack("<cdd", b"C", 0.0, math.inf), "an infinite part"),
        (b"S" + struct.pack("<I", 3) + b"\xed\xa0\x80", "a lone surrogate"),
        (b"I" + struct.pack("<I", 9000) + b"\x7f" * 9000, "an integer of too many digits"),
        (b"N" + b"N", "two values"),
        (b"", "nothing"),
    ],
)
def test_decode_refuses(data: bytes, why: str) -> None:
    with pytest.raises(CodecError):
        decode(data)


class _Str(str):
    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"3"


class _List(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([3])

    def __len__(self) -> int:
        return 1


class _Dict(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        return [(3, 3)]


class _Always(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]
    __class__ = int  # type: ignore[assignment]


def _subclass(base: type) -> type:
    return type("Sub", (base,), {"__eq__": lambda a, b: True, "__hash__": lambda a: 0})


SUBCLASSED = [
    _Int(3),
    _Str("3"),
    _List([3]),
    _Dict({3: 3}),
    _Always(3),
    *(
        _subclass(base)(value)
        for base, value in [
            (int, 3),
            (float, 3.0),
            (complex, 3j),
            (str, "3"),
            (bytes, b"3"),
            (list, [3]),
            (tuple, (3,)),
            (dict, {3: 3}),
            (set, {3}),
            (frozenset, {3}),
        ]
    ),
]


@SOME
@given(st.sampled_from(SUBCLASSED), VALUES, st.data())
def test_no_subclass_is_encoded_however_deep(odd: Any, value: object, data: st.DataObject) -> None:
    hide = st.sampled_from(
        [
            lambda x: [value, x],
            lambda x: (x, value),
            lambda x: {"k": x},
            lambda x: {1: [value], 2: x},
        ]
    )
    for wrap in data.draw(st.lists(hide, max_size=4)):
        odd = wrap(odd)
    for use in (encode, literal):
        with pytest.raises(CodecError):
            use(odd)


class _Lying(type):
    """A class that is found where ``list`` is looked up."""

    def __hash__(cls) -> int:
        return hash(list)

    def __eq__(cls, other: object) -> bool:
        return other is list


class _Liar(list, metaclass=_Lying):  # type: ignore[type-arg]
    pass


def test_a_class_that_claims_to_be_list_is_a_subclass() -> None:
    with pytest.raises(CodecError):
        encode(_Liar([3]))


# ---------------------------------------------------------------- properties of the comparator


def same(a: Any, b: Any) -> bool:
    """The policy once more, slowly and in other words: nothing here hashes or sorts."""
    if type(a) is not type(b):
        return False
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if type(a) is set:
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if type(a) is dict:
        return len(a) == len(b) and all(
            any(same(k, m) and same(v, w) for m, w in b.items()) for k, v in a.items()
        )
    return bool(a == b)


# Few values, so that two draws are often close: equal in value and not in type, or the reverse.
_CLOSE = st.sampled_from(
    [None, True, False, 0, 1, 2, 0.0, -0.0, 1.0, 0j, 1 + 0j, "", "1", b"", b"1", ()]
)
_CLOSE_KEYS = _CLOSE | st.lists(_CLOSE, max_size=2).map(tuple)
NEAR = st.recursive(
    _CLOSE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(_CLOSE_KEYS, max_size=3)
        | st.dictionaries(_CLOSE_KEYS, inner, max_size=3)
    ),
    max_leaves=6,
)
_TWINS: list[tuple[Any, Any]] = [
    (True, 1), (1, 1.0), (1.0, True), (False, 0), (0.0, -0.0), (1, 1 + 0j), ("1", b"1"),
    (None, False), ("", b""), ((), []), (0, 0.0),
]  # fmt: skip


def _neighbour(value: Any, data: st.DataObject) -> Any:
    """A value that differs little from another, in its type, its order or a part, or not at all."""
    how = data.draw(st.integers(0, 3))
    if how == 0:
        return decode(encode(value))
    twins = [b if same(a, value) else a for a, b in _TWINS if same(a, value) or same(b, value)]
    if how == 1 and twins:
        return data.draw(st.sampled_from(twins))
    if type(value) in (list, tuple):
        items = [_neighbour(item, data) for item in value]
        return tuple(items) if (type(value) is tuple) == (how < 3) else items
    if type(value) is dict:
        pairs = data.draw(st.permutations(list(value.items())))
        return {key: _neighbour(item, data) for key, item in pairs}
    if type(value) is set:
        return set(data.draw(st.permutations(list(value))))
    return value


@SOME
@given(NEAR, st.data())
def test_equal_is_what_the_policy_says(a: object, data: st.DataObject) -> None:
    b = data.draw(NEAR) if data.draw(st.booleans()) else _neighbour(a, data)
    assert equal(a, b) is same(a, b), "the comparator and the policy disagree"
    assert equal(b, a) is equal(a, b), "the comparator depends on the order of its arguments"
    assert equal(a, a) and not (equal(a, b) and a != b), "looser than Python's own =="
    assert equal([a], [b]) is equal(a, b) is equal({0: a}, {0: b}), "the depth must not matter"


@SOME
@given(NEAR, st.data())
def test_equal_is_transitive(a: object, data: st.DataObject) -> None:
    b = _neighbour(a, data)
    c = _neighbour(b, data)
    assume(equal(a, b) and equal(b, c))
    assert equal(a, c)


@SOME
@given(VALUES, VALUES)
def test_equal_values_are_equal_and_of_the_same_types(a: Any, b: Any) -> None:
    for left, right in ((a, b), (a, decode(encode(a)))):
        types = [sorted(str(type(p)) for p in _parts(x)) for x in (left, right)]
        assert not equal(left, right) or (left == right and types[0] == types[1])
        assert equal(left, right) is same(left, right)


@SOME
@given(st.dictionaries(_HASHABLE, NEAR, max_size=5), st.data())
def test_the_order_of_dicts_and_sets_does_not_matter(a: dict[Any, Any], data: Any) -> None:
    b = dict(data.draw(st.permutations(list(a.items()))))
    assert equal(a, b) and equal(set(a), set(reversed(list(a)))), "order of no meaning counted"
    assert equal(list(a), list(b)) is (list(a) == list(b)), "order of meaning did not count"


@SOME
@given(VALUES, st.data())
def test_one_part_that_differs_is_enough(value: object, data: st.DataObject) -> None:
    """Somewhere inside, and whatever stands around it."""
    a, b = data.draw(st.sampled_from([*_TWINS[:4], *_TWINS[5:], (1, 2), ("a", "A")]))
    for wrap in data.draw(
        st.lists(
            st.sampled_from(
                [
                    lambda x: [value, x],
                    lambda x: (x, value),
                    lambda x: {"k": x, "v": value},
                    lambda x: [[x]],
                ]
            ),
            max_size=5,
        )
    ):
        a, b = wrap(a), wrap(b)
    assert equal(a, a) and equal(b, b) and not equal(a, b)


# ---------------------------------------------------------------- the written policy, by the letter

_INSIDE = [
    lambda x: x,
    lambda x: [x],
    lambda x: (0, x),
    lambda x: {x},
    lambda x: {x: 0},
    lambda x: {0: [x]},
]


@pytest.mark.parametrize("wrap", _INSIDE)
@pytest.mark.parametrize(
    ("a", "b", "same_value"),
    [
        (True, 1, False),
        (False, 0, False),
        (1, 1.0, False),
        (True, 1.0, False),
        (0.0, -0.0, True),
        (complex(0.0, -0.0), complex(-0.0, 0.0), True),
        (math.nan, math.nan, False),
        (float("nan"), math.nan, False),
        (complex(math.nan, 0), complex(math.nan, 0), False),
        (math.inf, 1e308, False),
        (math.inf, -math.inf, False),
        (1 << 1000, (1 << 1000) + 1, False),
        (1 << 60, float(1 << 60), False),
    ],
)
def test_policy_at_every_depth(wrap: Any, a: Any, b: Any, same_value: bool) -> None:
    assert equal(wrap(a), wrap(b)) is same_value
    assert equal(wrap(b), wrap(a)) is same_value


def test_nan_is_not_even_itself() -> None:
    """Also where Python's containers take the same object for equal without looking."""
    shared = [math.nan]
    assert shared == shared and not equal(shared, shared)
    assert not equal({math.nan: 1}, {math.nan: 1})


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, complex(0, math.inf)])
@pytest.mark.parametrize("wrap", _INSIDE)
def test_values_that_are_not_finite_are_no_literals(value: Any, wrap: Any) -> None:
    for use in (encode, literal):
        with pytest.raises(ValueError):
            use(wrap(value))


def test_an_infinity_equals_nothing() -> None:
    """The policy: anything but a plain literal equals nothing; ``codec``: those are finite."""
    assert not equal(math.inf, math.inf)


@pytest.mark.parametrize("odd", SUBCLASSED, ids=lambda odd: type(odd).__bases__[0].__name__)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {0: (x,)}])
def test_a_subclass_equals_nothing(odd: Any, wrap: Any) -> None:
    base = type(odd).__bases__[0]
    for other in (odd, base(3) if base in (int, float) else base(odd)):
        assert not equal(wrap(odd), wrap(other)) and not equal(wrap(other), wrap(odd))
