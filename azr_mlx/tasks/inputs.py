"""Reads the arguments of ``f`` as models write them: ``f(3, k=1)``, ``3, k=1``, ``xs = [3]``, one
line after another. Python's own parser says what they mean; nothing is evaluated."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeGuard

from azr_mlx.sandbox import literal, parse_literal
from azr_mlx.tasks.program import entry, parse_source, unparse
from azr_mlx.tasks.prose import (
    MOST_WORDS,
    QUOTES,
    after,
    attempts,
    denies,
    label,
    labelled,
    layers,
    paragraphs,
    sentence,
    stop,
)

MAX_INPUTS = 64  # inputs that are read from one text
_MAX_LAYERS = 8  # marks and labels that are taken off one line
_MAX_BEGUN = 20  # calls in one sentence
_MAX_ENDS = 200  # closing brackets that are tried as the end of one call
_MARKED_CALL = re.compile(r"^[ \t]*[-*+][ \t]+(?=f\()", re.M)  # to Python, `- f(1)` is a number
_WORDS = r"inputs?|calls?|arguments?|args|invocation|usage|answer|solution|test(?:[ \t]+case)?"
_LABEL = label(rf"{_WORDS}|examples?(?:[ \t]+(?:{_WORDS}))?")
_INPUT_LABEL = label("inputs?|arguments?|args")
_ITEM = re.compile(r"([-*+>]+|\d+[.)])[ \t]+")  # what stands before an input in a list
_CALL = re.compile(
    rf"^(>>>[ \t]*|[-*+#][ \t]+|\d+[.)][ \t]+)?(?i:{_LABEL.pattern})?"
    r"(assert[ \t]+|print\(|`)?f[ \t]*\(",
    re.M,
)
_GOES_ON = re.compile(r"^[^#\n]*[^#\s(\[{,],[ \t]*\n(?=[ \t]*[^\s)\]}])", re.M)
_STOPPED = re.compile(r"(?<![\w.])\d+\.\Z")  # a whole number, and a full stop
_ASSIGNMENT = re.compile(r"\w+[ \t]*=(?!=)")
_ENDS = re.compile(r".*\b(is|are|be|returns?|gives?)\b[^`]*`[^`]+`[.*_]*", re.I | re.S)
BECOMES = re.compile(  # what stands between a call and what it returns
    r"[ \t]*(->|=>|→|==?|:|#|(,[ \t]*)?(which )?(returns?|gives|outputs|is|evaluates to)\b)[ \t]*"
)


class Signature(NamedTuple):
    """The parameters of ``f`` that take positional arguments, in order, with their defaults; none
    are known if there is no program."""

    names: tuple[str, ...] = ()
    defaults: tuple[ast.expr, ...] = ()
    more: bool = True  # whether it takes any further arguments, or none are known

    @property
    def required(self) -> int:
        return len(self.names) - len(self.defaults)

    def takes(self, count: int) -> bool:
        """Whether ``f`` can be called with so many arguments."""
        return self.required <= count and (self.more or count <= len(self.names))


def signature(program: str) -> Signature:
    """The signature of the program's ``f``; an unknown one if it has no such function."""
    tree = parse_source(program) if program else None
    function = None if tree is None else entry(tree)
    if function is None:
        return Signature()
    arguments = function.args
    names = tuple(one.arg for one in [*arguments.posonlyargs, *arguments.args])
    return Signature(names, tuple(arguments.defaults), arguments.vararg is not None)


def call_at(text: str, opening: int) -> str | None:
    """``f(...)`` where ``opening`` is the index of its bracket: the shortest text that is a call.
    None if there is none."""
    end = opening
    for _ in range(_MAX_ENDS):
        end = text.find(")", end) + 1
        if not end:
            return None
        call = "f" + text[opening:end]
        if _call_of(call) is not None:
            return call
    return None


def _call_of(text: str) -> ast.Call | None:
    tree = parse_source(text)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return None
    return node if is_call(node := tree.body[0].value) else None


