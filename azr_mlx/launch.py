"""Setting up a training run: its folder, model, sandbox, trackers; then the trainer takes over."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count
from pathlib import Path
from typing import Any

from azr_mlx import benchmarks, blas, checkpoint
from azr_mlx.backends.choice import choose, open_backend, resolve_model
from azr_mlx.config import Config, diff, load, to_yaml
from azr_mlx.display import Display
from azr_mlx.errors import AzrError, UsageError
from azr_mlx.evaluate.training import TrainingEvaluation
from azr_mlx.held_out import HeldOut, Record, recorded
from azr_mlx.models import ResolvedModel
from azr_mlx.outcome import Outcome
from azr_mlx.plan import describe, fitting, kv_tokens_of
from azr_mlx.sandbox import Limits, Sandbox
from azr_mlx.tracking import trackers
from azr_mlx.trainer import Trainer

MODEL_CACHE = Path("models")
# Resuming with another of these would be another run under the same name.
FIXED = ("model_id", "quantization", "lora", "seed")


def train(
    config: Config,
    *,
    resume: str | None = None,
    init_adapters: Path | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> int:
    """Run or continue a training; returns the exit code.

    Raises:
        AzrError: a clear one-line reason, before anything was overwritten.
    """
    if dry_run:
        sys.stdout.write(describe(config))
        return 0
    backend_name, why = choose(config.backend)
    run_dir, start = _locate_run(config, resume)
    record = _record(config, run_dir, start)
    config = fitting(config, backend_name)
    model = resolve_model(backend_name, config.model_id, config.quantization, MODEL_CACHE)
    evaluated = _load_benchmarks(config)
    display = Display(config.max_steps, quiet=quiet, log_level=config.log_level)
    with ExitStack() as stack:
        stack.callback(display.close)
        sandbox = stack.enter_context(open_sandbox(config))
        _make_run_dir(run_dir, config)
        logged = trackers(config, run_dir, display.warn)
        for tracker in logged:
            stack.callback(tracker.close)
        display.note(f"loading {config.model_id}")
        backend = _load(backend_name, config, model, init_adapters)
        _describe_run(run_dir, model, f"{backend_name} ({why})", sandbox.isolation, start)
        trainer = Trainer(
            config,
            run_dir,
            backend,
            sandbox,
            display=display,
            trackers=logged,
            evaluate=TrainingEvaluation(config, evaluated, backend, sandbox) if evaluated else None,
        )
        _begin(trainer, start, display)
        outcome = _outcome(config, run_dir, record, trainer, sandbox, display)
        if trainer.step >= config.max_steps:
            if outcome is not None and not outcome.record.after:  # cut off in its last measurement
                display.note(f"report: {outcome.finish()}")
            display.note(f"nothing to do: the run has its {trainer.step} steps; give max_steps=N")
            return 0
        code = trainer.run()
        if code == 0:
            if outcome is not None:
                display.note(f"report: {outcome.finish()}")
            newest = run_dir / checkpoint.NEWEST
            display.note(f"done: {config.max_steps} steps; adapters in {newest}")
            if trainer.best is not None:
                display.note(f"best on the selection half: {trainer.best.describe(run_dir)}")
        return code


def _record(config: Config, run_dir: Path, start: Path | None) -> Record | None:
    """What a run that goes on measured at its start. Raises UsageError where it is no use now."""
    if not config.held_out.tasks:
        return None
    trained = start is not None and start != checkpoint.folder(run_dir, 0)
    return recorded(run_dir, config, resumed=trained)


def _outcome(
    config: Config,
    run_dir: Path,
    record: Record | None,
    trainer: Trainer,
    sandbox: Sandbox,
    display: Display,
) -> Outcome | None:
    """Held-out tasks, solved once before the first step."""
    if not config.held_out.tasks:
        return None
    tasks = None if record is None else record.tasks
    held = HeldOut(config, trainer.backend, sandbox, trainer.selfplay.form, tasks)
    outcome = Outcome(run_dir, held, record, display)
    outcome.begin()
    return outcome


def _begin(trainer: Trainer, start: Path | None, display: Display) -> None:
    if start is None:
        trainer.start()
        return
    aside = trainer.resume(start)
    past = f"; {aside} later rows of metrics set aside" if aside else ""
    display.note(f"resumed {start}{past}")


def open_sandbox(config: Config) -> Sandbox:
    s = config.sandbox
    limits = Limits(wall_s=s.wall_s, cpu_s=s.cpu_s, memory_mb=s.memory_mb, output_kb=s.output_kb)
    return Sandbox(workers=s.workers, isolation=s.isolation, limits=limits)


def backend_for(config: Config) -> Any:
    """The backend that a run of this configuration would begin with."""
    name, _ = choose(config.backend)
    model = resolve_model(name, config.model_id, config.quantization, MODEL_CACHE)
    return _load(name, config, model, None)


def _load(name: str, config: Config, model: ResolvedModel, init_adapters: Path | None) -> Any:
    """The backend with its adapters; ``init_adapters`` are weights to start from."""
    backend = open_backend(
        name,
        model.path,
        config.lora,
        config.quantization,
        seed=config.seed,
        max_rows=config.rollout.max_batch,
        kv_tokens=kv_tokens_of(config),
        micro_batch_tokens=config.ppo.micro_batch_tokens,
        grad_checkpoint=config.ppo.grad_checkpoint == "true",
        compile=config.ppo.compile,
        base=config.model_id,
    )
    if init_adapters is not None:
        try:
            backend.load_adapters(init_adapters)
        except (ValueError, RuntimeError, OSError) as e:
            raise UsageError(f"--resume-adapter-file {init_adapters}: {e}") from e
    return backend


def _locate_run(config: Config, resume: str | None) -> tuple[Path, Path | None]:
    """(run folder, checkpoint to start from). A new run never writes into an old one's folder."""
    output_dir = Path(config.output_dir)
    if resume is not None:
        run_dir, start = checkpoint.find(resume, output_dir)
        _refuse_another_run(config, run_dir)
        return run_dir, start
    run_dir = output_dir / (config.run_name or time.strftime("%Y%m%d-%H%M%S"))
    if checkpoint.steps(run_dir):
        raise UsageError(
            f"run_name: {run_dir} has checkpoints of an earlier run; continue it with "
            f"--resume {run_dir}, or choose another run_name"
        )
    return run_dir, None


