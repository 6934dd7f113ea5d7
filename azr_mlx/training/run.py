"""A training run: steps of self-play (``algorithm``). After each step it writes metrics and
rollouts, and from time to time a checkpoint.

A run has one folder and can be continued exactly from any of its checkpoints: random draws depend
only on the seed and the step, and everything else that a step depends on is in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from azr_mlx import run_folder
from azr_mlx.backends.base import Backend
from azr_mlx.config import Config
from azr_mlx.config.plugins import PlugInError
from azr_mlx.errors import PROGRAM, WRONG_VALUES, AzrError, Interrupted, pass_on
from azr_mlx.files import json_lines, write_whole
from azr_mlx.interrupts import Interrupts
from azr_mlx.monitoring import samples
from azr_mlx.monitoring.health import Health
from azr_mlx.monitoring.metrics import MetricsFile
from azr_mlx.monitoring.terminal import Display
from azr_mlx.monitoring.trackers import Tracker
from azr_mlx.selfplay.round import Clock, Round
from azr_mlx.selfplay.round_log import RoundLog
from azr_mlx.tasks.gate import Runner
from azr_mlx.training import checkpoint
from azr_mlx.training.algorithm import SelfPlay
from azr_mlx.types import Experience

EvaluateStep = Callable[[int], dict[str, float]]
BeforeStep = Callable[[int], None]
INTERRUPTED = Interrupted.exit_code


class Best(NamedTuple):
    """The step with the best adapters so far, by the mean pass@1 on the selection half."""

    step: int
    selection: float

    def describe(self, run_dir: Path) -> str:
        return f"step {self.step} ({self.selection:.1%}), {run_dir / run_folder.BEST}"


class Snapshot(NamedTuple):
    """The content of a checkpoint, without the files of the backend."""

    step: int
    state: dict[str, Any]
    buffer: list[dict[str, Any]]


class Trainer:
    """One run: its folder, its state and its training loop."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        backend: Backend,
        sandbox: Runner,
        *,
        display: Display,
        trackers: Sequence[Tracker] = (),
        evaluate: EvaluateStep | None = None,
        before_step: BeforeStep | None = None,
    ):
        self.config, self.run_dir, self.backend = config, run_dir, backend
        self.display, self.trackers, self.evaluate = display, trackers, evaluate
        self.before_step = before_step
        self.selfplay = SelfPlay(config, backend, sandbox)
        self.health = Health()
        self.metrics = MetricsFile(run_dir / run_folder.METRICS_FILE)
        self.step = 0
        self.best: Best | None = None
        # The last row goes into the checkpoint: the run may be killed before the row is written.
        self.row: dict[str, float] = {}

    def start(self) -> None:
        """Fill the buffers and write the checkpoint of step 0, so that a run can be resumed from
        the very beginning."""
        self.selfplay.seed(self.display.note)
        self._save(self._snapshot())

    def resume(self, path: Path) -> int:
        """Restore a checkpoint; returns how many rows of metrics after it were set aside.

        Raises:
            CheckpointError: the checkpoint is damaged, or belongs to another model or LoRA
            configuration.
        """
        state, rows = checkpoint.load_state(path)
        try:
            self.backend.load(path)
            row = self._restore(state, rows)
        # Files that another program wrote have the right hashes, too.
        except (OSError, RuntimeError, *WRONG_VALUES) as e:
            pass_on(e)
            raise checkpoint.unusable(path, e) from e
        checkpoint.set_aside(self.run_dir, path)
        self._mark_best()
        return self.metrics.rewind(self.step, row)

    def _restore(
        self, state: dict[str, Any], rows: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Take over the state of a checkpoint; returns its row of metrics."""
        self.selfplay.memory.restore(state["selfplay"], rows)
        self.selfplay.learner.restore(state["learner"])
        if "health" in state:  # checkpoints of version 0.1 do not have it
            self.health = Health.from_json(state["health"])
        self.step = int(state["step"])
        self.best = Best(*state["best"]) if state.get("best") else None
        row = dict(state["row"])
        return {**row, "step": int(row["step"])} if row else {}

    def run(self) -> int:
        """Train up to ``max_steps``; returns the exit code.

        Raises AzrError: among others if a plug-in fails, and then all finished steps are saved.
        """
        with Interrupts(self.display.stopping) as interrupts:
            while self.step < self.config.max_steps:
                before = self._snapshot()
                try:
                    if self.before_step is not None:
                        with interrupts.allowed():
                            self.before_step(self.step + 1)
                    self._train_step(interrupts)
                except KeyboardInterrupt:
                    return self._interrupted(before)
                except PlugInError as error:
                    raise self._ended_by(error, before) from error
                if interrupts.asked and self.step < self.config.max_steps:
                    return self._interrupted(self._snapshot())
        return 0

    # -- one step ----------------------------------------------------------------------------------

    def _train_step(self, interrupts: Interrupts) -> None:
        c, step, clock = self.config, self.step + 1, Clock()
        self.backend.reset_peak_memory()
        r = Round(c.seed, step, clock=clock, announce=self.display.phase)
        log, metrics = self.selfplay.step(r, interrupts.allowed())
        experiences = log.experiences
        row = {"step": step} | metrics
        row |= self._throughput(log, clock, row)
        signs, warnings = self.health.observe(row)
        row |= signs
        with clock.phase("evaluate"):
            row |= self._evaluation(step)
        self.step, self.row = step, row | clock.metrics()
        with clock.phase("save"):
            self._write_rollouts(step, experiences)
            improved = self.best is not None and self.best.step == step
            saved = improved or step % c.checkpoint_interval == 0 or step == c.max_steps
            if saved:
                self._save(self._snapshot())
            if improved:
                self._mark_best()
        self._report(row | clock.metrics(), log)
        if saved:
            for tracker in self.trackers:
                tracker.table(samples.of_step(experiences), step)
        for text in warnings:
            self.display.warn(f"step {step}: {text}")

    def _report(self, row: dict[str, float], log: RoundLog) -> None:
        self.metrics.write(row)
        for tracker in self.trackers:
            tracker.log(row, self.step)
        self.display.step(row, log.shown())

    def _throughput(self, log: RoundLog, clock: Clock, row: dict[str, float]) -> dict[str, float]:
        generated = sum(len(done.token_ids) for _, done in log.written)
        distinct = {prompt.token_ids for prompt, _ in log.written}
        rollout = clock.spent["propose"] + clock.spent["solve"]
        update = clock.spent["score"] + clock.spent["update"]
        return {
            "rollouts": len(log.written),
            "tokens/prompt": sum(len(p) for p in distinct),
            "tokens/completion": generated,
            "tok_s/rollout": generated / max(rollout, 1e-9),
            "tok_s/train": row.get("tokens/trained", 0) / max(update, 1e-9),
            "mem/peak_gb": self.backend.memory().peak / 1e9,
        }

    def _evaluation(self, step: int) -> dict[str, float]:
        interval = self.config.evaluation_interval
        if self.evaluate is None or not interval or step % interval:
            return {}
        self.display.phase("evaluate", step)
        row = self.evaluate(step)
        score = row["eval/selection"]
        if self.best is None or score > self.best.selection:
            self.best = Best(step, score)
        return row | {"eval/best_step": self.best.step}

    # -- files -------------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        state = {
            "selfplay": self.selfplay.memory.to_json(),
            "learner": self.selfplay.learner.to_json(),
            "health": self.health.to_json(),
            "best": self.best,
            "row": self.row,
        }
        return Snapshot(self.step, state, self.selfplay.memory.tasks.to_json())

    def _save(self, at: Snapshot) -> Path:
        path = checkpoint.save(self.run_dir, at.step, self.backend, at.state, at.buffer)
        best = None if self.best is None else self.best.step
        checkpoint.prune(self.run_dir, self.config.keep_checkpoints, best)
        return path

    def _mark_best(self) -> None:
        """Make the ``best`` link and the entry in run.json agree with ``self.best``."""
        best = self.best
        if not checkpoint.mark_best(self.run_dir, best and best.step) and best is not None:
            self.display.warn(
                f"the best checkpoint so far, step {best.step}, is no longer on disk: "
                f"{self.run_dir / run_folder.BEST} will not exist until there is a better one"
            )
        run_folder.record(self.run_dir, best=best and best._asdict())

    def _write_rollouts(self, step: int, experiences: Sequence[Experience]) -> None:
        if not self.config.tracking.save_rollouts:
            return
        file = run_folder.rollouts_of(self.run_dir, step)
        file.parent.mkdir(exist_ok=True)
        write_whole(file, json_lines(e.to_json() for e in experiences))

    def _ended_by(self, error: PlugInError, at: Snapshot) -> AzrError:
        """Save a checkpoint, and say what ended the step after it. Plug-ins are called before the
        weights change, so ``at`` belongs to them."""
        path = self._save(at)
        again = f"{PROGRAM} train --resume {self.run_dir}"
        fix = f"saved {path}; correct the function, then continue: {again}"
        return error.at(at.step + 1, fix)

    def _interrupted(self, at: Snapshot) -> int:
        """Save a checkpoint of the weights as they are now; ``at`` is the state that belongs to
        them."""
        path = self._save(at)
        again = f"{PROGRAM} train --resume {self.run_dir}"
        self.display.note(f"interrupted: saved {path}; to continue: {again}")
        return INTERRUPTED
