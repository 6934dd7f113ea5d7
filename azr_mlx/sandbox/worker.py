"""The pool's side of one worker (a supervisor process, its zygote and their jobs)."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from azr_mlx.errors import AzrError
from azr_mlx.sandbox import judge
from azr_mlx.sandbox.case import Case
from azr_mlx.sandbox.jail import darwin, wire

# Workers have flavours, with different hash seeds and clocks. A deterministic job must give the
# same result in several of them.
HASH_SEED = 4061983  # of flavour 1; flavour n has n times that
START_S = 30.0
GRACE_S = 10.0  # seconds that a supervisor may take beyond a job's wall limit
STOP_S = 10.0
_SUPERVISOR = Path(__file__).with_name("jail") / "supervisor.py"
# Where an interpreter may have to look for its libraries.
_LIBRARY_PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
_U32 = struct.Struct("<I")
_MAX_HELLO = 1 << 16


class SandboxError(AzrError):
    """The sandbox itself cannot run, or not as configured."""


class WorkerDied(Exception):
    """The worker ended, or sent something malformed."""


class Worker:
    """One worker process. It takes up to two runs at a time, and answers in the same order. Its
    first message is a hello.

    Raises OSError if its process or its folder cannot be created.
    """

    def __init__(self, isolation: str, flavour: int) -> None:
        self.flavour = flavour
        self.hello: dict[str, object] | None = None
        self.runs: deque[tuple[Case, judge.Execution]] = deque()
        self._in, self._out = bytearray(), bytearray()
        self._unbegun = False  # if it was damaged before its first run began
        self._killed = False  # if it was killed, its jobs may still run
        self.base = tempfile.mkdtemp(prefix="azr-sandbox-")
        self.deadline = time.monotonic() + START_S
        try:
            os.chmod(self.base, 0o711)
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
            self.socket, theirs = socket.socketpair()
        except BaseException:
            shutil.rmtree(self.base, ignore_errors=True)
            raise
        try:
            with theirs:
                self.process = self._started(isolation, theirs.fileno())
        except BaseException:
            self.socket.close()
            self._tidy()
            raise
        self.socket.setblocking(False)

    def _started(self, isolation: str, channel: int) -> subprocess.Popen[bytes]:
        flags = ["-s", "-S", "-B", *(["-P"] if sys.version_info >= (3, 11) else [])]
        script = [str(_SUPERVISOR), isolation, self.base, str(self.flavour), json.dumps(_hidden())]
        return subprocess.Popen(
            [sys.executable, *flags, "-X", "utf8", *script],
            stdin=channel,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            env=self._environment(),
            cwd="/",
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _LIBRARY_PATHS if name in os.environ}
        fixed = {"PYTHONHASHSEED": str(self.flavour * HASH_SEED), "MALLOC_ARENA_MAX": "1"}
        return {**kept, **fixed, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": self.base}

    def last_words(self) -> str:
        """Why the worker does not answer, in one line."""
        if self.hello is not None and "error" in self.hello:
            return str(self.hello["error"])
        if self._unbegun:
            return "its zygote was killed before it had a job"
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        said = lines[-1] if lines else "it ended without a message"
        return f"the sandbox's interpreter did not start: {said}"

    @property
    def ready(self) -> bool:
        """Whether the worker has started without an error."""
        return self.hello is not None and "error" not in self.hello

    @property
    def blameless(self) -> bool:
        """Whether the first of its runs cannot be why this worker died, since it had not begun."""
        return self._unbegun or not self.ready

    def is_gone(self) -> bool:
        """Whether the worker has ended. Only asked if it has nothing to say."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def wants_to_send(self) -> bool:
        """Whether a request has not been sent completely."""
        return bool(self._out)

    def start(self, case: Case, run: judge.Execution) -> None:
        """Queue one run."""
        self.runs.append((case, run))
        self._out += run.request()
        if len(self.runs) == 1 and self.hello is not None:
            self._wind_up()

    def _wind_up(self) -> None:
        """Set the deadline to that of the run which is now first."""
        wall_s = self.runs[0][1].limits.wall_s if self.runs else 0.0
        self.deadline = time.monotonic() + wall_s + GRACE_S

    def excuse(self) -> None:
        """Give it time: nobody read what it said, or sent what it waits for."""
        self.deadline = max(self.deadline, time.monotonic() + GRACE_S)

    def send(self) -> None:
        """Send as much as the socket takes now. Raises WorkerDied."""
        try:
            del self._out[: self.socket.send(self._out)]
        except BlockingIOError:
            return
        except OSError as error:
            raise WorkerDied(str(error)) from None

    def receive(self) -> Iterator[tuple[Case, judge.Observed]]:
        """Read what has arrived, and return the outcomes that are now complete. Raises WorkerDied,
        but only after the outcomes that came before.
        """
        try:
            # A larger buffer would be mapped and unmapped by the allocator each time.
            part = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            raise WorkerDied(str(error)) from None
        if not part:
            raise WorkerDied("it ended")
        self._in += part
        if self.hello is None and not self._read_hello():
            return
        while self._in and (outcome := self._next_outcome()):
            yield outcome

    def _read_hello(self) -> bool:
        if len(self._in) < _U32.size:
            return False
        size = _U32.unpack_from(self._in)[0]
        if size > _MAX_HELLO:
            raise WorkerDied("its hello is malformed")
        if len(self._in) < _U32.size + size:
            return False
        self.hello = json.loads(bytes(self._in[_U32.size : _U32.size + size]))
        del self._in[: _U32.size + size]
        self._wind_up()
        if not self.ready:
            raise WorkerDied("it cannot start")
        return True

    def _next_outcome(self) -> tuple[Case, judge.Observed] | None:
        if not self.runs:
            raise WorkerDied("it answered what it was not asked")
        if len(self._in) < wire.RESPONSE_BYTES:
            return None
        response = wire.RunResponse.unpack(bytes(self._in[: wire.RESPONSE_BYTES]))
        if response.frame_bytes > wire.MAX_FRAME or response.stdout_bytes > wire.MAX_STDOUT:
            raise WorkerDied("its answer is malformed")
        frame_end = wire.RESPONSE_BYTES + response.frame_bytes
        end = frame_end + response.stdout_bytes
        if response.cause == wire.UNBEGUN:
            self._unbegun = True
            raise WorkerDied("it was damaged")
        if len(self._in) < end:
            return None
        frame, stdout = bytes(self._in[wire.RESPONSE_BYTES : frame_end]), self._in[frame_end:end]
        case, run = self.runs.popleft()
        del self._in[:end]
        self._wind_up()
        if response.cause == wire.BROKEN:
            raise SandboxError(f"sandbox: a job could not be run: {frame.decode(errors='replace')}")
        return case, judge.observe(run, response, frame, bytes(stdout))

    def close(self, kill: bool = False) -> None:
        """Close the connection, wait until the process has ended its jobs, and remove its folder.
        May be called again if it was interrupted.
        """
        self._killed |= kill
        if self._killed:
            self.process.kill()
        self.socket.close()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._killed = True
            self.process.kill()
            self.process.wait()
        if self._killed:
            _end_session(self.process.pid)
        self._tidy()

    def _tidy(self) -> None:
        self._log.close()
        with contextlib.suppress(RecursionError):  # a tree that a job made, of any depth
            shutil.rmtree(self.base, ignore_errors=True)


def _hidden() -> list[str]:
    """Folders that no job may see: the project, the working directory, and the home, which the
    environment and the database of users may name differently.
    """
    folders = [str(Path(__file__).resolve().parents[2])]
    for where in (Path.home, Path.cwd, lambda: Path(pwd.getpwuid(os.getuid()).pw_dir)):
        with contextlib.suppress(OSError, RuntimeError, KeyError):  # there is no home folder
            folders.append(str(where()))
    # Everything lies in the root folder, also what jobs need.
    return [f for f in dict.fromkeys(folders) if os.path.isabs(f) and os.path.realpath(f) != "/"]


def _end_session(leader: int) -> None:
    """Kill the jobs of a supervisor that was killed. They cannot have left its session."""
    deadline = time.monotonic() + STOP_S
    while left := _session(leader):
        if time.monotonic() > deadline:
            raise SandboxError(f"sandbox: cannot end processes {left}, which a job started")
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _session(leader: int) -> list[int]:
    """The live processes of a session; none if the system does not say."""
    if sys.platform == "darwin":
        return darwin.in_session(leader)
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
                if fields[0] not in (b"Z", b"X") and int(fields[3]) == leader:
                    found.append(int(name))
    return found
