"""A Mac that is made of Python, for tests on machines that are none: what it denies and lacks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from azr_mlx.sandbox import worker

SUPERVISOR = worker._SUPERVISOR
_START = """
import sys
sys.path[:0] = {folders!r}
{prelude}
del sys.path[:2]
with open({supervisor!r}) as file:
    program = compile(file.read(), {supervisor!r}, "exec")
exec(program, {{"__name__": "__main__", "__file__": {supervisor!r}, "__builtins__": __builtins__}})
"""


@contextlib.contextmanager
def workers_begin_with(prelude: str, folder: Path) -> Iterator[None]:
    """The workers that start meanwhile run some code first. It can import the supervisor's modules
    by their bare names, and change them. ``folder`` is for the script that starts the workers.
    """
    script = folder / "start.py"
    folders = [str(Path(__file__).parent), str(SUPERVISOR.parent)]
    script.write_text(_START.format(folders=folders, prelude=prelude, supervisor=str(SUPERVISOR)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "_SUPERVISOR", script)
        yield


@contextlib.contextmanager
def on_a_mac(
    folder: Path, *, enforces_address_space: bool = True, fault: str = ""
) -> Iterator[None]:
    """The workers that start meanwhile are on a Mac. ``fault`` is code that runs in each of them
    before the supervisor's.
    """
    become = f"import machine\nmachine.become({enforces_address_space!r})\n{fault}"
    with workers_begin_with(become, folder):
        yield
