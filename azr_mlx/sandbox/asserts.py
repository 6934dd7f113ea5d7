"""Assert-style tests, split so that the expected values never enter the job's process.

``assert f([1, 2]) == 3`` becomes ``_azr_report(0, f([1, 2]))`` for the job. The 3 and the ``==``
stay here and are applied to the value that comes back. So the job knows the questions but not the
answers: it gains nothing by reading its own process, by returning an object that equals everything,
or by forging the end of the tests.

An assertion can be split if one side of its comparison is a literal, if arithmetic combines
literals with a call (``abs(f(2) - 0.5) < 1e-6``), or if it is itself a call. The text must also
show how often it runs: it stands at the top level, or in a function that the top level calls.
Values are compared by Python's own ``==`` between builtin types, as the test says.

Suites with other assertions are not split. They run as they are, in a process separate from that of
the code (see ``examiner``).
"""

from __future__ import annotations

import ast
import marshal
import math
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from azr_mlx.sandbox.jail.wire import MAX_CALLS
from azr_mlx.text import NOT_PYTHON, parsed

REPORT = "_azr_report"
MAX_TEXT = 160  # characters of an assertion that a detail quotes
_MAX_REMEMBERED = 1 << 15  # longer tests are not cached for their next solution (characters)
_MAX_SIZE = 1 << 16  # the largest sequence that a constant expression may build here

_LEAVE = (ast.Return, ast.Yield, ast.YieldFrom)

Expression = Callable[[Sequence[Any]], Any]
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_NUMERIC: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "round": round,
    "math.fabs": math.fabs,
    "math.isclose": math.isclose,
}
_MAKERS: dict[str, Callable[..., Any]] = {
    "set": set,
    "frozenset": frozenset,
    "tuple": tuple,
    "list": list,
    "dict": dict,
    "sorted": sorted,
    "float": float,
}
_CONSTANTS = {"math.pi": math.pi, "math.e": math.e, "math.inf": math.inf}


class _Open(Exception):
    """Raised for an expression that only the job's process can evaluate."""


@dataclass(frozen=True, slots=True)
class Assertion:
    """One split assertion. ``holds`` says whether the reported values satisfy it, and may raise
    what the assertion itself would raise. ``times`` is how often it must be reported.
    """

    text: str
    holds: Expression
    times: int


@dataclass(frozen=True, slots=True)
class Suite:
    """Tests that are judged here. ``compiled`` holds the questions, as a marshalled code object,
    and ``checks`` the answers. Both are empty if the tests cannot be split.
    """

    checks: tuple[Assertion, ...] = ()
    compiled: bytes = b""

    @property
    def sealed(self) -> bool:
        """Whether the tests could be split, so that all of them are judged here."""
        return bool(self.compiled)

    def failure(self, reports: Iterable[tuple[int, Sequence[Any]]]) -> str:
        """Describes the first report that does not hold; an empty string if all hold."""
        for number, values in reports:
            if not 0 <= number < len(self.checks):
                return "a report of an assertion that there is not"
            check = self.checks[number]
            try:
                held = bool(check.holds(values))
            except (TypeError, ValueError, ArithmeticError, IndexError) as error:
                return f"{check.text}: {type(error).__name__}: {error}"
            if not held:
                return f"{check.text}: got {_shown(values)}"
        return ""

    def complete(self, reports: Iterable[tuple[int, Sequence[Any]]]) -> bool:
        """Whether every assertion was reported as often as it must be."""
        seen = Counter(number for number, _ in reports)
        return seen == {number: check.times for number, check in enumerate(self.checks)}


def _shown(values: Sequence[Any]) -> str:
    text = ", ".join(map(repr, values))
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."


def split(tests: str) -> Suite:
    """The suite of ``tests``; an empty one if they do not parse or cannot all be split."""
    return _remembered(tests) if len(tests) <= _MAX_REMEMBERED else _split(tests)


@lru_cache(maxsize=512)
def _remembered(tests: str) -> Suite:
    return _split(tests)


def _split(tests: str) -> Suite:
    tree = parsed(tests)
    if tree is None:
        return Suite()
    nodes = list(ast.walk(tree))
    counts = _run_counts(tree, nodes)
    if not _says_no_more(tree, nodes):
        return Suite()
    checks: list[Assertion] = []
    edits: list[tuple[ast.Assert, str]] = []
    text = _Text(tests)
    for node in nodes:
        if not isinstance(node, ast.Assert) or isinstance(node.test, ast.Constant):
            continue
        try:
            times = counts[id(node)]
            holds, holes = _Splitter().assertion(node.test)
        except (KeyError, _Open):
            return Suite()
        sources = ", ".join(f"({text.of(hole)})" for hole in holes)
        edits.append((node, f"{REPORT}({len(checks)}, {sources})"))
        checks.append(Assertion(_quoted(text.of(node)), holds, times))
    few = 0 < sum(check.times for check in checks) <= MAX_CALLS
    compiled = _compiled(text.edited(edits)) if few else b""
    return Suite(tuple(checks), compiled) if compiled else Suite()