def _make_run_dir(run_dir: Path, config: Config) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        text = to_yaml(replace(config, run_name=run_dir.name))
        (run_dir / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as e:
        why = e.strerror or str(e)
        raise AzrError(f"output_dir: {run_dir}: {why}; choose a folder that can be written") from e


def _refuse_another_run(config: Config, run_dir: Path) -> None:
    """What a run is (its model, its adapters, its seed) cannot change when it goes on."""
    made = load(run_dir / "config.yaml", [])
    changed = {k: v for k, v in diff(made, config).items() if k.split(".")[0] in FIXED}
    if changed:
        raise UsageError(
            "\n".join(
                f"{key}: {new!r}: the run in {run_dir} has {old!r}, which cannot change on --resume"
                for key, (old, new) in changed.items()
            )
        )


def _describe_run(
    run_dir: Path, model: ResolvedModel, backend: str, isolation: str, start: Path | None
) -> None:
    """``run.json``: one entry for each time that the run was started or resumed."""
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "resumed_from": None if start is None else str(start),
        "backend": backend,
        "isolation": isolation,
        "blas": asdict(blas.enable()),
        "model": {"source": model.source, "revision": model.revision, "path": str(model.path)},
        **describe_process(),
    }
    starts = checkpoint.recorded(run_dir, "starts") or []
    checkpoint.record(run_dir, starts=[*starts, entry])


def describe_process(
    packages: Sequence[str] = ("mlx", "mlx-lm", "torch", "peft", "numpy", "transformers"),
) -> dict[str, Any]:
    """The program and the machine: argv, versions, platform, cores."""
    from azr_mlx import __version__

    versions = {"azr-mlx": __version__}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "argv": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cpu_count(),
        "versions": versions,
    }


def _load_benchmarks(config: Config) -> list[benchmarks.Benchmark]:
    """What is evaluated in training; before the model is loaded, so that missing data is told."""
    if not config.evaluation_interval:
        return []
    data = Path(config.evaluation.data) if config.evaluation.data else None
    try:
        return [benchmarks.load(name, data) for name in config.evaluation.benchmarks]
    except UsageError as e:
        why = str(e).replace("--data", "evaluation.data")
        raise UsageError(f"evaluation.benchmarks: {why}; evaluation_interval=0 goes without") from e
