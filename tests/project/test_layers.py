"""Imports point one way: only to a room further left, and never in a circle."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ORDER = """
root < config < sandbox < tasks < models < backends nano < selfplay < evaluation < monitoring
< training < commands < cli < benchmarks
"""
ROOM = {room: place for place, rooms in enumerate(ORDER.split("<")) for room in rooms.split()}
# Rooms that need the standard library, numpy and yaml alone: tasks are read and judged without MLX.
LIGHT = ("root", "config", "sandbox", "tasks")

CHECKOUT = Path(__file__).parents[2]
PACKAGE = CHECKOUT / "azr_mlx"
JAIL = PACKAGE / "sandbox" / "jail"


def sources() -> dict[str, Path]:
    """Every module by its dotted name: the package's, and the scripts in benchmarks/."""
    files = [*PACKAGE.rglob("*.py"), *(CHECKOUT / "benchmarks").glob("*.py")]
    return {dotted(file): file for file in sorted(files)}


def dotted(file: Path) -> str:
    parts = file.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """Its room. Modules at the package's root are in one called ``root``, but for the command line
    and the package itself, which is a door to everything."""
    parts = module.split(".")
    if parts[0] == "benchmarks":
        return "benchmarks"
    if module in ("azr_mlx", "azr_mlx.__main__"):
        return "cli"
    return parts[1] if parts[1] in ROOM else "root"


def imports(file: Path, modules: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside functions and for type checking too. ``from
    package import name`` means the module of that name, if there is one."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name if name in modules else str(node.module) for name in names]
        else:
            continue
        yield from ((node.lineno, beside(file, name)) for name in found)


def beside(file: Path, name: str) -> str:
    """Scripts import their neighbours by the bare name: in the jail, and in benchmarks/."""
    if file.parent in (JAIL, CHECKOUT / "benchmarks") and (file.parent / f"{name}.py").is_file():
        return dotted(file.parent / f"{name}.py")
    return name


def is_version(file: Path, line: int) -> bool:
    """Whether the line imports the version, which the package has without importing anything."""
    return file.read_text("utf-8").splitlines()[line - 1].strip() == (
        "from azr_mlx import __version__"
    )


def test_imports_point_only_to_rooms_further_left() -> None:
    modules = sources()
    wrong = []
    for module, file in modules.items():
        own = room_of(module)
        for line, name in imports(file, modules):
            if name not in modules or is_version(file, line):
                continue
            if room_of(name) != own and ROOM[room_of(name)] >= ROOM[own]:
                wrong.append(f"{module}:{line}: {own} imports {name}, which is not further left")
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = sources()
    graph = {
        module: {
            name
            for line, name in imports(file, modules)
            if name in modules and name != module and not is_version(file, line)
        }
        for module, file in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " <- ".join(error.args[1]))


def test_the_jail_imports_its_own_modules_and_the_standard_library() -> None:
    """It must start in a worker that cannot read the package, and hold nothing of it."""
    allowed = {*sys.stdlib_module_names, *(file.stem for file in JAIL.glob("*.py"))}
    assert [
        f"{file.name}:{line}: imports {name}"
        for file in JAIL.glob("*.py")
        for line, name in imports(file, {})
        if name.partition(".")[0] not in allowed and not name.startswith("azr_mlx.sandbox.jail.")
    ] == []


def test_the_rooms_on_the_left_need_only_numpy_and_yaml() -> None:
    allowed = {*sys.stdlib_module_names, "azr_mlx", "numpy", "yaml"}
    modules = sources()
    assert [
        f"{module}:{line}: imports {name}"
        for module, file in modules.items()
        if room_of(module) in LIGHT
        for line, name in imports(file, modules)
        if name.partition(".")[0] not in allowed
    ] == []


def test_kernels_are_data() -> None:
    """A top-level package of that name would shadow the one that transformers probes for."""
    assert not (CHECKOUT / "kernels" / "__init__.py").exists()
