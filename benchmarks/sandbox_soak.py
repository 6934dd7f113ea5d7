"""Whether the sandbox stays as it is over 100,000 jobs: every verdict, memory, processes, files.

    python benchmarks/sandbox_soak.py                     100,000 jobs, in calls of 500
    python benchmarks/sandbox_soak.py --once              the same in one call, over a generator
    python benchmarks/sandbox_soak.py --kill --jobs 5000  while zygotes die at random

The jobs are mixed by a seed: most pass, some fail, raise, print, write files, crash, leak or never
end, and each has one right status. Every --every jobs the resident memory of this process and of
all below it, their number, their open descriptors and the temporary folder's entries are counted.
Prints one JSON object, with what has grown since the first sample. Exits with 1 where a verdict is
wrong, memory has grown by more than --growth-mb, processes or descriptors pile up, or anything is
left after the sandbox has closed. With --once the results themselves, which the call returns
together, do not count as growth. Needs Linux (/proc), and root to count zygotes' descriptors.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import gc
import json
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from azr_mlx import __version__
from azr_mlx.sandbox import Job, Limits, Result, Sandbox, SandboxError
from azr_mlx.types import Status

_OLD_S = 1.0
_FORKED_WITHOUT_EXEC = 0x40  # the kernel's PF_FORKNOEXEC
_ENDING = 0x4  # the kernel's PF_EXITING
PILE = 16  # descriptors or processes a worker may have more than at the first sample
Maker = Callable[[random.Random], "Case"]


# --- jobs whose verdict is known ---


@dataclass(frozen=True, slots=True)
class Case:
    """A job and what must come of it."""

    job: Job
    status: Status
    value: str | None = None
    stdout: str | None = None

    def right(self, result: Result) -> bool:
        """Whether this is the job's own result, and the one it must have."""
        wanted = ((self.job.id, result.id), (self.status, result.status))
        optional = ((self.value, result.value), (self.stdout, result.stdout))
        return all(a == b for a, b in wanted) and all(a in (None, b) for a, b in optional)


def _call(rng: random.Random) -> Case:
    numbers = [rng.randrange(1000) for _ in range(rng.randrange(1, 30))]
    code = "def f(xs, k):\n    return [x * k for x in sorted(xs) if x % 3]\n"
    value = repr([x * 7 for x in sorted(numbers) if x % 3])
    return Case(Job("", code, call="f", args=f"({numbers}, 7)", expect=value), Status.PASS, value)


def _wrong(rng: random.Random) -> Case:
    n = rng.randrange(1, 10**6)
    code = "def f(n):\n    return n + 1\n"
    return Case(Job("", code, call="f", args=f"({n},)", expect=str(n)), Status.FAIL, str(n + 1))


def _raises(rng: random.Random) -> Case:
    body = rng.choice(["return [][0]", "return 1 // 0", "raise KeyError('k')", "return undefined"])
    return Case(Job("", f"def f():\n    {body}\n", call="f"), Status.ERROR)


def _leaves_early(rng: random.Random) -> Case:
    code = f"import os\ndef f():\n    os._exit({rng.randrange(4)})\n"
    return Case(Job("", code, call="f"), Status.ERROR)


def _deterministic(rng: random.Random) -> Case:
    word = "".join(rng.choices("abcdefgh", k=12))
    code = "def f(s):\n    return sorted(set(s))\n"
    job = Job("", code, call="f", args=f"({word!r},)", deterministic=True)
    return Case(job, Status.OK, repr(sorted(set(word))))


def _nondeterministic(rng: random.Random) -> Case:
    code = f"def f():\n    return hash('{rng.randrange(10**6)} and a text')\n"
    return Case(Job("", code, call="f", deterministic=True), Status.NONDETERMINISTIC)


def _tests(rng: random.Random) -> Case:
    right = rng.random() < 0.7
    code = f"def add(a, b):\n    return a + b{'' if right else ' + 1'}\n"
    tests = "".join(f"assert add({n}, 2) == {n + 2}\n" for n in rng.sample(range(100), 3))
    return Case(Job("", code, tests=tests), Status.PASS if right else Status.FAIL)


def _suite(rng: random.Random) -> Case:
    """In the manner of HumanEval, with a loop, so that its asserts cannot be taken one by one."""
    right = rng.random() < 0.7
    code = f"def double(n):\n    return n * {2 if right else 3}\n"
    check = (
        "def check(candidate):\n    for n in range(1, 9):\n        assert candidate(n) == n + n\n"
    )
    tests = f"{check}\ncheck(double)\n"
    return Case(Job("", code, tests=tests), Status.PASS if right else Status.FAIL)


