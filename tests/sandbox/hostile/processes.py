"""1 to 13: processes and time."""

from __future__ import annotations

from dataclasses import replace

from azr_mlx.types import Status
from tests.sandbox.hostile.attack import (
    ALL_STYLES,
    ERROR,
    KERNEL,
    KILLED,
    PASS,
    SHORT,
    TIMEOUT,
    TRIED,
    USUAL,
    Attack,
    body,
    children,
    one_of,
)

_ANY_WAY_TO_A_CHILD = (
    KERNEL
    + TRIED
    + """
import multiprocessing, pty, subprocess
def ran(code):
    if code != 0:
        raise OSError('it did not run')
def end_if_child(pid):
    if pid == 0:
        os._exit(0)
def f():
    return tried({
        'fork': lambda: end_if_child(os.fork()),
        'forkpty': lambda: end_if_child(pty.fork()[0]),
        'spawn': lambda: os.posix_spawn('/bin/true', ['true'], {}),
        'subprocess': lambda: subprocess.run(['/bin/true'], check=True),
        'system': lambda: ran(os.system('exit 0')),
        'popen': lambda: ran(os.popen('exit 0').close() or 0),
        'multiprocessing': lambda: multiprocessing.get_context('fork').Process().start(),
        'clone': lambda: end_if_child(call('clone', 17, 0, 0, 0, 0)),
        'clone3': lambda: end_if_child(call('clone3', ctypes.create_string_buffer(88), 88)),
    })
"""
)

_DAEMON = """
import os, signal, time
def f():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            {trick}
            for number in range(1, 65):
                try: signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError): pass
            time.sleep(1000)
        os._exit(0)
    os.wait()
    return 1
"""

_IGNORES = """
import signal
def f():
    for number in range(1, 65):
        try: signal.signal(number, {handler})
        except (OSError, ValueError): pass
    {more}
    while True: pass
"""

# Each first tries what was made for it, and goes on to others only where that is out of reach.
_SIGNALS = (
    KERNEL
    + TRIED
    + """
import signal
def attempts(pid):
    info = ctypes.create_string_buffer(128)
    return {
        f'kill {pid}': lambda: os.kill(pid, signal.SIGSTOP),
        f'killpg {pid}': lambda: os.killpg(pid, signal.SIGSTOP),
        f'tkill {pid}': lambda: call('tkill', pid, signal.SIGSTOP),
        f'tgkill {pid}': lambda: call('tgkill', pid, pid, signal.SIGSTOP),
        f'sigqueue {pid}': lambda: call('rt_sigqueueinfo', pid, signal.SIGSTOP, info),
        f'pidfd {pid}': lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGSTOP),
    }
"""
)