def _compiled(source: str) -> bytes:
    """Marshalled code (the job has the same interpreter); empty if it does not compile."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return marshal.dumps(compile(source, "<tests>", "exec", dont_inherit=True))
    except NOT_PYTHON:
        return b""


def _quoted(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_TEXT else line[:MAX_TEXT] + "..."


class _Text:
    """Source text, addressed by the positions that ``ast`` uses: lines, and columns in bytes."""

    def __init__(self, text: str) -> None:
        self.raw = text.encode("utf-8", "surrogatepass")
        self.starts = [0]
        for line in text.encode("utf-8", "surrogatepass").splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        # Nodes that come from the parser always have an end.
        assert node.end_lineno is not None and node.end_col_offset is not None
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def of(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.span(node)
        return self.raw[start:end].decode("utf-8", "surrogatepass")

    def edited(self, edits: Iterable[tuple[ast.stmt, str]]) -> str:
        raw = self.raw
        for node, text in sorted(edits, key=lambda edit: self.span(edit[0]), reverse=True):
            start, end = self.span(node)
            raw = raw[:start] + text.encode("utf-8", "surrogatepass") + raw[end:]
        return raw.decode("utf-8", "surrogatepass")


def _run_counts(tree: ast.Module, nodes: Iterable[ast.AST]) -> dict[int, int]:
    """How often a run of the tests reaches each assertion, by ``id``, if the text shows it."""
    counts = {id(node): 1 for node in tree.body if isinstance(node, ast.Assert)}
    mentions = Counter(n.id for n in nodes if isinstance(n, ast.Name))
    calls = Counter(_top_level_calls(tree))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    defined = Counter(node.name for node in functions)
    some_leave = any(isinstance(node, _LEAVE) for node in nodes)
    for function in functions:
        times = calls[function.name]
        plain = not function.decorator_list and defined[function.name] == 1
        if not plain or times == 0 or mentions[function.name] != times:
            continue
        if some_leave and _leaves(function):
            continue
        counts |= {id(node): times for node in function.body if isinstance(node, ast.Assert)}
    return counts


def _says_no_more(tree: ast.Module, nodes: Iterable[ast.AST]) -> bool:
    """Whether nothing but assertions can fail the tests on purpose."""
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    called = set(_top_level_calls(tree)) & functions.keys()
    bodies = [tree.body, *[functions[name].body for name in called]]
    if not all(_is_plain(statement, functions) for body in bodies for statement in body):
        return False
    return not any(
        isinstance(node, (ast.Raise, ast.Call))
        and (isinstance(node, ast.Raise) or "assert" in _name(node.func).lower())
        for node in nodes
    )


def _is_plain(node: ast.stmt, functions: Container[str]) -> bool:
    if isinstance(node, ast.Expr):
        value = node.value
        return isinstance(value, ast.Constant | ast.Name) or (
            isinstance(value, ast.Call) and _name(value.func) in functions
        )
    kinds = ast.Assert | ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom
    return isinstance(node, kinds | ast.FunctionDef | ast.Pass)


def _top_level_calls(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Name)
        ):
            yield node.value.func.id


def _leaves(function: ast.FunctionDef) -> bool:
    """Whether the function may end before its last statement, or is a generator."""
    return any(isinstance(node, _LEAVE) for node in ast.walk(function))


class _Splitter:
    """Splits one assertion into a function of reported values and the expressions (holes) whose
    values the job reports.
    """

    def __init__(self) -> None:
        self.holes: list[ast.expr] = []

    def assertion(self, test: ast.expr) -> tuple[Expression, list[ast.expr]]:
        """Split one assertion. Raises _Open if it cannot be split."""
        holds = self._truth(test)
        if not self.holes:
            raise _Open
        return holds, self.holes

    def _truth(self, node: ast.expr) -> Expression:
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            parts = [self._truth(value) for value in node.values]
            return lambda values: all(part(values) for part in parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._truth(node.operand)
            return lambda values: not inner(values)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        raise _Open

    def _comparison(self, node: ast.Compare) -> Expression:
        operands = [node.left, *node.comparators]
        known = [_is_closed(operand) for operand in operands]
        # Of two neighbouring operands, at least one must be known.
        if not all(a or b for a, b in pairwise(known)):
            raise _Open
        parts = [self._side(operand) for operand in operands]
        operators = [_COMPARE[type(op)] for op in node.ops]

        def holds(values: Sequence[Any]) -> bool:
            sides = [part(values) for part in parts]
            pairs = zip(operators, pairwise(sides), strict=True)
            return all(compare(a, b) for compare, (a, b) in pairs)

        return holds

    def _call(self, node: ast.Call) -> Expression:
        """``assert f(1)``: all arguments must be literals. ``math.isclose`` is computed here."""
        arguments = [*node.args, *[keyword.value for keyword in node.keywords]]
        if _name(node.func) == "math.isclose" and any(map(_is_closed, node.args)):
            return self._numeric(node)
        if not isinstance(node.func, ast.Name) or not all(map(_is_closed, arguments)):
            raise _Open
        return self._hole(node)

    def _side(self, node: ast.expr) -> Expression:
        """One side of a comparison: a literal, a hole, or arithmetic that combines them."""
        if _is_closed(node):
            constant = _closed(node)
            return lambda values: constant
        if isinstance(node, ast.BinOp) and (_is_closed(node.left) or _is_closed(node.right)):
            left, right = self._side(node.left), self._side(node.right)
            combine = _ARITHMETIC.get(type(node.op))
            if combine is None or type(node.op) in (ast.Pow, ast.Mult, ast.Mod):
                raise _Open  # the job's values could make the result very large
            return lambda values: combine(left(values), right(values))
        if (
            isinstance(node, ast.Call)
            and _name(node.func) in _NUMERIC
            and any(isinstance(argument, ast.BinOp) for argument in node.args)
        ):
            return self._numeric(node)
        return self._hole(node)

    def _numeric(self, node: ast.Call) -> Expression:
        function = _NUMERIC[_name(node.func)]
        if _name(node.func) == "round" and not all(map(_is_closed, node.args[1:])):
            raise _Open  # The job could choose a number of digits for which round takes forever.
        if isinstance(node.func, ast.Attribute):
            self._hole(node.func.value)  # if math is not imported, the job must fail
        parts = [self._side(argument) for argument in node.args]
        named = {k.arg: _closed(k.value) for k in node.keywords if k.arg is not None}
        if len(named) != len(node.keywords):
            raise _Open
        return lambda values: function(*[part(values) for part in parts], **named)

    def _hole(self, node: ast.expr) -> Expression:
        if not _is_question(node):
            raise _Open
        index = len(self.holes)
        self.holes.append(node)
        return lambda values: values[index]


def _is_question(node: ast.expr) -> bool:
    """Whether an expression only asks for a value: it consists of calls whose arguments are
    literals, names or further calls. The job's own objects would decide the result of a comparison
    or of arithmetic in it.
    """
    if isinstance(node, ast.Name) or _is_closed(node):
        return True
    if isinstance(node, ast.Tuple | ast.List):
        return all(map(_is_question, node.elts))
    if isinstance(node, ast.Starred):
        return _is_question(node.value)
    if isinstance(node, ast.Attribute):
        return _is_question(node.value)
    if isinstance(node, ast.Subscript):
        return _is_question(node.value) and _is_closed(node.slice)
    if isinstance(node, ast.Call):
        arguments = [*node.args, *[keyword.value for keyword in node.keywords]]
        method_of_result = not _name(node.func)
        if method_of_result and (arguments or not isinstance(node.func, ast.Attribute)):
            return False
        return _is_question(node.func) and all(map(_is_question, arguments))
    return False


# --- expressions whose value is known without running the job ---


def _is_closed(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.Name):
        return False
    try:
        _closed(node)
    except _Open:
        return False
    return True


def _closed(node: ast.expr) -> Any:
    """The value of a constant expression. Raises _Open if it is not one, or is large."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        raise _Open
    if isinstance(node, ast.Call) and _name(node.func) not in _MAKERS:
        raise _Open
    try:
        return ast.literal_eval(node)
    except (TypeError, *NOT_PYTHON):
        pass
    try:
        return _computed(node)
    except (ValueError, TypeError, ArithmeticError, KeyError, MemoryError, RecursionError):
        raise _Open from None


