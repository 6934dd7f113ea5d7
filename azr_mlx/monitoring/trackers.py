"""Experiment trackers in addition to the metrics file: wandb, TensorBoard, trackio.

If ``tracking.report_to`` names a tracker that is not installed, that is an error before the run
starts. A tracker that fails later (no network, no login, a full disk) causes one warning and is not
used again: it never stops a run.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from azr_mlx.config import Config
from azr_mlx.errors import UsageError, install
from azr_mlx.monitoring.samples import COLUMNS, ShownRollout

TABLE = "samples"
PROJECT = "azr-mlx"  # if wandb_project is empty
Say = Callable[[str], None]
T = TypeVar("T")


class Tracker(Protocol):
    """A service or file that receives the metrics of each step."""

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Record the numbers of one step."""
        ...

    def table(self, rows: Sequence[ShownRollout], step: int) -> None:
        """Show a few of the step's rollouts."""
        ...

    def close(self) -> None: ...


def trackers(config: Config, run_dir: Path, warn: Say, note: Say) -> list[Tracker]:
    """Start the trackers that ``tracking.report_to`` names, and return those that started.

    Before anything is sent, ``note`` is called with one line that names every place to which data
    will go. ``warn`` is called with one line for each tracker that cannot be started, or that fails
    later.

    Raises:
        UsageError: a name is unknown, or its package is not installed.
    """
    names = dict.fromkeys(config.tracking.report_to)
    for name in names:
        _check(name)
    guarded = [_Guarded(name, warn) for name in names]
    places = [tracker.place(config, run_dir) for tracker in guarded]
    note(f"data goes to {', '.join([str(run_dir), *filter(None, places)])}")
    for tracker in guarded:
        tracker.start(config, run_dir)
    return [tracker for tracker in guarded if tracker.running]


def _check(name: str) -> None:
    if name not in KINDS:
        raise UsageError(
            f"tracking.report_to: {name!r} is not a tracker; use one or more of {', '.join(KINDS)}"
        )
    try:
        importlib.import_module(name)
    except ImportError as e:
        raise UsageError(
            f"tracking.report_to: {name} cannot be imported ({e}); "
            f"{install(name)}, or {install('azr-mlx[track]')} for all trackers"
        ) from e


