"""What attacks aim at: files, sockets and a process made for them, and the machine's own.

An attack is shown things that were put there for it, readable and writable by everybody, so that
nothing but the sandbox stands before them. ``harm`` tells afterwards what was touched.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
_LEFT_IN = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/shm", "/")
_KEYS = (
    ".ssh/id_rsa",
    ".netrc",
    ".cache/huggingface/token",
    ".huggingface/token",
    ".aws/credentials",
)


class Targets:
    """Made once a session, under one folder that everybody may enter. ``close`` ends them."""

    def __init__(self) -> None:
        self.token = f"azr-hostile-{os.getpid()}-{secrets.token_hex(4)}"
        self.secret = secrets.token_hex(12)
        self.key = 0x7A000000 | secrets.randbits(20)
        self.top = Path(tempfile.mkdtemp(prefix="azr-targets-"))
        self.top.chmod(0o755)
        self.temp = self.top / "temp"  # where the sandboxes keep their folders
        self.temp.mkdir()
        self._make_files()
        self.state = self._state()
        self.sockets = self._listen()
        self._start_canary()

    def _start_canary(self) -> None:
        secret = {"SECRET": self.secret, "PATH": "/usr/bin:/bin"}
        self.canary = subprocess.Popen(["sleep", "86400"], env=secret)
        self.well = self._canary_state()

    def _end_canary(self) -> None:
        self.canary.kill()
        self.canary.wait()

    def _make_files(self) -> None:
        """Writable by everybody, so that user ids are no shield."""
        home, victim = self.top / "home", self.top / "victim"
        for name in _KEYS:
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.secret)
        for path in (victim / "deep" / "kept", victim / "kept", self.top / "precious"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("kept")
        (self.top / "writable").mkdir(exist_ok=True)
        for path in (home, victim, self.top / "precious", self.top / "writable"):
            for inner in [path, *path.rglob("*")]:
                inner.chmod(0o777)

    def _state(self) -> dict[str, tuple[int, int, int, int, bytes]]:
        """Everything below the top but the sandboxes' own: mode, owner, time, attributes, text."""
        state = {}
        for name in ("home", "victim", "writable", "precious"):
            for path in [self.top / name, *(self.top / name).rglob("*")]:
                if path.is_socket():
                    continue
                found = path.lstat()
                text = path.read_bytes() if path.is_file() else b""
                attributes = len(os.listxattr(path)) if sys.platform == "linux" else 0
                when = found.st_mtime_ns if path.is_file() else 0
                state[str(path)] = (found.st_mode, found.st_uid, when, attributes, text)
        return state

    def _listen(self) -> dict[str, socket.socket]:
        unix, stream, packet = socket.AF_UNIX, socket.SOCK_STREAM, socket.SOCK_DGRAM
        wanted: dict[str, tuple[int, int, object]] = {
            "tcp": (socket.AF_INET, stream, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, packet, ("127.0.0.1", 0)),
            "stream": (unix, stream, str(self.top / "stream")),
            "datagram": (unix, packet, str(self.top / "datagram")),
        }
        if sys.platform == "linux":
            wanted["abstract"] = (unix, stream, "\0" + self.token)
            wanted["abstract datagram"] = (unix, packet, "\0" + self.token + "-d")
        made = {}
        for name, (family, kind, address) in wanted.items():
            made[name] = socket.socket(family, kind)
            made[name].bind(address)  # type: ignore[arg-type]
            made[name].setblocking(False)
            if kind == stream:
                made[name].listen(64)
            if name in ("stream", "datagram"):
                os.chmod(str(address), 0o777)
        return made

    def names(self) -> Mapping[str, str]:
        """What stands for ``@NAME@`` in the programs."""
        port = {name: str(self.sockets[name].getsockname()[1]) for name in ("tcp", "udp")}
        home, real = self.top / "home", Path.home()
        private = (".ssh", ".netrc", ".cache", ".config", ".bashrc", ".profile", ".gitconfig")
        mine = [PROJECT / n for n in ("", "tests", "azr_mlx/__init__.py", "config", "kernels")]
        folders = ["/", "/var/tmp", "/dev/shm", "/dev", "/proc", "/run", "/usr", "/etc", "/home"]
        own = [self.top, self.top / "writable", real, Path.cwd(), PROJECT]
        return {
            "TOKEN": self.token,
            "TERCES": self.secret[::-1],
            "KEY": str(self.key),
            "CANARY": str(self.canary.pid),
            "PARENT": str(os.getpid()),
            "TCP": port["tcp"],
            "UDP": port["udp"],
            "STREAM": str(self.top / "stream"),
            "DATAGRAM": str(self.top / "datagram"),
            "PRECIOUS": str(self.top / "precious"),
            "VICTIM": str(self.top / "victim"),
            "WRITABLE": str(self.top / "writable"),
            "KEYS": repr([str(p / n) for p in (home, real) for n in (*_KEYS, *private)]),
            "PROJECT": repr([str(p) for p in (*mine, Path.cwd(), home, self.top, real)]),
            "FOLDERS": repr([*folders, *map(str, own)]),
            "BASES": repr([str(path) for path in self.temp.iterdir()]),
        }

    def harm(self) -> list[str]:
        """One line for each thing that is not as it was; afterwards all is as it was again."""
        found = [f"reached the {name} listener" for name in self._contacts()]
        state = self._state()
        changed = {p for p in self.state.keys() | state.keys() if self.state.get(p) != state.get(p)}
        found += [f"changed {path}" for path in sorted(changed)]
        if changed:
            self._mend()
        if self._canary_state() != self.well:
            found.append(f"touched another process: {self._canary_state()}, was {self.well}")
            self._end_canary()
            self._start_canary()
        return found + [f"left {name}" for name in self._left()]

    def _mend(self) -> None:
        for name in ("home", "victim", "writable"):
            shutil.rmtree(self.top / name, ignore_errors=True)
        (self.top / "precious").unlink(missing_ok=True)
        self._make_files()
        self.state = self._state()

    def _contacts(self) -> Iterator[str]:
        for name, listener in self.sockets.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    if listener.type == socket.SOCK_STREAM:
                        listener.accept()[0].close()
                    else:
                        listener.recv(100)
                    yield name

    def _canary_state(self) -> tuple[object, ...]:
        """What another process could be made to lose."""
        pid = self.canary.pid
        if sys.platform != "linux" or self.canary.poll() is not None:
            return (self.canary.poll(),)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        cores = len(os.sched_getaffinity(pid))
        policy = os.sched_getscheduler(pid)
        return (
            "stopped" if state in "Tt" else "runs",
            os.getpriority(os.PRIO_PROCESS, pid),
            cores,
            policy,
        )

    def _left(self) -> list[str]:
        """Whatever bears the token, or the key, outside the sandbox."""
        places = {*_LEFT_IN, tempfile.gettempdir(), os.getcwd(), str(Path.home()), str(PROJECT)}
        found = [f"{p}/{n}" for p in sorted(places) for n in _listed(p) if self.token in n]
        for kind in ("shm", "msg", "sem"):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
                found += [f"{kind} {n}" for n in lines if n.split()[0] == str(self.key)]
        return found

    def close(self) -> None:
        self._end_canary()
        for listener in self.sockets.values():
            listener.close()
        shutil.rmtree(self.top, ignore_errors=True)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
