"""The Python files of a user's folder, read as text: no link is followed, nothing is imported."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from azr_mlx.errors import UsageError, first_line
from azr_mlx.files import Unreadable, read_text
from azr_mlx.tasks.own_code import Module, OwnFunction, Rules, add_inputs, read_module
from azr_mlx.text import storage

MOST_FILES = 5_000
MOST_BYTES = 1_000_000  # of one file; larger ones are generated
MOST_BYTES_READ = 20_000_000  # of all files, which takes half a minute
MOST_FUNCTIONS = 8_000  # of all files, which take half a minute; files of short ones hold many more
# Other people's code, and what is built.
LEFT_OUT = frozenset({"__pycache__", "build", "dist", "node_modules", "site-packages", "venv"})


def functions_in(path: Path, rules: Rules) -> tuple[list[OwnFunction], Counter[str]]:
    """The functions of a .py file, or of all such files in a folder, and how many files were left
    out, by reason.

    A function's inputs come from its own module, and from files that import it by name.

    Raises UsageError with one line if a single file cannot be read.
    """
    left_out: Counter[str] = Counter()
    if os.path.isfile(path):
        return _with_inputs_of_others({path: _module(path)}, rules, left_out), left_out
    modules: dict[Path, Module] = {}
    read = 0
    for file in _python_files(path, left_out):
        if len(modules) >= MOST_FILES or read > MOST_BYTES_READ:
            left_out["files beyond what is read"] += 1
            continue
        try:
            modules[file] = _module(file)
            read += file.stat().st_size
        except (OSError, UsageError):
            left_out["unreadable files"] += 1
    return _with_inputs_of_others(modules, rules, left_out), left_out


def _with_inputs_of_others(
    modules: dict[Path, Module], rules: Rules, left_out: Counter[str]
) -> list[OwnFunction]:
    users: dict[tuple[str, str], list[Module]] = {}  # by the module's and the function's name
    for module in modules.values():
        for imported in module.imported:
            users.setdefault(imported, []).append(module)
    found: list[OwnFunction] = []
    for file, module in modules.items():
        name = file.parent.name if file.stem == "__init__" else file.stem
        most = MOST_FUNCTIONS - len(found)
        if (more := len(module.defined()) - most) > 0:
            left_out["functions beyond what is read"] += more
        for function in module.functions(rules, most):
            for user in users.get((name, function.name), ()):
                add_inputs(function, user.calls)
            found.append(function)
    return found


def _module(file: Path) -> Module:
    """Raises UsageError with one line."""
    try:
        if (size := file.stat().st_size) > MOST_BYTES:
            raise UsageError(
                f"a file of {storage(size)}, and at most {storage(MOST_BYTES)} are read; split it"
            )
        module = read_module(read_text(file))
    except Unreadable as error:
        raise UsageError(first_line(error)) from error
    except OSError as error:
        raise UsageError(f"cannot be read: {first_line(error)}; name another") from error
    if module is None:
        raise UsageError("not Python of this version; name another file")
    return module


def _python_files(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """The regular .py files, in the order of their names; hidden folders and links are left out."""

    def unreadable(error: OSError) -> None:
        left_out["unreadable folders"] += 1

    for where, folders, files in os.walk(folder, onerror=unreadable, followlinks=False):
        left_out["links"] += sum(os.path.islink(os.path.join(where, name)) for name in folders)
        folders[:] = sorted(n for n in folders if n not in LEFT_OUT and not n.startswith("."))
        for name in sorted(files):
            file = Path(where, name)
            # Of a file in a folder that hides it, all of these are False.
            if os.path.islink(file):
                left_out["links"] += 1
            elif file.suffix == ".py" and os.path.isfile(file):
                yield file
            elif file.suffix == ".py" and not os.path.lexists(file):
                left_out["unreadable files"] += 1
