"""The profile that a Mac would be given, read by an interpreter of its rules: what Python reads is
open, wherever it is installed, and nothing else is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from azr_mlx.sandbox.jail import darwin
from tests.sandbox.mac.seatbelt import Profile, ProfileError, parse, settled

pytestmark = pytest.mark.pure

HOME = "/Users/me"
PROJECT = f"{HOME}/src/azr-mlx"
SCRATCH = "/var/folders/zz/abc/T/azr-sandbox-1/scratch"  # as TMPDIR spells it
REAL_SCRATCH = f"/private{SCRATCH}"

# --- a disk of a Mac ---

_LINKS = {
    "/var": "private/var",
    "/tmp": "private/tmp",
    "/etc": "private/etc",
    "/System/Cryptexes/OS": "../Volumes/Preboot/Cryptexes/OS",
    "/usr/share/zoneinfo": "/var/db/timezone/zoneinfo",
    "/private/var/db/timezone/zoneinfo": "tz/2025b.1.0/zoneinfo",
    "/private/etc/localtime": "/var/db/timezone/zoneinfo/Europe/Berlin",
}


@dataclass
class Disk:
    """Symbolic links, and the files and folders that there are besides what they lead to."""

    links: dict[str, str]
    there: set[str] = field(default_factory=set)

    def walk(self, path: str) -> tuple[str, list[str]]:
        """Where the path leads, and the links that are followed."""
        left, here, followed = path.split("/"), "/", list[str]()
        while left:
            part = left.pop(0)
            step = os.path.dirname(here) if part == ".." else os.path.join(here, part)
            if part in ("", "."):
                continue
            if step not in self.links:
                here = step
                continue
            followed.append(step)
            assert len(followed) < 40, f"a loop of links at {step}"
            target = self.links[step]
            here, left = "/" if target[0] == "/" else here, [*target.split("/"), *left]
        return here, followed

    def exists(self, path: str) -> bool:
        real = self.walk(path)[0]
        return any(one == real or one.startswith(real + "/") for one in self.there)

    def as_os(self, library: str) -> SimpleNamespace:
        """``os`` as a program on this disk has it, whose standard library is ``library``."""
        paths = ("join", "dirname", "basename", "isabs", "split")
        return SimpleNamespace(
            __file__=f"{library}/os.py",
            readlink=self.links.__getitem__,
            listdir=lambda folder: sorted(
                {
                    one[len(folder) + 1 :].split("/")[0]
                    for one in self.there
                    if one.startswith(folder + "/")
                }
            ),
            path=SimpleNamespace(
                **{name: getattr(os.path, name) for name in paths},
                realpath=lambda path: self.walk(path)[0],
                exists=self.exists,
                isdir=self.exists,
                isfile=self.exists,
                islink=lambda path: path in self.links,
            ),
        )


@dataclass(frozen=True)
class Python:
    """One way to have Python on a Mac. ``prefix`` is ``sys.base_prefix``, as it spells it."""

    name: str
    prefix: str
    links: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ()  # libraries of other packages that its modules link
    closed: tuple[str, ...] = ()  # what lies near it and is not its
    version: str = "3.12"

    @property
    def library(self) -> str:
        return f"{self.prefix}/lib/python{self.version}"


def framework(root: str, name: str = "Python", version: str = "3.12") -> str:
    return f"{root}/{name}.framework/Versions/{version}"


def homebrew(root: str) -> Python:
    prefix = framework(f"{root}/opt/python@3.12/Frameworks")
    cellar = f"{root}/Cellar/python@3.12/3.12.4"
    packages = f"{framework(cellar + '/Frameworks')}/lib/python3.12/site-packages"
    return Python(
        f"Homebrew in {root}",
        prefix,
        (
            (f"{root}/opt/python@3.12", "../Cellar/python@3.12/3.12.4"),
            (f"{root}/opt/openssl@3", "../Cellar/openssl@3/3.3.1"),
            (packages, f"{root}/lib/python3.12/site-packages"),
        ),
        (f"{root}/opt/openssl@3/lib/libssl.3.dylib", f"{root}/opt/sqlite/lib/libsqlite3.dylib"),
        (
            f"{root}/etc/openssl@3/private/key.pem",
            f"{root}/var/postgres/base",
            f"{root}/lib/python3.12/site-packages/azr_mlx/__init__.py",
        ),
    )


# Homebrew beside an interpreter that is not its own.
_BREW = "/opt/homebrew"
_XZ = (f"{_BREW}/opt/xz", "../Cellar/xz/5.6.2")
_LINKED = (f"{_BREW}/opt/xz/lib/liblzma.5.dylib", f"{_BREW}/opt/sqlite/lib/libsqlite3.dylib")
_UV = f"{HOME}/.local/share/uv/python/cpython-3.12"
_MISE = f"{HOME}/.local/share/mise/installs/python"
PYTHONS = (
    Python("python.org", framework("/Library/Frameworks"), (_XZ,), closed=_LINKED),
    homebrew("/opt/homebrew"),
    homebrew("/usr/local"),
    Python("by hand in /usr/local", "/usr/local", closed=("/usr/local/lib/other/secret",)),
    Python("by hand in the home folder", HOME, closed=(f"{HOME}/share/secret",)),
    Python("pyenv", f"{HOME}/.pyenv/versions/3.12.4", closed=(f"{HOME}/.pyenv/versions/x/key",)),
    Python(
        "pyenv, built with Homebrew's libraries",
        f"{HOME}/.pyenv/versions/3.12.4",
        (_XZ,),
        _LINKED,
        (f"{_BREW}/etc/openssl@3/private/key.pem", f"{_BREW}/var/postgres/base"),
    ),
    Python(
        "asdf on an Intel Mac",
        f"{HOME}/.asdf/installs/python/3.12.4",
        needs=("/usr/local/opt/xz/lib/liblzma.5.dylib", "/usr/local/Cellar/xz/5.6.2/lib/x.dylib"),
        closed=("/usr/local/etc/openssl@3/private/key.pem", "/usr/local/lib/other/secret"),
    ),
    Python(
        "uv",
        f"{_UV}-macos-aarch64-none",
        ((f"{_UV}-macos-aarch64-none", "cpython-3.12.4-macos-aarch64-none"),),
        closed=(f"{HOME}/.local/share/uv/credentials", *_LINKED),
    ),
    Python("mise", f"{_MISE}/3.12", ((f"{_MISE}/3.12", "./3.12.4"),)),
    Python(
        "conda, base",
        f"{HOME}/miniconda3",
        closed=(
            f"{HOME}/miniconda3/envs/other/lib/python3.12/os.py",
            f"{HOME}/miniconda3/runs/x",
            f"{HOME}/miniconda3/conda-meta/python.json",
            *_LINKED,
        ),
    ),
    Python(
        "conda, an environment",
        f"{HOME}/miniconda3/envs/azr",
        closed=(f"{HOME}/miniconda3/envs/azr-secrets/x", f"{HOME}/miniconda3/pkgs/x"),
    ),
    Python("miniforge of Homebrew", "/opt/homebrew/Caskroom/miniforge/base/envs/azr"),
    Python("MacPorts", framework("/opt/local/Library/Frameworks"), closed=("/opt/local/etc/x",)),
    Python(
        "nix", "/nix/store/abc-python3-3.12.4", needs=("/nix/store/def-openssl/lib/libssl.dylib",)
    ),
    Python(
        "command line tools",
        framework("/Library/Developer/CommandLineTools/Library/Frameworks", "Python3", "3.9"),
        version="3.9",
    ),
    Python(
        "Xcode",
        framework(
            "/Applications/Xcode.app/Contents/Developer/Library/Frameworks", "Python3", "3.9"
        ),
        closed=("/Applications/Xcode.app/Contents/Info.plist",),
        version="3.9",
    ),
    Python(
        "a home folder on another volume",
        f"{HOME}/.pyenv/versions/3.12.4",
        ((HOME, "/Volumes/Data/me"),),
    ),
)


def disk_of(python: Python) -> Disk:
    disk = Disk(_LINKS | dict(python.links))
    # What lies behind links exists under its real name.
    names = ("os.py", "json/decoder.py", "lib-dynload/_decimal.so", "site-packages/numpy/x.py")
    there = [f"{python.library}/{name}" for name in names]
    there += [f"{python.prefix}/lib/libpython{python.version}.dylib", *python.needs, *python.closed]
    if ".framework" in python.prefix:
        there += [f"{python.prefix}/Python", f"{python.prefix}/Python3"]
    disk.there = {disk.walk(path)[0] for path in [*there, f"{HOME}/.ssh/id_rsa", SCRATCH]}
    return disk


@pytest.fixture(params=PYTHONS, ids=lambda python: python.name)
def python(request: pytest.FixtureRequest) -> Python:
    return request.param  # type: ignore[no-any-return]


@dataclass
class Jail:
    """A profile on its disk."""

    disk: Disk
    profile: Profile

    def allows(self, operation: str, path: str) -> bool:
        """As the system decides: every link that is followed must be readable as a link, and the
        operation is asked for where the path leads."""
        real, followed = self.disk.walk(path)
        return all(settled(self.profile, "file-read-metadata", link) for link in followed) and (
            settled(self.profile, operation, real)
        )


@pytest.fixture
def jail(python: Python, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jail]:
    """The profile that the supervisor makes of this Python, for a user who works in PROJECT."""
    yield jail_of(python, monkeypatch)


def jail_of(
    python: Python, monkeypatch: pytest.MonkeyPatch, working: str = PROJECT, **options: Any
) -> Jail:
    disk = disk_of(python)
    fake = SimpleNamespace(
        base_prefix=python.prefix,
        base_exec_prefix=python.prefix,
        executable=f"{PROJECT}/.venv/bin/python",
        platform=sys.platform,
    )
    monkeypatch.setattr(darwin, "os", disk.as_os(python.library))
    monkeypatch.setattr(darwin, "sys", fake)
    texts = darwin.job_profile(SCRATCH, [PROJECT, HOME, working], **options)
    return Jail(disk, Profile(texts))


# --- what a job reads ---

SYSTEM = {
    "file-read-data": (
        "/",
        "/dev/null",
        "/dev/random",
        "/dev/urandom",
        "/etc/localtime",
        "/usr/share/zoneinfo/Asia/Tokyo",
        "/usr/share/zoneinfo.default/UTC",
        "/usr/share/locale/en_US.UTF-8/LC_TIME/x",
        "/usr/lib/libz.1.dylib",
        "/System/Library/CoreServices/SystemVersion.plist",
        "/System/Cryptexes/OS/System/Library/dyld/dyld_shared_cache_arm64e",
        "/System/Volumes/Preboot/Cryptexes/OS/System/Library/dyld/dyld_shared_cache_x86_64h",
    ),
    "file-map-executable": (
        "/usr/lib/libSystem.B.dylib",
        "/usr/lib/system/libsystem_kernel.dylib",
        "/System/Library/Frameworks/CoreFoundation.framework/Versions/A/CoreFoundation",
        "/System/Library/PrivateFrameworks/X.framework/X",
        "/System/Cryptexes/OS/usr/lib/libobjc.A.dylib",
    ),
    "file-read-metadata": ("/", "/dev", "/var", "/etc", "/usr", "/System", "/private"),
}


def test_a_job_reads_the_system(jail: Jail) -> None:
    for operation, paths in SYSTEM.items():
        for path in paths:
            assert jail.allows(operation, path), f"{operation} {path}"


def test_a_job_imports_the_standard_library(python: Python, jail: Jail) -> None:
    for spelled in (python.library, jail.disk.walk(python.library)[0]):
        for name in ("os.py", "json/decoder.py", "json/__pycache__/decoder.cpython-312.pyc"):
            assert jail.allows("file-read-data", f"{spelled}/{name}"), spelled
        assert jail.allows("file-read-data", spelled), "a folder is listed when it is imported from"
        assert jail.allows("file-map-executable", f"{spelled}/lib-dynload/_decimal.so")
    for path in (f"{python.prefix}/lib/libpython{python.version}.dylib", *python.needs):
        assert jail.allows("file-map-executable", path), path


def test_every_folder_on_the_way_can_be_passed(python: Python, jail: Jail) -> None:
    for path in (python.library, SCRATCH, REAL_SCRATCH):
        while path != "/":
            path = os.path.dirname(path)
            assert jail.allows("file-read-metadata", path), path


# --- what a job does not read ---

CLOSED = (
    HOME,
    f"{HOME}/.ssh/id_ed25519",
    f"{HOME}/.netrc",
    f"{HOME}/.zsh_history",
    f"{HOME}/.cache/huggingface/token",
    f"{HOME}/.cache/huggingface/hub/models--x/snapshots/y/model.safetensors",
    f"{HOME}/Library/Keychains/login.keychain-db",
    f"{HOME}/Library/Application Support/Firefox/key4.db",
    f"{HOME}/Library/Caches/azr-mlx/model.safetensors",
    f"{HOME}/Documents/x",
    f"{PROJECT}/azr_mlx/__init__.py",
    f"{PROJECT}/outputs/run/tasks.jsonl",
    f"{PROJECT}/.venv/lib/python3.12/site-packages/x.py",
    "/Users",
    "/Users/other/Documents/x",
    "/Users/Shared/x",
    "/System/Volumes/Data/Users/me/.ssh/id_ed25519",
    "/Volumes/Backup/x",
    "/tmp/x",
    "/private/tmp/x",
    "/private/var/tmp/x",
    "/private/var/root/x",
    "/private/var/folders/zz/abc/T/other",
    "/private/var/folders/zz/abc/T/azr-sandbox-2/scratch/x",
    "/private/var/folders/zz/abc/T/azr-sandbox-1",
    "/private/var/db/dslocal/nodes/Default/users/me.plist",
    "/etc/passwd",
    "/private/etc/master.passwd",
    "/private/etc/ssl/cert.pem",
    "/Library/Keychains/System.keychain",
    "/Library/Preferences/SystemConfiguration/preferences.plist",
    "/Applications/Notes.app/Contents/Info.plist",
    "/opt/homebrew/etc/x",
    "/usr/local/etc/x",
    "/usr/bin/true",
    "/bin/sh",
    "/dev",
    "/dev/tty",
    "/dev/ttys001",
    "/dev/disk0",
    "/dev/ptmx",
    "/cores/x",
)


def test_nothing_else_is_read(python: Python, jail: Jail) -> None:
    packages = f"{python.library}/site-packages/numpy/x.py"
    for path in (*CLOSED, *python.closed, packages):
        for operation in ("file-read-data", "file-read-xattr", "file-map-executable"):
            assert not jail.allows(operation, path), f"{operation} {path}"
        real = jail.disk.walk(path)[0]
        if real not in ("/Users", HOME, "/dev", os.path.dirname(REAL_SCRATCH)):
            way = jail.disk.walk(python.library)[0].startswith(real + "/")
            assert way or not jail.allows("file-read-metadata", path), path


def test_only_the_scratch_is_written(python: Python, jail: Jail) -> None:
    shut = (*CLOSED, *python.closed, *SYSTEM["file-read-data"][5:], python.library, "/x")
    shut += (f"{python.library}/json/decoder.py", f"{python.library}/site-packages/x.pth")
    ways = [
        "create",
        "data",
        "unlink",
        "mode",
        "owner",
        "times",
        "flags",
        "acl",
        "xattr",
        "setugid",
    ]
    for path in shut:
        for way in ways:
            assert not jail.allows(f"file-write-{way}", path), f"{way} {path}"
    for way in ("create", "data", "unlink", "mode", "times"):
        for path in (f"{SCRATCH}/a", f"{REAL_SCRATCH}/a/b"):
            assert jail.allows(f"file-write-{way}", path), f"{way} {path}"
    assert jail.allows("file-write-data", "/dev/null")
    assert not jail.allows("file-map-executable", f"{SCRATCH}/code.so"), "its files are no code"


def test_there_is_no_way_out_but_files(jail: Jail) -> None:
    closed = """
        network-outbound network-inbound network-bind system-socket mach-lookup mach-register
        mach-priv-task-port iokit-open appleevent-send job-creation lsopen pseudo-tty process-fork
        process-exec ipc-posix-shm-read-data ipc-posix-shm-write-create ipc-posix-sem-create
        ipc-sysv-shm sysctl-write user-preference-read file-mknod file-chroot
        file-link file-clone
    """
    names = (
        "com.apple.SecurityServer",
        "com.apple.system.opendirectoryd.libinfo",
        "com.apple.logd",
    )
    for operation in closed.split():
        for path in ("/bin/sh", "/private/var/run/mDNSResponder", f"{REAL_SCRATCH}/socket"):
            for name in names:
                allowed = jail.profile.allows(operation, path=path, name=name)
                assert not allowed, f"{operation} {path} {name}"
    for target in ("self", "children", "others"):
        assert not jail.profile.allows("signal", target=target), target
    assert not jail.profile.allows("process-info-pidinfo", target="others")
    assert not jail.profile.allows("process-info-listpids", target="others")
    for name in ("kern.procargs2.1", "kern.proc.all", "kern.proc.pid.1"):
        assert not jail.profile.allows("sysctl-read", name=name), name
    for call in ("SYS_setsid", "SYS_setpgid", "SYS_posix_spawn"):
        assert not jail.profile.allows("syscall-unix", number=call), call
    assert jail.profile.allows("syscall-unix", number="SYS_read")


def test_with_leave_to_have_children(python: Python, monkeypatch: pytest.MonkeyPatch) -> None:
    """They can be forked and ended, and cannot leave the group by which they are found."""
    jail = jail_of(python, monkeypatch, children=True)
    assert jail.profile.allows("process-fork")
    assert jail.profile.allows("signal", target="children")
    assert not jail.profile.allows("signal", target="others")
    assert not jail.profile.allows("process-exec", path="/bin/sh")
    assert not jail.profile.allows("syscall-unix", number="SYS_setsid")
    assert not jail.allows("file-read-data", f"{HOME}/.ssh/id_ed25519")


@pytest.mark.parametrize("working", ["", "/lib", "/lib/python{version}", "/share", "/runs"])
def test_somebody_works_in_a_folder_of_the_interpreter(
    python: Python, working: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies there is hidden, as far as it is not the interpreter's."""
    folder = python.prefix + working.format(version=python.version)
    jail = jail_of(python, monkeypatch, working=folder)
    assert jail.allows("file-read-data", f"{python.library}/json/decoder.py")
    assert jail.allows("file-map-executable", f"{python.library}/lib-dynload/_decimal.so")
    for name in ("outputs/run/tasks.jsonl", "notes.txt"):
        hidden = f"{folder}/{name}"
        assert working.startswith("/lib") or not jail.allows("file-read-data", hidden), hidden


