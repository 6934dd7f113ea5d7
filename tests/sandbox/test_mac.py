"""The whole sandbox on a Mac that is made of Python: the real supervisor, zygote, watch and judge
in real processes, at every level, with what macOS lacks taken away (``tests/sandbox/mac``).

What a profile denies is denied here by an interpreter of its rules, wherever Python says what it is
about to do. What code does without Python's help, only a Mac can tell.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from azr_mlx.sandbox import Job, Limits, Sandbox, SandboxError
from azr_mlx.types import Status
from tests.sandbox.conftest import LIMITS, ON_LINUX, Judge, crew, folders_in
from tests.sandbox.hostile import ATTACKS, CONTROLS, Attack
from tests.sandbox.hostile.attack import SHORT, USUAL
from tests.sandbox.hostile.targets import PROJECT, Targets
from tests.sandbox.mac import on_a_mac
from tests.sandbox.test_hostile import check_verdict, rows

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(not ON_LINUX, reason="the Mac made of Python reads /proc"),
]

# Attacks on the machine that need no more than Python, and that a profile must stop.
_SHIELDED = set(
    """
    1a 1b 1c 1d 2a 2b 2c 2d 3a 3b 3c 3d 3e 12b 13d 13e 20 21a 21c 21d 22b 24a 24b 24d 25a 25b 25c
    25d 25e 28b 29a 29c 29d
    """.split()  # noqa: SIM905
)
_JUDGED = 37  # from here on, attacks are on the verdict, which is no platform's
# A Mac sends SIGXCPU once, so what ignores it has until its wall limit.
_OF_LINUX = {"8c"}


@pytest.fixture(scope="module", params=["limits-only", "strong"])
def sandbox(
    request: pytest.FixtureRequest, targets: Targets, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sandbox]:
    with (
        on_a_mac(tmp_path_factory.mktemp("mac")),
        folders_in(targets.temp),
        Sandbox(workers=1, isolation=request.param, limits=LIMITS) as made,
    ):
        made.run([Job("warm", "def f(): return 1", call="f", deterministic=True)])
        yield made


def _name(attack: Attack) -> str:
    return attack.label.split()[0]


def _patient(attack: Attack, style: str) -> Attack:
    """With time for a verdict: this Mac takes longer than a real one."""
    ends = Status.TIMEOUT not in attack.allowed(style)
    return replace(attack, limits=USUAL) if ends and attack.limits == SHORT else attack


def _suitable(attack: Attack) -> bool:
    if attack.linux or attack.strong or _name(attack) in _OF_LINUX:
        return False
    if attack.number >= _JUDGED:  # one of each kind is enough to see that the judge is at work
        return attack is next(a for a in ATTACKS if a.number == attack.number)
    return not attack.shielded or _name(attack) in _SHIELDED


def test_the_named_attacks_are_there() -> None:
    assert {_name(attack) for attack in ATTACKS if attack.shielded} >= _SHIELDED


@pytest.mark.parametrize(("attack", "style"), rows(tuple(filter(_suitable, ATTACKS))))
def test_attack(
    judge: Judge, sandbox: Sandbox, targets: Targets, attack: Attack, style: str
) -> None:
    if attack.shielded and sandbox.isolation != "strong":
        pytest.skip("limits-only shields a Mac from no job")
    if _name(attack) == "27b" and sandbox.isolation == "strong":
        pytest.skip("to resolve 400 paths of 400 parts takes an interpreter longer than the limit")
    check_verdict(judge, targets, _patient(attack, style), style)


@pytest.mark.parametrize(("attack", "style"), rows(tuple(filter(_suitable, CONTROLS))))
def test_honest_program(judge: Judge, targets: Targets, attack: Attack, style: str) -> None:
    check_verdict(judge, targets, _patient(attack, style), style)


# --- starting ---


def test_auto_is_strong(tmp_path: Path) -> None:
    with on_a_mac(tmp_path), Sandbox(1, "auto") as sandbox:
        assert (sandbox.isolation, sandbox.warning) == ("strong", "")
        assert sandbox.features["seatbelt"], "and by a profile"


# A release without the function, one that does not know a word, a program that is in a profile
# already, profiles that let too much through or too little.
_FAULTS = {
    "machine.apply = None": "AttributeError",
    "machine.seatbelt.OPERATIONS -= {'syscall-unix'}": "was not understood: no operation syscall-",
    "machine.mac.profile = machine.seatbelt.Profile('(version 1)(allow default)')": (
        "could not be applied: Operation not permitted"
    ),
    "import darwin\ndarwin.profile = lambda *a, **o: '(version 1)(allow default)'": (
        "a job could reach the network and your files"
    ),
    "import darwin\ndarwin.profile = lambda *a, **o: '(version 1)(deny default)'": (
        "a harmless job ended as error"
    ),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_where_no_profile_can_be_had_auto_says_so(fault: str, tmp_path: Path) -> None:
    with on_a_mac(tmp_path, fault=fault):
        with Sandbox(1, "auto") as sandbox:
            assert sandbox.isolation == "limits-only"
            assert _FAULTS[fault] in sandbox.fallback
            assert "jobs can reach your files and the network" in sandbox.warning
        with pytest.raises(SandboxError) as raised:
            Sandbox(1, "strong").close()
    assert _FAULTS[fault] in str(raised.value)


@pytest.mark.parametrize("spelled", ["var/folders/T", "private/var/folders/T"])
def test_the_scratch_may_lie_behind_a_link(spelled: str, tmp_path: Path) -> None:
    (tmp_path / "private/var/folders/T").mkdir(parents=True)
    (tmp_path / "var").symlink_to("private/var")
    job = Job("a", "import os, tempfile\ndef f(): return tempfile.mkstemp()[1]", call="f")
    with folders_in(tmp_path / spelled), on_a_mac(tmp_path), Sandbox(1, "strong") as sandbox:
        assert sandbox.run([job] * 2)[1].value


# --- memory, threads and processes ---


@pytest.mark.parametrize("enforced", [True, False])
@pytest.mark.parametrize("level", ["limits-only", "strong"])
def test_memory_is_bounded(level: str, enforced: bool, tmp_path: Path) -> None:
    """By RLIMIT_AS where the release has it, and by the watch in any case."""
    leak = "def f():\n    kept = []\n    while True: kept.append(bytearray(b'x' * (1 << 20)))"
    fits = "def f(): return len(bytearray(b'x' * (100 << 20)))"
    limits = Limits(wall_s=8, cpu_s=7, memory_mb=300, output_kb=16)
    jobs = [Job("leak", leak, call="f"), Job("fits", fits, call="f")]
    with on_a_mac(tmp_path, enforces_address_space=enforced), Sandbox(1, level, limits) as sandbox:
        assert [r.status for r in sandbox.run(jobs)] == [Status.MEMORY, Status.OK]


def test_threads_that_are_started_without_python_are_counted(tmp_path: Path) -> None:
    code = """
