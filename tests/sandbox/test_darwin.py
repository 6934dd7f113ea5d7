"""The macOS sandbox: its profile as text, libproc's structures, and, on a Mac only, the real thing.

The tests at the end start sandboxed processes. They are skipped elsewhere, so a green run on
another system says nothing about what macOS makes of the profile.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azr_mlx.sandbox import worker
from azr_mlx.sandbox.jail import darwin
from tests.sandbox.mac.seatbelt import Profile, Text, parse, settled, shape, strings

pytestmark = pytest.mark.pure

sys.path.insert(0, str(Path(darwin.__file__).parent))
scratches: Any = importlib.import_module("scratch")  # loads its neighbours by their bare names
del sys.path[0]

HOME = "/Users/me"
PREFIX = f"{HOME}/miniconda3/envs/azr"
PACKAGES = f"{PREFIX}/lib/python3.12/site-packages"
SCRATCH = "/private/var/folders/ab/T/azr-sandbox-1/scratch"
PYTHON = f"{PREFIX}/bin/python3.12"


def example(**changes: object) -> str:
    settings: dict[str, object] = {"hidden": [HOME, PACKAGES], "executables": [PYTHON], **changes}
    return darwin.profile(SCRATCH, [PREFIX], **settings)  # type: ignore[arg-type]


def allowed(text: str, operation: str, path: str) -> bool:
    return settled(Profile(text), operation, path)


# --- the profile ---


def test_everything_is_denied_before_anything_is_allowed() -> None:
    forms = parse(example())
    assert forms[:2] == [["version", "1"], ["deny", "default"]]
    assert all(form[0] in ("allow", "deny") for form in forms[1:])
    assert ["allow", "default"] not in forms


@pytest.mark.parametrize("children", [False, True])
@pytest.mark.parametrize("sessions", [False, True])
def test_no_network_no_services_no_other_process(children: bool, sessions: bool) -> None:
    rules = [
        (form[0], name, [part for part in form[1:] if isinstance(part, list)])
        for form in parse(example(children=children, sessions=sessions))[1:]
        for name in form[1:]
        if isinstance(name, str)
    ]
    closed = ("network", "system-socket", "mach", "ipc", "iokit", "appleevent", "job-creation")
    opened = [name for verb, name, _ in rules if verb == "allow" and name.startswith(closed)]
    assert opened == [], "nothing of this is needed by a job, and each leads out"
    signals = [where for verb, name, where in rules if (verb, name) == ("allow", "signal")]
    assert signals == ([[["target", "children"]]] if children else [])
    about = [where for verb, name, where in rules if (verb, name) == ("allow", "process-info*")]
    assert about == [[["target", "self"]]]
    forks = [verb for verb, name, _ in rules if name == "process-fork"]
    assert forks == ["allow" if children else "deny"]
    leaving = [where for verb, name, where in rules if (verb, name) == ("deny", "syscall-unix")]
    numbers = ["syscall-number", "SYS_setsid", "SYS_setpgid", "SYS_posix_spawn"]
    assert leaving == ([] if sessions else [[numbers]])


def test_sysctls_tell_of_no_process() -> None:
    rules = [form for form in parse(example()) if form[1] == "sysctl-read"]
    assert rules[0] == ["deny", "sysctl-read"]
    assert [rule[0] for rule in rules[1:]] == ["allow"]
    assert len(rules[1]) > 2, "an allow without names allows all"
    for kind, name in rules[1][2:]:
        assert not name.startswith("kern.proc"), "kern.procargs2 holds others' environments"
        assert kind == "sysctl-name" or not "kern.procargs2".startswith(name), name


def test_every_path_is_absolute() -> None:
    for form in parse(example()):
        for part in form[1:]:
            if isinstance(part, list) and part[0] in ("literal", "subpath"):
                assert all(value.startswith("/") for value in part[1:]), part


@pytest.mark.parametrize(
    "path",
    [
        HOME,
        f"{HOME}/.ssh/id_ed25519",
        f"{HOME}/.netrc",
        f"{HOME}/.cache/huggingface/token",
        f"{HOME}/miniconda3/envs/other/lib/x.py",
        f"{HOME}/miniconda3/envs/azr-secrets",
        f"{PACKAGES}/project.pth",
        "/Users/other/Documents/x",
        "/Volumes/Data/x",
        "/private/tmp/x",
        "/private/var/folders/ab/T/other",
        "/private/var/folders/ab/T/azr-sandbox-1/other",
        "/private/etc/passwd",
        "/Library/Keychains/System.keychain",
        "/Applications/X.app/x",
        "/opt/homebrew/etc/x",
        "/usr/bin/python3",
        "/etc/passwd",
    ],
)
def test_nothing_else_is_read_or_written(path: str) -> None:
    text = example()
    assert not allowed(text, "file-read-data", path)
    assert not allowed(text, "file-write-data", path)
    assert not allowed(text, "process-exec", path)
    assert not allowed(text, "file-map-executable", path)


def test_the_interpreter_runs_from_inside_the_home_folder() -> None:
    text = example()
    for path in (PYTHON, f"{PREFIX}/lib/python3.12/os.py", "/usr/lib/libSystem.B.dylib", "/"):
        assert allowed(text, "file-read-data", path), path
        assert not allowed(text, "file-write-data", path), path
    assert allowed(text, "file-map-executable", f"{PREFIX}/lib/python3.12/lib-dynload/_json.so")
    assert allowed(text, "process-exec", PYTHON)
    for folder in ("/Users", HOME, f"{HOME}/miniconda3", f"{HOME}/miniconda3/envs"):
        assert allowed(text, "file-read-metadata", folder), "the way there must resolve"
        assert not allowed(text, "file-read-data", folder), "but not be listed"


def test_programs_run_only_where_they_are_named() -> None:
    assert not allowed(example(executables=[]), "process-exec", PYTHON)
    elsewhere = example(executables=["/opt/python/bin/python3"])
    assert allowed(elsewhere, "process-exec", "/opt/python/bin/python3")
    assert allowed(elsewhere, "file-read-metadata", "/opt/python"), "the way there must resolve"
    assert not allowed(elsewhere, "file-read-data", "/opt/python/bin/other")


def test_the_scratch_can_be_changed_but_holds_no_code() -> None:
    text = example(writable=[f"{HOME}/results"])
    for path in (SCRATCH, f"{SCRATCH}/a/b", f"{HOME}/results/x"):
        assert allowed(text, "file-read-data", path)
        assert allowed(text, "file-write-create", path)
        for operation in ("file-map-executable", "file-write-setugid"):
            assert not allowed(text, operation, path), operation
        for operation in ("file-write-flags", "file-write-acl"):
            assert not allowed(text, operation, path), "a locked file outlives its job"
    for operation in ("file-write-unlink", "file-write-mode"):
        assert allowed(text, operation, f"{SCRATCH}/a")
        assert not allowed(text, operation, SCRATCH), "the next job needs the folder itself"


@pytest.mark.parametrize("path", ["/dev/null", "/dev/urandom", "/dev/zero", "/dev/random"])
def test_devices(path: str) -> None:
    text = example()
    assert allowed(text, "file-read-data", path)
    assert allowed(text, "file-write-data", path) == (path in ("/dev/null", "/dev/zero"))


@pytest.mark.parametrize("opened", ["/", HOME, "/Users", "/private/tmp", PACKAGES])
def test_what_is_hidden_cannot_be_opened_whole(opened: str) -> None:
    """Only something below it can."""
    with pytest.raises(ValueError, match="cannot be open to a job and hidden from it"):
        darwin.profile(SCRATCH, [opened], hidden=[HOME, PACKAGES])
    with pytest.raises(ValueError, match="cannot be open"):
        darwin.profile(opened, [PREFIX], hidden=[HOME, PACKAGES])


def test_a_wide_readable_folder_does_not_open_what_lies_hidden_in_it() -> None:
    text = darwin.profile(SCRATCH, ["/private", "/System"], hidden=["/private/etc/ssl"])
    assert allowed(text, "file-read-data", "/private/etc/hosts")
    assert not allowed(text, "file-read-data", "/private/etc/ssl/key")
    assert not allowed(text, "file-read-data", "/private/tmp/x")


def test_paths_are_resolved(tmp_path: Path) -> None:
    real = tmp_path.resolve() / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    link = str(tmp_path / "link")
    text = darwin.profile(link, [PREFIX])
    assert allowed(text, "file-write-data", f"{real}/x")
    assert allowed(text, "file-read-metadata", link), "the link itself can be followed"
    assert not allowed(text, "file-read-data", link)
    assert not allowed(text, "file-write-data", link)


def test_two_slashes_are_one() -> None:
    assert darwin.profile("//a/b", [PREFIX]) == darwin.profile("/a/b", [PREFIX])


# --- no path can say anything but a path ---

HOSTILE = st.text(
    st.sampled_from("\"'\\();#| ,`$*?[]{}%éß☃漢\u3000\U0001f600ab\u200e"), min_size=1, max_size=30
).filter(lambda name: name not in (".", ".."))


@given(HOSTILE, HOSTILE, HOSTILE)
def test_hostile_names_inject_nothing(scratch: str, readable: str, hidden: str) -> None:
    paths = {"scratch": f"/s/{scratch}", "readable": f"/r/{readable}", "hidden": f"/h/{hidden}"}
    plain = {"scratch": "/s/a", "readable": "/r/b", "hidden": "/h/c"}
    hostile, benign = (
        parse(darwin.profile(p["scratch"], [p["readable"]], hidden=[p["hidden"]]))
        for p in (paths, plain)
    )
    assert shape(hostile) == shape(benign)
    expected = {plain[key]: Text(paths[key]) for key in plain}
    assert sorted(strings(hostile)) == sorted(expected.get(s, s) for s in strings(benign))


@pytest.mark.parametrize("bad", ["a\nb", "a\x00b", "a\rb", "a\x1b", "a\x7f", "a\udcff"])
@pytest.mark.parametrize("place", ["scratch", "readable", "writable", "hidden", "executables"])
def test_names_that_have_no_plain_form_are_refused(bad: str, place: str) -> None:
    arguments: dict[str, object] = {"scratch": "/s", "readable": []}
    arguments[place] = f"/x/{bad}" if place == "scratch" else [f"/x/{bad}"]
    with pytest.raises(ValueError):
        darwin.profile(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["", "a/b", "~/x", "./x"])
def test_relative_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not an absolute path"):
        darwin.profile(path, [])


# --- this interpreter ---


def test_the_standard_library_is_readable_and_installed_packages_are_not() -> None:
    library = os.path.dirname(os.path.realpath(os.__file__))
    text = darwin.profile(
        SCRATCH,
        darwin.interpreter_paths(),
        hidden=darwin.package_paths(),
        executables=darwin.interpreters(),
    )
    assert allowed(text, "file-read-data", f"{library}/json/__init__.py")
    assert allowed(text, "process-exec", os.path.realpath(sys.executable))
    for folder in darwin.package_paths():
        assert not allowed(text, "file-read-data", f"{folder}/x.py")


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local", "/Users", HOME])
def test_a_prefix_that_holds_more_than_python_is_not_opened(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "base_prefix", prefix)
    monkeypatch.setattr(sys, "base_exec_prefix", prefix)
    monkeypatch.setattr(os, "__file__", f"{prefix}/lib/python3.12/os.py")
    paths = darwin.interpreter_paths()
    assert paths[0] == f"{prefix}/lib/python3.12"
    assert all(path.removeprefix(prefix).lstrip("/").startswith("lib") for path in paths)


def test_a_framework_runs_the_program_in_its_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = tmp_path.resolve() / "Resources/Python.app/Contents/MacOS/Python"
    app.parent.mkdir(parents=True)
    app.touch()
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    assert str(app) in darwin.interpreters()


# --- the module ---


def test_it_loads_alone_and_does_nothing_then() -> None:
    """The zygote loads it by its bare name, without the package."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules); import darwin;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before} - {'darwin'};"
        "assert new <= set(sys.stdlib_module_names), new;"
        "assert not darwin._libsandbox.cache_info().misses + darwin._libproc.cache_info().misses"
    )
    folder = str(Path(darwin.__file__).parent)
    subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code, folder], check=True, timeout=30)


