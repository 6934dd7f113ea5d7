"""Trackers: the real packages where they are installed, and fakes for what must not stop a run."""

from __future__ import annotations

import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest

from azr_mlx.config import Config, Tracking
from azr_mlx.errors import UsageError
from azr_mlx.monitoring.trackers import trackers

pytestmark = pytest.mark.backend

NOTES: list[str] = []
ROWS = {1: {"step": 1, "reward/solve/deduction": 0.25, "lr": 1e-5}, 2: {"step": 2, "lr": 2e-5}}


def config(*names: str, **rest) -> Config:
    return replace(Config(), tracking=Tracking(report_to=names), **rest)


def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "first"
    path.mkdir(parents=True, exist_ok=True)
    return path


def record(settings: Config, path: Path, rows=ROWS) -> list[str]:
    """Log the rows through the trackers of ``settings``; what they warned of."""
    warnings: list[str] = []
    for tracker in trackers(settings, path, warnings.append, NOTES.append):
        for step, row in rows.items():
            tracker.log(row, step)
        tracker.close()
    return warnings


class FakeTrackio(types.ModuleType):
    """Records the calls; ``broken`` names the one that raises."""

    def __init__(self, broken: str = ""):
        super().__init__("trackio")
        self.broken, self.calls = broken, []

    def _call(self, name, /, **arguments):
        self.calls.append((name, arguments))
        if name == self.broken:
            raise ConnectionError("the server is away\nand more")

    def init(self, **options):
        print("* a greeting")  # noqa: T201
        self._call("init", **options)

    def log(self, row, step):
        self._call("log", row=row, step=step)

    def finish(self):
        self._call("finish")


@pytest.fixture
def fake(monkeypatch):
    def install(broken: str = "") -> FakeTrackio:
        module = FakeTrackio(broken)
        monkeypatch.setitem(sys.modules, "trackio", module)
        utils = types.SimpleNamespace(TRACKIO_DIR=Path("/home/me/trackio"))
        monkeypatch.setitem(sys.modules, "trackio.utils", utils)
        return module

    return install


def test_none_by_default(tmp_path):
    assert trackers(Config(), tmp_path, pytest.fail, print) == []


