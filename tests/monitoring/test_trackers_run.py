"""What trackers hold of a real run is what ``metrics.jsonl`` holds, and a few of its rollouts."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import rows_of

pytest.importorskip("mlx.core", reason="mlx is not installed")
for package in ("wandb", "tensorboard", "trackio"):
    pytest.importorskip(package, reason=f"{package} is not installed")

pytestmark = pytest.mark.e2e

COLUMNS = ["step", "role", "kind", "verdict", "reward", "prompt", "completion"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Two steps of nano, the second with a checkpoint, told to all three."""
    folder = tmp_path_factory.mktemp("trackers")
    given = [
        *("max_steps=2", "checkpoint_interval=2", "batch_size=6", "held_out.tasks=0"),
        *("proposer.templates_per_step=3", "rollout.group_size=4", "run_name=first"),
        *(f"output_dir={folder}", "wandb_project=tried"),
        "tracking.report_to=wandb,tensorboard,trackio",
    ]
    environment = {
        **os.environ,
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "TRACKIO_DIR": str(folder / "trackio"),
    }
    command = [sys.executable, "-m", "azr_mlx.cli", "train", "-c", "quickstart", *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr and done.stdout == ""
    return folder / "first"


@pytest.fixture(scope="module")
def expected(run) -> dict[tuple[int, str], float]:
    found = {(row["step"], name): value for row in rows_of(run) for name, value in row.items()}
    assert len(found) > 80
    return found


def same(found: dict[tuple[int, str], float], expected, tolerance: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    wrong = [k for k, v in found.items() if not math.isclose(v, expected[k], rel_tol=tolerance)]
    assert wrong == []


def test_tensorboard_holds_the_numbers_and_a_table(run, expected):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    found = {
        (event.step, name): event.value
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    }
    same(found, expected, tolerance=1e-6)  # it has float32
    [event] = events.Tensors("samples")
    texts = [text.decode() for text in make_ndarray(event.tensor_proto)]
    assert event.step == 2 and any(text.startswith("solve deduction: pass") for text in texts)


def test_trackio_holds_the_numbers_and_a_table(run, expected):
    script = (
        "import json, sys; from trackio.sqlite_storage import SQLiteStorage as s\n"
        "json.dump(s.get_logs('tried', 'first'), sys.stdout)"
    )
    environment = {**os.environ, "TRACKIO_DIR": str(run.parent / "trackio")}
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    rows = json.loads(printed.stdout)
    found = {
        (row["step"], name): value
        for row in rows
        for name, value in row.items()
        if name not in ("timestamp", "samples")
    }
    same(found, expected)
    [table] = [row["samples"] for row in rows if "samples" in row]
    assert table["_value"] and sorted(table["_value"][0]) == sorted(COLUMNS)


def test_wandb_offline_holds_the_numbers_and_a_table(run, expected):
    [file] = run.glob("wandb/offline-run-*/run-*.wandb")
    found: dict[tuple[int, str], float] = {}
    for step, items in history(file):
        for name, text in items.items():
            if not name.startswith(("_", "samples")):
                found[step, name] = float(json.loads(text))
    same(found, expected)
    [table] = run.glob("wandb/offline-run-*/files/media/table/samples_2_*.table.json")
    held = json.loads(table.read_text())
    assert held["columns"] == COLUMNS
    assert {row[1] for row in held["data"]} == {"propose", "solve"}


def history(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(step, values as JSON by name) of a .wandb file: protobuf records in LevelDB's log format,
    blocks of 32 KiB with 7 bytes before each fragment, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # too short for a fragment: filled up with zeros
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last fragment of one
            record = Record.FromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
                yield record.history.step.num or int(items["_step"]), items
