"""Tests that import numpy, which is not in the sandbox, only to compare floats: those of EvalPlus's
data sets on the Hugging Face hub."""

from __future__ import annotations

import ast

from azr_mlx.tasks.program import unparse
from azr_mlx.text import parsed

# As numpy 2.x defines them, for numbers and nested lists of numbers.
STAND_IN = """
class np:
    ndarray = type("ndarray", (), {})
    float64 = float_ = type("float64", (float,), {})
    float16, float32 = type("float16", (), {}), type("float32", (), {})

    def _pairs(a, b):
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            if len(a) != len(b):
                raise ValueError("shapes differ")
            return [pair for x, y in zip(a, b) for pair in np._pairs(x, y)]
        if isinstance(a, (list, tuple)):
            return [pair for x in a for pair in np._pairs(x, b)]
        if isinstance(b, (list, tuple)):
            return [pair for y in b for pair in np._pairs(a, y)]
        if isinstance(a, str) or isinstance(b, str):
            raise TypeError("not numbers")
        return [(complex(a), complex(b))]

    def isclose(a, b, rtol=1e-05, atol=1e-08, equal_nan=False):
        [(x, y)] = np._pairs(a, b)
        if x == y or (equal_nan and x != x and y != y):
            return True
        return abs(x - y) <= atol + rtol * abs(y) and abs(y) != float("inf")

    def allclose(a, b, rtol=1e-05, atol=1e-08, equal_nan=False):
        return all(np.isclose(x, y, rtol, atol, equal_nan) for x, y in np._pairs(a, b))

    class testing:
        def assert_allclose(
            actual, desired, rtol=1e-07, atol=0, equal_nan=True, err_msg="", verbose=True
        ):
            assert np.allclose(actual, desired, rtol, atol, equal_nan), "not equal to tolerance"


"""
_OFFERED = frozenset({
    "ndarray", "float16", "float32", "float64", "float_", "isclose", "allclose",
    "testing.assert_allclose",
})  # fmt: skip


_NOT_CALLED = frozenset({"ndarray", "float16", "float32"})  # for isinstance alone


def needs_numpy(tests: str) -> bool:
    """Whether the tests import it."""
    tree = parsed(tests)
    return tree is not None and any(map(_imports, ast.walk(tree)))


def without_numpy(tests: str) -> str:
    """The tests with a stand-in for numpy. Raises ValueError, naming what it lacks, if they use
    more of it."""
    tree = parsed(tests)
    if tree is None or not needs_numpy(tests):
        return tests
    unknown = sorted(set(_used(tree)) - _OFFERED)
    if unknown:
        raise ValueError(f"numpy.{unknown[0]}" if unknown[0] else "numpy itself, as a value")
    return STAND_IN + (unparse(_Replaced().visit(tree)) or "")


def _imports(node: ast.AST) -> bool:
    return bool(_bound(node))


def _bound(node: ast.AST) -> dict[str, str]:
    """The names that an import gives to numpy and to parts of it, and which: "" is numpy itself."""
    if isinstance(node, ast.Import):
        parts = [(one, one.name.split(".")) for one in node.names]
        own = [(one, names) for one, names in parts if names[0] == "numpy"]
        return {
            one.asname or names[0]: ".".join(names[1:]) if one.asname else "" for one, names in own
        }
    if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "numpy":
        within = str(node.module).split(".")[1:]
        return {one.asname or one.name: ".".join([*within, one.name]) for one in node.names}
    return {}


class _Replaced(ast.NodeTransformer):
    """Gives the names of numpy's parts the stand-in's, where they were imported."""

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        others = [one for one in node.names if one.name.partition(".")[0] != "numpy"]
        return [*([ast.Import(others)] if others else []), *_given(node)]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.stmt]:
        return _given(node) if _bound(node) else [node]


def _given(node: ast.AST) -> list[ast.stmt]:
    bound = _bound(node)
    lines = [f"{name} = {'.'.join(filter(None, ['np', path]))}" for name, path in bound.items()]
    return ast.parse("\n".join(line for line in lines if line != "np = np") or "pass").body


def _used(tree: ast.Module) -> list[str]:
    """What the tests use of numpy, as dotted names."""
    bound = {name: path for node in ast.walk(tree) for name, path in _bound(node).items()}
    inner, found = set[int](), [path for path in bound.values() if path not in ("", "testing")]
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):  # outer attributes come before the inner ones
        if not isinstance(node, (ast.Attribute, ast.Name)) or id(node) in inner:
            continue
        path, value = list[str](), node
        while isinstance(value, ast.Attribute):
            inner.add(id(value.value))
            path.append(value.attr)
            value = value.value  # type: ignore[assignment]
        if isinstance(value, ast.Name) and value.id in bound and isinstance(value.ctx, ast.Load):
            name = ".".join(filter(None, [bound[value.id], *reversed(path)]))
            known = name if name in _OFFERED else _known_part(name)
            found.append(f"{known}()" if id(node) in called and known in _NOT_CALLED else known)
    return found


def _known_part(name: str) -> str:
    """``ndarray`` of ``ndarray.dtype``; the whole name if nothing in it is known."""
    return next((known for known in _OFFERED if name.startswith(f"{known}.")), name)