def test_command() -> None:
    assert darwin.command("(version 1)", [PYTHON, "-c", "pass"]) == [
        "/usr/bin/sandbox-exec",
        "-p",
        "(version 1)",
        PYTHON,
        "-c",
        "pass",
    ]


@pytest.mark.skipif(sys.platform == "darwin", reason="about every other system")
def test_other_systems_get_a_clear_line() -> None:
    assert not darwin.available()
    for call in (
        lambda: darwin.resident_bytes(1),
        lambda: darwin.children(1),
        lambda: darwin.descendants(1),
        lambda: darwin.compiled("(version 1)"),
        darwin.mapped_bytes,
    ):
        with pytest.raises(OSError, match=f"part of macOS; this is {sys.platform}") as error:
            call()
        assert error.value.errno == errno.ENOSYS


# --- libproc ---


def test_the_structure_is_the_kernels() -> None:
    """xnu, bsd/sys/resource.h: a 16-byte uuid, then eighteen 64-bit numbers."""
    assert ctypes.sizeof(darwin.RusageInfo) == 16 + 18 * 8
    offsets = {
        "ri_uuid": 0,
        "ri_user_time": 16,
        "ri_resident_size": 64,
        "ri_phys_footprint": 72,
        "ri_proc_exit_abstime": 88,
        "ri_child_elapsed_abstime": 136,
        "ri_diskio_byteswritten": 152,
    }
    assert {n: getattr(darwin.RusageInfo, n).offset for n in offsets} == offsets
    names = [field[0] for field in darwin.RusageInfo._fields_]
    assert {getattr(darwin.RusageInfo, n).size for n in names[1:]} == {8}


