"""Reads what a call of ``f`` returns, as models write it: ``'a'``, ``f(3) -> 'a'``, ``The output is
`'a'`.``. Only a literal is an answer; nothing is evaluated."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from itertools import islice

from azr_mlx.sandbox import literal
from azr_mlx.tasks.inputs import BECOMES, call_at, is_call, is_literal
from azr_mlx.tasks.program import parse_source, unparse
from azr_mlx.tasks.prose import (
    MOST_WORDS,
    NOUN,
    QUOTES,
    Take,
    after,
    attempts,
    denies,
    label,
    labelled,
    layers,
    paragraphs,
    remark,
    sentence,
    stop,
    takes_back,
)

_WORDS = (
    r"outputs?|answer|results?|return(?:ed)? value|solution"
    r"|(?:returned|resulting)[ \t]+(?:list|string|number|integer|tuple|set|dictionary|dict|value)"
    r"|value(?![ \t]+(?:of|for|from|to)\b(?!(?:[ \t]+the)?[ \t]+(?:call|function|`?f\b)))"
)
_LABEL = label(f"{_WORDS}|returns?")
_FINAL = re.compile(r"[^:]*\b(?:final|corrected)\b", re.I)
_NAMES = re.compile(r"(?:\w*_)?(?:result|output|answer|value|returned|return_value|res|ret)", re.I)
_SUBJECT = re.compile(
    r"\b(?:answer|outputs?|result|value(?! of)|call|function|program|code|it)\b", re.I
)
_GIVES = re.compile(r"\b(?:returns?|gives?|prints?|yields?|produces?|evaluates? to)\b", re.I)
_IS = re.compile(r"\b(?:is|be|equals|becomes)\b", re.I)
_RETURNS = re.compile(  # a sentence about the call, up to the value
    r"(?:(?:and|so|then|thus|hence|therefore|finally)\b,?[ \t]+)*(?:the[ \t]+)?"
    r"(?:it|this|function|call|program|code|`?f`?)(?:[ \t]+call)?"
    r"(?:[ \t]+(?:of|to)[ \t]+`[^`\n]*`|[ \t]+`[^`\n]*`)?[ \t]+(?:(?:will|should|would)[ \t]+)?"
    r"(?:returns?|gives|outputs?|prints|yields|produces|evaluates to)" + NOUN,
    re.I,
)
_MOST_SIGNS = 20  # signs in a line that may begin its comment, or equate
_ENDS = re.compile(r"[*_]*(?:[.!]|,?[ \t]+(?:because|since|as|which)\b|\Z)", re.I)
_ARROW = re.compile(r"(?:=>|->|→|=)[ \t]*")
_TICKED_CALL = re.compile(r"`(f[ \t]*\([^`]*\))`")
_STOPPED = re.compile(r"[-+]?\d+\.")  # a whole number, and a full stop
_PROMPT = re.compile(r"^[ \t]*>>> .*$", re.M)
_SHOWN = re.compile(
    r"(?:#|->|=>|→|=|this|it|the|should|will|outputs?|returns?|prints?|result|expected|:|[ \t])*",
    re.I,
)


def value_in(text: str, *, prose: bool = False, takes: Sequence[Take] = ()) -> str | None:
    """The source of the literal that a text says is returned. None if it says none, or several.

    In ``prose`` a full stop ends a sentence: ``5.`` is 5 there, and 5.0 as Python. ``takes`` are
    the things that may be around the literal; all that are known, if none are given.
    """
    text = text.strip()
    for one in layers(text, takes or _TAKES):
        stopped = (prose or one != text) and _STOPPED.fullmatch(one)
        if not stopped and (found := literal_in(one)) is not None:
            return found
    return None


def literal_in(text: str) -> str | None:
    """The source of a text that is one literal, without comments; None if it is anything else."""
    return expression_in(text) if is_literal(text) else None


def expression_in(text: str) -> str | None:
    """The source of a text that is one expression, without comments."""
    tree = parse_source(text.strip())
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return None
    return unparse(tree.body[0].value)


def value_in_prose(text: str, shown: str = "") -> str | None:
    """The value that an answer without blocks gives: in its last paragraph or the last line of
    that, or else in the only lines with a label, or in its first paragraph, unless what follows
    takes it back."""
    if text.lstrip().startswith("{") and (found := value_in_json(text, shown)):
        return found
    parts = paragraphs(text, _LABEL)
    last = (value_in(part, prose=True) for part in attempts(parts))
    found = next((one for one in last if one is not None), None) or _labelled("\n".join(parts))
    return found or value_in_code(text) or _first(parts)


def _first(parts: Sequence[str]) -> str | None:
    """The value in the first paragraph, which says nothing else."""
    if not parts or takes_back("\n".join(parts[1:])):
        return None
    return value_in(parts[0], prose=True, takes=_FIRST)


def _labelled(text: str) -> str | None:
    values = [(i, line, value_in(line, prose=True)) for i, line in labelled(text, _LABEL)]
    known = [(i, line, value) for i, line, value in values if value is not None]
    final = [one for one in known if _FINAL.match(one[1])] or known
    rest = text.split("\n")[final[-1][0] + 1 :] if final else []
    if len({value for _, _, value in final}) != 1 or takes_back("\n".join(rest)):
        return None
    return final[0][2]


def value_in_code(code: str) -> str | None:
    """The value that a comment after the only call of ``f``, or after what prints it, gives."""
    found, shows = set[str | None](), False
    for line in code.split("\n"):
        left, mark, right = _commented(line)
        if left:
            shows = _shows(left)
        if shows and mark:
            words = _SHOWN.match(right)
            found.add(literal_in(right[words.end() if words else 0 :]))
    found.discard(None)
    return found.pop() if len(found) == 1 else None


def _commented(line: str) -> tuple[str, str, str]:
    """(code, "#", comment) of a line."""
    for found in islice(re.finditer("#", line), _MOST_SIGNS):
        code = line[: found.start()].strip()
        if parse_source(code) is not None:
            return code, "#", line[found.end() :].strip()
    return line.strip(), "", ""


def _shows(code: str) -> bool:
    """Whether a line is ``f(...)``, ``x = f(...)`` or ``print(...)``."""
    tree = parse_source(code)
    if tree is None or len(tree.body) != 1:
        return False
    match tree.body[0]:
        case ast.Expr(value=ast.Call(func=ast.Name(id="print"))):
            return True
        case ast.Expr(value=value) | ast.Assign(value=value):
            return is_call(value)
    return False


def value_in_json(text: str, shown: str) -> str | None:
    """The value in a JSON text; of ``{"output": 5}`` it is 5, unless such a key is in the
    program or the input that were shown."""
    try:
        value = json.loads(text)
        if isinstance(value, dict) and len(value) == 1:
            key = next(iter(value))
            value = value[key] if _NAMES.fullmatch(key) and key not in shown else value
        return literal(value)
    except (ValueError, RecursionError):
        return None


# ---------------------------------------------------------------- what is taken off


def _after_prompt(text: str) -> str | None:
    """What a session of the interpreter shows after its last line of input, if it calls ``f`` only
    there."""
    found = list(_PROMPT.finditer(text))
    if not found or any(re.search(r"\bf\(", line[0]) for line in found[:-1]):
        return None
    return text[found[-1].end() :]


def _after_call(text: str) -> str | None:
    """What follows a call and a sign or word for what it returns."""
    text = _TICKED_CALL.sub(r"\1", text, count=1) if text.startswith("`f") else text
    call = call_at(text, 1) if text.startswith("f(") else None
    found = None if call is None else BECOMES.match(text, len(call))
    return None if found is None or denies(text[found.end() :]) else text[found.end() :]


def _after_assert(text: str) -> str | None:
    """The value that the call is equal to in an assertion; `is` and `in` do not say which it is."""
    tree = parse_source(text)
    match tree.body if tree is not None else []:
        case [ast.Assert(test=ast.Compare(left=left, ops=[ast.Eq()], comparators=[value]))]:
            return unparse(value) if is_call(left) else None
    return None


def _after_equals(text: str) -> str | None:
    """The last part of ``result = ... = 'a'`` and ``f(3) = ... = 'a'``."""
    tree = parse_source(text)
    match tree.body if tree is not None else []:
        case [ast.Assign(targets=[ast.Name(id=name), *_], value=value)] if _NAMES.fullmatch(name):
            return unparse(value)
    first, *parts = re.split(r"(?<![=!<>:])=(?!=)", text)
    if not 0 < len(parts) <= _MOST_SIGNS or not _is_asked(first.strip()):
        return None
    return parts[-1] if all(map(expression_in, parts)) else None


def _is_asked(text: str) -> bool:
    """Whether what is equated with a value is what was asked for: a call, a name for it, or an
    operation of values, which may be the last step of the work."""
    if _NAMES.fullmatch(text):
        return True
    tree = parse_source(text)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return False
    value = tree.body[0].value
    return is_call(value) or (
        isinstance(value, ast.BinOp) and not any(isinstance(n, ast.Name) for n in ast.walk(value))
    )


def _quoted(text: str) -> str | None:
    """The only value that is quoted as code, if a sentence about the call ends on it, or goes on
    with the reason."""
    pieces = re.split(r"`([^`]+)`", text[:MOST_WORDS])
    values = [i for i in range(1, len(pieces), 2) if literal_in(pieces[i]) is not None]
    if len(text) > MOST_WORDS or len(values) != 1:
        return None
    before, after_it = "`".join(pieces[: values[0]]), "`".join(pieces[values[0] + 1 :])
    words = re.split(r"\.[ \t]+|\n", before)[-1]
    if denies(words) or takes_back(after_it) or not _ENDS.match(after_it):
        return None
    codes = re.findall(r"`([^`]+)`", words)
    said = words.rpartition("`")[2]
    about = bool(_SUBJECT.search(words)) or any(re.match(r"f\b", code) for code in codes)
    gives = _GIVES.search(said) and (about or not codes)
    return pieces[values[0]] if gives or (about and _IS.search(said)) else None


_TAKES = (
    _after_prompt,
    *QUOTES,
    after(_LABEL),
    _after_assert,
    _after_equals,
    _after_call,
    _quoted,
    after(sentence(_WORDS)),
    after(_RETURNS),
    after(_ARROW),
    remark,
    stop,
)
_FIRST = (*QUOTES, after(sentence(_WORDS)), after(_RETURNS), stop)