import ctypes, time
def f():
    libc, kept = ctypes.CDLL(None), ctypes.c_ulong()
    for _ in range(60):
        libc.pthread_create(ctypes.byref(kept), None, libc.sleep, ctypes.c_void_p(30))
    time.sleep(1)
"""
    with on_a_mac(tmp_path), Sandbox(1, "limits-only") as sandbox:
        result = sandbox.run([Job("a", code, call="f")])[0]
    assert (result.status, result.detail) == (Status.KILLED, "too many threads")


def test_children_may_be_had_although_the_user_has_many_processes(tmp_path: Path) -> None:
    code = "import os\ndef f():\n    if os.fork() == 0: os._exit(0)\n    return os.wait()[1]"
    limits = Limits(wall_s=5, processes=2)
    with on_a_mac(tmp_path), Sandbox(1, "strong", limits=limits) as sandbox:
        assert sandbox.run([Job("a", code, call="f", expect="0")])[0].status is Status.PASS


def test_orphans_are_counted_and_ended(tmp_path: Path) -> None:
    """A process whose parent has ended is found in the group."""
    code = """
import os, time
def f():
    for _ in range(8):
        if os.fork() == 0:
            if os.fork() == 0: time.sleep(30)
            os._exit(0)
        os.wait()
    time.sleep(30)
