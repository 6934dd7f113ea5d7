"""The power of a laptop: its battery, what keeps it awake, and who is told at the end.

Programs of macOS are stood in for by scripts on PATH, and Linux's /sys by a folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from azr_mlx.backends.ranks import Alone
from azr_mlx.errors import Interrupted
from azr_mlx.monitoring.terminal import Display
from azr_mlx.training import power
from azr_mlx.training.power import Battery, PowerWatch, battery

pytestmark = pytest.mark.pure

INTERNAL = " -InternalBattery-0 (id=21561443)\t{}%; {}; 4:33 remaining present: true\n"
MAINS, DRAINING = "Now drawing from 'AC Power'\n", "Now drawing from 'Battery Power'\n"


@pytest.fixture
def mac(tmp_path, monkeypatch):
    """Stands in for a program of macOS: a script that logs its arguments. ``then`` is its end."""
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(power, "ON_MAC", True)

    def program(name: str, then: str = "") -> Path:
        path = folder / name
        path.write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >>"{log}"\n{then}\n')
        path.chmod(0o755)
        return log

    return program


def says(mac, text: str) -> None:
    mac("pmset", f"cat <<'END'\n{text}END")


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """A /sys/class/power_supply; each call adds a supply."""
    folder = tmp_path / "power_supply"
    folder.mkdir()
    monkeypatch.setattr(power, "ON_MAC", False)
    monkeypatch.setattr(power, "SUPPLIES", folder)

    def supply(name: str, **properties: object) -> None:
        (folder / name).mkdir(exist_ok=True)
        for key, value in properties.items():
            (folder / name / key).write_text(f"{value}\n")

    return supply


@pytest.fixture
def charge(monkeypatch):
    """The battery that is found, one after another; the last stays. No time passes in a sleep."""
    found: list[Battery | None] = [None]
    slept: list[float] = []

    def look() -> Battery | None:
        return found.pop(0) if len(found) > 1 else found[0]

    monkeypatch.setattr(power, "battery", look)
    monkeypatch.setattr(power, "PERIOD_S", 0.0)
    monkeypatch.setattr(power.time, "sleep", slept.append)
    monkeypatch.setattr(power, "ON_MAC", False)

    def set_to(*batteries: Battery | None) -> list[float]:
        found[:] = batteries
        return slept

    return set_to


# -- the battery -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (DRAINING + INTERNAL.format(87, "discharging"), Battery(87, True)),
        (MAINS + INTERNAL.format(100, "charged"), Battery(100, False)),
        (MAINS + INTERNAL.format(9, "charging"), Battery(9, False)),
        (MAINS, None),
        (MAINS + " -InternalBattery-0 (id=1)\t0%; removed present: false\n", None),
        (
            "Now drawing from 'UPS Power'\n -Back-UPS ES 700G (id=2)\t61%; discharging; "
            "0:30 remaining present: true\n",
            Battery(61, True),
        ),
    ],
)
def test_what_pmset_says(mac, said, found):
    says(mac, said)
    assert battery() == found


def test_a_pmset_that_fails_or_is_missing_is_no_battery(mac, monkeypatch):
    mac("pmset", "exit 1")
    assert battery() is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert battery() is None


def test_linux_on_battery_and_on_mains(linux):
    linux("AC", type="Mains", online=0)
    linux("BAT0", type="Battery", status="Discharging", capacity=42)
    assert battery() == Battery(42, True)
    linux("AC", online=1)
    assert battery() == Battery(42, False), "a weak charger is mains all the same"
    linux("AC", online=0)
    linux("BAT0", status="Charging")
    assert battery() == Battery(42, False), "charged by a supply that does not say so"


def test_linux_counts_batteries_of_this_machine_by_their_capacity(linux):
    linux("hidpp_battery_0", type="Battery", scope="Device", status="Discharging", capacity=3)
    assert battery() is None
    linux("BAT0", type="Battery", status="Unknown", capacity=100, energy_full=30_000_000)
    linux("BAT1", type="Battery", status="Discharging", capacity=20, energy_full=10_000_000)
    linux("BAT2", type="Battery", present=0, capacity=0)
    assert battery() == Battery(80, True)


def test_linux_computes_a_charge_that_is_not_given(linux):
    linux("BAT0", type="Battery", status="Full", charge_now=3000, charge_full=4000)
    assert battery() == Battery(75, False)


def test_a_machine_without_supplies_has_no_battery(linux, monkeypatch, tmp_path):
    assert battery() is None
    monkeypatch.setattr(power, "SUPPLIES", tmp_path / "none")
    assert battery() is None


# -- awake -----------------------------------------------------------------------------------------

RUN = textwrap.dedent(
    """
    import os, signal, time
    from azr_mlx.monitoring.terminal import Display
    from azr_mlx.training import power
    power.ON_MAC = True
    with power.PowerWatch(Display(1), "run"):
        time.sleep(float(os.environ["SLEEP"]))
        if os.environ.get("KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
    """
)
# Like the real one, it ends with the process that -w names.
CAFFEINATE = 'echo $$ >"{pid}"; while kill -0 "$3" 2>/dev/null; do sleep 0.05; done'


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("kill", ["", "yes"])
def test_caffeinate_ends_with_the_run_also_if_that_is_killed(mac, root, tmp_path, kill):
    pid = tmp_path / "pid"
    log = mac("caffeinate", CAFFEINATE.format(pid=pid))
    mac("pmset")
    env = {**os.environ, "SLEEP": "0.5", "KILL": kill, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", RUN], env=env, check=False, timeout=60)
    assert done.returncode == (-signal.SIGKILL if kill else 0)
    # pmset writes to the same file, on a busy machine sooner.
    words = log.read_text().split()
    _, *given = words[words.index("caffeinate") :][:4]
    assert given[:2] == ["-i", "-w"] and given[2].isdecimal()
    end = time.monotonic() + 20
    while alive(int(pid.read_text())) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(int(pid.read_text()))


def test_a_mac_without_caffeinate_is_warned_of_and_runs(monkeypatch, capsys):
    monkeypatch.setattr(power, "ON_MAC", True)
    monkeypatch.setenv("PATH", "/nowhere")
    with PowerWatch(Display(1, quiet=True), "run"):
        pass
    assert "warning: this Mac may fall asleep during the run: caffeinate" in capsys.readouterr().err


def test_no_caffeinate_elsewhere(mac, monkeypatch):
    log = mac("caffeinate")
    monkeypatch.setattr(power, "ON_MAC", False)
    with PowerWatch(Display(1), "run"):
        pass
    assert not log.exists()


# -- on battery ------------------------------------------------------------------------------------


def test_running_on_battery_is_one_warning(charge, capsys):
    charge(Battery(90, True))
    with PowerWatch(Display(3), "run") as watch:
        for step in (1, 2, 3):
            watch.before_step(step)
    shown = capsys.readouterr().err
    assert shown == (
        "warning: on battery, 90 % charged: plug the machine in, or give power.min_battery=20 to "
        "pause at 20 %\n"
    )


def test_a_machine_that_is_unplugged_during_the_run_is_warned_of(charge, capsys):
    charge(Battery(90, False), Battery(90, False), Battery(80, True))
    with PowerWatch(Display(3), "run") as watch:
        watch.before_step(1)
        assert capsys.readouterr().err == ""
        watch.before_step(2)
    assert "warning: on battery, 80 % charged" in capsys.readouterr().err


@pytest.mark.parametrize("better", [Battery(19, False), Battery(20, True)])
def test_a_low_battery_pauses_until_it_is_charged_or_on_mains(charge, capsys, better):
    slept = charge(Battery(30, True), Battery(19, True), Battery(18, True), better)
    with PowerWatch(Display(3), "run", min_battery=20) as watch:
        watch.before_step(2)
    assert len(slept) == 2
    shown = capsys.readouterr().err
    assert (
        "warning: paused before step 2: the battery has 19 %, and power.min_battery is 20; the"
        in shown
    )
    assert f"step 2: going on ({better})" in shown


def test_a_low_battery_alone_does_not_pause(charge):
    slept = charge(Battery(1, True))
    with PowerWatch(Display(3), "run") as watch:
        watch.before_step(1)
    charge(Battery(1, False))
    with PowerWatch(Display(3), "run", min_battery=50) as watch:
        watch.before_step(1)
    assert slept == []


def test_a_paused_mac_may_sleep(mac, charge, monkeypatch):
    mac("caffeinate", "exec sleep 60")
    monkeypatch.setattr(power, "ON_MAC", True)
    charge(Battery(30, True), Battery(10, True), Battery(10, False))
    with PowerWatch(Display(3), "run", min_battery=20) as watch:
        first = watch._awake
        monkeypatch.setattr(power.time, "sleep", lambda _: seen.append(watch._awake))
        seen: list[object] = []
        watch.before_step(1)
        assert seen == [None] and first.poll() is not None
        assert watch._awake is not None and watch._awake.poll() is None


def test_a_pause_without_a_battery_is_warned_of(charge, capsys):
    charge(None)
    with PowerWatch(Display(3), "run", min_battery=20) as watch:
        watch.before_step(1)
    assert "power.min_battery: 20: this machine has no battery" in capsys.readouterr().err


class TwoRanks(Alone):
    """This rank and another, whose battery has 5 % at first."""

    size = 2

    def __init__(self) -> None:
        self.others = [b"5", b"5", b"null"]

    def gather_bytes(self, data: bytes) -> list[bytes]:
        return [data, self.others.pop(0)]


def test_all_ranks_wait_for_the_one_whose_battery_is_low(charge, capsys):
    slept = charge(None)
    with PowerWatch(Display(3), "run", 20, TwoRanks()) as watch:
        watch.before_step(1)
    assert len(slept) == 2 - 1 and "the battery of rank 1 has 5 %" in capsys.readouterr().err


# -- the end ---------------------------------------------------------------------------------------


def test_a_notification_is_an_argument_and_never_a_script(mac):
    log = mac("osascript")
    power.notify('runs/"x" & (do shell script "id"): done\nand more')
    lines = log.read_text().splitlines()
    assert lines[0] == "osascript" and lines[1::2][:3] == ["-e"] * 3
    assert lines[-1] == 'runs/"x" & (do shell script "id"): done and more'
    assert not any("shell" in line for line in lines[:-1])


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("on_mac", [True, False])
def test_a_terminal_rings(mac, monkeypatch, capsys, terminal, on_mac):
    """On a Mac, too: it may drop the notification without an error."""
    mac("osascript")
    monkeypatch.setattr(power, "ON_MAC", on_mac)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    power.notify("done")
    assert capsys.readouterr().err == ("\a" if terminal else "")


def test_a_notification_that_fails_is_a_warning(mac, capsys):
    says(mac, MAINS)
    mac("caffeinate", "exec sleep 60")
    mac("osascript", "exit 1")
    with PowerWatch(Display(1), "run") as watch:
        watch.tell("done")
    assert "warning: no notification: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("no more memory"), ["runs/a: stopped by an error: no more memory"]),
        (Interrupted("saved"), []),
        (KeyboardInterrupt(), []),
    ],
)
def test_an_error_is_told_and_ctrl_c_is_not(charge, monkeypatch, error, told):
    heard: list[str] = []
    monkeypatch.setattr(power, "notify", heard.append)
    with pytest.raises(type(error)), PowerWatch(Display(1), "runs/a") as watch:
        watch.before_step(1)
        raise error
    assert heard == told


def test_what_is_refused_before_the_first_step_is_not_told(charge, monkeypatch):
    heard: list[str] = []
    monkeypatch.setattr(power, "notify", heard.append)
    with pytest.raises(RuntimeError), PowerWatch(Display(1), "runs/a"):
        raise RuntimeError("no such model")
    assert heard == []
