"""The peak memory of this process, whoever started it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from azr_mlx.backends.process_memory import peak_bytes
from tests.conftest import ROOT

pytestmark = pytest.mark.pure

PEAK = "from azr_mlx.backends.process_memory import peak_bytes; print(peak_bytes())"


def test_it_grows_with_what_is_used() -> None:
    before = peak_bytes()
    held = bytearray(200 << 20)
    assert peak_bytes() > 200 << 20
    assert peak_bytes() >= before
    del held


def test_a_small_program_is_not_as_large_as_the_one_that_started_it() -> None:
    held = bytearray(400 << 20)
    command = [sys.executable, "-c", PEAK]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 1 << 20 < int(said) < 200 << 20
    del held