PROCESSES = (
    Attack("1a fork bomb", body("import os", "while True: os.fork()"), ERROR, ALL_STYLES,
           shielded=True),
    Attack("1b fork bomb that goes on",
           body("import os", "while True:", "    try: os.fork()", "    except OSError: pass"),
           TIMEOUT, limits=SHORT, shielded=True),
    # bounded: if it gets through, 512 processes wait, and the machine is still there to say so
    Attack("1c fork bomb with leave to fork", """
import os, time
def f():
    for _ in range(9): os.fork()
    while True: time.sleep(10)
""", KILLED | ERROR | TIMEOUT, ALL_STYLES, limits=children(4, 0.5), shielded=True),
    Attack("1f fork bomb without end, with leave to fork",
           body("import os", "while True:", "    try: os.fork()", "    except OSError: pass"),
           one_of(Status.KILLED, Status.TIMEOUT), limits=children(4, 0.5), strong=True),
    Attack("1d thread bomb", """
import threading, time
def f():
    while True:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
""", one_of(Status.ERROR, Status.MEMORY, Status.TIMEOUT), limits=SHORT, shielded=True),
    Attack("1e every way to a child", _ANY_WAY_TO_A_CHILD, PASS, answer="[]", shielded=True,
           linux=True),
    Attack("2a sleeping child left behind", """
import os, time
def f():
    if os.fork() == 0:
        time.sleep(1000)
    return 1
""", PASS, ALL_STYLES, limits=children(2), shielded=True),
    Attack("2b busy child that holds the outputs", """
import os
def f():
    if os.fork() == 0:
        while True:
            os.write(2, b'x' * 1000)
    return 1
""", PASS, ALL_STYLES, limits=children(2), shielded=True),
    Attack("2c child that ends as the job does", body("import os", "os.fork()", "return 1"),
           PASS, limits=children(2), shielded=True),
    Attack("2d stopped child", """
import os, signal
def f():
    pid = os.fork()
    if pid == 0:
        signal.raise_signal(signal.SIGSTOP)
        while True: pass
    os.waitpid(pid, os.WUNTRACED | os.WNOHANG)
    return 1
""", PASS, limits=children(2), shielded=True),
    Attack("3a daemon", _DAEMON.format(trick=""), PASS, ALL_STYLES, limits=children(3),
           shielded=True),
    Attack("3b daemon without descriptors", _DAEMON.format(trick="os.closerange(0, 128)"), PASS,
           limits=children(3), shielded=True),
    Attack("3c daemon that is always another process", """
import os
def f():
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork(): os._exit(0)
    return 1
""", one_of(Status.PASS, Status.KILLED), limits=children(3), shielded=True),
    Attack("3d daemon where no child is allowed", _DAEMON.format(trick=""), ERROR, shielded=True),
    Attack("3e many daemons", """
import os, time
def f():
    for _ in range(6):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(0)
        os.wait()
    return 1
""", one_of(Status.PASS, Status.KILLED), limits=children(8), shielded=True),
    Attack("4a C loop", body("return len(str(10 ** 10 ** 8))"), TIMEOUT, ALL_STYLES, limits=SHORT),
    Attack("4b C loop in math", body("import math", "return math.factorial(10 ** 7) % 7"), TIMEOUT,
           limits=SHORT),
    Attack("4c C loop at import of the code", "X = 10 ** 10 ** 8\ndef f(): return 1", TIMEOUT,
           limits=SHORT),
    Attack("5a regex", body("import re", "return re.match(r'(a+)+$', 'a' * 40 + 'b')"), TIMEOUT,
           limits=SHORT),
    Attack("5b regex of alternatives",
           body("import re", "return re.fullmatch('(a|aa)*b', 'a' * 80)"), TIMEOUT, limits=SHORT),
    Attack("6a sum", body("return sum(range(10 ** 12))"), TIMEOUT, limits=SHORT),
    Attack("6b search without end", body("import itertools", "return 1 in itertools.repeat(0)"),
           TIMEOUT, limits=SHORT),
    Attack("6c python loop", body("while True: pass"), TIMEOUT, limits=SHORT),
    Attack("7a swallows BaseException",
           body("while True:", "    try:", "        while True: pass",
                "    except BaseException: pass"), TIMEOUT, ALL_STYLES, limits=SHORT),
    Attack("7b finally that starts anew", body("try: return f()", "finally: f()"), TIMEOUT,
           limits=SHORT),
    Attack("7c exception whose text loops", """
def f():
    class E(Exception):
        def __str__(self):
            while True: pass
    raise E
""", TIMEOUT, limits=SHORT),
    Attack("8a ignores signals", _IGNORES.format(handler="signal.SIG_IGN", more=""), TIMEOUT,
           limits=SHORT),
    Attack("8b handles and blocks signals",
           _IGNORES.format(handler="lambda *_: None",
                           more="signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))"),
           TIMEOUT, limits=SHORT),
    Attack("8c ignores SIGXCPU: CPU time has its own limit",
           _IGNORES.format(handler="signal.SIG_IGN", more=""), TIMEOUT,
           limits=replace(USUAL, wall_s=5), detail="CPU"),
    Attack("9a cancels the timers", """
import faulthandler, signal
def f():
    for kind in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(kind, 0)
    signal.alarm(0)
    faulthandler.cancel_dump_traceback_later()
    while True: pass
""", TIMEOUT, limits=SHORT),
    Attack("9b lifts its limits", TRIED + """
import os, resource
def f():
    names = ('CPU', 'AS', 'NOFILE', 'FSIZE')
    kinds = {n: getattr(resource, 'RLIMIT_' + n) for n in names}
    done = tried({n: lambda k=k: resource.setrlimit(k, (-1, -1)) for n, k in kinds.items()})
    if hasattr(resource, 'prlimit'):
        done += tried({n: lambda k=k: resource.prlimit(os.getppid(), k, (1, 1))
                       for n, k in kinds.items()})
    return done
""", PASS, answer="[]"),
    Attack("10a thread without end", """
import threading, time
def f():
    threading.Thread(target=time.sleep, args=(1e6,)).start()
    return 1
""", PASS, ALL_STYLES, also={"program": TIMEOUT}, limits=SHORT),
    Attack("10b busy thread", """
import threading
def spin():
    while True: pass
def f():
    threading.Thread(target=spin).start()
    return 1
""", PASS, ALL_STYLES, also={"program": TIMEOUT}, limits=SHORT),
    Attack("11a sleep", body("import time", "time.sleep(1e9)"), TIMEOUT, ALL_STYLES, limits=SHORT),
    Attack("11b lock", body("import threading", "threading.Event().wait()"), TIMEOUT, limits=SHORT),
    Attack("11c pause", body("import signal", "while True: signal.pause()"), TIMEOUT, limits=SHORT),
    Attack("11d stops itself", body("import signal", "signal.raise_signal(signal.SIGSTOP)",
                                    "return 1"),
           one_of(Status.TIMEOUT, Status.ERROR), limits=SHORT),
    Attack("12a its parent", _SIGNALS + """
def f():
    return tried(attempts(@CANARY@)) or tried(attempts(os.getppid()))
""", PASS, ALL_STYLES, answer="[]", shielded=True, linux=True),
    Attack("12b its group", body("import os", "os.kill(0, 9)", "return 1"),
           one_of(Status.KILLED, Status.ERROR), ALL_STYLES, shielded=True),
    Attack("12c every process that it sees", _SIGNALS + """
def kill(pid):
    try: os.kill(pid, signal.SIGKILL)
    except OSError: return []
    return [pid]
def f():
    done = kill(@CANARY@) or kill(@PARENT@)
    for pid in [] if done else [-1, 1, *range(2, 40000)]:
        done += [] if pid == os.getpid() else kill(pid)
    return done
""", PASS, answer="[]", limits=replace(USUAL, wall_s=4, cpu_s=3), shielded=True, linux=True),
    Attack("12d the process of the verdict", _SIGNALS + """
def f():
    return tried(attempts(@CANARY@)) or tried(attempts(@PARENT@))
""", PASS, answer="[]", shielded=True, linux=True),
    Attack("12e itself", body("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)"),
           one_of(Status.KILLED, Status.ERROR), ALL_STYLES),
    Attack("12f slows others down", KERNEL + TRIED + """
def attempts(pid):
    idle = 3 << 13  # the lowest class of input and output
    return {
        f'nice {pid}': lambda: os.setpriority(os.PRIO_PROCESS, pid, 1),
        f'cores {pid}': lambda: os.sched_setaffinity(pid, os.sched_getaffinity(pid)),
        f'batch {pid}': lambda: os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0)),
        f'disk {pid}': lambda: call('ioprio_set', 1, pid, idle),
    }
def f():
    return tried(attempts(@CANARY@)) or tried(attempts(os.getppid()))
""", PASS, answer="[]", shielded=True, linux=True),
    Attack("12g signals for which it asks the kernel", TRIED + """
import fcntl, os, signal, time
def ask(pid, number):
    reader, writer = os.pipe()
    fcntl.fcntl(reader, 10, number)  # F_SETSIG
    fcntl.fcntl(reader, fcntl.F_SETOWN, pid)
    fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) | os.O_ASYNC)
    os.write(writer, b'x')
def f():
    tried({pid: lambda pid=pid: ask(pid, signal.SIGSTOP) for pid in (@CANARY@, os.getppid())})
    time.sleep(0.05)
    return 1
""", PASS, shielded=True, linux=True),
    Attack("13a input", body("return input()"), ERROR, ALL_STYLES),
    Attack("13b reads all of stdin", body("import sys", "return len(sys.stdin.read()) + 1"), PASS,
           ALL_STYLES),
    Attack("13c descriptor 0", body("import os", "return 1 + len(os.read(0, 9))"), PASS),
    Attack("13d the terminal", body("return open('/dev/tty').readline()"), ERROR, shielded=True),
    Attack("13e getpass", body("import getpass", "return getpass.getpass()"), ERROR, shielded=True),
)  # fmt: skip
