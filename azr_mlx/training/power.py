"""The machine's power during a long run: it is kept awake, its battery is watched, and its owner is
told when the run ends.

On a Mac ``caffeinate -i`` keeps it awake and lets the display sleep. Its option ``-d`` would keep
the display on, and then macOS may kill kernels that take long (ml-explore/mlx#3267).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from azr_mlx.backends.ranks import Alone, World, gather
from azr_mlx.errors import Interrupted
from azr_mlx.monitoring.terminal import Display
from azr_mlx.text import clip, plain

ON_MAC = sys.platform == "darwin"
SUPPLIES = Path("/sys/class/power_supply")
PERIOD_S = 30.0  # how often the battery is looked at
PATIENCE_S = 10.0  # how long a program of the system may take to answer
LONGEST = 200  # characters of a notification
# The text is an argument of the script and not a part of it, so that nothing in it is executed.
_SCRIPT = (
    "on run argv",
    'display notification (item 1 of argv) with title "azr-mlx"',
    "end run",
)


class Battery(NamedTuple):
    """The charge in percent, and whether the machine runs on it."""

    percent: int
    in_use: bool

    def __str__(self) -> str:
        return f"{'on battery' if self.in_use else 'on mains'}, {self.percent} % charged"


def battery() -> Battery | None:
    """The machine's battery; None if it has none, or none that can be read."""
    return _of_pmset() if ON_MAC else _of_supplies(SUPPLIES)


def _of_pmset() -> Battery | None:
    """What ``pmset -g batt`` says. A UPS counts as a battery; of several the emptiest counts."""
    try:
        said = _call("pmset", "-g", "batt")
    except (OSError, subprocess.SubprocessError):
        return None
    charges = [int(n) for n in re.findall(r"[ \t](\d+)%;(?!.*present: false)", said)]
    return Battery(min(charges), "'AC Power'" not in said) if charges else None


def _of_supplies(folder: Path) -> Battery | None:
    """What Linux says in /sys/class/power_supply. The batteries of mice and the like do not count;
    several of the machine's own count by their capacity."""
    try:
        supplies = sorted(folder.iterdir())
    except OSError:
        return None
    own = [s for s in supplies if _read(s, "type") == "Battery" and _read(s, "scope") != "Device"]
    charged = [(_capacity(one), charge) for one in own if (charge := _charge(one)) is not None]
    if not charged:
        return None
    share = sum(size * charge for size, charge in charged) / sum(size for size, _ in charged)
    mains = any(_read(one, "type") != "Battery" and _number(one, "online") for one in supplies)
    drained = any(_read(one, "status") == "Discharging" for one in own)
    return Battery(round(share), drained and not mains)


def _charge(supply: Path) -> float | None:
    """Percent; None if the battery is not there or does not say."""
    if _read(supply, "present") == "0":
        return None
    if (percent := _number(supply, "capacity")) is not None:
        return percent
    for kind in ("energy", "charge"):
        now, full = (_number(supply, f"{kind}_{which}") for which in ("now", "full"))
        if now is not None and full:
            return 100 * now / full
    return None


def _capacity(supply: Path) -> float:
    return _number(supply, "energy_full") or _number(supply, "charge_full") or 1.0


def _number(supply: Path, name: str) -> float | None:
    text = _read(supply, name)
    return float(text) if text.isdecimal() else None


def _read(supply: Path, name: str) -> str:
    """A property of a supply; empty if it has none, or has just been removed."""
    try:
        return (supply / name).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _call(*command: str) -> str:
    """What a program of the system prints. Raises OSError, SubprocessError."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=PATIENCE_S,
        check=True,
    )
    return done.stdout


def notify(text: str) -> None:
    """Tell the owner of the machine: the terminal's bell if stderr is a terminal, and on a Mac a
    notification, too. macOS drops that without an error until Script Editor may notify. Raises
    OSError, SubprocessError."""
    if sys.stderr.isatty():
        sys.stderr.write("\a")
        sys.stderr.flush()
    if ON_MAC:
        lines = [word for line in _SCRIPT for word in ("-e", line)]
        _call("osascript", *lines, clip(" ".join(plain(text).split()), LONGEST))


class PowerWatch:
    """Looks after the machine's power during one run. None of it can stop the run: what fails is a
    warning."""

    def __init__(
        self, display: Display, name: str, min_battery: int = 0, world: World | None = None
    ):
        self.display, self.name, self.min_battery = display, name, min_battery
        self.world = world or Alone()
        self._battery: Battery | None = None
        self._looked = 0.0
        self._warned = self._began = False
        self._awake: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PowerWatch:
        self._keep_awake()
        self._look()
        if self.min_battery and self._battery is None:
            self.display.warn(
                f"power.min_battery: {self.min_battery}: this machine has no battery that can be "
                "read, so the run will not pause"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._let_sleep()
        if self._began and isinstance(error, Exception) and not isinstance(error, Interrupted):
            self.tell(f"stopped by an error: {error}")

    def tell(self, text: str) -> None:
        """Notify the owner of the machine, once per run and not once per rank."""
        if self.world.rank != 0:
            return
        try:
            notify(f"{self.name}: {text}")
        except (OSError, subprocess.SubprocessError) as error:
            self.display.warn(f"no notification: {error}")

    def before_step(self, step: int) -> None:
        """If the battery is too low, wait until it is charged again or the machine is on mains.
        The ranks of a run wait for each other. KeyboardInterrupt may end it at any point."""
        self._began = True
        if time.monotonic() - self._looked >= PERIOD_S:
            self._look()
        if not (why := self._shortage()):
            return
        self.display.warn(
            f"paused before step {step}: {why}; the run goes on when it is charged or on mains"
        )
        self.display.phase("pause", step)
        self._let_sleep()
        while self._shortage():
            time.sleep(PERIOD_S)
            self._look()
        self._keep_awake()
        self.display.remark(f"step {step}: going on ({self._battery or 'no battery'})")

    def _look(self) -> None:
        self._battery, self._looked = battery(), time.monotonic()
        if self._battery is None or not self._battery.in_use or self._warned:
            return
        self._warned = True
        pause = "" if self.min_battery else ", or give power.min_battery=20 to pause at 20 %"
        self.display.warn(f"{self._battery}: plug the machine in{pause}")

    def _shortage(self) -> str:
        """Which battery is too low; empty if none is. All ranks get the same answer."""
        if not self.min_battery:
            return ""
        own = self._battery
        low = own.percent if own and own.in_use and own.percent < self.min_battery else None
        of_ranks = enumerate(gather(self.world, low))
        rank, percent = next((one for one in of_ranks if one[1] is not None), (0, None))
        if percent is None:
            return ""
        where = f" of rank {rank}" if self.world.size > 1 else ""
        return f"the battery{where} has {percent} %, and power.min_battery is {self.min_battery}"

    def _keep_awake(self) -> None:
        """Start a ``caffeinate`` that ends with this process, also if it is killed. Ctrl-C does not
        reach it: an interrupted run still has a checkpoint to write."""
        if not ON_MAC:
            return
        command = ["caffeinate", "-i", "-w", str(os.getpid())]
        nothing = subprocess.DEVNULL
        try:
            self._awake = subprocess.Popen(
                command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
            )
        except OSError as error:
            self.display.warn(f"this Mac may fall asleep during the run: caffeinate: {error}")

    def _let_sleep(self) -> None:
        if self._awake is not None:
            self._awake.terminate()
            self._awake.wait()
            self._awake = None
