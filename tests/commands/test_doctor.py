"""The doctor on this machine, and on machines where something is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx import cli
from azr_mlx.backends import blas
from azr_mlx.commands import doctor
from azr_mlx.commands.doctor import machine, software, trials
from azr_mlx.commands.doctor.finding import FAIL, OK, WARN, Finding, examine
from azr_mlx.errors import AzrError, install
from azr_mlx.sandbox import Sandbox, pool
from azr_mlx.training import power
from azr_mlx.training.power import Battery

pytestmark = pytest.mark.e2e


def test_this_machine_is_described_a_line_a_check(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = cli.main(["doctor"])
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.split()[1] for line in lines] == list(doctor.CHECKS)
    assert {line.split()[0] for line in lines} <= {OK, WARN, FAIL}
    assert code == (3 if any(line.startswith(FAIL) for line in lines) else 0)
    assert f"{len(lines)} checks" in shown.err
    found = {line.split()[1]: line for line in lines}
    assert found["model"].startswith(OK) and "tokens/s" in found["model"]
    assert found["kernels"].startswith(OK) and "off the reference by" in found["kernels"]
    assert list(tmp_path.iterdir()) == [], "it leaves something behind"


def test_json_is_one_object_with_the_mends(capsys, monkeypatch):
    broken = Finding(FAIL, "it is out", "plug it in", {"volts": 0})
    monkeypatch.setattr(doctor, "CHECKS", {"plug": lambda: broken, "chip": machine.chip})
    assert cli.main(["doctor", "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert said["checks"][0] | {"seconds": 0} == {
        "name": "plug",
        "status": "fail",
        "what": "it is out",
        "fix": "plug it in",
        "facts": {"volts": 0},
        "seconds": 0,
    }
    assert said["checks"][1]["status"] == "ok"


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(monkeypatch, capsys):
    def breaks() -> Finding:
        sys.stdout.write("a library talks\n")
        raise RuntimeError("no such thing\nand a long story")

    def refuses() -> Finding:
        raise AzrError("too small; take a larger one")

    monkeypatch.setattr(doctor, "CHECKS", {"a": breaks, "b": refuses, "c": machine.chip})
    assert cli.main(["doctor"]) == 3
    shown = capsys.readouterr()
    first, second, third = shown.out.splitlines()
    assert first.startswith("fail a         RuntimeError: no such thing; install azr-mlx again")
    assert second == "fail b         too small; take a larger one"
    assert third.startswith("ok") and "a library talks" in shown.err


def test_a_kernel_that_computes_wrongly_is_found(monkeypatch):
    from azr_mlx.backends.mlx import kernels

    right = kernels.row_logprob

    def wrong(*given):
        logp, *rest = right(*given)
        return logp + 0.01, *rest

    monkeypatch.setattr(kernels, "row_logprob", wrong)
    found = trials.kernels()
    assert found.status == FAIL and "logprob is off by 0.01" in found.what
    assert np.isclose(found.facts["errors"]["logprob"], 0.01, rtol=0.1)


def test_a_sandbox_that_lets_something_through_is_found(monkeypatch):
    with Sandbox(1, "auto") as box:
        if box.isolation != "strong":
            pytest.skip("needs strong isolation")
        assert trials.try_sandbox(box) == []
    monkeypatch.setattr(trials, "try_sandbox", lambda box: ["the network is open"])
    found = trials.sandbox()
    assert (
        found.status == FAIL and "the network is open" in found.what and "do not run" in found.fix
    )


def test_weak_isolation_is_a_warning_with_its_reason(monkeypatch):
    real = pool.Worker

    def weak(isolation, flavour):
        if isolation == "strong":
            raise OSError("no namespaces")
        return real(isolation, flavour)

    monkeypatch.setattr(pool, "Worker", weak)
    found = trials.sandbox()
    assert found.status == WARN and "limits-only" in found.what and "no namespaces" in found.what
    assert found.fix


def test_a_model_that_answers_wrongly_is_found(monkeypatch):
    monkeypatch.setattr(trials, "ANSWER", "[9, 9]")
    found = trials.model()
    assert found.status == FAIL and "but answers '[2, 1, 3]' for '[9, 9]'" in found.what


def test_a_blas_that_is_slower_than_it_can_be_is_a_warning(monkeypatch):
    monkeypatch.setattr(blas, "enable", lambda: blas.BlasInfo("OpenBLAS", None, "", True))
    monkeypatch.setattr(blas, "measure", lambda: 6.0)
    found = machine.blas()
    assert found.status == "warn" and "6 GFLOP/s" in found.what and "other programs" in found.fix
    monkeypatch.setattr(blas, "measure", lambda: 60.0)
    assert machine.blas().status == "ok"


@pytest.mark.parametrize(("free", "status"), [(5e9, WARN), (1e8, FAIL), (5e10, OK)])
def test_little_disk_is_told(monkeypatch, free, status):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=int(free)))
    assert machine.disk().status == status


def test_a_folder_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    def refuse(dir: Path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    found = machine.disk()
    assert found.status == FAIL and "Permission denied" in found.what and "output_dir" in found.fix


def test_versions_out_of_range_are_told_with_the_command(monkeypatch):
    monkeypatch.setattr(software, "requires", lambda name: ["mlx-lm<0.1", "numpy>=1"])
    found = software.versions()
    assert (found.status, found.fix) == (WARN, install("--upgrade", "mlx-lm<0.1"))


def test_the_hub_is_no_failure_without_a_network(monkeypatch):
    monkeypatch.setattr(software, "_answers", lambda endpoint: False)
    found = software.hub()
    assert found.status == WARN and "does not answer" in found.what and "HTTPS_PROXY" in found.fix
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert software.hub().status == OK


def test_too_little_memory_is_a_failure_with_what_is_needed(monkeypatch):
    monkeypatch.setattr("azr_mlx.training.memory.limit.machine_memory", lambda on: int(1e8))
    found = trials.plan()
    assert found.status == FAIL and "no shipped configuration fits 100 MB: quickstart" in found.what
    assert examine("memory", machine.memory).finding.status == WARN


def test_a_report_is_markdown_with_the_facts(monkeypatch, capsys):
    checks = {"one": lambda: Finding("ok", "a | b\x1b", facts={"n": 1})}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    monkeypatch.setattr(doctor.trials, "step", lambda: Finding("fail", "too slow", "wait"))
    assert not doctor.doctor(report=True)
    text = capsys.readouterr().out
    assert "| one | ok | a \\| b␛ |" in text and "| step | fail | too slow; wait |" in text
    facts = text.partition("```json\n")[2].partition("```")[0]
    assert json.loads(facts) == {"one": {"n": 1}, "step": {}}


def test_a_step_that_cannot_be_trained_is_a_finding(monkeypatch):
    monkeypatch.setattr(doctor.trials, "_STEP", ("no_such_key=1",))
    found = doctor.trials.step()
    assert found.status == "fail" and "train ends with 2" in found.what
    assert "no_such_key" in found.what


def test_a_battery_in_use_is_a_warning_before_a_long_run(monkeypatch):
    found = Battery(61, True)
    monkeypatch.setattr(power, "battery", lambda: found)
    monkeypatch.setattr(machine, "ON_MAC", False)
    line = examine("power", machine.power)
    assert line.finding.status == WARN and line.finding.facts == {"percent": 61, "on_battery": True}
    assert str(line).startswith("on battery, 61 % charged; plug it in before a long run, or give")
    found = Battery(61, False)
    assert examine("power", machine.power).finding.status == OK
    found = None
    assert str(examine("power", machine.power)) == "no battery"


def test_a_mac_is_said_to_let_its_display_sleep(monkeypatch):
    monkeypatch.setattr(power, "battery", lambda: None)
    monkeypatch.setattr(machine, "ON_MAC", True)
    line = examine("power", machine.power)
    assert line.finding.status == OK and "let the display sleep" in str(line)


def test_a_mac_s_memory_is_what_it_was_sold_with(monkeypatch):
    """As Apple and the README count it; what a run may use is in powers of ten, as in plans."""
    sizes = {"SC_PAGE_SIZE": 16384, "SC_PHYS_PAGES": (16 << 30) // 16384}
    monkeypatch.setattr(machine, "ON_MAC", True)
    monkeypatch.setattr(machine.os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(machine, "_sysctl", lambda name: "")
    monkeypatch.setattr("azr_mlx.training.memory.limit.machine_memory", lambda on: 11_453_246_122)
    said = machine.memory().what
    assert said.startswith("16 GB unified memory, of which the GPU may use 11.5 GB")