def _prints(rng: random.Random) -> Case:
    n = rng.randrange(100)
    code = "n = int(input())\nfor i in range(5):\n    print(n, i)\n"
    text = "".join(f"{n} {i}\n" for i in range(5))
    job = Job("", code, stdin=f"{n}\n", expect_stdout=text)
    return Case(job, Status.PASS, stdout=text)


def _floods(rng: random.Random) -> Case:
    code = "def f():\n    print('x' * 200_000)\n    return 1\n"
    limits = Limits(output_kb=1)
    return Case(Job("", code, call="f", limits=limits), Status.OK, "1", "x" * 1024)


def _writes_files(rng: random.Random) -> Case:
    code = (
        "import os\n"
        "def f(n):\n"
        "    found = len(os.listdir('.'))\n"
        "    os.makedirs('a/b')\n"
        "    for i in range(n):\n"
        "        with open(f'a/b/{i}', 'w') as file:\n"
        "            file.write('x' * 10_000)\n"
        "    return [found, len(os.listdir('a/b'))]\n"
    )
    n = rng.randrange(1, 9)
    return Case(Job("", code, call="f", args=f"({n},)"), Status.OK, f"[0, {n}]")


def _endless(rng: random.Random) -> Case:
    code = rng.choice(["while True: pass", "import time\ntime.sleep(99)"])
    return Case(Job("", code, limits=Limits(wall_s=0.2)), Status.TIMEOUT)


def _leaks(rng: random.Random) -> Case:
    body = rng.choice(["return 'a' * (1 << 34)", "return [0] * (1 << 32)"])
    limits = Limits(memory_mb=64)
    return Case(Job("", f"def f():\n    {body}\n", call="f", limits=limits), Status.MEMORY)


def _crashes(rng: random.Random) -> Case:
    code = rng.choice(["import os\nos.abort()", "import ctypes\nctypes.string_at(0)"])
    return Case(Job("", code), Status.KILLED)


def _malformed(rng: random.Random) -> Case:
    return Case(Job("", "def f(x): return x", call="f", args="[1"), Status.INVALID)


# parts of a thousand
MIX: dict[Maker, int] = {
    _call: 430,
    _wrong: 100,
    _raises: 80,
    _leaves_early: 10,
    _deterministic: 60,
    _nondeterministic: 10,
    _tests: 100,
    _suite: 60,
    _prints: 70,
    _floods: 10,
    _writes_files: 50,
    _endless: 4,
    _leaks: 5,
    _crashes: 6,
    _malformed: 5,
}


def draw(seed: int, index: int) -> Case:
    """The ``index``-th job of a seed; its id is the index."""
    rng = random.Random(f"{seed} {index}")
    case = rng.choices(list(MIX), list(MIX.values()))[0](rng)
    fields = {name: getattr(case.job, name) for name in case.job.__slots__}
    return Case(Job(**{**fields, "id": str(index)}), case.status, case.value, case.stdout)


# --- what the machine holds ---


def descendants() -> set[int]:
    """Process ids below this process, but for those that are ending or have ended."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb", 0) as file:
                fields = file.read().rpartition(b")")[2].split(None, 7)
        except OSError:
            continue  # it ended meanwhile
        if fields[0] != b"Z" and not int(fields[6]) & _ENDING:
            parents[int(name)] = int(fields[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def resident_mb(pid: int) -> float:
    """Resident memory; 0 for a process that has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors(pid: int) -> int | None:
    """Open descriptors; None if another user's, or an ended process's, cannot be counted."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


def sample(jobs: int) -> dict[str, float]:
    """One row: memory in MB, numbers of all else."""
    below = sorted(descendants())
    memory = list(map(resident_mb, below))
    open_below = [n for n in map(descriptors, below) if n is not None]
    return {
        "jobs": jobs,
        "parent_mb": round(resident_mb(os.getpid()), 2),
        "below_mb": round(sum(memory), 2),
        "most_mb_below": round(max(memory, default=0.0), 2),
        "below": len(below),
        "parent_fds": descriptors(os.getpid()) or 0,
        "below_fds": sum(open_below),
        "most_fds_below": max(open_below, default=0),
        "temporary": len(os.listdir(tempfile.gettempdir())),
    }


# --- sudden deaths ---


def adopt_orphans(on: bool = True) -> None:
    """Processes below this one whose parent dies become its children, so that none goes unseen."""
    pr_set_child_subreaper = 36
    if ctypes.CDLL(None).prctl(pr_set_child_subreaper, int(on), 0, 0, 0):
        raise OSError("prctl(PR_SET_CHILD_SUBREAPER) failed")


class Killer(threading.Thread):
    """SIGKILLs random processes below this one at random moments, seeded, while the block runs.

    ``spared`` are not touched. ``jobs_too`` False spares the jobs' own processes: only what
    ``is_zygote`` names dies. ``kills`` counts them.
    """

    def __init__(
        self,
        seed: int,
        spared: set[int],
        every_s: float = 0.35,
        jobs_too: bool = False,
    ) -> None:
        super().__init__(daemon=True)
        self.kills = 0
        self._rng, self._spared = random.Random(seed), spared
        self._every_s, self._jobs_too = every_s, jobs_too
        self._over = threading.Event()

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(self._every_s * self._rng.uniform(0.3, 1.7)):
            victims = sorted(pid for pid in descendants() - self._spared if self._may_die(pid))
            if victims:
                self.kills += _kill(self._rng.choice(victims))

    def _may_die(self, pid: int) -> bool:
        return self._jobs_too or is_zygote(pid)


def is_zygote(pid: int) -> bool:
    """A process that this one has started (not an orphan that it has inherited), the first one of a
    pid namespace, or one that is older than the jobs here get.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
        now = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return False
    started_here = int(stat[1]) == os.getpid() and not int(stat[6]) & _FORKED_WITHOUT_EXEC
    numbers = next((n for n in status.splitlines() if n.startswith("NSpid:")), "").split()[1:]
    orphan = int(stat[1]) == os.getpid() and not started_here
    old = now - int(stat[19]) / os.sysconf("SC_CLK_TCK") > _OLD_S and not orphan
    return started_here or old or (len(numbers) > 1 and numbers[-1] == "1")


