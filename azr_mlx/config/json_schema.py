"""The configuration as a JSON Schema, by which an editor completes, explains and checks its keys.

It accepts every file that the program accepts. It accepts some more: what spans several keys is
not in it, nor are the bounds of a number that YAML reads as text (``1e-5`` without a point is text
to PyYAML, and ``"8"`` to every reader).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml

from azr_mlx.config import schema, shipped
from azr_mlx.config.settings import Config

FILE = "schema.json"  # in the folder of the shipped configurations
EXPLAINED = "azr_config.yaml"  # every key, each below a comment on it
MODELINE = f"# yaml-language-server: $schema={FILE}"

_KEY = re.compile(r"( *)([a-z_]+):")
_COMMENT = re.compile(r" *# ?(.*)")
# Numbers and truth values as ``schema.build`` reads them out of text.
_TEXT = {
    int: r"^\s*[-+]?[0-9]+(_[0-9]+)*\s*$",
    float: r"^\s*[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9][0-9_]*)?\s*$",
    bool: r"^\s*([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[Yy][Ee][Ss]|[Nn][Oo])\s*$",
}
_TYPE = {int: "integer", float: "number", bool: "boolean"}
_SCALARS = ["string", "number", "boolean"]


def json_schema() -> dict[str, Any]:
    """The schema of a configuration's file (JSON Schema, draft 7, which editors know best)."""
    text = (shipped.config_dir() / EXPLAINED).read_text(encoding="utf-8")
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "azr-mlx configuration"}
    return {**head, **_section(Config(), comments(text), "")}


def to_text() -> str:
    """The text of the file ``schema.json``."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def comments(text: str) -> dict[str, str]:
    """The comment right above each key of a YAML text, by dotted key. A section is one level deep
    and is indented by two blanks."""
    found: dict[str, str] = {}
    above: list[str] = []
    section = ""
    for line in text.splitlines():
        if comment := _COMMENT.fullmatch(line):
            above.append(comment[1])
            continue
        if key := _KEY.match(line):
            section = section if key[1] else key[2]
            found[f"{section}.{key[2]}" if key[1] else key[2]] = " ".join(above)
        above = []
    return found


def _section(default: Any, said: Mapping[str, str], path: str) -> dict[str, Any]:
    """The schema of a dataclass, given its default: a mapping of its keys, or nothing at all."""
    hints = get_type_hints(type(default), include_extras=True)
    properties = {}
    for name in (field.name for field in fields(default)):
        value, dotted = getattr(default, name), f"{path}{name}"
        inner = (
            _section(value, said, f"{dotted}.")
            if is_dataclass(value)
            else {**_leaf(hints[name]), "default": list(value) if type(value) is tuple else value}
        )
        properties[name] = {"description": said.get(dotted, ""), **inner}
    return {"type": ["object", "null"], "additionalProperties": False, "properties": properties}


def _leaf(hint: Any) -> dict[str, Any]:
    """The schema of what a field's annotation accepts."""
    kind, *rules = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    choice = next((rule for rule in rules if isinstance(rule, schema.OneOf)), None)
    if get_origin(kind) is tuple:
        return _list(choice, rules)
    if kind is str:
        return {"type": [*_SCALARS, "null"]} if choice is None else _choice(choice)
    exact = {"type": _TYPE[kind]} if choice is None else {"enum": list(choice.options)}
    for rule in rules:
        if isinstance(rule, schema.Between):
            exact |= _bounds(rule)
    return {"anyOf": [exact, {"type": "string", "pattern": _TEXT[kind]}]}


def _choice(rule: schema.OneOf) -> dict[str, Any]:
    """One of the options, or the name of a function if the rule takes one."""
    options = {"enum": _spellings(rule.options)}
    if not isinstance(rule, schema.OneOfOrFunction):
        return options
    return {"anyOf": [options, {"type": "string", "pattern": rf"^\s*{schema.FUNCTION}\s*$"}]}


def _spellings(options: tuple[str | int, ...]) -> list[Any]:
    """The options, and what YAML makes of those that it takes for truth values (``off``, true)."""
    read = [yaml.safe_load(str(option)) for option in options]
    return [*options, *(value for value in read if isinstance(value, bool))]


def _bounds(rule: schema.Between) -> dict[str, Any]:
    named = {
        "minimum": rule.low,
        "exclusiveMinimum": rule.above,
        "maximum": rule.high,
        "exclusiveMaximum": rule.below,
    }
    bounds: dict[str, Any] = {key: value for key, value in named.items() if math.isfinite(value)}
    return {"anyOf": [bounds, {"const": 0}]} if rule.or_zero else bounds


def _list(choice: schema.OneOf | None, rules: list[Any]) -> dict[str, Any]:
    """A list of names, or a text of names with commas between them; nothing, if it may be empty."""
    items = {"type": _SCALARS} if choice is None else _choice(choice)
    empty = any(isinstance(rule, schema.Listed) and rule.empty for rule in rules)
    several = {"type": "array", "items": items, "uniqueItems": True, "minItems": 0 if empty else 1}
    return {"anyOf": [several, {"type": ["string", "null"] if empty else "string"}]}