"""
    limits = Limits(wall_s=10, processes=3)
    with on_a_mac(tmp_path), Sandbox(1, "strong", limits=limits) as sandbox:
        result = sandbox.run([Job("a", code, call="f")])[0]
        assert (result.status, result.detail) == (Status.KILLED, "more than 3 processes")
        assert len(_in_session(crew(sandbox)[0].process.pid)) == 2, "a supervisor and a zygote"


def _in_session(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[3]) == session:
            found.append(int(path.name))
    return found


def test_a_job_that_ignores_sigxcpu_has_until_its_wall_limit(tmp_path: Path) -> None:
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\ndef f():\n    while 1: 0"
    limits = Limits(wall_s=2, cpu_s=1)
    with on_a_mac(tmp_path), Sandbox(1, "strong", limits=limits) as sandbox:
        assert sandbox.run([Job("a", code, call="f")])[0].status is Status.TIMEOUT


# --- what a job leaves behind ---

_LEFT = {
    "removed": "os.rmdir(here)",
    "moved": "os.rename(here, here + '-gone')",
    "locked": "os.chmod(here, 0)",
    "a link": "os.rmdir(here); os.symlink('{victim}', here)",
    "a file": "os.rmdir(here); open(here, 'w').close()",
}


@pytest.mark.parametrize("left", _LEFT)
def test_the_next_job_has_a_scratch_whatever_became_of_it(left: str, tmp_path: Path) -> None:
    """Without a profile, a job can reach the folder itself; nobody else's files may suffer."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    act = _LEFT[left].format(victim=victim)
    # Python's own functions refuse some of this; the system would not.
    code = f"import os, posix\ndef f():\n    here = os.getcwd()\n    {act}\n    return 1"
    bad = Job("bad", code.replace("os.chmod", "posix.chmod"), call="f")
    good = Job("good", "import os\ndef f():\n    open('x', 'w')\n    return os.listdir()", call="f")
    with on_a_mac(tmp_path), Sandbox(1, "limits-only") as sandbox:
        first, second, third = sandbox.run([bad, good, good])
    assert first.status is Status.OK, first
    assert (second.value, third.value) == ("['x']", "['x']")
    assert (victim / "kept").exists(), "what a link leads to was removed"


# --- the pool goes away ---

SLEEP = Job("a", "import time\ndef f(): time.sleep(60)", call="f", limits=Limits(wall_s=60))


def test_jobs_end_when_the_pool_is_closed(tmp_path: Path) -> None:
    """A Mac's poll does not say that the other end hung up. The next request waits behind."""
    with on_a_mac(tmp_path):
        sandbox = Sandbox(1, "strong")
        batch = sandbox.batch()
        for _ in range(6):
            batch.submit(SLEEP)
        [worker] = crew(sandbox)
        assert len(worker.runs) == 2
        started = time.monotonic()
        sandbox.close()
    assert time.monotonic() - started < 5, "closing had to kill the worker"
    assert _in_session(worker.process.pid) == []


_TRAINER = """
import sys, time
from pathlib import Path
from azr_mlx.sandbox import Sandbox
from tests.sandbox.mac import on_a_mac
from tests.sandbox.test_mac import SLEEP
with on_a_mac(Path(sys.argv[1])), Sandbox(1, "strong") as sandbox, sandbox.batch() as batch:
    batch.submit(SLEEP)
    print(sandbox._crew[0].process.pid, flush=True)
    time.sleep(60)
"""


def test_jobs_end_when_the_trainer_is_killed(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _TRAINER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as trainer:
        assert trainer.stdout is not None
        session = int(trainer.stdout.readline())
        assert _in_session(session)
        trainer.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while left := _in_session(session):
        assert time.monotonic() < deadline, f"processes outlived their trainer: {left}"
        time.sleep(0.05)