def test_the_other_structure_is_the_kernels() -> None:
    """xnu, bsd/sys/proc_info.h: six 64-bit numbers, then twelve of 32 bits."""
    assert ctypes.sizeof(darwin.TaskInfo) == 6 * 8 + 12 * 4
    offsets = {"pti_virtual_size": 0, "pti_threads_system": 40, "pti_policy": 48, "pti_csw": 80}
    offsets |= {"pti_threadnum": 84, "pti_priority": 92}
    assert {n: getattr(darwin.TaskInfo, n).offset for n in offsets} == offsets


class Libproc:
    """libproc with a process table of its own: parent and group by process."""

    def __init__(
        self, parents: dict[int, int], refused: int = 0, groups: dict[int, int] | None = None
    ) -> None:
        self.parents, self.refused, self.groups = parents, refused, groups or {}
        self.calls: list[int] = []

    def proc_listpids(self, kind: int, of: int, buffer: ctypes.Array, size: int) -> int:
        assert kind in (2, 4, 6), "PROC_PGRP_ONLY, PROC_UID_ONLY, PROC_PPID_ONLY"
        if self.refused:
            ctypes.set_errno(self.refused)
            return 0
        if kind == 4:
            assert of == os.geteuid()
        table = {2: self.groups, 4: dict.fromkeys(self.parents, of), 6: self.parents}[kind]
        found = [pid for pid, owner in table.items() if owner == of][: size // 4]
        self.calls.append(size // 4)
        buffer[: len(found)] = found
        return 4 * len(found)

    def proc_pid_rusage(self, pid: int, flavor: int, target: object) -> int:
        assert flavor == 2, "RUSAGE_INFO_V2"
        if self.refused or pid not in self.parents:
            ctypes.set_errno(self.refused or errno.ESRCH)
            return -1
        raw = bytearray(ctypes.sizeof(darwin.RusageInfo))
        raw[72:80] = (3 << 30).to_bytes(8, "little")
        ctypes.memmove(target, bytes(raw), len(raw))  # type: ignore[arg-type]
        return 0

    def proc_pidinfo(self, pid: int, flavor: int, argument: int, target: object, size: int) -> int:
        assert (flavor, argument, size) == (4, 0, 96), "PROC_PIDTASKINFO"
        if self.refused or pid not in self.parents:
            ctypes.set_errno(self.refused or errno.ESRCH)
            return 0
        raw = bytearray(size)
        raw[84:88] = (7).to_bytes(4, "little")
        ctypes.memmove(target, bytes(raw), size)  # type: ignore[arg-type]
        return size


def use(monkeypatch: pytest.MonkeyPatch, library: Libproc) -> Libproc:
    monkeypatch.setattr(darwin, "_libproc", lambda: library)
    return library


def test_children_and_descendants(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Libproc({10: 1, 11: 10, 12: 10, 13: 12, 14: 13, 20: 1}))
    assert darwin.children(10) == [11, 12]
    assert darwin.children(11) == []
    assert darwin.descendants(10) == [11, 12, 13, 14]


def test_a_full_buffer_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    library = use(monkeypatch, Libproc({pid: 1 for pid in range(100, 228)}))
    assert darwin.children(1) == list(range(100, 228))
    assert library.calls == [64, 128, 256]


def test_a_pid_that_comes_round_does_not_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Libproc({10: 11, 11: 10}))
    assert darwin.descendants(10) == [11]


def test_memory_is_the_footprint(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Libproc({10: 1}))
    assert darwin.resident_bytes(10) == 3 << 30
    assert darwin.resident_bytes(99) is None


def test_a_refusal_is_not_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Libproc({10: 1, 11: 10}, refused=errno.EPERM))
    for call in (darwin.resident_bytes, darwin.children, darwin.descendants):
        with pytest.raises(PermissionError, match="of process 10"):
            call(10)


