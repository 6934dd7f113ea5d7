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
sys.path.insert(0, {here!r})
import machine
del sys.path[0]
machine.become({enforces_address_space!r})
{fault}
with open({supervisor!r}) as file:
    program = compile(file.read(), {supervisor!r}, "exec")
exec(program, {{"__name__": "__main__", "__file__": {supervisor!r}, "__builtins__": __builtins__}})
"""


@contextlib.contextmanager
def on_a_mac(
    folder: Path, *, enforces_address_space: bool = True, fault: str = ""
) -> Iterator[None]:
    """The workers that start meanwhile are on a Mac. ``folder`` is for the script that starts them;
    ``fault`` is code that runs in each of them before the supervisor's.
    """
    script = folder / "start_on_a_mac.py"
    here = str(Path(__file__).parent)
    names = {"here": here, "supervisor": str(SUPERVISOR), "fault": fault}
    script.write_text(_START.format(**names, enforces_address_space=enforces_address_space))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "_SUPERVISOR", script)
        yield
