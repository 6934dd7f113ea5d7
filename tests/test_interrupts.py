"""Ctrl-C in the middle of work that cannot be interrupted."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from azr_mlx.interrupts import Interrupts

pytestmark = pytest.mark.pure


def call_of_a_library() -> None:
    """A second or so in C, during which Python runs no signal handler."""
    hashlib.pbkdf2_hmac("sha256", b"", b"salt", 2_000_000)


def press(after: float) -> None:
    threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_it_is_told_while_a_library_works():
    told = []
    with Interrupts(lambda: told.append(time.monotonic())) as interrupts:
        press(0.05)
        call_of_a_library()
        returned = time.monotonic()
        assert interrupts.asked
    assert len(told) == 1 and told[0] < returned - 0.05


def test_a_second_one_ends_the_process_while_a_library_works():
    code = """
import hashlib, os, signal, threading
from azr_mlx.interrupts import Interrupts
with Interrupts(lambda: print("told", flush=True)):
    for after in GIVEN:
        threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"salt", 8_000_000)
    print("returned")
"""
    for given, said in (("0.05, 0.6", "told\n"), ("0.05, 0.05", "told\nreturned\n")):
        source = code.replace("GIVEN", f"({given})")
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (130 if said == "told\n" else 0, said)


def test_afterwards_everything_is_as_before():
    before = signal.getsignal(signal.SIGINT)
    threads = threading.active_count()
    with Interrupts(lambda: None):
        pass
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1 and threading.active_count() == threads


def test_other_signals_say_nothing():
    told = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with Interrupts(lambda: told.append(1)):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert told == []


def test_a_check_after_it_raises():
    with Interrupts(lambda: None) as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