def test_threads_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Libproc({10: 1}))
    assert (darwin.threads(10), darwin.threads(99)) == (7, 0)


def test_a_job_is_its_group_and_what_is_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An orphan is in the group, what began a group of its own is below; zombies have ended."""
    parents = {10: 1, 11: 10, 12: 10, 13: 1, 14: 10, 20: 1}
    use(monkeypatch, Libproc(parents, groups={10: 10, 11: 10, 13: 10, 14: 10}))
    sessions(monkeypatch, {10: 5, 11: 5, 12: 12, 13: 5, 20: 20})
    assert darwin.of_job(10) == [11, 12, 13]


def test_a_session_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By which the pool ends the jobs of a supervisor that it had to kill."""
    use(monkeypatch, Libproc({10: 1, 11: 10, 12: 1, 13: 1}))
    sessions(monkeypatch, {10: 5, 11: 5, 12: 12})
    assert darwin.in_session(5) == [10, 11]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert worker._session(5) == [10, 11]


def sessions(monkeypatch: pytest.MonkeyPatch, table: dict[int, int]) -> None:
    def getsid(pid: int) -> int:
        if pid not in table:
            raise ProcessLookupError
        return table[pid]

    monkeypatch.setattr(os, "getsid", getsid)


# --- the file system ---


