"""The fast BLAS on a Linux CPU, each case in a process of its own: a BLAS cannot be unloaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from azr_mlx.backends import blas
from tests.conftest import ROOT

pytestmark = pytest.mark.backend

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux loads a BLAS; macOS has Accelerate"
)
REPORT = """
import json
from azr_mlx.backends import blas
info = blas.enable()
speed = blas.measure()
import mlx.core as mx
a = mx.random.normal((96, 64), key=mx.random.key(1))
b = mx.random.normal((64, 80), key=mx.random.key(2))
print(json.dumps({"info": [info.name, info.path, info.reason, info.fast], "fix": info.fix,
                  "speed": speed, "product": (a @ b).tolist(), "again": blas.enable() is info}))
"""


def run(script: str = REPORT, **variables: str) -> dict:
    pytest.importorskip("mlx.core")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def needs_fast(report: dict) -> None:
    if not report["info"][3]:
        pytest.skip(f"no fast BLAS here: {report['info'][2]}")


@linux_only
@pytest.mark.alone
def test_enabling_is_ten_times_faster_and_gives_the_same_product() -> None:
    # One thread: two that wait for each other on a busy machine measure the other processes.
    fast = run(AZR_MLX_BLAS="", OPENBLAS_NUM_THREADS="1")
    slow = run(AZR_MLX_BLAS="off")
    needs_fast(fast)
    assert fast["again"]
    assert slow["info"] == ["bundled", None, "AZR_MLX_BLAS=off", False]
    assert blas.FIX in slow["fix"]
    assert fast["fix"] == ""
    assert fast["speed"] >= 10 * slow["speed"], (fast["speed"], slow["speed"])
    assert fast["speed"] > 10.0, "this is the reference BLAS"
    rows = zip(fast["product"], slow["product"], strict=True)
    assert max(abs(x - y) for a, b in rows for x, y in zip(a, b, strict=True)) < 1e-5


@linux_only
def test_the_renamed_copy_is_made_once(tmp_path: Path) -> None:
    if blas._wheel_library() is None:
        pytest.skip("scipy-openblas32 is not installed")
    first = run(AZR_MLX_BLAS="", AZR_MLX_CACHE=str(tmp_path))
    needs_fast(first)
    if first["info"][0] != "scipy-openblas32":
        pytest.skip(f"the system's {first['info'][0]} comes first here")
    made = sorted(tmp_path.iterdir())
    assert [str(path) for path in made] == [first["info"][1]], "one file, no leftovers"
    stamp = made[0].stat().st_mtime_ns
    run(AZR_MLX_BLAS="", AZR_MLX_CACHE=str(tmp_path))
    assert sorted(tmp_path.iterdir()) == made
    assert made[0].stat().st_mtime_ns == stamp


@linux_only
def test_environments_with_the_same_wheel_share_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = blas._wheel_library()
    if library is None:
        pytest.skip("scipy-openblas32 is not installed")
    monkeypatch.setenv("AZR_MLX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(blas, "_rename_symbols", lambda library, work: shutil.copy(library, work))
    other = tmp_path / library.name  # as another environment has it, installed at another time
    shutil.copy(library, other)
    assert blas._renamed(library) == blas._renamed(other)


@linux_only
def test_a_cache_that_cannot_be_written_is_a_reason_and_no_crash(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    report = run(AZR_MLX_BLAS="", AZR_MLX_CACHE=str(blocker))
    if report["info"][0] not in ("bundled", "scipy-openblas32"):
        pytest.skip(f"the system's {report['info'][0]} comes first here")
    assert not report["info"][3]
    assert report["info"][2], "the reason says why"


@linux_only
@pytest.mark.parametrize("content", [None, b"not a library"])
def test_a_forced_library_that_does_not_load_is_a_reason(
    tmp_path: Path, content: bytes | None
) -> None:
    library = tmp_path / "mine.so"
    if content is not None:
        library.write_bytes(content)
    report = run(AZR_MLX_BLAS=str(library))
    assert report["info"][0] == "bundled"
    assert "mine.so" in report["info"][2]


@linux_only
def test_a_forced_library_without_cblas_is_refused() -> None:
    report = run(AZR_MLX_BLAS="libm.so.6")
    assert report["info"][3] is False
    assert "does not export cblas_sgemm" in report["info"][2]


@linux_only
def test_too_late_is_said() -> None:
    script = "import mlx.core, json; from azr_mlx.backends import blas; i = blas.enable()\n"
    report = run(script + "print(json.dumps([i.fast, i.reason]))", AZR_MLX_BLAS="")
    assert report == [False, "mlx.core was imported before a BLAS could be loaded"]


@linux_only
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, str(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ""),
        ({"OPENBLAS_NUM_THREADS": "1"}, "1"),
        ({"OMP_NUM_THREADS": "1"}, None),
    ],
)
def test_threads_are_the_users_choice(given: dict, expected: str | None) -> None:
    script = "import os, json; from azr_mlx.backends import blas; blas.enable()\n"
    script += "print(json.dumps(os.environ.get('OPENBLAS_NUM_THREADS')))"
    cleared = dict.fromkeys(("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"), "")
    answer = run(script, AZR_MLX_BLAS="", **{**cleared, **given})
    assert (answer or None) == expected


def test_the_cpu_is_measured_and_not_the_default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Mac that is the GPU, whose speed says nothing about Accelerate."""
    mx = pytest.importorskip("mlx.core")
    real, streams = mx.matmul, []

    def matmul(*given: object, stream: object = None) -> object:
        streams.append(stream)
        return real(*given, stream=stream)

    monkeypatch.setattr(mx, "matmul", matmul)
    assert blas.measure() > 0
    assert set(streams) == {mx.cpu}


def test_macos_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas.sys, "platform", "darwin")
    info = blas._choose("")
    assert (info.name, info.path, info.fast, info.fix) == ("Accelerate", None, True, "")


def test_importing_it_needs_the_standard_library_only() -> None:
    script = "import sys, json; import azr_mlx.backends.blas\n"
    script += "print(json.dumps([m for m in ('numpy', 'mlx.core', 'yaml') if m in sys.modules]))"
    assert run(script) == []
