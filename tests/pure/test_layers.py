"""Imports point down or sideways, never up; the lowest layers are light."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

# A package stands for all its modules.
LAYERS = (
    "types config schema rng resources errors blas interrupts",
    "prompts parse reward advantage batch curriculum buffer sandbox kl templates entropy passk "
    "paired strategies text",
    "tasks backends models hub gguf_import benchmarks parallel",
    "selfplay steplog checkpoint metrics learner tracking display contamination held_out health "
    "samples live",
    "trainer evaluate generate solve baselines convert export report doctor launch plan nano "
    "outcome",
    "cli",
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
LIGHT = 2  # layers 0 and 1: the standard library, numpy and yaml
PACKAGE = Path(__file__).parents[2] / "azr_mlx"


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def known_modules() -> list[Path]:
    """Those in the table; the others fail a test of their own."""
    return [path for path in modules() if unit(path) in LEVEL]


def unit(path: Path) -> str:
    """The name in the table: a module of the package, or its subpackage."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import, those inside functions too."""
    inside = path.relative_to(PACKAGE.parent).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) + 1 - node.level] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            # `from azr_mlx import x` names a module, `from azr_mlx.x import y` has named it already
            names = [alias.name for alias in node.names] if stem == "azr_mlx" else [""]
            yield from ((node.lineno, f"{stem}.{name}".rstrip(".")) for name in names)


def test_every_module_has_a_layer() -> None:
    unknown = sorted({unit(path) for path in modules()} - LEVEL.keys())
    assert unknown == [], f"add to LAYERS in {Path(__file__).name}: {', '.join(unknown)}"


def test_imports_point_down_or_sideways() -> None:
    wrong = []
    for path in known_modules():
        for line, name in imported(path):
            package, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if package != "azr_mlx" or target in ("", "__version__"):
                continue
            if LEVEL.get(target, len(LAYERS)) > LEVEL[unit(path)]:
                where = f"{path.relative_to(PACKAGE.parent)}:{line}"
                wrong.append(f"{where}: {unit(path)} imports {target}, which is above it")
    assert wrong == []


def test_the_lowest_layers_need_only_numpy_and_yaml() -> None:
    """So that tasks, rewards and judging are tested, and prompts read, where there is no MLX."""
    allowed = {*sys.stdlib_module_names, "azr_mlx", "numpy", "yaml"}
    wrong = []
    for path in (path for path in known_modules() if LEVEL[unit(path)] < LIGHT):
        # blas measures MLX on demand; the sandbox's child runs as a script, beside its siblings
        siblings = {sibling.stem for sibling in path.parent.glob("*.py")}
        for line, name in imported(path):
            first = name.partition(".")[0]
            if first not in allowed | siblings and not _inside_function(path, line):
                wrong.append(f"{path.relative_to(PACKAGE.parent)}:{line}: imports {name}")
    assert wrong == []


def _inside_function(path: Path, line: int) -> bool:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return any(
        isinstance(node, functions) and node.lineno < line <= (node.end_lineno or 0)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    )


def test_kernels_are_data() -> None:
    """A top-level package of that name would shadow the one that transformers probes for."""
    assert not (PACKAGE.parent / "kernels" / "__init__.py").exists()
