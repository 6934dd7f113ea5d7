"""The three styles, determinism, limits, the pool, and the command."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.sandbox import MAX_STDIN, Job, Limits, Sandbox, SandboxError, is_opaque
from azr_mlx.sandbox.worker import Worker, WorkerDied
from azr_mlx.types import Status
from benchmarks.sandbox_soak import descendants
from tests.sandbox.conftest import HONEST, LIMITS, Judge, check_nothing_left, crew

pytestmark = pytest.mark.sandbox


# --- styles ---


@pytest.mark.parametrize(
    ("code", "rest", "status", "value"),
    [
        ("def f(x, y): return x[0]", {"args": "([3, 2], 'x')", "expect": "3"}, Status.PASS, "3"),
        ("def f(): return 1", {"expect": "True"}, Status.FAIL, "1"),
        ("def f(): return {'b', 'a'}", {}, Status.OK, "{'a', 'b'}"),
        ("def f(): return 1/0", {}, Status.ERROR, None),
        ("def g(): pass", {}, Status.ERROR, None),
        ("def f(:", {}, Status.ERROR, None),
        (
            "import math, itertools\nf = lambda n: list(itertools.accumulate(range(n)))",
            {"args": "(4,)", "expect": "[0, 1, 3, 6]"},
            Status.PASS,
            "[0, 1, 3, 6]",
        ),
        (
            "import dataclasses as d\n@d.dataclass\nclass P:\n    x: int\ndef f(): return P(3).x",
            {"expect": "3"},
            Status.PASS,
            "3",
        ),
        (
            "import threading\ndef f():\n    r = []\n"
            "    t = threading.Thread(target=r.append, args=(1,))\n"
            "    t.start()\n    t.join()\n    return r",
            {"expect": "[1]"},
            Status.PASS,
            "[1]",
        ),
    ],
)
def test_call_style(
    judge: Judge, code: str, rest: dict[str, Any], status: Status, value: str | None
) -> None:
    result = judge(code, call="f", **rest)
    assert (result.status, result.value) == (status, value), (
        f"wrong verdict on a plain call: {result}"
    )


def test_error_detail_is_the_last_line(judge: Judge) -> None:
    result = judge("def f(): raise ValueError('no\\nway')", call="f")
    assert result.detail == "ValueError: no way", (
        "users read the exception's type and message in one line"
    )


_HUMANEVAL = (
    "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9, 'three'\n\n"
)


@pytest.mark.parametrize(
    ("code", "tests", "status"),
    [
        ("def add(a, b): return a + b", "assert add(1, 2) == 3", Status.PASS),
        ("def add(a, b): return a - b", "assert add(1, 2) == 3", Status.FAIL),
        ("def sq(x): return x * x", _HUMANEVAL + "check(sq)", Status.PASS),
        ("def sq(x): return x * 2", _HUMANEVAL + "check(sq)", Status.FAIL),
        ("def sq(x): return missing", _HUMANEVAL + "check(sq)", Status.ERROR),
        ("def f(x): return x / 3", "assert abs(f(1.0) - 0.333) < 1e-2", Status.PASS),
        (
            "def f(x): return {'a': x}",
            "assert f(1)['a'] in (1, 2) and f(2) == {'a': 2}",
            Status.PASS,
        ),
        ("def f(): return __name__", "assert f() == 'builtins'", Status.PASS),
        (
            "if __name__ == '__main__':\n    raise SystemExit\ndef f(): return 1",
            "assert f() == 1",
            Status.PASS,
        ),
        (
            "from collections import Counter as f",
            "assert f('aab') == {'a': 2, 'b': 1}",
            Status.PASS,
        ),
        (
            "def f(x): raise ValueError",
            "try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass",
            Status.PASS,
        ),
        ("def f(x): return x", "", Status.INVALID),
        ("def f(x): return x", "assert f(1) ==", Status.ERROR),
    ],
)
def test_assert_style(judge: Judge, code: str, tests: str, status: Status) -> None:
    result = judge(code, tests=tests)
    assert result.status is status, f"not the reference harness's verdict: {result}"


@pytest.mark.parametrize(
    ("code", "rest", "status"),
    [
        ("print(int(input()) + 1)", {"stdin": "1\n", "expect_stdout": "2\n"}, Status.PASS),
        ("print(2, end='  \\n\\n')", {"stdin": "", "expect_stdout": "2"}, Status.PASS),
        ("print(3)", {"stdin": "", "expect_stdout": "2"}, Status.FAIL),
        ("print(2)\nexit()", {"stdin": "", "expect_stdout": "2\n"}, Status.PASS),
        ("print(2, flush=True)\nimport os\nos._exit(0)", {"expect_stdout": "2\n"}, Status.PASS),
        ("print(2)\nraise SystemExit(3)", {"expect_stdout": "2\n"}, Status.ERROR),
        ("if __name__ == '__main__':\n    print('main')", {"expect_stdout": "main\n"}, Status.PASS),
        (
            "import threading\nthreading.Thread(target=lambda: print('late')).start()",
            {"expect_stdout": "late\n"},
            Status.PASS,
        ),
        ("import atexit\natexit.register(print, 'bye')", {"expect_stdout": "bye\n"}, Status.PASS),
        (
            "import sys\nfor line in sys.stdin: print(line.strip()[::-1])",
            {"stdin": "ab\ncd", "expect_stdout": "ba\ndc\n"},
            Status.PASS,
        ),
        ("input()", {}, Status.ERROR),
        ("print('x')", {}, Status.OK),
    ],
)
def test_program_style(judge: Judge, code: str, rest: dict[str, Any], status: Status) -> None:
    result = judge(code, **rest)
    assert result.status is status, f"wrong verdict on a program: {result}"


def test_stdout_is_kept_in_every_style(judge: Judge) -> None:
    assert judge("def f():\n    print('hi')", call="f").stdout == "hi\n"
    assert judge("print('hi')", tests="").stdout == "hi\n"
    assert judge("print('hi')").stdout == "hi\n"


def test_trace_counts_lines_of_the_code_only(judge: Judge) -> None:
    loop = "def f(n):\n    t = 0\n    for i in range(n):\n        t += i\n    return t"
    short, long = (judge(loop, call="f", args=f"({n},)", trace=True).steps for n in (10, 100))
    assert short is not None and long is not None and long - short == 180, "two lines an iteration"
    assert judge(loop, call="f", args="(10,)").steps is None, "an untraced job has no count"
    assert judge(loop, call="f", args="(300000,)", trace=True).steps == 100_000, (
        "the count must be capped"
    )


# --- determinism ---


@pytest.mark.parametrize(
    "body",
    [
        "return list({'alpha', 'beta', 'gamma', 'delta', 'eps', 'zeta', 'eta', 'theta'})",
        "return str({c for c in 'abcdefghijkl'})",
        "return hash('x')",
        "import random; return random.random()",
        "import random; return random.choice(range(10**9))",
        "import uuid; return str(uuid.uuid4())",
        "import os; return os.urandom(4)",
        "import os; return os.getpid()",
        "import time; return time.time()",
        "import time; return time.strftime('%Y')",
        "import datetime; return datetime.date.today().month",
        "import datetime; return datetime.datetime.now().hour",
        "return id(object())",
        "return repr(object())",
        "import tempfile; return tempfile.mktemp()",
    ],
)
def test_nondeterministic_values_are_rejected(judge: Judge, body: str) -> None:
    result = judge(f"def f():\n    {body}", call="f", deterministic=True)
    assert result.status is Status.NONDETERMINISTIC, f"this value differs from run to run: {result}"
    assert result.value is None


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("return {'alpha', 'beta', 'gamma'}", "{'alpha', 'beta', 'gamma'}"),
        ("import random; return random.Random(3).randint(0, 9) * 0", "0"),
        ("import datetime; return datetime.date(2020, 2, 28).isoformat()", "'2020-02-28'"),
        ("return sorted({'b', 'a'})", "['a', 'b']"),
    ],
)
def test_deterministic_values_stand(judge: Judge, body: str, value: str) -> None:
    result = judge(f"def f():\n    {body}", call="f", deterministic=True)
    assert (result.status, result.value) == (Status.OK, value), (
        f"this value is the same every time: {result}"
    )


# --- malformed jobs, limits ---


@pytest.mark.parametrize(
    "job",
    [
        Job("x", "def f(): 0", call="f", tests="pass"),
        Job("x", "def f(): 0", call="f", args="(1)"),
        Job("x", "def f(): 0", call="f", args="(f(),)"),
        Job("x", "def f(): 0", call="f", expect="1 +"),
        Job("x", "def f(): 0", call="f()"),
        Job("x", "def f(): 0", args="()"),
        Job("x", "def f(): 0", call="f", limits=Limits(wall_s=0)),
        Job("x", "def f(): 0", call="f", limits=Limits(memory_mb=1.5)),  # type: ignore[arg-type]
        Job("x", 3),  # type: ignore[arg-type]
        Job("x", "#" * (5 << 20)),
    ],
)
def test_malformed_jobs_are_invalid_and_the_rest_goes_on(sandbox: Sandbox, job: Job) -> None:
    first, second = sandbox.run([job, HONEST])
    assert first.status is Status.INVALID and first.detail, (
        "a malformed job must say what is wrong with it"
    )
    assert second.status is Status.PASS, "a malformed job spoiled the one after it"


def test_jobs_own_limits_hold(judge: Judge) -> None:
    slow = "import time\ndef f():\n    time.sleep(0.4)\n    return 1"
    assert judge(slow, call="f", limits=Limits(wall_s=0.1)).status is Status.TIMEOUT
    assert judge(slow, call="f").status is Status.OK
    big = "def f():\n    return len(bytearray(100 << 20))"
    assert judge(big, call="f", limits=Limits(memory_mb=32)).status is Status.MEMORY
    assert judge(big, call="f").status is Status.OK


def test_child_processes_where_allowed(judge: Judge, sandbox: Sandbox) -> None:
    code = (
        "import os\ndef f(n):\n    for _ in range(n):\n"
        "        if os.fork() == 0:\n            os._exit(0)\n"
        "        os.wait()\n    return n"
    )
    assert judge(code, call="f", args="(3,)").status is Status.ERROR, "processes 0 means none"
    allowed = Limits(processes=2)
    assert judge(code, call="f", args="(3,)", limits=allowed).value == "3"
    both = "import os\npid = os.fork()\nprint('x', flush=True)\nif pid:\n    os.wait()"
    result = judge(both, expect_stdout="x\nx\n", limits=allowed)
    assert result.status is Status.PASS, f"a forked child is not the job: {result}"


def test_large_code_and_output(judge: Judge) -> None:
    text = "x" * (1 << 20)
    result = judge(f"text = '{text}'\nprint(text)\ndef f(): return len(text)", call="f")
    assert result.value == str(1 << 20)
    assert len(result.stdout) == LIMITS.output_kb << 10, "stdout is kept up to the limit"


# --- the pool ---


@pytest.mark.parametrize("letter", ["a", "é", "\U0001f600"])
def test_a_long_stdin(judge: Judge, letter: str) -> None:
    most = MAX_STDIN // len(letter.encode())
    code = "import sys\nprint(len(sys.stdin.read()))"
    result = judge(code, stdin=letter * most)
    assert (result.status, result.stdout) == (Status.OK, f"{most}\n")
    refused = judge(code, stdin=letter * (most + 1))
    assert refused.status is Status.INVALID and "bytes" in refused.detail


def test_results_are_in_order(sandbox: Sandbox) -> None:
    jobs = [
        Job(
            str(i),
            f"import time\ndef f():\n    time.sleep({0.02 * (i % 3)})\n    return {i}",
            call="f",
        )
        for i in range(12)
    ]
    results = sandbox.run(iter(jobs))
    assert [r.id for r in results] == [j.id for j in jobs]
    assert [r.value for r in results] == [str(i) for i in range(12)], "a result went to another job"


def test_killed_zygotes_lose_no_job() -> None:
    with Sandbox(workers=2, limits=LIMITS) as sandbox:
        jobs = [
            Job(
                str(i),
                f"import time\ndef f():\n    time.sleep(0.05)\n    return {i}",
                call="f",
                expect=str(i),
            )
            for i in range(24)
        ]
        sandbox.run(jobs[:2])
        victims = [worker.process.pid for worker in crew(sandbox)]
        timer = threading.Timer(0.15, lambda: [os.kill(pid, signal.SIGKILL) for pid in victims])
        timer.start()
        results = sandbox.run(jobs)
        timer.join()
        assert [r.status for r in results] == [Status.PASS] * 24, "a job was lost with its zygote"
        check_nothing_left(sandbox)


def test_hanging_zygote_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("azr_mlx.sandbox.worker.GRACE_S", 0.3)
    with Sandbox(workers=1, isolation="limits-only", limits=Limits(wall_s=0.3)) as sandbox:
        os.kill(crew(sandbox)[0].process.pid, signal.SIGSTOP)
        assert sandbox.run([HONEST])[0].status is Status.PASS, (
            "a stopped zygote must not hang the trainer"
        )


def test_a_caller_that_was_away_blames_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for what it did not read, nor for what it did not send."""
    monkeypatch.setattr("azr_mlx.sandbox.worker.GRACE_S", 0.3)
    monkeypatch.setattr("azr_mlx.sandbox.pool.STALL_S", 0.1)
    limits = Limits(wall_s=1.0, output_kb=4096)
    long = "def f(x): print('a' * (4 << 20)); return x" + "\n#" * (1 << 20)
    with Sandbox(workers=1, isolation="limits-only", limits=limits) as sandbox:
        with sandbox.batch() as batch:
            batch.submit(Job("a", long, call="f", args="(1,)", expect="1"))
            for _ in range(6):
                time.sleep(1.4)
                batch.poll()
            [result] = batch.results()
        assert result.status is Status.PASS, result


