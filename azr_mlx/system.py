"""The operating system, by the version that its owner knows."""

from __future__ import annotations

import platform
import subprocess
import sys


def platform_name(terse: bool = False) -> str:
    """As ``platform.platform``, but with the right version of macOS: to a Python that was built for
    an older one, macOS 26 calls itself 16."""
    name = platform.platform(terse=terse)
    own = _macos_version() if sys.platform == "darwin" else ""
    return name.replace(f"macOS-{platform.mac_ver()[0]}", f"macOS-{own}", 1) if own else name


def _macos_version() -> str:
    """What the kernel says to one of the system's own programs; empty if it says nothing."""
    try:
        command = ["sysctl", "-n", "kern.osproductversion"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
