"""What a row of the tables is, and the job that it makes in each style."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from azr_mlx.sandbox import Job, Limits
from azr_mlx.types import Status

Verdicts = frozenset[Status]

ALL_STYLES = ("call", "tests", "program")
SHORT = Limits(wall_s=0.25, cpu_s=1, memory_mb=256, output_kb=16)  # for what never ends by itself
USUAL = Limits(wall_s=1.5, cpu_s=1, memory_mb=256, output_kb=16)
SMALL = Limits(wall_s=8, cpu_s=7, memory_mb=64, output_kb=16)  # for what eats memory


def children(count: int, wall_s: float = 1.0) -> Limits:
    """Limits that leave a job ``count`` child processes."""
    return Limits(wall_s=wall_s, cpu_s=1, memory_mb=256, output_kb=16, processes=count)


def one_of(*statuses: Status) -> Verdicts:
    return frozenset(statuses)


PASS, FAIL, ERROR = one_of(Status.PASS), one_of(Status.FAIL), one_of(Status.ERROR)
TIMEOUT, MEMORY, INVALID = one_of(Status.TIMEOUT), one_of(Status.MEMORY), one_of(Status.INVALID)
KILLED = one_of(Status.KILLED)
NOT_PASSED = frozenset(Status) - {Status.PASS, Status.OK}


@dataclass(frozen=True)
class Attack:
    """One program. ``@NAME@`` in its texts stands for something of the machine (``Targets``).

    ``label`` is the number, a letter, and words. The code defines ``f``; ``answer`` is the literal
    of what it must return for ``pass``: the call expects it, the tests assert it (``tests``
    overrides them) and the program prints it (``stdout`` overrides what must be printed; a code
    without ``f`` is a program already). An attack that reports its successes has ``[]`` for an
    answer. ``also`` holds verdicts by style where they differ from ``verdicts``. ``shielded``: only
    where the sandbox guards the machine; ``strong``: only under strong isolation, since nothing
    else bounds it. ``value`` and ``detail`` are parts that the result must show.
    """

    label: str
    code: str
    verdicts: Verdicts
    styles: tuple[str, ...] = ("call",)
    answer: str = "1"
    args: str = "()"
    tests: str | None = None
    stdin: str | None = None
    stdout: str | None = None
    also: Mapping[str, Verdicts] | None = None
    limits: Limits = USUAL
    deterministic: bool = False
    shielded: bool = False
    strong: bool = False
    linux: bool = False
    value: str | None = None
    detail: str = ""

    @property
    def number(self) -> int:
        found = re.match(r"\d+", self.label)
        return int(found.group()) if found else 0

    def allowed(self, style: str) -> Verdicts:
        return (self.also or {}).get(style, self.verdicts)

    def job(self, style: str, names: Mapping[str, str]) -> Job:
        """The job in this style, with the names filled in."""
        code, args, answer = (_filled(t, names) for t in (self.code, self.args, self.answer))
        rest: dict[str, Any] = {}
        if style == "call":
            rest = {"call": "f", "args": args, "expect": answer}
        elif style == "tests":
            asserted = f"assert f(*{args}) == {answer}"
            rest = {"tests": _filled(asserted if self.tests is None else self.tests, names)}
        else:
            printed = f"{answer}\n" if self.stdout is None else self.stdout
            rest = {"stdin": self.stdin, "expect_stdout": printed}
            if re.search(r"^(def f\b|f =)", code, re.MULTILINE):
                code += f"\nprint(repr(f(*{args})))\n"
        made = Job(self.label, code, **rest, limits=self.limits)
        return replace(made, deterministic=True) if self.deterministic else made


def _filled(text: str, names: Mapping[str, str]) -> str:
    return re.sub(r"@([A-Z]+)@", lambda m: names.get(m.group(1), m.group()), text)


def body(*lines: str) -> str:
    """A function ``f`` of these lines."""
    return "def f():\n" + "".join(f"    {line}\n" for line in lines)


# For attacks that call the kernel directly: ``call(name, *arguments)`` gives the result or raises.
KERNEL = """
import ctypes, os
NUMBERS = {  # name: x86_64, aarch64
    'kill': (62, 129), 'tkill': (200, 130), 'tgkill': (234, 131), 'rt_sigqueueinfo': (129, 138),
    'pidfd_open': (434, 434), 'pidfd_send_signal': (424, 424), 'pidfd_getfd': (438, 438),
    'ptrace': (101, 117), 'process_vm_readv': (310, 270), 'process_vm_writev': (311, 271),
    'process_madvise': (440, 440), 'kcmp': (312, 272), 'socket': (41, 198), 'clone': (56, 220),
    'clone3': (435, 435), 'mount': (165, 40), 'umount2': (166, 39), 'pivot_root': (155, 41),
    'chroot': (161, 51), 'unshare': (272, 97), 'setns': (308, 268), 'open_tree': (428, 428),
    'fsopen': (430, 430), 'io_uring_setup': (425, 425), 'bpf': (321, 280),
    'userfaultfd': (323, 282), 'perf_event_open': (298, 241), 'keyctl': (250, 219),
    'add_key': (248, 217), 'shmget': (29, 194), 'msgget': (68, 186), 'semget': (64, 190),
    'open_by_handle_at': (304, 265), 'ioprio_set': (251, 30), 'migrate_pages': (256, 238),
}
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    number = NUMBERS[name][os.uname().machine != 'x86_64']
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *values)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result
"""

# For attacks that try many things: ``tried({name: action})`` names what did not raise.
TRIED = """
def tried(actions):
    done = []
    for name, action in actions.items():
        try:
            action()
        except Exception:
            continue
        done.append(name)
    return done
"""