def test_names_that_a_job_foresees_do_not_end_the_run() -> None:
    """What it leaves is moved while it is removed."""
    program = (
        "import os\n"
        "def f(x):\n"
        "    os.mkdir('a')\n"
        "    for pid in (os.getsid(0), os.getppid(), os.getpid()):\n"
        "        for i in range(1, 60):\n"
        "            open(f'a/.{pid}.{i}', 'x').close()\n"
        "            os.makedirs(f'a/d{pid}.{i}/e')\n"
        "    return x\n"
    )
    with Sandbox(workers=1, isolation="limits-only", limits=LIMITS) as sandbox:
        jobs = [Job("a", program, call="f", args="(1,)", expect="1")]
        jobs.append(Job("b", "def f(x): return x", call="f", args="(1,)", expect="1"))
        assert [result.status for result in sandbox.run(jobs)] == [Status.PASS, Status.PASS]


def test_a_worker_that_dies_may_be_reported_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As kqueue does on a Mac: once for reading, once for writing."""
    with Sandbox(1, "limits-only") as sandbox:
        worker = sandbox._crew[0]
        key = sandbox._selector.get_key(worker.socket)
        worker.socket.shutdown(socket.SHUT_RDWR)
        heard = [(key, selectors.EVENT_READ), (key, selectors.EVENT_WRITE)]
        with monkeypatch.context() as patch:
            patch.setattr(sandbox._selector, "select", lambda timeout: heard)
            sandbox._attend(0.0)
        assert worker not in sandbox._crew
        [result] = sandbox.run([Job("1", "def f(): return 1", call="f", expect="1")])
        assert result.status == Status.PASS


def test_twice_dead_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(workers=1, isolation="limits-only", limits=LIMITS) as sandbox:

        def dying(worker: Worker) -> Any:
            raise WorkerDied("it ended")

        # Called for what comes after the first message, which may arrive together with it.
        monkeypatch.setattr(Worker, "_next_outcome", dying)
        result = sandbox.run([HONEST])[0]
        assert result.status is Status.KILLED, "a job whose zygote died twice counts as killed"


def test_nothing_is_left_after_close() -> None:
    before, fds = descendants(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0
    with Sandbox(workers=2) as sandbox:
        sandbox.run(
            [Job(str(i), "def f(): return 1", call="f", deterministic=True) for i in range(4)]
        )
        bases = [worker.base for worker in crew(sandbox)]
    assert descendants() <= before, "a zygote outlived its sandbox"
    assert not any(map(os.path.exists, bases)), "a scratch folder outlived its sandbox"
    if fds:
        assert len(os.listdir("/proc/self/fd")) == fds, "a descriptor leaked"
    sandbox.close()
    with pytest.raises(SandboxError):
        sandbox.run([HONEST])


@pytest.mark.parametrize("isolation", ["auto", "limits-only"])
def test_sandbox_ends_with_its_owner(isolation: str) -> None:
    """kill -9 of the trainer must not leave zygotes or folders."""
    script = (
        "import sys, time\nfrom azr_mlx.sandbox import MAX_STDIN, Job, Sandbox\n"
        "s = Sandbox(1, sys.argv[1])\nz = s._crew[0]\nprint(z.process.pid, z.base, flush=True)\n"
        "s.run([Job('a', 'import time\\ntime.sleep(60)')])\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, isolation], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid, base = owner.stdout.readline().split()
    time.sleep(0.3)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 5
    while (_alive(int(pid)) or os.path.exists(base)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(int(pid)), "the zygote lives on without its owner"
    assert not os.path.exists(base), "the scratch folder lives on without its owner"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("option", "value"), [("isolation", "none"), ("workers", -1), ("limits", Limits(wall_s=-1))]
)
def test_bad_options_are_one_clear_line(option: str, value: object) -> None:
    with pytest.raises(SandboxError) as error:
        Sandbox(**{option: value})  # type: ignore[arg-type]
    assert "sandbox." in str(error.value) and "\n" not in str(error.value)


def test_strong_refuses_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(isolation: str, flavour: int) -> object:
        raise OSError(f"no {isolation} here")

    monkeypatch.setattr("azr_mlx.sandbox.pool.Worker", refuse)
    with pytest.raises(SandboxError, match="isolation = 'strong' is not available here"):
        Sandbox(isolation="strong")


# --- many calls in one process ---


def test_the_values_of_many_calls_come_back_as_objects(judge: Judge) -> None:
    code = """
