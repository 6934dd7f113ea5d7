"""Frozen dataclasses as a schema: bounds in the annotations, values from YAML and ``KEY=VALUE``.

Nothing here knows which configuration it reads. Values stay text until the field's type says what
they are (PyYAML takes ``1e-5`` for a string), and mistakes are collected rather than raised, one
line each: ``dotted.key: value: why; fix``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml

from azr_mlx.files import Unreadable, read_text
from azr_mlx.text import is_text


@dataclass(frozen=True)
class Between:
    """A number's bounds: ``low`` and ``high`` are inside, ``above`` and ``below`` outside."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    or_zero: bool = False  # 0 turns the thing off

    def complaint(self, value: float) -> str:
        """Why ``value`` is refused and the fix; empty if it is not."""
        inside = self.low <= value <= self.high and self.above < value < self.below
        if inside or (self.or_zero and value == 0):
            return ""
        bounds = ((" >= ", self.low), (" > ", self.above), (" <= ", self.high), (" < ", self.below))
        wanted = " and".join(f"{sign}{bound:g}" for sign, bound in bounds if math.isfinite(bound))
        return f"out of range; give a number{wanted}{' (or 0: off)' if self.or_zero else ''}"


@dataclass(frozen=True, init=False)
class OneOf:
    """The values that a field, or each item of a tuple, may take."""

    options: tuple[str | int, ...]
    besides = ""  # what else it may be, as a message says it

    def __init__(self, *options: str | int) -> None:
        object.__setattr__(self, "options", options)

    def takes(self, item: object) -> bool:
        """Whether an item may be this."""
        return item in self.options

    def complaint(self, value: object) -> str:
        """Why ``value`` (or an item of it) is refused and the fix; empty if it is not."""
        given = value if isinstance(value, tuple) else (value,)
        wrong = [item for item in given if not self.takes(item)]
        if not wrong:
            return ""
        names = [str(option) for option in self.options]
        near = get_close_matches(str(wrong[0]), names, 1)
        hint = f"did you mean {near[0]}? (choices: " if near else "choose from ("
        return f"{wrong[0]!r} is not a choice; {hint}{', '.join(names)}){self.besides}"


# A module's dotted name, a colon, and the name of a function in it.
FUNCTION = "[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*"


def is_function(value: object) -> bool:
    """Whether a value has the form ``module:function``."""
    return isinstance(value, str) and re.fullmatch(FUNCTION, value) is not None


class OneOfOrFunction(OneOf):
    """The values that a field, or each item of a tuple, may take; or a function of the user's own,
    by its name ``module:function``."""

    besides = ", or name a function of your own as module:function"

    def takes(self, item: object) -> bool:
        return super().takes(item) or is_function(item)


@dataclass(frozen=True)
class Listed:
    """A tuple without repetition, and with at least one item unless ``empty``."""

    empty: bool = False

    def complaint(self, value: tuple[str, ...]) -> str:
        """Why ``value`` is refused and the fix; empty if it is not."""
        if not value and not self.empty:
            return "empty; name at least one"
        twice = sorted({item for item in value if value.count(item) > 1})
        return f"{', '.join(twice)} named twice; name it once" if twice else ""


_MOST_VALUES = 100_000  # in a YAML file; the whole configuration has a hundred

Positive = Annotated[float, Between(above=0)]
NonNegative = Annotated[float, Between(0)]
Fraction = Annotated[float, Between(0, 1)]
Natural = Annotated[int, Between(1)]
Count = Annotated[int, Between(0)]
Names = Annotated[tuple[str, ...], Listed()]


def read(path: Path, errors: list[str]) -> dict[str, Any]:
    """The mapping in a YAML file, every scalar still text; what is wrong is added to ``errors``."""
    try:
        root = compose(read_text(path))
    except (OSError, Unreadable, RecursionError, yaml.YAMLError) as error:
        errors.append(f"config: {path}{_unreadable(error)}")
        return {}
    tree = _value(root, "", errors) if root is not None else {}
    if isinstance(tree, dict):
        return tree
    errors.append(f"config: {path}: not a mapping; write `key: value` lines")
    return {}