class _Guarded:
    """A tracker whose first failure is reported as a warning; after that nothing more is sent to
    it."""

    def __init__(self, name: str, warn: Say):
        self.name, self.warn = name, warn
        self._broken = False
        self._inner: Tracker | None = None

    @property
    def running(self) -> bool:
        return self._inner is not None

    def place(self, config: Config, run_dir: Path) -> str:
        """Where the tracker sends its data; "" if it cannot say, and then it is not used."""
        return self._attempt("settings", lambda: KINDS[self.name].place(config, run_dir)) or ""

    def start(self, config: Config, run_dir: Path) -> None:
        if not self._broken:
            self._inner = self._attempt("start", lambda: KINDS[self.name](config, run_dir))

    def log(self, row: Mapping[str, float], step: int) -> None:
        if self._inner is not None:
            self._attempt("log", partial(self._inner.log, row, step))

    def table(self, rows: Sequence[ShownRollout], step: int) -> None:
        if self._inner is not None:
            self._attempt("table", partial(self._inner.table, rows, step))

    def close(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            self._attempt("close", inner.close)

    def _attempt(self, what: str, action: Callable[[], T]) -> T | None:
        try:
            with redirect_stdout(sys.stderr):  # Trackers print greetings; stdout is for results.
                return action()
        except Exception as e:  # Whatever a tracker raises, training continues.
            self._inner, self._broken = None, True
            first = next((line for line in str(e).splitlines() if line.strip()), "")
            fix = "; WANDB_MODE=offline needs no login or network" if self.name == "wandb" else ""
            self.warn(
                f"{self.name}: {what} failed ({type(e).__name__}: {first}); "
                f"nothing more is sent to it; metrics.jsonl has everything{fix}"
            )
            return None


class _Wandb:
    """A wandb run, online or offline (``WANDB_MODE``). A resumed run continues under its old id."""

    ID_FILE = "wandb_id.txt"

    @staticmethod
    def place(config: Config, run_dir: Path) -> str:
        """As wandb's own settings say, which the environment and its files change."""
        settings: Any = importlib.import_module("wandb").setup().settings
        if settings.mode != "online":
            return f"wandb ({settings.mode})"
        return f"wandb ({settings.base_url}, project {config.wandb_project or PROJECT})"

    def __init__(self, config: Config, run_dir: Path):
        self.wandb: Any = importlib.import_module("wandb")
        kept = run_dir / self.ID_FILE
        options: dict[str, Any] = {}
        if kept.exists():
            options = {"id": kept.read_text(encoding="utf-8").strip(), "resume": "allow"}
        self.run = self.wandb.init(
            project=config.wandb_project or PROJECT,
            entity=config.wandb_entity or None,
            name=run_dir.name,
            dir=str(run_dir),
            config=asdict(config),
            # Otherwise wandb captures the stream that the live view draws on.
            settings=self.wandb.Settings(console="off"),
            **options,
        )
        kept.write_text(f"{self.run.id}\n", encoding="utf-8")

    def log(self, row: Mapping[str, float], step: int) -> None:
        self.run.log(dict(row), step=step)

    def table(self, rows: Sequence[ShownRollout], step: int) -> None:
        made = self.wandb.Table(columns=list(COLUMNS), data=[row.cells() for row in rows])
        self.run.log({TABLE: made}, step=step)

    def close(self) -> None:
        self.run.finish()


class _TensorBoard:
    """Scalars in ``run_dir/tensorboard``. TensorBoard's own writer needs neither torch nor
    TensorFlow."""

    FOLDER = "tensorboard"

    @staticmethod
    def place(config: Config, run_dir: Path) -> str:
        return str(run_dir / _TensorBoard.FOLDER)

    def __init__(self, config: Config, run_dir: Path):
        writer: Any = importlib.import_module("tensorboard.summary.writer.event_file_writer")
        self.event: Any = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
        self.summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
        self.writer: Any = writer.EventFileWriter(str(run_dir / self.FOLDER))

    def log(self, row: Mapping[str, float], step: int) -> None:
        self._write([self.summary.Value(tag=k, simple_value=v) for k, v in row.items()], step)

    def table(self, rows: Sequence[ShownRollout], step: int) -> None:
        """Write the rows as a text summary, since TensorBoard has no tables of text."""
        made: Any = importlib.import_module("tensorboard.plugins.text.metadata")
        tensors: Any = importlib.import_module("tensorboard.util.tensor_util")
        texts = [f"{r.role} {r.kind}: {r.status}, reward {r.reward:+.2f}" for r in rows]
        bodies = [indented(f"{r.prompt}{r.completion}") for r in rows]
        shown = [f"{head}\n\n{body}" for head, body in zip(texts, bodies, strict=True)]
        value = self.summary.Value(
            tag=TABLE,
            tensor=tensors.make_tensor_proto(shown),
            metadata=made.create_summary_metadata(TABLE, ""),
        )
        self._write([value], step)

    def _write(self, values: Sequence[Any], step: int) -> None:
        summary = self.summary(value=values)
        self.writer.add_event(self.event(wall_time=time.time(), step=step, summary=summary))
        self.writer.flush()  # Steps are rare, and a killed run must not lose one.

    def close(self) -> None:
        self.writer.close()


class _Trackio:
    """A trackio run, on this machine unless trackio's variables name a server or a space of the
    hub. A resumed run continues under its name."""

    REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")

    @staticmethod
    def place(config: Config, run_dir: Path) -> str:
        utils: Any = importlib.import_module("trackio.utils")
        remote = (os.environ.get(name) for name in _Trackio.REMOTE)
        return f"trackio ({next(filter(None, remote), utils.TRACKIO_DIR)})"

    def __init__(self, config: Config, run_dir: Path):
        self.trackio: Any = importlib.import_module("trackio")
        self.trackio.init(
            project=config.wandb_project or PROJECT,
            name=run_dir.name,
            config=asdict(config),
            resume="allow",
            embed=False,
        )

    def log(self, row: Mapping[str, float], step: int) -> None:
        # trackio adds a step of its own, and does not accept a second value of that name.
        self.trackio.log({k: v for k, v in row.items() if k != "step"}, step=step)

    def table(self, rows: Sequence[ShownRollout], step: int) -> None:
        made = self.trackio.Table(columns=list(COLUMNS), data=[row.cells() for row in rows])
        self.trackio.log({TABLE: made}, step=step)

    def close(self) -> None:
        self.trackio.finish()


def indented(text: str) -> str:
    """The text as a Markdown code block, so that nothing in it is read as markup."""
    return "\n".join(f"    {line}" for line in text.splitlines())


KINDS: dict[str, type[_Wandb | _TensorBoard | _Trackio]] = {
    "wandb": _Wandb,
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
}
