"""A level of isolation is accepted only if the self-test passes at it, and what stands against one
reaches the user.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from azr_mlx.sandbox import Job, Result, Sandbox, SandboxError, selftest
from azr_mlx.types import Status
from tests.sandbox.conftest import ON_LINUX, is_confined
from tests.sandbox.mac import workers_begin_with

pytestmark = pytest.mark.sandbox
HONEST = Job("a", "def f(): return 1", call="f", expect="1")
_BROKEN = """
import scratch
def make(setting):
    if {condition}:
        raise {error}
    real(setting)
real, scratch.make = scratch.make, make
"""

_FAILING = """
import {module}
def fail(*given):
    raise OSError("no")
{module}.{name} = fail
"""


def _check_refused(prelude: str, told: str, folder: Path) -> None:
    with workers_begin_with(prelude, folder), pytest.raises(SandboxError) as raised:
        Sandbox(1, "limits-only").close()
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("NameError('no such thing')", "NameError: no such thing (start.py, line"),
        ("OSError(28, 'the disk is full')", "[Errno 28] the disk is full"),
        ("AttributeError('not on this system')", "AttributeError: not on this system (start.py"),
    ],
)
def test_a_worker_that_cannot_be_prepared_says_why(error: str, told: str, tmp_path: Path) -> None:
    prelude = _BROKEN.format(condition="True", error=error)
    with workers_begin_with(prelude, tmp_path), pytest.raises(SandboxError) as raised:
        Sandbox(1, "auto").close()
    text = str(raised.value)
    assert told in text and "\n" not in text
    assert text.count(told) == 1, "both levels failed alike, which need not be said twice"


def test_the_weaker_level_says_why_it_is_not_the_stronger(tmp_path: Path) -> None:
    prelude = _BROKEN.format(condition="setting.strong", error="NameError('no such thing')")
    with workers_begin_with(prelude, tmp_path), Sandbox(1, "auto") as sandbox:
        assert sandbox.isolation == "limits-only"
        assert "NameError: no such thing" in sandbox.fallback
        assert sandbox.fallback in sandbox.warning and "docs/security.md" in sandbox.warning
        assert ("jobs can reach" in sandbox.warning) is not is_confined(sandbox)
        assert sandbox.run([HONEST])[0].status is Status.PASS


def test_a_zygote_that_cannot_be_prepared_says_why(tmp_path: Path) -> None:
    prelude = _FAILING.format(module="child", name="protect_others")
    _check_refused(prelude, "no process could be prepared for jobs: no", tmp_path)


def test_a_job_that_cannot_be_confined_says_why(tmp_path: Path) -> None:
    prelude = _FAILING.format(module="zygote", name="_confine")
    _check_refused(prelude, "a harmless job ended as error: OSError: no", tmp_path)


@pytest.mark.parametrize(
    ("prelude", "told"),
    [
        ("sys.modules['colorsys'] = None", "error: ModuleNotFoundError"),
        ("import zygote\nzygote.FILE_BYTES = 0", "error: OSError"),
        ("import colorsys\ncolorsys.rgb_to_hls = lambda *c: (0, 3, 0)", "gave 3.0 instead of 2"),
        ("import child\nchild._run_call = child._STYLES['call'] = lambda *_: 1 / 0", "error: Zero"),
    ],
)
def test_a_level_at_which_honest_jobs_fail_is_refused(
    prelude: str, told: str, tmp_path: Path
) -> None:
    _check_refused(prelude, told, tmp_path)


@pytest.mark.skipif(not ON_LINUX, reason="takes Landlock and seccomp away, which Linux has")
@pytest.mark.parametrize(
    ("prelude", "told"),
    [
        ("import linux\nlinux.landlock_restrict = lambda ruleset: None", "reach your files"),
        ("import linux\nlinux.Filter.install = lambda self: None", "reach the network"),
    ],
)
def test_a_level_that_does_not_hold_is_refused(prelude: str, told: str, tmp_path: Path) -> None:
    with Sandbox(1, "limits-only") as sandbox:
        if not is_confined(sandbox):
            pytest.skip("limits-only confines nothing on this machine")
    _check_refused(prelude, told, tmp_path)


@pytest.mark.parametrize(
    ("value", "features", "isolation", "told"),
    [
        ("(2.0, [])", {}, "strong", ""),
        ("(2.0, ['the network', 'your files'])", {}, "limits-only", ""),
        ("(2.0, ['the network'])", {"landlock": True}, "limits-only", ""),
        ("(2.0, ['the network'])", {"seccomp": True}, "limits-only", "the network"),
        ("(2.0, ['your files'])", {"landlock": True}, "limits-only", "your files"),
        ("(2.0, ['the network', 'your files'])", {}, "strong", "the network and your files"),
        ("(1.0, [])", {}, "strong", "1.0 instead of 2"),
    ],
)
def test_what_counts_against_a_level(
    value: str, features: dict[str, object], isolation: str, told: str
) -> None:
    said = selftest.complaint(Result("a", Status.OK, value), isolation, features)
    assert told in said and bool(said) is bool(told)


def test_a_strong_sandbox_has_nothing_to_warn_of() -> None:
    try:
        with Sandbox(1, "strong") as sandbox:
            assert (sandbox.warning, sandbox.fallback) == ("", "")
            assert sandbox.summary == "sandbox: 1 worker, isolation strong"
    except SandboxError as error:
        pytest.skip(f"no strong isolation on this machine: {error}")


_AROUND = ["/", "/usr", sys.base_prefix, *map(str, Path(os.__file__).parents[:2])]


@pytest.mark.parametrize("level", ["limits-only", "strong"])
@pytest.mark.parametrize("folder", _AROUND)
def test_a_job_runs_wherever_the_user_works(
    level: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory is hidden from jobs, but not what they need that lies in it."""
    try:
        Sandbox(1, level).close()
    except SandboxError as error:
        pytest.skip(f"no {level} isolation on this machine: {error}")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", folder)
    with Sandbox(1, level) as sandbox:
        assert sandbox.run([HONEST])[0].status is Status.PASS