def compose(text: str) -> yaml.Node | None:
    """The nodes of a YAML document; None if it is empty. Raises yaml.YAMLError, RecursionError, or
    Unreadable if its aliases stand for more values than there can be."""
    root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None and _size(root) > _MOST_VALUES:
        raise Unreadable("its aliases repeat values without end; write them out")
    return root


def _unreadable(error: Exception) -> str:
    """The place where a file is not YAML, why, and how to fix it."""
    if isinstance(error, OSError):
        return f": cannot be read: {error.strerror}; name another file"
    if isinstance(error, Unreadable):
        return f": {error}"
    if isinstance(error, RecursionError):
        return ": nested too deeply; write sections of `key: value` lines"
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
    why = " ".join(str(getattr(error, "problem", None) or error).split())
    tab = "\\t" in why or (mark is not None and (mark.get_snippet() or "").lstrip(" ")[:1] == "\t")
    fix = "indent with blanks, not tabs" if tab else "fix that line"
    return f"{where}: not YAML: {why}; {fix}"


def _size(root: yaml.Node) -> float:
    """How many values the node has if every alias is written out; infinity if one contains
    itself."""
    sizes: dict[int, float] = {}

    def size(node: yaml.Node) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = math.inf  # met again within the node: an alias to what it is in
            sizes[id(node)] = 1 + sum(map(size, _inside(node)))
        return sizes[id(node)]

    return size(root)


def _inside(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _value(node: yaml.Node, path: str, errors: list[str]) -> Any:
    """A YAML node as dicts, lists, text and None; a key that is given twice is an error."""
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, path, errors) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        return None if node.tag.endswith(":null") else node.value
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            line = key_node.start_mark.line + 1
            errors.append(f"{path or 'config'}: line {line}: a key that is not a name; give a name")
            continue
        key = str(key_node.value)
        dotted, value = _join(path, key), _value(value_node, _join(path, key), errors)
        if key in found:
            line = key_node.start_mark.line + 1
            errors.append(f"{dotted}: {show(value)}: given twice (again on line {line}); keep one")
        found[key] = value
    return found


def override(cls: Any, tree: dict[str, Any], text: str, errors: list[str]) -> None:
    """Put ``KEY=VALUE`` into ``tree``, where ``KEY`` is a dotted key of the dataclass ``cls``."""
    key, equals, value = text.partition("=")
    if not equals:
        errors.append(f"{text}: not an override; write KEY=VALUE, for example max_steps=100")
    elif key not in leaves(cls):
        errors.append(_unknown(cls, key, value))
    else:
        *sections, leaf = key.split(".")
        for section in sections:
            tree = _section(tree, section)
        tree[leaf] = value