def test_paths_are_spelled_as_the_disk_has_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Most volumes of a Mac do not tell capital letters from small ones; Seatbelt does."""
    typed, stored = tmp_path / "SCRATCH", str(tmp_path / "Scratch")
    typed.mkdir()
    answers = {os.stat(typed).st_ino: stored}

    def control(fd: int, command: int, buffer: bytes) -> bytes:
        assert (command, len(buffer)) == (50, 1024), "F_GETPATH takes MAXPATHLEN bytes"
        if os.fstat(fd).st_ino not in answers:
            raise OSError(errno.ENOENT, "no name")
        return answers[os.fstat(fd).st_ino].encode().ljust(1024, b"\0")

    fake = SimpleNamespace(F_GETPATH=50, fcntl=control)
    monkeypatch.setattr(darwin, "fcntl", fake)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "O_EVTONLY", 0, raising=False)
    text = darwin.profile(str(typed), [PREFIX])
    assert allowed(text, "file-write-create", f"{stored}/x")
    assert not allowed(text, "file-write-create", f"{typed}/x")


def test_locked_files_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A job can lock its files against their owner (chflags uchg); then nothing removes them."""
    locked: set[str] = set()
    for name in ("unlink", "rmdir", "chmod", "rename"):
        monkeypatch.setattr(os, name, held(getattr(os, name), locked))
    monkeypatch.setattr(scratches, "_set_flags", lambda path, flags: locked.discard(path))
    top = tmp_path / "scratch"
    (top / "a/b").mkdir(parents=True)
    (top / "file").touch()
    (top / "a/file").touch()
    locked |= {str(path) for path in (top, *top.rglob("*"))}
    setting = SimpleNamespace(
        namespaced=False, on_linux=False, scratch=str(top), uid=os.geteuid(), strong=False
    )
    scratches.clear(setting)
    assert list(top.iterdir()) == []


def held(change: Callable[..., None], locked: set[str]) -> Callable[..., None]:
    def changing(path: str, *args: object, **named: object) -> None:
        if str(path) in locked or os.path.dirname(path) in locked:
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        change(path, *args, **named)

    return changing


def test_no_name_is_used_that_macos_lacks() -> None:
    """As far as types tell. What is Linux's alone is called in these two files."""
    folder = Path(darwin.__file__).parents[1]
    only_linux = "jail/(linux|namespaces)[.]py$"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--platform=darwin", "--no-incremental", str(folder)],
        capture_output=True,
        text=True,
        cwd=folder.parents[1],
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert [line for line in errors if not re.search(only_linux, line.split(":")[0])] == []


# --- the size of the address space ---