def _kill(pid: int) -> bool:
    """Through a descriptor, so that a number that was given to another process hits nobody."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if pid not in descendants():
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


# --- the run ---


class Tally:
    """Compares results with what they must be."""

    def __init__(self, kills_allowed: bool) -> None:
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.killed_twice = 0
        self._kills_allowed = kills_allowed

    def note(self, cases: list[Case], results: list[Result]) -> None:
        if len(results) != len(cases):
            self.wrong.append(f"{len(cases)} jobs gave {len(results)} results")
        for case, result in zip(cases, results, strict=False):
            self.statuses[result.status.value] += 1
            if case.right(result):
                continue
            ids_match = case.job.id == result.id
            if self._kills_allowed and result.status is Status.KILLED and ids_match:
                self.killed_twice += 1
            else:
                self.wrong.append(f"{case} gave {result}")


def in_calls(sandbox: Sandbox, options: argparse.Namespace, tally: Tally) -> list[dict[str, float]]:
    """Runs the jobs in calls of ``options.chunk``: the samples."""
    samples, started = [], time.monotonic()
    for start in range(0, options.jobs, options.chunk):
        end = min(start + options.chunk, options.jobs)
        cases = [draw(options.seed, i) for i in range(start, end)]
        tally.note(cases, sandbox.run([case.job for case in cases]))
        if end // options.every > start // options.every:
            samples.append(sample(end))
            shown = " ".join(f"{name} {value:g}" for name, value in samples[-1].items())
            print(f"{time.monotonic() - started:7.1f} s  {shown}", file=sys.stderr)
    return samples


class Ticker(threading.Thread):
    """Samples twice a second while one long call runs; ``drawn`` is how many jobs it has taken."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.drawn = 0
        self.samples: list[dict[str, float]] = []
        self.over = threading.Event()

    def jobs(self, options: argparse.Namespace) -> Iterator[Job]:
        for i in range(options.jobs):
            self.drawn = i + 1
            yield draw(options.seed, i).job

    def run(self) -> None:
        while not self.over.wait(0.5):
            self.samples.append(sample(self.drawn))


def at_once(
    sandbox: Sandbox, options: argparse.Namespace, tally: Tally
) -> tuple[list[dict[str, float]], float]:
    """One call for all jobs: the samples, and the MB that its results take."""
    first = [draw(options.seed, -1 - i) for i in range(min(options.every, options.jobs))]
    tally.note(first, sandbox.run([case.job for case in first]))
    before = sample(0)
    ticker = Ticker()
    ticker.start()
    results = sandbox.run(ticker.jobs(options))
    ticker.over.set()
    ticker.join()
    after = sample(options.jobs)
    kept_mb = _size(results) / 1e6
    for start in range(0, options.jobs, options.chunk):
        part = results[start : start + options.chunk]
        tally.note([draw(options.seed, start + i) for i in range(len(part))], part)
    if len(results) != options.jobs:
        tally.wrong.append(f"{options.jobs} jobs gave {len(results)} results")
    return [before, *ticker.samples, after], kept_mb