def _section(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """The mapping under ``name``; a scratch one where ``build`` will report that it is none."""
    if tree.get(name) is None:
        tree[name] = {}
    return tree[name] if isinstance(tree[name], dict) else {}


def build(
    cls: Any, tree: Mapping[str, Any], errors: list[str], path: str = "", root: Any = None
) -> Any:
    """An instance of the dataclass ``cls``; what cannot be read keeps its default, reported."""
    hints = _hints(cls)
    given: dict[str, Any] = {}
    for name, raw in tree.items():
        dotted = _join(path, name)
        if name not in hints:
            errors.append(_unknown(root or cls, dotted, raw))
        elif not is_dataclass(hints[name]):
            try:
                given[name] = _coerce(raw, hints[name])
            except ValueError as error:
                errors.append(f"{dotted}: {show(raw)}: {error}")
        elif isinstance(raw, Mapping) or raw is None:
            given[name] = build(hints[name], raw or {}, errors, dotted, root or cls)
        else:
            errors.append(f"{dotted}: {show(raw)}: a section; indent its keys below it")
    return cls(**given)


def _coerce(raw: Any, hint: Any) -> Any:
    """``raw`` (text, None or a list) as the field's type. Raises ``ValueError``: why; fix."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(kind) is tuple:
        return _items(raw)
    if isinstance(raw, (Mapping, list, tuple)):
        raise ValueError("several values; give one")
    text = "" if raw is None else str(raw).strip()
    return _READERS[kind](text)


def _items(raw: Any) -> tuple[str, ...]:
    if isinstance(raw, Mapping):
        raise ValueError("a mapping; give a list, or names with commas between them")
    if raw is None or isinstance(raw, str):
        raw = (raw or "").strip().removeprefix("[").removesuffix("]").split(",")
        raw = [item for item in raw if item.strip()]
    if any(item is None or isinstance(item, (Mapping, list, tuple)) for item in raw):
        raise ValueError("a nested list; give plain names")
    return tuple(_str(str(item).strip()) for item in raw)


def _str(text: str) -> str:
    if not is_text(text):
        raise ValueError("not UTF-8 text; write it in UTF-8, in a locale that has it")
    # A path: no shell sees it in a file, and not every shell looks behind the sign of KEY=VALUE.
    return os.path.expanduser(text) if text.startswith("~/") else text


def _int(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError("not a whole number; give one without point or exponent") from None
    if abs(value) >= _TOO_LARGE:
        raise ValueError("out of range; give a number of at most 18 digits")
    return value


def _float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("not a number; give one such as 0.5 or 1e-5") from None
    if not math.isfinite(value):
        raise ValueError("not finite; give a finite number")
    return value


def _bool(text: str) -> bool:
    if text.lower() not in _BOOLS:
        raise ValueError("neither true nor false; give one of them (yes and no will do)")
    return _BOOLS[text.lower()]


_BOOLS = {"true": True, "yes": True, "false": False, "no": False}
_TOO_LARGE = 10**18  # what the libraries take as a 64-bit number
_READERS: dict[type, Callable[[str], Any]] = {str: _str, int: _int, float: _float, bool: _bool}


def complaints(config: Any) -> dict[str, str]:
    """The dotted keys whose values are out of bounds, with why and how to fix it."""
    cls: Any = type(config)
    kinds, found = leaves(cls), {}
    for key, value in flat(config):
        rules = get_args(kinds[key])[1:] if get_origin(kinds[key]) is Annotated else ()
        if wrong := next((why for rule in rules if (why := rule.complaint(value))), ""):
            found[key] = wrong
    return found


def dotted_keys(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Each dotted key that has a value in a nested mapping."""
    for name, value in tree.items():
        dotted = _join(path, name)
        if isinstance(value, Mapping):
            yield from dotted_keys(value, dotted)
        else:
            yield dotted


def flat(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each dotted key with its value, in the order of the fields."""
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from flat(value, _join(path, f.name))
        else:
            yield _join(path, f.name), value


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dicts, lists and scalars, in the order of the fields."""
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config)}


@cache
def leaves(cls: Any, path: str = "") -> dict[str, Any]:
    """Each dotted key of the dataclass ``cls`` with its annotation."""
    found: dict[str, Any] = {}
    for name, hint in _hints(cls).items():
        nested, dotted = bool(is_dataclass(hint)), _join(path, name)
        found.update(leaves(hint, dotted) if nested else {dotted: hint})
    return found


def show(raw: Any) -> str:
    """The text of a value in an error message."""
    if isinstance(raw, (list, tuple)):
        return ", ".join(map(str, raw)) or "(empty)"
    return "(empty)" if raw is None or raw == "" else str(raw)


def _unknown(cls: Any, dotted: str, raw: Any) -> str:
    """The line for a key that does not exist, with the nearest one that does."""
    keys = list(leaves(cls))
    sections = sorted({key.rpartition(".")[0] for key in keys} - {""})
    if dotted in sections:
        first = next(key for key in keys if key.startswith(f"{dotted}."))
        return f"{dotted}: {show(raw)}: a section; set one of its keys, for example {first}=..."
    near = get_close_matches(dotted, [*keys, *sections], 1, 0.75) or _namesakes(dotted, keys)
    hint = f"did you mean {' or '.join(near)}?" if near else "remove it"
    return f"{dotted}: {show(raw)}: no such key; {hint}"


def _namesakes(dotted: str, keys: list[str]) -> list[str]:
    """The keys whose last part is, or is most like, the last part of ``dotted``."""
    last = {key: key.rpartition(".")[2] for key in keys}
    alike = get_close_matches(dotted.rpartition(".")[2], last.values(), 1, 0.75)
    return [key for key in keys if last[key] in alike]


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