import collections
seen = []
def f(x):
    seen.append(x)
    return [len(seen), collections.Counter('aab'), frozenset([1]), {1: 2}, float('nan'), f][x]
"""
    result = judge(code, call="f", calls=tuple(f"({n},)" for n in range(6)))
    assert result.status is Status.OK and result.values is not None and len(result.values) == 6
    assert result.values[:4] == (1, {"a": 2, "b": 1}, frozenset({1}), {1: 2})
    assert result.values[4] != result.values[4] and result.values[5] is not None
    texts = ["1", "{'a': 2, 'b': 1}", None, "{1: 2}", None, None]
    assert result.to_json()["values"] == texts


def test_calls_end_with_the_first_exception(judge: Judge) -> None:
    result = judge("def f(x): return 6 // x", call="f", calls=("(3,)", "(2,)", "(0,)", "(1,)"))
    assert result.status is Status.ERROR and result.values == (2, 3)
    assert "ZeroDivisionError" in result.detail


def test_values_that_are_too_large_together_equal_nothing(judge: Judge) -> None:
    result = judge("def f(x): return 'a' * 120_000", call="f", calls=("(1,)",) * 20)
    assert result.status is Status.OK and result.values is not None and len(result.values) == 20
    assert len(result.values[0]) == 120_000 and is_opaque(result.values[-1])


def test_arguments_of_one_call_are_not_those_of_another(judge: Judge) -> None:
    result = judge("def f(xs): xs.append(1); return len(xs)", call="f", calls=("([],)",) * 3)
    assert result.values == (1, 1, 1)


@pytest.mark.parametrize(
    ("code", "calls", "status"),
    [
        ("def f(x): return x", (), Status.OK),
        ("def g(x): return x", ("(1,)",), Status.ERROR),
        ("import os\ndef f(x): os._exit(0)", ("(1,)",), Status.ERROR),
        ("def f(x):\n    while 1: pass", ("(1,)",), Status.TIMEOUT),
        ("def f(x): return x", ("1",), Status.INVALID),
        ("def f(x): return x", ("(1,)", "(x,)"), Status.INVALID),
    ],
)
def test_calls_that_come_to_no_good(
    judge: Judge, code: str, calls: tuple[str, ...], status: Status
) -> None:
    assert judge(code, call="f", calls=calls).status is status


# --- the command ---


def _command(rows: list[Any], tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out.jsonl"
    jobs.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    done = subprocess.run(
        [sys.executable, "-m", "azr_mlx.sandbox", "--jobs", str(jobs), "--out", str(out), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "stdout belongs to results"
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_command(tmp_path: Path) -> None:
    rows: list[Any] = [
        {
            "id": "a",
            "code": "def f(x, y): return len(x) + 1",
            "call": "f",
            "args": "([1, 2], 'x')",
            "expect": "3",
        },
        {"id": "b", "code": "def add(a, b): return a + b", "tests": "assert add(1, 2) == 3"},
        {"id": "c", "code": "print(int(input()) + 1)", "stdin": "1\n", "expect_stdout": "2\n"},
        {"id": "d", "code": "def f(): return hash('a')", "call": "f", "deterministic": True},
        "not JSON",
        {"id": "e"},
        {"id": 7, "code": "def f():\n while True: pass", "call": "f", "limits": {"wall_s": 0.2}},
        {"id": "g", "code": "def f(): return 1", "call": "f", "limits": {"wall": 1}},
        [],
        {"id": "h", "code": "def f(): return 'é\\n'", "call": "f"},
    ]
    results = _command(rows, tmp_path, "--workers", "2", "--isolation", "auto")
    statuses = [r["status"] for r in results]
    assert statuses == [
        "pass",
        "pass",
        "pass",
        "nondeterministic",
        "invalid",
        "invalid",
        "timeout",
        "invalid",
        "invalid",
        "ok",
    ]
    assert [r["id"] for r in results] == ["a", "b", "c", "d", None, "e", 7, "g", None, "h"]
    assert set(results[0]) == {"id", "status", "value", "detail", "stdout", "seconds"}
    assert results[-1]["value"] == repr("é\n")


def test_command_on_pipes() -> None:
    row = {"id": "a", "code": "def f(): return 1", "call": "f"}
    done = subprocess.run(
        [sys.executable, "-m", "azr_mlx.sandbox", "--jobs", "-", "--out", "-", "--workers", "1"],
        input=json.dumps(row),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["value"] == "1"


def test_command_reports_a_missing_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "azr_mlx.sandbox", "--jobs", str(tmp_path / "none"), "--out", "-"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: "), (
        "one clear line, no traceback"
    )


def _command_on_bytes(jobs: Path, data: bytes, piped: bool) -> subprocess.CompletedProcess[bytes]:
    jobs.write_bytes(data)
    given, out = ("-", "-") if piped else (str(jobs), str(jobs.with_name("out")))
    words = ["--jobs", given, "--out", out, "--workers", "1"]
    return subprocess.run(
        [sys.executable, "-m", "azr_mlx.sandbox", *words],
        input=data if piped else None,
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
    )


@pytest.mark.parametrize("piped", [True, False], ids=["pipes", "files"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_command_reads_files_of_any_editor(tmp_path: Path, encoding: str, piped: bool) -> None:
    row = {"id": "数", "code": "def f(): return 'é'", "call": "f"}
    data = (json.dumps(row, ensure_ascii=False) + "\r\n\r\n").encode(encoding)
    done = _command_on_bytes(tmp_path / "jobs", data, piped)
    assert done.returncode == 0, done.stderr
    (line,) = (done.stdout if piped else (tmp_path / "out").read_bytes()).splitlines()
    assert json.loads(line)["id"] == "数" and json.loads(line)["value"] == "'é'"


@pytest.mark.parametrize("piped", [True, False], ids=["pipes", "files"])
def test_command_reports_bytes_that_are_not_text(tmp_path: Path, piped: bool) -> None:
    row = json.dumps({"id": "é", "code": "def f(): return 1", "call": "f"}, ensure_ascii=False)
    data = row.encode() + b"\n" + row.encode("latin-1") + b"\n" + b"[" * 100_000
    done = _command_on_bytes(tmp_path / "jobs", data, piped)
    assert done.returncode == 0, done.stderr
    out = done.stdout if piped else (tmp_path / "out").read_bytes()
    good, bad, deep = map(json.loads, out.splitlines())
    assert good["value"] == "1" and bad["status"] == deep["status"] == "invalid"
    assert "not UTF-8 text" in bad["detail"] and "nested too deeply" in deep["detail"]


def test_command_writes_nothing_for_a_file_that_is_not_text(tmp_path: Path) -> None:
    done = _command_on_bytes(tmp_path / "jobs", '{"id": 1}'.encode("utf-16-le"), False)
    assert done.returncode == 1 and done.stderr.count(b"error: ") == 1
    assert b"like UTF-16 without a byte order mark); save it as UTF-8" in done.stderr
    assert not (tmp_path / "out").exists()
