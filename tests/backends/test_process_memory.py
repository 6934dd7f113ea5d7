"""The peak memory of a process, whoever started it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.pure

# A program that grows to 400 MiB, says its peak, and starts a small one that says its own.
GROWN = """
import subprocess, sys
from azr_mlx.backends.process_memory import peak_bytes

held = bytearray(400 << 20)
print(peak_bytes(), flush=True)
subprocess.run([sys.executable, "-c", __SMALL__], check=True)
"""
SMALL = "from azr_mlx.backends.process_memory import peak_bytes; print(peak_bytes())"


def test_a_small_program_is_not_as_large_as_the_one_that_started_it() -> None:
    command = [sys.executable, "-c", GROWN.replace("__SMALL__", repr(SMALL))]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    grown, small = map(int, said.split())
    assert 1 << 20 < small < 200 << 20
    assert 400 << 20 < grown < 600 << 20
