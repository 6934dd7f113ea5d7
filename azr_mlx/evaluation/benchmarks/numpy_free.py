"""Tests that import numpy, which is not in the sandbox, only to compare floats: those of EvalPlus's
data sets on the Hugging Face hub."""

from __future__ import annotations

import ast

from azr_mlx.text import parsed

# As numpy 2.x defines them, for numbers and nested lists of numbers.
STAND_IN = """
class np:
    ndarray = type("ndarray", (), {})
    float16 = float32 = float64 = float_ = type("float64", (), {})

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
        def assert_allclose(actual, desired, rtol=1e-07, atol=0, equal_nan=True):
            assert np.allclose(actual, desired, rtol, atol, equal_nan), "not equal to tolerance"


"""
_OFFERED = frozenset({
    "ndarray", "float16", "float32", "float64", "float_", "isclose", "allclose",
    "testing.assert_allclose",
})  # fmt: skip


def needs_numpy(tests: str) -> bool:
    """Whether the tests import it."""
    tree = parsed(tests)
    return tree is not None and any(_imports(node) for node in ast.walk(tree))


def without_numpy(tests: str) -> str:
    """The tests with a stand-in for numpy. Raises ValueError, naming what it lacks, if they use
    more of it."""
    tree = parsed(tests)
    if tree is None or not needs_numpy(tests):
        return tests
    unknown = sorted(set(_used(tree)) - _OFFERED)
    if unknown:
        raise ValueError(f"numpy.{unknown[0]}")
    lines = tests.splitlines(keepends=True)
    for node in tree.body:
        if _imports(node):
            lines[node.lineno - 1] = "\n"
    left = parsed("".join(lines))
    if left is None or any(_imports(node) for node in ast.walk(left)):
        raise ValueError("an import of numpy that is not a line of its own")
    return STAND_IN + "".join(lines)


def _imports(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] == "numpy" for alias in node.names)
    return isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "numpy"


def _used(tree: ast.Module) -> list[str]:
    """What the tests use of ``np``, as dotted names."""
    inner = set[int]()
    found = list[str]()
    for node in ast.walk(tree):  # outer attributes come before the inner ones
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            path, value = [node.attr], node.value
            while isinstance(value, ast.Attribute):
                inner.add(id(value))
                path.append(value.attr)
                value = value.value
            if isinstance(value, ast.Name) and value.id == "np":
                name = ".".join(reversed(path))
                found.append(name if name in _OFFERED else _known_part(name))
        elif (isinstance(node, ast.Name) and node.id == "numpy") or (
            isinstance(node, ast.alias) and node.name == "numpy" and node.asname != "np"
        ):
            found.append("")
    return found


def _known_part(name: str) -> str:
    """``ndarray`` of ``ndarray.dtype``; the whole name if nothing in it is known."""
    return next((known for known in _OFFERED if name.startswith(f"{known}.")), name)