def _size(results: list[Result]) -> int:
    """Bytes of a list of results; what they share counts once."""
    parts = {id(results): sys.getsizeof(results)}
    for result in results:
        for part in (result, *(getattr(result, name) for name in result.__slots__)):
            parts[id(part)] = sys.getsizeof(part)
    return sum(parts.values())


def soak(options: argparse.Namespace) -> dict[str, object]:
    """Everything that is printed."""
    adopt_orphans()
    before, entries = descendants(), os.listdir(tempfile.gettempdir())
    open_before = descriptors(os.getpid())
    tally, kept_mb = Tally(options.kill), 0.0
    started = time.monotonic()
    with Sandbox(options.workers, options.isolation) as sandbox:
        isolation = sandbox.isolation
        killing = Killer(options.seed, before, options.kill_every)
        with killing if options.kill else contextlib.nullcontext() as killer:
            if options.once:
                samples, kept_mb = at_once(sandbox, options, tally)
            else:
                samples = in_calls(sandbox, options, tally)
    seconds = time.monotonic() - started
    gc.collect()
    left = {
        "processes": len(descendants() - before),
        "temporary": sorted(set(os.listdir(tempfile.gettempdir())) - set(entries)),
        "descriptors": (descriptors(os.getpid()) or 0) - (open_before or 0),
    }
    report = {
        "isolation": isolation,
        "workers": sandbox.workers,
        "jobs": options.jobs,
        "seconds": round(seconds, 1),
        "jobs_per_s": round(sum(tally.statuses.values()) / seconds, 1),
        "verdicts": dict(tally.statuses),
        "wrong": tally.wrong[:10],
        "wrong_count": len(tally.wrong),
        "kills": killer.kills if killer else 0,
        "killed_twice": tally.killed_twice,
        "results_mb": round(kept_mb, 2),
        **growth(samples, kept_mb),
        "left_after_close": left,
    }
    return {**report, "faults": faults(report, options), "samples": samples}


def growth(samples: list[dict[str, float]], kept_mb: float) -> dict[str, object]:
    """The first and the last sample, and the most that each count has risen above the first."""
    first = samples[0]
    rise = {k: round(max(s[k] for s in samples) - first[k], 2) for k in first if k != "jobs"}
    rise["parent_mb"] = round(rise["parent_mb"] - kept_mb, 2)
    return {"first": first, "last": samples[-1], "growth": rise}


def faults(report: dict[str, object], options: argparse.Namespace) -> list[str]:
    """What should not be, a line each."""
    found = [f"{report['wrong_count']} wrong verdicts"] if report["wrong_count"] else []
    rise: dict[str, float] = report["growth"]  # type: ignore[assignment]
    if report["killed_twice"] * 2 > report["kills"]:  # type: ignore[operator]
        found.append(f"{report['killed_twice']} jobs are killed after {report['kills']} deaths")
    for name in ("parent_mb", "most_mb_below"):  # workers start as they are needed, so not the sum
        if rise[name] > options.growth_mb:
            found.append(f"{name} grew by {rise[name]}, more than {options.growth_mb}")
    for name in ("below", "parent_fds", "most_fds_below", "temporary"):
        if rise[name] > PILE * report["workers"]:  # type: ignore[operator]
            found.append(f"{name} grew by {rise[name]}")
    left: dict[str, object] = report["left_after_close"]  # type: ignore[assignment]
    return found + [f"left after close: {name} {what}" for name, what in left.items() if what]


def machine() -> dict[str, object]:
    """When and where this was measured."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "azr-mlx": __version__,
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--chunk", type=int, default=500, help="jobs a call")
    parser.add_argument("--every", type=int, default=1000, help="jobs between samples")
    parser.add_argument("--once", action="store_true", help="one call, over a generator")
    parser.add_argument("--kill", action="store_true", help="SIGKILL zygotes meanwhile")
    parser.add_argument("--kill-every", type=float, default=0.35, metavar="S", help="on average")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("--growth-mb", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("reads /proc, so it runs on Linux only")
    if min(options.jobs, options.chunk, options.every) < 1 or options.every > options.jobs:
        parser.error("--jobs, --chunk, --every: must be at least 1, and --every at most --jobs")
    return options


def main() -> int:
    options = arguments()
    where = machine()
    with tempfile.TemporaryDirectory(prefix="azr-soak-") as folder:
        os.chmod(folder, 0o711)  # jobs of another user get to their scratch
        os.environ["TMPDIR"] = tempfile.tempdir = folder  # so that nobody else's files are counted
        try:
            report = soak(options)
        except SandboxError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(json.dumps({**where, **report}))
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