# --- the interpreter of the rules ---

RULES = """
(version 1) ; a comment
(deny default (with no-log))
(allow file-read* (subpath "/a") (literal "/b"))
(deny file-read-data (require-all (subpath "/a/x") (require-not (literal "/a/x/y"))))
(allow file-write* (require-any (regex #"^/c/[0-9]+$") (literal "/quo\\"te")))
(deny process-info*)
(allow signal (target self))
(allow sysctl-read (sysctl-name "a.b") (sysctl-name-prefix "hw."))
(deny syscall-unix (syscall-number SYS_setsid))
"""


@pytest.mark.parametrize(
    ("operation", "facts", "verdict"),
    [
        ("file-read-data", {"path": "/a"}, True),
        ("file-read-data", {"path": "/a/q"}, True),
        ("file-read-data", {"path": "/ab"}, False),
        ("file-read-data", {"path": "/b"}, True),
        ("file-read-data", {"path": "/b/c"}, False),
        ("file-read-data", {"path": "/a/x/z"}, False),
        ("file-read-data", {"path": "/a/x/y"}, True),
        ("file-read-metadata", {"path": "/a/x/z"}, True),
        ("file-write-data", {"path": "/c/12"}, True),
        ("file-write-data", {"path": "/c/12/3"}, False),
        ("file-write-data", {"path": '/quo"te'}, True),
        ("network-outbound", {}, False),
        ("process-info-pidinfo", {"target": "self"}, False),
        ("signal", {"target": "self"}, True),
        ("signal", {"target": "others"}, False),
        ("sysctl-read", {"name": "hw.ncpu"}, True),
        ("sysctl-read", {"name": "a.b.c"}, False),
        ("syscall-unix", {"number": "SYS_setsid"}, False),
        ("syscall-unix", {"number": "SYS_read"}, True),
        ("syscall-mach", {}, True),
    ],
)
def test_rules_are_read_as_they_are_meant(
    operation: str, facts: dict[str, str], verdict: bool
) -> None:
    assert Profile(RULES).allows(operation, **facts) is verdict


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(deny default)",
        "(version 2)(deny default)",
        "(version 1)(deny default",
        "(version 1)(deny default))",
        "(version 1) deny",
        "(version 1)(permit default)",
        "(version 1)(allow file-raed*)",
        '(version 1)(allow file-read* (subpth "/a"))',
        '(version 1)(allow file-read* (subpath "a"))',
        "(version 1)(allow file-read* (subpath /a))",
        "(version 1)(allow file-read* (target self))",
        '(version 1)(allow signal (literal "/a"))',
        '(version 1)(allow file-read* (literal "/a)',
        '(version 1)(allow (literal "/a"))',
    ],
)
def test_what_is_no_profile_is_refused(text: str) -> None:
    with pytest.raises(ProfileError):
        Profile(text)


def test_rules_that_depend_on_how_they_are_chosen_are_found() -> None:
    text = '(version 1)(allow file-read* (subpath "/a/b"))(deny file-read* (subpath "/a"))'
    with pytest.raises(AssertionError, match="depends on how rules are chosen"):
        settled(Profile(text), "file-read-data", "/a/b/c")


def test_the_reader_knows_strings_patterns_and_words() -> None:
    assert parse('(a "b\\\\" #"c\\.d")') == [["a", "b\\", "c\\.d"]]
