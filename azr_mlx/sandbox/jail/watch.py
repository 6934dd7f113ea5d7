"""Watches one job at a time from outside: passes its bytes on, enforces its limit on wall time, and
ends everything that it started. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from typing import Any

import processes  # type: ignore[import-not-found]
import scratch  # type: ignore[import-not-found]
import wire  # type: ignore[import-not-found]
from zygote import THREADS, Setting, Unbegun, Zygote  # type: ignore[import-not-found]

POLL_S = 0.02


def serve(pool: socket.socket, setting: Setting, zygote: Zygote) -> None:
    """Serve requests until the pool closes the connection."""
    while header := _read(pool, wire.REQUEST_BYTES):
        request = wire.RunRequest.unpack(header)
        try:
            watch = Watch(setting, zygote, request, _read(pool, request.spec_bytes))
            watch.run(pool)
            scratch.clear(setting)
        except Unbegun:
            pool.sendall(_without_frame(wire.UNBEGUN))
            raise
        except Exception as error:  # a fault of this machine or program, not of the job
            pool.sendall(_without_frame(wire.BROKEN, wire.told(error)))
            if isinstance(error, OSError):
                continue
            raise
        pool.sendall(watch.answer())


def _without_frame(cause: int, reason: str = "") -> bytes:
    text = reason.encode("utf-8", "replace")[:1000]
    response = wire.RunResponse(0, cause, 0, 0.0, 0.0, 0, len(text), 0)
    return bytes(response.pack() + text)


def _read(pool: socket.socket, size: int) -> bytes:
    """``size`` bytes, or none if the pool has closed the connection."""
    data = pool.recv(size)
    while 0 < len(data) < size:
        part = pool.recv(min(size - len(data), 1 << 20))
        if not part:
            return b""
        data += part
    return data


def _is_closed(pool: socket.socket) -> bool:
    """Whether the pool has closed the connection. macOS's ``poll`` says so only if it is also asked
    for what can be read, and the next request may be there already. Nothing is sent here.
    """
    try:
        pool.send(b"", socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


class Watch:
    """One job from its fork to its answer."""

    def __init__(self, setting: Setting, zygote: Zygote, request: Any, spec: bytes) -> None:
        self.setting, self.zygote, self.request = setting, zygote, request
        self.frame, self.out = bytearray(), bytearray()
        self.cut, self.cause = 0, wire.ENDED
        self.end: Any = None
        # With strong isolation, the kernel counts the threads of a job that has no children.
        self.polls = request.processes > 0 or not setting.namespaced
        self.pending = request.nonce + struct.pack("<I", len(spec)) + spec

    def run(self, pool: socket.socket) -> None:
        """Run the job until it and all that it started are dead, and all that it wrote is read."""
        ours, theirs = socket.socketpair()
        self.job, job_end = ours.detach(), theirs.detach()
        self.stdout, out_end = os.pipe()
        os.set_blocking(self.job, False)
        os.set_blocking(self.stdout, False)
        self._give()  # For most jobs, all of the spec fits into this first write.
        self.started = time.monotonic()
        # A job without children is looked at only now and then.
        self.next_look = self.started + (0 if self.request.processes else POLL_S)
        try:
            self.pid = self.zygote.fork(job_end, out_end, bool(self.request.examined))
        except OSError:
            os.close(self.job)
            os.close(self.stdout)
            raise
        finally:
            os.close(job_end)
            os.close(out_end)
        self._watch(pool)
        self._end_everything()
        for fd in (self.job, self.stdout):
            while self._take(fd):
                pass
            os.close(fd)
        if len(self.frame) > wire.MAX_FRAME:
            self.cause = wire.BAD_FRAME
            self.frame.clear()
        self.wall = time.monotonic() - self.started

    def _watch(self, pool: socket.socket) -> None:
        """Watch until the job's own process is dead."""
        poll = select.poll()
        poll.register(pool, 0)  # only a hang-up counts; the next request may be there already
        poll.register(self.zygote.socket, select.POLLIN)
        poll.register(self.stdout, select.POLLIN)
        poll.register(self.job, select.POLLIN | (select.POLLOUT if self.pending else 0))
        deadline = self.started + self.request.wall_s
        while self.end is None:
            left = deadline - time.monotonic()
            if left <= 0:
                self._stop(wire.TIMED_OUT)
                return
            if self.polls:
                left = min(left, POLL_S)
            ready = dict(poll.poll(left * 1000))
            if self.zygote.socket.fileno() in ready:
                self.end = self.zygote.end()
            elif pool.fileno() in ready or (not self.setting.on_linux and _is_closed(pool)):
                self._abandon()
            else:
                self._relay(poll, ready)

    def _relay(self, poll: select.poll, ready: dict[int, int]) -> None:
        if ready.get(self.job, 0) & select.POLLOUT:
            self._give()
        for fd in (self.job, self.stdout):
            if ready.get(fd, 0) & ~select.POLLOUT and not self._take(fd):
                poll.unregister(fd)
                ready.pop(fd)
        if self.job in ready:
            poll.modify(self.job, select.POLLIN | (select.POLLOUT if self.pending else 0))
        if len(self.frame) > wire.MAX_FRAME:
            self._stop(wire.BAD_FRAME)
        elif self.polls and time.monotonic() >= self.next_look:
            self._look()

    def _look(self) -> None:
        """Enforce limits that the kernel does not: the number of processes and of threads, and the
        total memory of processes (on macOS also the memory of a single process).
        """
        if not self.request.processes:
            self.next_look = time.monotonic() + POLL_S
        below = self._children()
        if len(below) > self.request.processes + self.request.examined:
            self._stop(wire.TOO_MANY_PROCESSES)
        elif processes.memory([self.pid, *below]) > self.request.memory_bytes:
            self._stop(wire.TOO_MUCH_MEMORY)
        elif max(map(processes.threads, [self.pid, *below])) > THREADS + 1:
            self._stop(wire.TOO_MANY_THREADS)

    def _children(self) -> list[int]:
        """The other processes of the job. On Linux, one whose parent has ended becomes a child of
        this process."""
        if self.setting.seccomp and not self.request.processes and not self.request.examined:
            return []
        if not self.setting.on_linux:
            return list(processes.of_job(self.pid))
        known = (self.pid, self.zygote.pid)
        return [pid for pid in processes.descendants(os.getpid()) if pid not in known]

    def _abandon(self) -> None:
        """End the job and this process, since the pool has closed the connection."""
        self._stop(wire.ENDED)
        self._end_everything()
        raise SystemExit(0)

    def _stop(self, cause: int) -> None:
        self.cause = cause
        # The process id cannot have been reused: the zygote reports every reaped process at once.
        for kill in (os.kill, os.killpg):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.pid, signal.SIGKILL)
        self.end = self.zygote.end()

    def _give(self) -> None:
        try:
            self.pending = self.pending[os.write(self.job, self.pending) :]
        except BlockingIOError:
            return
        except OSError:
            self.pending = b""  # the job has closed its end

    def _take(self, fd: int) -> bool:
        """Read once. Returns whether more may come."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return self.end is None
        except OSError:
            return False
        if fd == self.job:
            self.frame += data
            return bool(data) and len(self.frame) <= wire.MAX_FRAME
        room = self.request.stdout_bytes - len(self.out)
        self.out += data[:room]
        self.cut |= len(data) > room
        return bool(data)

    def _end_everything(self) -> None:
        """Kill and reap whatever the job left behind, wherever it is in the process tree. The
        zygote is kept if possible: a new one would be forked from this process, whose memory may
        still hold data of the job.
        """
        if self.setting.seccomp and not self.request.processes and not self.request.examined:
            return  # the job could not start anything
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if not self.setting.on_linux:
            self._end_group()
            return
        if self.setting.seccomp:  # nothing can have left its process group
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.waitpid(-self.pid, 0)
            return
        self.zygote.stop()
        while _reap():
            if self.setting.namespaced:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
            else:
                for pid in processes.descendants(os.getpid()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.0005)
        self.zygote.restart()

    def _end_group(self) -> None:
        """End what is left of the job's group and below it: a process may be started between a list
        and a signal. Programs that run as another user cannot be ended.
        """
        immune: set[int] = set()
        while left := set(processes.of_job(self.pid)) - immune:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                except PermissionError:
                    immune.add(pid)
            time.sleep(0.0005)

    def answer(self) -> bytes:
        """The response for the pool."""
        status, cpu_s, peak_rss = self.end
        sizes = len(self.frame), len(self.out)
        response = wire.RunResponse(
            status, self.cause, self.cut, self.wall, cpu_s, peak_rss, *sizes
        )
        return bytes(response.pack() + self.frame + self.out)


def _reap() -> bool:
    """Reap dead children. Returns whether others are still alive."""
    while True:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                return True
        except ChildProcessError:
            return False