def test_unknown_name_is_told_with_the_known_ones(tmp_path):
    with pytest.raises(
        UsageError, match=r"tracking.report_to: 'mlflow' .*wandb, tensorboard, trackio"
    ):
        trackers(config("mlflow"), tmp_path, pytest.fail, print)


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "trackio"])
def test_missing_package_is_told_with_the_pip_command(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # importing it now raises ImportError
    with pytest.raises(UsageError) as caught:
        trackers(config(name), tmp_path, pytest.fail, print)
    message = str(caught.value)
    assert f"pip install {name}" in message and "\n" not in message


def test_wandb_project_alone_sends_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    notes: list[str] = []
    assert trackers(config(wandb_project="mine"), tmp_path, pytest.fail, notes.append) == []
    assert notes == [f"data goes to {tmp_path}"]


def test_every_place_is_named_before_anything_is_sent(tmp_path, fake, monkeypatch):
    module = fake()
    said: list[str] = []

    def note(text: str) -> None:
        assert module.calls == []
        said.append(text)

    trackers(config("trackio"), tmp_path, pytest.fail, note)
    for variable in ("TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID"):
        module.calls.clear()
        monkeypatch.setenv(variable, f"that of {variable}")
        trackers(config("tensorboard", "trackio"), tmp_path, pytest.fail, note)
    board = tmp_path / "tensorboard"
    assert said == [
        f"data goes to {tmp_path}, trackio (/home/me/trackio)",
        f"data goes to {tmp_path}, {board}, trackio (that of TRACKIO_SERVER_URL)",
        f"data goes to {tmp_path}, {board}, trackio (that of TRACKIO_SPACE_ID)",
    ]


def test_where_wandb_sends_is_what_its_settings_say(tmp_path, monkeypatch):
    settings = types.SimpleNamespace(mode="online", base_url="https://wandb.example")
    module = types.ModuleType("wandb")
    module.setup = lambda: types.SimpleNamespace(settings=settings)
    monkeypatch.setitem(sys.modules, "wandb", module)
    said: list[str] = []
    warned: list[str] = []
    trackers(config("wandb", wandb_project="mine"), tmp_path, warned.append, said.append)
    settings.mode = "offline"
    trackers(config("wandb"), tmp_path, warned.append, said.append)
    del module.setup
    trackers(config("wandb"), tmp_path, warned.append, said.append)
    assert said == [
        f"data goes to {tmp_path}, wandb (https://wandb.example, project mine)",
        f"data goes to {tmp_path}, wandb (offline)",
        f"data goes to {tmp_path}",
    ]
    assert [line.partition(" failed")[0] for line in warned] == [
        *("wandb: start", "wandb: start", "wandb: settings")
    ]


def test_trackio_gets_every_row_and_stdout_stays_clean(tmp_path, fake, capsys):
    module = fake()
    assert record(config("trackio", wandb_project=""), run_dir(tmp_path)) == []
    names = [name for name, _ in module.calls]
    assert names == ["init", "log", "log", "finish"]
    options = module.calls[0][1]
    assert (options["name"], options["resume"]) == ("first", "allow")
    assert options["config"]["ppo"]["clip_low"] == 0.2
    rows = {step: {k: v for k, v in row.items() if k != "step"} for step, row in ROWS.items()}
    assert [(c["step"], c["row"]) for n, c in module.calls if n == "log"] == list(rows.items())
    printed = capsys.readouterr()
    assert printed.out == "" and "a greeting" in printed.err


@pytest.mark.parametrize(
    ("broken", "made"),
    [
        ("init", ["init"]),
        ("log", ["init", "log"]),
        ("finish", ["init", "log", "log", "finish"]),
    ],
)
def test_a_tracker_that_fails_warns_once_and_is_dropped(broken, made, tmp_path, fake):
    module = fake(broken)
    warnings = record(config("trackio"), run_dir(tmp_path))
    assert [name for name, _ in module.calls] == made
    assert len(warnings) == 1 and "\n" not in warnings[0]
    assert "trackio" in warnings[0] and "ConnectionError: the server is away" in warnings[0]


def test_one_that_fails_leaves_the_others_alone(tmp_path, fake):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    fake("log")
    assert len(record(config("trackio", "tensorboard"), run_dir(tmp_path))) == 1
    assert len(scalars(run_dir(tmp_path))) == 5


def scalars(path: Path) -> list[tuple[int, str, float]]:
    """(step, tag, value) in the event files, read by TensorBoard's own loader."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    return [
        (event.step, value.tag, value.simple_value)
        for file in sorted((path / "tensorboard").iterdir())
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]


def test_tensorboard_reads_back_what_was_logged_over_a_resume(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    path = run_dir(tmp_path)
    for step, row in ROWS.items():  # a tracker each, as in a run and its resume
        assert record(config("tensorboard"), path, {step: row}) == []
    found = scalars(path)
    expected = [(step, k, v) for step, row in ROWS.items() for k, v in row.items()]
    assert [(s, k) for s, k, _ in found] == [(s, k) for s, k, _ in expected]
    assert [v for _, _, v in found] == pytest.approx([v for _, _, v in expected], rel=1e-6)


def test_tensorboard_needs_no_torch(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    script = (
        "import sys; sys.modules['torch'] = sys.modules['tensorflow'] = None\n"
        "from pathlib import Path\n"
        "from azr_mlx.config import Config, Tracking\n"
        "from azr_mlx.monitoring.trackers import trackers\n"
        "config = Config(tracking=Tracking(report_to=('tensorboard',)))\n"
        "[t] = trackers(config, Path(sys.argv[1]), sys.exit, print)\n"
        "t.log({'lr': 1.0}, 1); t.close()\n"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", script, str(tmp_path)]
    subprocess.run(command, check=True, timeout=60, cwd=root)
    assert scalars(tmp_path) == [(1, "lr", 1.0)]


def test_wandb_offline_run_holds_the_rows_and_keeps_its_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    path = run_dir(tmp_path)
    assert record(config("wandb", wandb_project="mine", wandb_entity="me"), path) == []
    [file] = path.glob("wandb/offline-run-*/run-*.wandb")
    wanted = (b"reward/solve/deduction", b"0.25", b"2e-05", b"mine", b"difficulty_schedule")
    deadline = time.monotonic() + 20  # wandb's service writes the file after finish() returns
    while not all(text in file.read_bytes() for text in wanted) and time.monotonic() < deadline:
        time.sleep(0.05)
    held = file.read_bytes()
    assert [text for text in wanted if text not in held] == []
    name = (path / "wandb_id.txt").read_text().strip()
    assert name and name in file.name
    assert record(config("wandb"), path, {3: {"step": 3, "lr": 3e-5}}) == []
    assert len(list(path.glob(f"wandb/offline-run-*/run-{name}.wandb"))) == 2


def test_wandb_without_a_login_does_not_stop_the_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")

    def refuse(**options):
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuse)
    [warning] = record(config("wandb"), run_dir(tmp_path))
    assert "No API key configured" in warning and "WANDB_MODE=offline" in warning