def is_call(node: ast.expr) -> TypeGuard[ast.Call]:
    """Whether an expression is a call of ``f``."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "f"


def arguments_of_call(call: str, program: str = "") -> str | None:
    """The arguments of ``f(...)`` as the source of a tuple; those with names in the places that the
    program gives them. None for stars, unknown names and a missing argument before a named one."""
    node = _call_of(call)
    return None if node is None else placed(node, signature(program), {})


def arguments_in(text: str, program: str = "") -> list[str]:
    """The arguments that a text holds, each as the source of a tuple: of calls and assertions, of
    assignments to the parameters, or of bare values. What is not Python is passed over."""
    known = signature(program)
    text = _MARKED_CALL.sub("", text).strip()
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2:
        return _in_line(text, known)
    found = _in_code(text, known)
    if found is None:
        found = [one for line in lines[:MAX_INPUTS] for one in _in_line(line, known)]
    return found[:MAX_INPUTS]


def _in_line(line: str, known: Signature) -> list[str]:
    """The arguments in a line, which may have several marks and labels before it."""
    for _ in range(_MAX_LAYERS):
        line = _MARKED_CALL.sub("", line).strip()
        found = _in_code(line, known)
        if found is not None:
            return found[:MAX_INPUTS]
        plain = _plain(line)
        if len(plain) >= len(line):
            break
        line = plain
    return []


def _in_code(text: str, known: Signature) -> list[str] | None:
    """The arguments in what is Python, by itself or between the brackets of a call; None if it is
    not."""
    if not text:
        return []
    tree, call = parse_source(text), _call_of(f"f({text}\n)")
    if tree is not None and not (call is not None and _means_one_call(text, call, known)):
        return _read(tree.body, known)
    if call is not None:
        return [args for args in [placed(call, known, {})] if args is not None]
    return None


def _means_one_call(text: str, call: ast.Call, known: Signature) -> bool:
    """Whether what is Python by itself, too, is meant as the arguments of one call: with commas
    between them, assignments are keywords; a comma that ends a line goes on in the next, if the
    function takes so many."""
    if call.keywords:
        return True
    return bool(known.names and known.takes(len(call.args)) and _GOES_ON.search(text))


def calls_in(text: str, program: str = "") -> list[str]:
    """The arguments of the calls of ``f`` that begin a line, each as the source of a tuple."""
    found = islice(_CALL.finditer(text), MAX_INPUTS)
    calls = [call_at(text, match.end() - 1) for match in found]
    known = [arguments_of_call(call, program) for call in calls if call is not None]
    return [one for one in known if one is not None]


def named_in(text: str, program: str = "") -> list[str]:
    """The arguments in the lines that a label such as ``Input:`` begins."""
    found = [_INPUT_LABEL.sub("", line, 1) for _, line in labelled(text, _INPUT_LABEL)]
    found = [line.strip() for line in found[:MAX_INPUTS]]  # `Input: 3` is an annotation to Python
    lines = [line[:-1] if _STOPPED.search(line) else line for line in found]
    return [one for line in lines for one in arguments_in(line, program) if is_literal(one)]


def arguments_in_prose(text: str, program: str = "") -> str | None:
    """The arguments that an answer without blocks gives: in its last paragraph or the last line of
    that, or else in the only lines that begin with a call or a label. None if they differ."""
    parts = paragraphs(text, _LABEL)
    for part in attempts(parts):
        for one in layers(part, _TAKES):
            if _STOPPED.search(one):
                continue  # `3.` ends a sentence, and is 3
            found = {args for args in arguments_in(one, program) if is_literal(args)}
            if found:
                return found.pop() if len(found) == 1 else None
    rest = "\n".join(parts)
    found = {*calls_in(rest, program), *named_in(rest, program)}
    only = found.pop() if len(found) == 1 else ""
    return only if is_literal(only) and not denies(rest) else None


def arguments_in_json(text: str, program: str) -> str | None:
    """The arguments in a JSON text: a call, or an object whose keys are parameters, perhaps in one
    with the key ``input``."""
    known = signature(program)
    try:
        value = json.loads(text)
        if isinstance(value, dict) and len(value) == 1 and not value.keys() & set(known.names):
            [(key, inner)] = value.items()
            value = inner if _INPUT_LABEL.fullmatch(f"{key[:MOST_WORDS]}:") else value
        if isinstance(value, str):
            return arguments_of_call(value, program)
        if not isinstance(value, dict) or not value.keys() <= set(known.names):
            return None
        named = ", ".join(f"{name}={literal(one)}" for name, one in value.items())
    except (ValueError, RecursionError):
        return None
    return arguments_of_call(f"f({named})", program)


def is_literal(text: str) -> bool:
    """Whether a text is one literal, which the judge can read."""
    try:
        parse_literal(text)
    except ValueError:
        return False
    return True


def _quoted(text: str) -> str | None:
    """The only call of ``f`` with values in a sentence; or else its assignments, if it quotes
    nothing else; or the code on which it ends, if that is all that it quotes."""
    if len(text) > MOST_WORDS or denies(text):
        return None
    begun = islice(re.finditer(r"\bf\(", text), _MAX_BEGUN)
    calls = {call_at(text, found.end() - 1) for found in begun}
    codes = [code for code in re.findall(r"`([^`]+)`", text) if code != "f"]
    given = {call for call in calls if call and is_literal(arguments_of_call(call) or "")}
    if given:
        return given.pop() if len(given) == 1 else None
    names = [code.partition("=")[0].strip() for code in codes if _ASSIGNMENT.match(code)]
    if names and len(set(names)) == len(codes):
        return "\n".join(codes)
    ends = _ENDS.fullmatch(text)
    return codes[0] if len(codes) == 1 and ends else None


def quoted_in(text: str, program: str = "") -> list[str]:
    """The arguments of the calls with values that a text quotes as code."""
    codes = re.findall(r"`(?:print\()?(f\([^`]*)`", text)[:MAX_INPUTS]
    calls = [call_at(code, 1) for code in codes]
    known = [arguments_of_call(call, program) for call in calls if call is not None]
    return [one for one in known if one is not None and is_literal(one)]


def _joined(text: str) -> str | None:
    """``s = 'a' and n = 2`` with a comma."""
    joined = re.sub(r",?[ \t]+and[ \t]+(?=\w+[ \t]*=)", ", ", text)
    return joined if joined != text else None


_TAKES = (
    *QUOTES,
    after(_LABEL),
    _joined,
    _quoted,
    after(sentence("inputs?|call|arguments?|answer|solution")),
    stop,
)


def _plain(line: str) -> str:
    """A line without what models put around an input: marks of a list, a label such as `Input:`,
    backticks, and after a call what it returns."""
    mark = _LABEL.match(line[:MOST_WORDS]) or _ITEM.match(line)
    line = line[mark.end() :].strip() if mark else line
    if len(line) > 1 and line[0] == line[-1] == "`":
        return line.strip("`").strip()
    call = call_at(line, 1) if line.startswith("f(") else None
    if call is None or not BECOMES.match(line, len(call)) or denies(line[len(call) :]):
        return line
    return call


def _read(statements: Sequence[ast.stmt], known: Signature) -> list[str]:
    """The arguments in some statements; none if any of them is something else."""
    calls: list[str | None] = []
    bare: list[ast.expr] = []
    named: dict[str, ast.expr] = {}
    used = False
    for statement in statements:
        value = _value(statement)
        name = None if value is not None and is_call(value) else _assigned(statement)
        if name is not None:
            if name in named and not used:
                calls.append(_from_names(named, known))
            if name in named:
                named, used = {}, False
            named[name] = statement.value  # type: ignore[attr-defined]
            continue
        if value is None:
            return []
        if is_call(value):
            used = used or bool(named)
            calls.append(placed(value, known, named))
        else:
            bare.append(value)
    if named and not used:
        calls.append(_from_names(named, known))
    calls += _from_values(bare, known)
    return [call for call in calls if call is not None]


def _assigned(statement: ast.stmt) -> str | None:
    """The name that a statement gives a value to; None if it does something else."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target: ast.expr = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target = statement.target
    else:
        return None
    return target.id if isinstance(target, ast.Name) else None


