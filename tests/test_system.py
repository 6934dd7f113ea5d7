"""The name of the system, on a Mac that tells old programs another version."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from azr_mlx import system
from azr_mlx.commands.doctor import machine
from azr_mlx.commands.train import describe_process

pytestmark = pytest.mark.pure


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that was built for macOS 15, on macOS 26; returns where its ``sysctl`` goes."""
    monkeypatch.setattr(system.sys, "platform", "darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("16.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(
        platform, "platform", lambda terse=False: "macOS-16.1" + "-arm64-arm-64bit" * (not terse)
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "sysctl"


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_mac_has_the_version_that_its_owner_knows(mac: Path) -> None:
    program(mac, '[ "$*" = "-n kern.osproductversion" ] && echo 26.1')
    assert system.platform_name() == "macOS-26.1-arm64-arm-64bit"
    assert system.platform_name(terse=True) == "macOS-26.1"
    assert describe_process(())["platform"] == "macOS-26.1-arm64-arm-64bit"
    assert machine.chip().what.endswith(", macOS-26.1")


@pytest.mark.parametrize("then", ["exit 1", ""])
def test_without_an_answer_it_is_what_python_says(mac: Path, then: str) -> None:
    if then:
        program(mac, then)
    assert system.platform_name() == "macOS-16.1-arm64-arm-64bit"


def test_other_systems_are_left_alone() -> None:
    if platform.system() == "Darwin":
        pytest.skip("this is a Mac")
    assert system.platform_name() == platform.platform()