def _computed(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp):
        return _bounded(type(node.op), _closed(node.left), _closed(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_closed(node.operand)
    if isinstance(node, ast.Tuple | ast.List):
        items = [_closed(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_closed(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_closed, node.values), strict=True))
    if isinstance(node, ast.Set):
        return {_closed(item) for item in node.elts}
    if isinstance(node, ast.Call) and not node.keywords:
        return _MAKERS[_name(node.func)](*map(_closed, node.args))
    if isinstance(node, ast.Attribute):
        return _CONSTANTS[_name(node)]
    raise _Open


def _bounded(kind: type[ast.operator], left: Any, right: Any) -> Any:
    """The result of arithmetic on numbers and sequences. Raises _Open if it could be large."""
    if kind is ast.Pow and not (
        type(left) in (int, float) and type(right) in (int, float) and abs(right) <= 512
    ):
        raise _Open
    if kind is ast.Mod and type(left) in (str, bytes):
        raise _Open
    if kind is ast.Mult:
        for sequence, times in ((left, right), (right, left)):
            if hasattr(sequence, "__len__") and len(sequence) * max(int(times), 0) > _MAX_SIZE:
                raise _Open
    return _ARITHMETIC[kind](left, right)


def _name(node: ast.expr) -> str:
    """``abs`` or ``math.isclose``; an empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return ""