def _value(statement: ast.stmt) -> ast.expr | None:
    """The expression of a statement; of ``assert f(x) == y``, ``print(f(x))`` and ``y = f(x)`` the
    call."""
    if isinstance(statement, ast.Assert):
        value = statement.test
    elif isinstance(statement, (ast.Expr, ast.Assign)):
        value = statement.value
    else:
        return None
    match value:
        case ast.Call(func=ast.Name(id="print"), args=[ast.expr() as printed], keywords=[]):
            value = printed
    if isinstance(value, ast.Compare) and is_call(value.left):
        return value.left if _says_what_is(value) else None
    return value


def _says_what_is(comparison: ast.Compare) -> bool:
    """Whether ``f(x) == y`` is said. ``f(x) is wrong`` is prose that happens to be Python."""
    match comparison.ops[0]:
        case ast.Eq():
            return True
        case ast.Is():
            return not isinstance(comparison.comparators[0], ast.Name)
    return False


def _from_names(named: Mapping[str, ast.expr], known: Signature) -> str | None:
    """Of ``xs = [3]`` and ``k = 1``. Under other names than the parameters', their order counts."""
    if not known.names or set(named) <= set(known.names):
        return _tuple(_filled([], named, known))
    return _tuple(list(named.values())) if known.takes(len(named)) else None


