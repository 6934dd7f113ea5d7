"""Hostile jobs. Each asserts its verdict, ``judge`` that nothing else was touched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.sandbox import Job, Limits, Sandbox
from azr_mlx.types import Status
from tests.sandbox.conftest import Judge

pytestmark = pytest.mark.sandbox

SHORT = Limits(wall_s=0.5, cpu_s=1, memory_mb=256, output_kb=16)


def _body(*lines: str) -> str:
    return "def f():\n" + "".join(f"    {line}\n" for line in lines)


ENDLESS = {
    "python loop": _body("while True: pass"),
    "C loop": _body("return len(str(10 ** 10 ** 8))"),
    "regex": _body("import re", "return re.match(r'(a+)+$', 'a' * 40 + 'b')"),
    "sum": _body("return sum(range(10 ** 12))"),
    "sleep": _body("import time", "time.sleep(1e9)"),
    "swallows BaseException": _body(
        "while True:", "    try:", "        while True: pass", "    except BaseException: pass"
    ),
    "ignores signals": _body(
        "import signal",
        "for s in range(1, 65):",
        "    try: signal.signal(s, signal.SIG_IGN)",
        "    except (OSError, ValueError): pass",
        "while True: pass",
    ),
    "closes its outputs": _body("import os", "os.closerange(0, 64)", "while True: pass"),
    "stdout flood": _body("while True: print('x' * 1000)"),
    "stderr flood": _body("import sys", "while True: sys.stderr.write('x' * 1000)"),
    "exception whose text loops": _body(
        "class E(Exception):", "    def __str__(self):", "        while True: pass", "raise E"
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_jobs_time_out(judge: Judge, name: str) -> None:
    result = judge(ENDLESS[name], call="f", limits=SHORT)
    assert result.status is Status.TIMEOUT, f"{name} must end at the wall limit: {result}"
    assert result.seconds < SHORT.wall_s + 0.5, "the wall limit must hold"
    assert len(result.stdout) <= SHORT.output_kb << 10, "output must stay under its limit"


def test_cpu_limit_is_a_timeout(judge: Judge) -> None:
    result = judge(ENDLESS["python loop"], call="f", limits=Limits(wall_s=20, cpu_s=1))
    assert result.status is Status.TIMEOUT and "CPU" in result.detail, (
        f"CPU time has its own limit: {result}"
    )


def test_endless_thread_does_not_hold_the_verdict(judge: Judge) -> None:
    code = _body(
        "import threading, time",
        "threading.Thread(target=time.sleep, args=(1e6,)).start()",
        "return 1",
    )
    assert judge(code, call="f").value == "1"


MEMORY = {
    "one block": _body("return 'a' * (1 << 34)"),
    "slow leak": _body("kept = []", "while True: kept.append('x' * 100_000)"),
    "global leak": "kept = []\ndef f():\n    while True: kept.append([0] * 1000)\n",
    "nested": _body("x = [0]", "for _ in range(200): x = x + x", "return x"),
}


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="RLIMIT_AS does not hold on Darwin")
@pytest.mark.parametrize("name", MEMORY)
def test_memory_bombs(judge: Judge, name: str) -> None:
    limits = Limits(wall_s=8, cpu_s=7, memory_mb=64)
    result = judge(MEMORY[name], call="f", limits=limits)
    assert result.status is Status.MEMORY, f"{name} must meet the memory limit: {result}"


CRASHES = {
    "segfault": (_body("import ctypes", "ctypes.string_at(0)"), {Status.KILLED}),
    "abort": (_body("import os", "os.abort()"), {Status.KILLED}),
    "recursion": (
        _body(
            "import sys",
            "sys.setrecursionlimit(10 ** 9)",
            "g = lambda: repr(L)",
            "L = []",
            "L.append(L)",
            "class A:",
            "    def __repr__(self): return repr(self)",
            "return repr(A())",
        ),
        {Status.KILLED, Status.MEMORY, Status.ERROR, Status.TIMEOUT},
    ),
    "deep parentheses": (
        "def f(): return " + "(" * 100_000 + ")" * 100_000,
        {Status.ERROR, Status.MEMORY},
    ),
    "long expression": (
        "def f(): return " + "+".join(["1"] * 200_000),
        {Status.ERROR, Status.MEMORY, Status.KILLED},
    ),
    "null bytes": ("def f(): return 1\0", {Status.ERROR}),
    "coding cookie": ("# coding: rot13\nqrs s(): erghea 1", {Status.ERROR}),
    "surrogate": ("def f(): return '\ud800'", {Status.ERROR, Status.INVALID}),
}


@pytest.mark.parametrize("name", CRASHES)
def test_crashes(judge: Judge, name: str) -> None:
    code, allowed = CRASHES[name]
    result = judge(code, call="f")
    assert result.status in allowed, f"{name}: {result}"


# --- processes ---

_DAEMON = _body(
    "import os, time",
    "if os.fork() == 0:",
    "    os.setsid()",
    "    if os.fork() == 0:",
    "        for s in range(1, 65):",
    "            try: __import__('signal').signal(s, 1)",
    "            except (OSError, ValueError): pass",
    "        time.sleep(1000)",
    "    os._exit(0)",
    "os.wait()",
    "return 1",
)


def test_fork_bomb_without_leave(judge: Judge, confined: Sandbox) -> None:
    result = judge(_body("import os", "while True: os.fork()"), call="f")
    assert result.status is Status.ERROR, f"the first fork must fail: {result}"


def test_fork_bomb_with_leave(judge: Judge, confined: Sandbox) -> None:
    limits = Limits(wall_s=1, cpu_s=1, processes=4)
    result = judge(
        _body("import os", "while True:", "    try: os.fork()", "    except OSError: pass"),
        call="f",
        limits=limits,
    )
    assert result.status in (Status.KILLED, Status.TIMEOUT), (
        f"more processes than it may have: {result}"
    )


def test_escaped_daemon_is_dead_at_the_verdict(judge: Judge, confined: Sandbox) -> None:
    result = judge(_DAEMON, call="f", limits=Limits(wall_s=2, cpu_s=1, processes=3))
    assert result.value == "1", (
        f"the job itself ends well, and judge() has looked for its daemon: {result}"
    )


def test_sleeping_child_is_dead_at_the_verdict(judge: Judge, confined: Sandbox) -> None:
    code = _body("import os, time", "if os.fork() == 0: time.sleep(1000)", "return 1")
    assert judge(code, call="f", limits=Limits(processes=2)).value == "1"


def test_killing_everyone_in_sight(judge: Judge, confined: Sandbox) -> None:
    code = _body(
        "import os, signal",
        "for pid in [os.getppid(), -1, 1, *range(2, 40000)]:",
        "    try:",
        "        if pid != os.getpid(): os.kill(pid, signal.SIGKILL)",
        "    except OSError: pass",
        "return 1",
    )
    before = [w.process.pid for w in confined._crew]
    result = judge(code, call="f", limits=Limits(wall_s=4))
    after = [w.process.pid for w in confined._crew]
    assert result.value == "1" and before == after, "a job ended a process that is not its own"


# --- exits, cheats ---


@pytest.mark.parametrize(
    "line",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "exit()",
        "quit(0)",
        "raise GeneratorExit",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    ],
)
def test_early_exit_never_passes(judge: Judge, line: str) -> None:
    for result in (
        judge(f"def f():\n    {line}", tests="assert f() == 1"),
        judge(line, tests="assert False"),
        judge(f"def f():\n    {line}", call="f", expect="1"),
    ):
        assert result.status in (Status.ERROR, Status.KILLED), f"an exit is no proof: {result}"


_ALWAYS = """
class Always{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __lt__
    __hash__ = None
    __sub__ = __rsub__ = __abs__ = lambda self, *a: self
    def __repr__(self): return '3'
    __class__ = property(lambda self: int)
def f(*args): return Always()
"""


@pytest.mark.parametrize("base", ["", "(int)", "(str)", "(list)", "(dict)"])
@pytest.mark.parametrize(
    "tests",
    [
        "assert f(1) == 3",
        "def check(c):\n    assert c(1) == 3, 'm'\n    assert c(2) == [1]\ncheck(f)",
        "assert abs(f(1) - 3.0) < 1e-6",
        "assert f(1) in (3, 4)",
        "assert f() == 'a' and f() == 'b'",
    ],
)
def test_always_equal_objects(judge: Judge, base: str, tests: str) -> None:
    if base != "":
        tests = "assert f() == 3"
    assert judge(_ALWAYS.format(base=base), tests=tests).status is not Status.PASS, (
        "equal to all is right on none"
    )


@pytest.mark.parametrize("base", ["", "(int)", "(str)", "(list)", "(dict)"])
def test_only_exact_types_are_values(judge: Judge, base: str) -> None:
    result = judge(_ALWAYS.format(base=base), call="f", expect="3")
    assert result.status is Status.INVALID, f"a subclass is not a literal: {result}"


VALUES_REFUSED = [
    "(i for i in [])",
    "lambda: 0",
    "__import__('os')",
    "float('nan')",
    "float('inf')",
    "object()",
    "'\\ud800'",
    "10 ** 5000",
    "__import__('functools').reduce(lambda a, _: [a], range(10 ** 5), 0)",
    "frozenset()",
    "range(3)",
    "[[0] * 1000] * 10000",
    "'x' * (1 << 24)",
    "type('T', (tuple,), {})((1,))",
    "True.__class__",
    "NotImplemented",
    "[float('nan')]",
    "{1: float('-inf')}",
    "bytearray(1)",
    "Ellipsis",
]


@pytest.mark.parametrize("expression", VALUES_REFUSED)
def test_values_that_are_not_plain_literals(judge: Judge, expression: str) -> None:
    result = judge(_body(f"return {expression}"), call="f", expect="1")
    assert result.status is Status.INVALID and result.value is None, (
        f"not a plain literal: {result}"
    )


@pytest.mark.parametrize(
    "text", ["-0.0", "True", "2j", "b'\\x00'", "(1,)", "{1: {2}}", "'\\x00'", "None"]
)
def test_odd_values_that_are_plain_literals(judge: Judge, text: str) -> None:
    assert judge(_body(f"return {text}"), call="f", expect=text).status is Status.PASS


def test_reduce_payload_is_not_run(judge: Judge, tmp_path: Path) -> None:
    target = str(tmp_path / "pwned")
    code = f"class R:\n    __reduce__ = lambda s: (open, ({target!r}, 'w'))\ndef f(): return R()"
    assert judge(code, call="f").status is Status.INVALID
    assert not (tmp_path / "pwned").exists(), "a value was unpickled"


PATCHES = """
import builtins, json, math, os, sys, operator
for name in ('len', 'sorted', 'isinstance', 'type', 'print', 'open', 'repr', 'id', 'getattr', 'min',
             'ValueError', 'AssertionError', 'Exception', 'BaseException', 'compile', 'exec',
             '__import__'):
    setattr(builtins, name, lambda *a, **k: True)
math.isclose = operator.eq = json.dumps = os._exit = os.write = sys.exit = lambda *a, **k: True
"""


def test_patched_builtins_stay_in_their_job(judge: Judge) -> None:
    result = judge(PATCHES + "def f(): return 1", call="f")
    assert result.status in (Status.ERROR, Status.INVALID, Status.MEMORY, Status.OK), result
    assert judge(PATCHES + "def f(): return 1", tests="assert f() == 2").status is not Status.PASS
    assert (
        judge(
            "def f(): return len([1, 2]), sorted('ba')", call="f", expect="(2, ['a', 'b'])"
        ).status
        is Status.PASS
    )


_SEARCH = """
import gc, os, sys, linecache
def f(needle):
    seen = []
    def look(x, depth=0):
        if depth > 3 or len(seen) > 200_000: return
        if isinstance(x, (str, bytes)):
            seen.append(x if isinstance(x, str) else x.decode('latin1'))
        elif isinstance(x, dict):
            for k, v in list(x.items()): look(k, depth + 1); look(v, depth + 1)
        elif isinstance(x, (list, tuple, set, frozenset)):
            for v in list(x): look(v, depth + 1)
        elif hasattr(x, 'co_consts'): look(x.co_consts, depth + 1)
        elif hasattr(x, '__dict__'): look(vars(x), depth + 1)
    frame = sys._getframe()
    while frame:
        look(dict(frame.f_locals)); look(dict(frame.f_globals)); look(frame.f_code)
        frame = frame.f_back
    for x in gc.get_objects(): look(x)
    look(sys.argv); look(dict(os.environ)); look(linecache.cache)
    look(vars(sys.modules['__main__']))
    for path in ('/proc/self/cmdline', '/proc/self/environ', f'/proc/{os.getppid()}/cmdline'):
        try: seen.append(open(path, errors='replace').read())
        except OSError: pass
    for fd in range(3, 64):
        try: os.set_blocking(fd, False); seen.append(os.read(fd, 65536).decode('latin1'))
        except OSError: pass
    word = needle[::-1]
    return [s[:50] for s in seen if word in s][:3]
"""


def test_expected_value_is_not_in_the_process(judge: Judge) -> None:
    secret = "zebra" + "quagga"
    result = judge(
        _SEARCH,
        call="f",
        args=repr((secret[::-1],)),
        expect=repr(secret),
        limits=Limits(wall_s=10, cpu_s=8),
    )
    assert result.status is Status.FAIL and result.value == "[]", (
        f"the expected value was within reach: {result}"
    )


def test_tests_and_proof_are_withheld_while_the_code_runs(judge: Judge) -> None:
    secret = "zebra" + "okapi"
    code = _SEARCH + f"\nprint(f({secret[::-1]!r}))\n"
    result = judge(code, tests=f"assert 1 == 1, {secret!r}", limits=Limits(wall_s=10, cpu_s=8))
    assert result.stdout == "[]\n", "the tests were within reach before the code had run"


# --- frames ---

_WRITE = (
    "import os\nfor fd in range(3, 128):\n    try: os.write(fd, {data})\n    except OSError: pass\n"
)


@pytest.mark.parametrize(
    "data",
    [
        "b'pass'",
        "b'\\0' * 16 + b'\\0'",
        "b'\\0' * 17 + b'U\\4\\0\\0\\0S\\4\\0\\0\\0passNS\\0\\0\\0\\0N'",
        "b'x' * 60000",
        "b''.join([b'U', b'\\xff' * 4])",
        'b\'{"status": "pass"}\\n\'',
    ],
)
def test_forged_frames(judge: Judge, data: str) -> None:
    forge = _WRITE.format(data=data)
    result = judge(forge + "def f(): return 1", call="f", expect="1")
    assert result.status is Status.INVALID, (
        f"bytes that were not asked for spoil the result: {result}"
    )
    for code in (forge, forge + "os._exit(0)"):
        result = judge(code, tests="assert False")
        assert result.status in (Status.INVALID, Status.FAIL, Status.ERROR), (
            f"a forged frame passed: {result}"
        )


def test_endless_frame(judge: Judge) -> None:
    result = judge(
        _WRITE.format(data="b'x' * 65536").replace("try: ", "try:\n        while True: "), call="f"
    )
    assert result.status in (Status.INVALID, Status.TIMEOUT), f"a frame without end: {result}"


def test_frame_with_the_right_nonce_does_not_pass_tests(judge: Judge) -> None:
    """The nonce can be found by walking frames; the proof is another one."""
    code = (
        "import sys, os\n"
        "frame = sys._getframe()\n"
        "while frame:\n"
        "    for x in list(frame.f_locals.values()):\n"
        "        if type(x).__name__ == 'Channel':\n"
        "            x.send('pass', None, '')\n"
        "            os._exit(0)\n"
        "    frame = frame.f_back\n"
    )
    result = judge(code, tests="assert False")
    assert result.status is Status.INVALID, f"a pass without the proof: {result}"


def test_protocol_forgery_is_unmasked_by_the_control(judge: Judge) -> None:
    """Code that knows the protocol gets the proof; it then passes the impossible tests too."""
    code = (
        "import sys, os\n"
        "frame = sys._getframe()\n"
        "while frame:\n"
        "    for x in list(frame.f_locals.values()):\n"
        "        if type(x).__name__ == 'Channel':\n"
        "            size = frame.f_locals.get('late_bytes')\n"
        "            if size:\n"
        "                x.write(x.nonce + b'\\0')\n"
        "                x.read(size)\n"
        "                x.nonce = x.read(16)\n"
        "                x.send('pass', None, '')\n"
        "                os._exit(0)\n"
        "    frame = frame.f_back\n"
    )
    result = judge(code, tests="assert f(1) == 2")
    assert result.status is Status.FAIL, f"a forged pass stood: {result}"


# --- files, network ---


def test_secrets_are_out_of_reach(judge: Judge, confined: Sandbox) -> None:
    here = str(Path(__file__).resolve())
    code = (
        "import os\ndef f(paths):\n    got = []\n    for p in paths:\n        try:\n"
        "            got.append(os.listdir(p) if os.path.isdir(p) else open(p, 'rb').read(9))\n"
        "        except OSError: pass\n    return got"
    )
    paths = [
        here,
        str(Path.cwd()),
        str(Path.home()),
        str(Path.home() / ".bashrc"),
        "/etc/passwd",
        "/var",
    ]
    assert judge(code, call="f", args=repr((paths,))).value == "[]", (
        "a job read what is not its own"
    )


def test_environment_is_empty(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    result = judge(_body("import os", "return sorted(os.environ)"), call="f")
    assert result.value == "['HOME', 'LANG', 'PATH', 'TMPDIR']", (
        "the environment tells of its owner"
    )


def test_nothing_outside_the_scratch_is_written(
    judge: Judge, confined: Sandbox, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    code = (
        "import os\ndef f(paths):\n    done = []\n    for p in paths:\n"
        "        for act in (lambda: open(p + '/new', 'w'), lambda: open(p, 'w'),\n"
        "                    lambda: os.unlink(p), lambda: os.rename(p, 'x'),\n"
        "                    lambda: os.symlink(p, 'link') or open('link', 'w')):\n"
        "            try:\n                act()\n                done.append(p)\n"
        "            except OSError: pass\n    return done"
    )
    paths = [
        str(target),
        str(tmp_path),
        str(Path.cwd()),
        str(Path.home()),
        "/usr",
        "/etc",
        "/var/tmp",
    ]
    result = judge(code, call="f", args=repr((paths,)))
    assert result.value == "[]" and target.read_text() == "kept", (
        f"a job wrote outside its scratch: {result}"
    )


def test_deleting_everything(judge: Judge, confined: Sandbox) -> None:
    code = _body(
        "import shutil, os",
        "shutil.rmtree('/', ignore_errors=True)",
        "shutil.rmtree(os.getcwd(), ignore_errors=True)",
        "return 1",
    )
    assert judge(code, call="f", limits=SHORT).status is not Status.KILLED
    assert Path(__file__).exists()


FILES = {
    "plain": "open('left', 'w').write('x')",
    "deep": "[(os.mkdir('d'), os.chdir('d')) for _ in range(400)]",
    "locked": "os.makedirs('a/b/c'); open('a/b/c/f', 'w'); os.chmod('a/b', 0); os.chmod('a', 0)",
    "odd names": "[open(n, 'w') for n in ('-rf', 'a\\nb', '\\udcff', '.' * 200)]",
    "links": "os.symlink('/', 'root'); os.symlink('x', 'x'); os.mkfifo('fifo')",
    "modules": "[open(n, 'w').write('exit(') for n in ('random.py', 'sitecustomize.py', 'x.pth')]",
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_gone_with_their_job(judge: Judge, name: str) -> None:
    judge(_body("import os", FILES[name], "return 1"), call="f")
    result = judge(_body("import os, random", "return os.listdir('.')"), call="f")
    assert result.value == "[]", f"a job's files met the next job: {result}"


def test_file_size_is_limited(judge: Judge) -> None:
    code = _body("with open('big', 'wb') as file:", "    while True: file.write(b'x' * (1 << 20))")
    assert judge(code, call="f").status is Status.ERROR, "a file must meet its size limit"


def test_no_network(judge: Judge, confined: Sandbox) -> None:
    code = _body(
        "import socket",
        "got = []",
        "for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):",
        "    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):",
        "        try: got.append(socket.socket(family, kind).fileno())",
        "        except OSError: pass",
        "try: got.append(socket.getaddrinfo('localhost', 80))",
        "except OSError: pass",
        "return got",
    )
    assert judge(code, call="f").value == "[]", "a job has the network"


def test_other_processes_memory(judge: Judge, confined: Sandbox) -> None:
    code = _body(
        "import os, ctypes",
        "libc, got = ctypes.CDLL(None), []",
        "for pid in (os.getppid(), 1):",
        "    for name in ('mem', 'environ', 'fd/0', 'maps', 'cwd/x'):",
        "        try: got.append(open(f'/proc/{pid}/{name}', 'rb').read(1))",
        "        except OSError: pass",
        "    got += [pid] if libc.ptrace(16, pid, 0, 0) == 0 else []",
        "return got",
    )
    assert judge(code, call="f").value == "[]", "a job reached into another process"


def test_other_jobs_leave_no_trace_in_globals(sandbox: Sandbox) -> None:
    leave = Job("leave", "import math, sys\nmath.mark = sys.mark = 1\ndef f(): return 1", call="f")
    look = Job(
        "look",
        "import math, sys\ndef f(): return hasattr(math, 'mark') or hasattr(sys, 'mark')",
        call="f",
    )
    values = [r.value for r in sandbox.run([leave, look] * 4)]
    assert values == ["1", "False"] * 4, "a job's globals met the next job"


def test_raising_limits_is_denied(judge: Judge) -> None:
    code: Any = _body(
        "import resource",
        "got = []",
        "for name in ('RLIMIT_CPU', 'RLIMIT_AS', 'RLIMIT_NOFILE', 'RLIMIT_FSIZE'):",
        "    try: resource.setrlimit(getattr(resource, name), (-1, -1)); got.append(name)",
        "    except (OSError, ValueError): pass",
        "return got",
    )
    assert judge(code, call="f").value == "[]", "a job lifted its own limits"