@pytest.mark.parametrize("size", [5 << 20, (400 << 30) + 12345, (1 << 46) + 1])
def test_the_address_space_is_found_by_asking(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = fake_limit(monkeypatch, size)
    found = darwin.mapped_bytes()
    assert size <= found < size + (1 << 20)
    assert limits == [(resource.RLIM_INFINITY, resource.RLIM_INFINITY)], "the limit is put back"


def test_a_limit_that_is_not_held_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = fake_limit(monkeypatch, 0)
    with pytest.raises(OSError, match="does not enforce RLIMIT_AS"):
        darwin.mapped_bytes()
    assert limits == [(resource.RLIM_INFINITY, resource.RLIM_INFINITY)]


def fake_limit(monkeypatch: pytest.MonkeyPatch, size: int) -> list[tuple[int, int]]:
    """A kernel that refuses address-space limits below ``size``; returns the limit in force."""
    state = [(resource.RLIM_INFINITY, resource.RLIM_INFINITY)]

    def setrlimit(which: int, limits: tuple[int, int]) -> None:
        if limits[0] != resource.RLIM_INFINITY and limits[0] < size:
            raise ValueError("current limit exceeds maximum limit")  # Python's words for EINVAL
        state[0] = limits

    fake = SimpleNamespace(
        RLIMIT_AS=resource.RLIMIT_AS, getrlimit=lambda which: state[0], setrlimit=setrlimit
    )
    monkeypatch.setattr(darwin, "resource", fake)
    monkeypatch.setattr(darwin, "_need_darwin", lambda what: None)
    return state


# --- the real thing ---

on_a_mac = pytest.mark.skipif(
    sys.platform != "darwin",
    reason="starts sandbox-exec: needs macOS, and no result from a Mac is on record yet",
)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "scratch"
    folder.mkdir()
    return folder


def interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def inside(scratch: Path, code: str, *arguments: str) -> str:
    """What ``code`` prints inside the profile that a zygote would be started in."""
    text = darwin.profile(
        str(scratch),
        darwin.interpreter_paths(),
        hidden=darwin.package_paths(),
        executables=darwin.interpreters(),
        children=True,
        sessions=True,
    )
    argv = [interpreter(), "-I", "-S", "-B", "-c", code, *arguments]
    done = subprocess.run(
        darwin.command(text, argv),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=scratch,
        env={"HOME": str(scratch), "TMPDIR": str(scratch)},
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"
    return done.stdout.strip()


READ = (
    "import sys\ntry:\n  print(open(sys.argv[1]).read())\n"
    "except PermissionError:\n  print('denied')"
)
WRITE = (
    "import sys\ntry:\n  open(sys.argv[1], 'w').write('x'); print('written')\n"
    "except PermissionError:\n  print('denied')"
)


@on_a_mac
def test_python_starts_and_the_standard_library_works(scratch: Path) -> None:
    code = (
        "import json, decimal, random, datetime, hashlib, time, os, platform, socket, threading\n"
        "t = threading.Thread(target=time.tzset); t.start(); t.join()\n"
        "socket.socketpair(); os.urandom(4); platform.uname(); os.cpu_count()\n"
        "print(datetime.datetime.now().year > 2000, os.getcwd())"
    )
    assert inside(scratch, code) == f"True {scratch}"


@on_a_mac
def test_the_home_folder_is_not_read(scratch: Path) -> None:
    with tempfile.NamedTemporaryFile("w", dir=Path.home(), prefix=".azr-test-") as secret:
        secret.write("secret")
        secret.flush()
        assert Path(secret.name).read_text() == "secret"
        assert inside(scratch, READ, secret.name) == "denied"


@on_a_mac
def test_nothing_is_written_outside_the_scratch(scratch: Path) -> None:
    outside = scratch.parent / "outside"
    assert inside(scratch, WRITE, str(outside)) == "denied"
    assert not outside.exists()
    (scratch / "link").symlink_to(scratch.parent)
    assert inside(scratch, WRITE, str(scratch / "link/outside")) == "denied"
    assert not outside.exists()


@on_a_mac
def test_the_scratch_is_written(scratch: Path) -> None:
    assert inside(scratch, WRITE, str(scratch / "file")) == "written"
    assert (scratch / "file").read_text() == "x"


@on_a_mac
def test_there_is_no_network(scratch: Path) -> None:
    code = (
        "import socket, sys\ntry:\n"
        "  socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5); print('connected')\n"
        "except PermissionError:\n  print('denied')"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 5).close()
        assert inside(scratch, code, str(port)) == "denied"


@on_a_mac
def test_other_processes_are_out_of_reach(scratch: Path) -> None:
    code = (
        "import os, sys\ntry:\n  os.kill(int(sys.argv[1]), 0); print('reached')\n"
        "except PermissionError:\n  print('denied')"
    )
    assert inside(scratch, code, str(os.getpid())) == "denied"


@on_a_mac
def test_a_parent_in_the_profile_ends_its_children(scratch: Path) -> None:
    """Were this to fail, a zygote inside the profile could not end its jobs."""
    code = (
        "import os, signal, time\npid = os.fork()\nif pid == 0:\n"
        "  os.setsid()\n  time.sleep(60)\n"
        "time.sleep(0.5)\nos.kill(pid, signal.SIGKILL)\nprint(os.waitpid(pid, 0)[1])"
    )
    assert inside(scratch, code) == "9"


CONFINED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import darwin
text = darwin.profile(sys.argv[2], darwin.interpreter_paths(), hidden=darwin.package_paths())
confine = darwin.compiled(text)
def attempt(name, action):
    try:
        action()
    except OSError:
        print(name, "denied", flush=True)
    else:
        print(name, "done", flush=True)
pid = os.fork()
if pid == 0:
    confine()
    attempt("again", confine)
    attempt("fork", os.fork)
    attempt("exec", lambda: os.execv(sys.executable, ["python", "-c", ""]))
    attempt("spawn", lambda: os.posix_spawn(sys.executable, ["python", "-c", ""], {}))
    attempt("session", os.setsid)
    attempt("group", lambda: os.setpgid(0, 0))
    attempt("parent", lambda: os.kill(os.getppid(), 0))
    attempt("outside", lambda: open(sys.argv[2] + "/../outside", "w"))
    attempt("link", lambda: os.link(sys.argv[1] + "/darwin.py", sys.argv[2] + "/linked"))
    attempt("scratch", lambda: os.rmdir(sys.argv[2]))
    attempt("inside", lambda: open(sys.argv[2] + "/file", "w"))
    attempt("lock", lambda: os.chflags(sys.argv[2] + "/file", 2))
    attempt("remove", lambda: os.unlink(sys.argv[2] + "/file"))
    import decimal, unicodedata
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
attempt("zygote", lambda: open(sys.argv[2] + "/../zygote", "w"))
"""


@on_a_mac
def test_a_forked_child_confines_itself(scratch: Path) -> None:
    folder = str(Path(darwin.__file__).parent)
    argv = [interpreter(), "-I", "-S", "-B", "-c", CONFINED, folder, str(scratch)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = dict(line.split() for line in done.stdout.splitlines())
    denied = (
        "again",
        "fork",
        "exec",
        "spawn",
        "session",
        "group",
        "parent",
        "outside",
        "link",
        "scratch",
        "lock",
    )
    assert said == {
        **dict.fromkeys(denied, "denied"),
        "inside": "done",
        "remove": "done",
        "zygote": "done",
    }


@on_a_mac
def test_a_profile_with_a_mistake_is_named() -> None:
    with pytest.raises(OSError, match="the sandbox profile was not understood"):
        darwin.compiled("(version 1)(deny default)(allow no-such-operation)")


@on_a_mac
def test_memory_of_a_child_is_seen() -> None:
    code = "import time; data = bytearray(b'x') * (256 << 20); time.sleep(60)"
    with subprocess.Popen([interpreter(), "-I", "-S", "-c", code]) as child:
        try:
            assert child.pid in darwin.children(os.getpid())
            assert child.pid in darwin.descendants(os.getpid())
            deadline = time.monotonic() + 30
            while (seen := darwin.resident_bytes(child.pid) or 0) < 256 << 20:
                assert time.monotonic() < deadline, f"only {seen} bytes seen"
                time.sleep(0.02)
        finally:
            child.kill()
    assert darwin.resident_bytes(child.pid) is None


@on_a_mac
def test_the_address_space_can_be_limited() -> None:
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); import darwin\n"
        "limit = darwin.mapped_bytes() + (128 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "data = bytearray(16 << 20)\n"
        "try:\n  bytearray(512 << 20); print('allocated')\nexcept MemoryError:\n  print('refused')"
    )
    folder = str(Path(darwin.__file__).parent)
    argv = [interpreter(), "-I", "-S", "-B", "-c", code, folder]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "refused"