def _from_values(values: Sequence[ast.expr], known: Signature) -> list[str | None]:
    """Of bare values: ``1, 2`` are two arguments, and so are ``(1, 2)`` for a function that needs
    two. Several single values are the arguments of one call if the function needs so many."""
    parts = [_parts(value, known) for value in values]
    single = all(len(part) == 1 for part in parts)
    if single and known.required > 1 and known.takes(len(parts)):
        return [_tuple([one for part in parts for one in part])]
    return [_tuple(part) for part in parts]


def _parts(value: ast.expr, known: Signature) -> list[ast.expr]:
    if not isinstance(value, ast.Tuple) or not value.elts:
        return [value]
    first = value.elts[0]
    has_brackets = (value.lineno, value.col_offset) != (first.lineno, first.col_offset)
    meant = not has_brackets or (known.required > 1 and known.takes(len(value.elts)))
    return value.elts if meant else [value]


def placed(call: ast.Call, known: Signature, names: Mapping[str, ast.expr]) -> str | None:
    """A call's arguments in their places; ``names`` are variables and what they stand for."""
    if any(keyword.arg is None for keyword in call.keywords):
        return None
    given = [one for argument in call.args for one in _given(argument, names)]
    named = {str(k.arg): _meant(k.value, names) for k in call.keywords}
    return _tuple(_filled(given, named, known))


def _given(value: ast.expr, names: Mapping[str, ast.expr]) -> list[ast.expr]:
    """The arguments that one stands for: several, if it is a variable with a star."""
    meant = _meant(value.value, names) if isinstance(value, ast.Starred) else None
    if isinstance(meant, (ast.Tuple, ast.List)) and meant is not value.value:  # type: ignore[attr-defined]
        return meant.elts
    return [_meant(value, names)]


def _meant(value: ast.expr, names: Mapping[str, ast.expr]) -> ast.expr:
    return names.get(value.id, value) if isinstance(value, ast.Name) else value


def _filled(
    given: Sequence[ast.expr], named: Mapping[str, ast.expr], known: Signature
) -> list[ast.expr] | None:
    """Positional arguments, and named ones in the places of their parameters."""
    if not named or not known.names:
        return [*given, *named.values()]
    defaults = dict(zip(known.names[known.required :], known.defaults, strict=True))
    last = max((known.names.index(name) for name in named if name in known.names), default=-1)
    if not set(named) <= set(known.names[len(given) :]):
        return None
    rest = [named.get(name) or defaults.get(name) for name in known.names[len(given) : last + 1]]
    return None if None in rest else [*given, *(one for one in rest if one is not None)]


def _tuple(values: Iterable[ast.expr] | None) -> str | None:
    if values is None or any(isinstance(one, ast.Starred) for one in values):
        return None
    return unparse(ast.Tuple(elts=list(values), ctx=ast.Load()))
