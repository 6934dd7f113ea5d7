"""Setting up a training run: its folder, model, sandbox, trackers; then the trainer takes over."""

from __future__ import annotations

import json
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

from azr_mlx import blas, checkpoint
from azr_mlx.config import Config, to_yaml
from azr_mlx.display import Display
from azr_mlx.errors import AzrError, UsageError
from azr_mlx.sandbox import Limits, Sandbox
from azr_mlx.tracking import trackers

MODEL_CACHE = Path("models")
# Resuming with another of these would be another run under the same name.
FIXED = ("model_id", "quantization", "lora", "seed", "backend")


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
        from azr_mlx.plan import describe

        sys.stdout.write(describe(config, MODEL_CACHE))
        return 0
    name, why = choose_backend(config.backend)
    run_dir, start = _run_dir(config, resume)
    display = Display(config.max_steps, quiet=quiet, log_level=config.log_level)
    with ExitStack() as stack:
        # The sandbox forks its workers: before MLX is loaded they are small.
        sandbox = stack.enter_context(open_sandbox(config))
        logged = trackers(config, run_dir, display.warn)
        for tracker in logged:
            stack.callback(tracker.close)
        stack.callback(display.close)
        display.note(f"loading {config.model_id}")
        backend, model = open_backend(config)
        if init_adapters is not None:
            backend.load_adapters(init_adapters)
        _write_description(run_dir, config, model, f"{name} ({why})", sandbox.isolation, start)
        return _train(config, run_dir, start, backend, sandbox, display, logged)


def _train(config, run_dir, start, backend, sandbox, display, logged) -> int:  # type: ignore[no-untyped-def]
    from azr_mlx.trainer import Trainer

    trainer = Trainer(
        config,
        run_dir,
        backend,
        sandbox,
        display=display,
        trackers=logged,
        evaluate=_evaluation(config, backend, sandbox),
    )
    if start is None:
        trainer.start()
    else:
        aside = trainer.resume(start)
        past = f"; {aside} later rows of metrics set aside" if aside else ""
        display.note(f"resumed {start}{past}")
    code = trainer.run()
    if code == 0:
        display.note(f"done: {config.max_steps} steps; adapters in {run_dir / checkpoint.NEWEST}")
    return code


def choose_backend(asked: str) -> tuple[str, str]:
    """(name, why). Raises UsageError where the backend that was asked for is not to be had."""
    if asked == "torch":
        raise UsageError(
            "backend: torch: not in this version; use backend=mlx (runs on macOS and Linux)"
        )
    try:
        import mlx.core  # noqa: F401
    except ImportError as e:
        extra = "" if sys.platform == "darwin" else "[cpu]"
        raise UsageError(
            f"backend: {asked}: MLX does not import ({e}); pip install 'azr-mlx{extra}'"
        ) from e
    return "mlx", "asked for" if asked == "mlx" else "auto: MLX imports"


def open_sandbox(config: Config) -> Sandbox:
    s = config.sandbox
    limits = Limits(wall_s=s.wall_s, cpu_s=s.cpu_s, memory_mb=s.memory_mb, output_kb=s.output_kb)
    return Sandbox(workers=s.workers, isolation=s.isolation, limits=limits)


def open_backend(config: Config) -> tuple[Any, dict[str, Any]]:
    """The MLX backend of a configuration, and what ``run.json`` says of its model."""
    from azr_mlx.backends.mlx import MlxBackend
    from azr_mlx.models import resolve

    found = resolve(config.model_id, quantization=config.quantization, cache_dir=MODEL_CACHE)
    backend = MlxBackend.from_folder(
        found.path,
        config.lora,
        seed=config.seed,
        max_rows=config.rollout.max_batch,
        micro_batch=config.ppo.micro_batch,
        grad_checkpoint=config.ppo.grad_checkpoint,
        compile=config.ppo.compile,
        base=str(found.path),
    )
    return backend, {"source": found.source, "revision": found.revision, "path": str(found.path)}


def _run_dir(config: Config, resume: str | None) -> tuple[Path, Path | None]:
    """(run folder, checkpoint to start from). A new run never writes into an old one's folder."""
    output_dir = Path(config.output_dir)
    if resume is not None:
        run_dir, start = checkpoint.find(resume, output_dir)
        _refuse_another_run(config, run_dir)
        return run_dir, start
    name = config.run_name or time.strftime("%Y%m%d-%H%M%S")
    run_dir = output_dir / name
    if checkpoint.steps(run_dir):
        raise UsageError(
            f"run_name: {run_dir} has checkpoints of an earlier run; continue it with "
            f"--resume {run_dir}, or choose another run_name"
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.yaml").write_text(
            to_yaml(replace(config, run_name=name)), encoding="utf-8"
        )
    except OSError as e:
        raise AzrError(
            f"output_dir: {run_dir}: {e.strerror}; choose a folder that can be written"
        ) from e
    return run_dir, None


def _refuse_another_run(config: Config, run_dir: Path) -> None:
    from azr_mlx.config import diff, load

    made = load(run_dir / "config.yaml", [])
    changed = [k for k in diff(made, config) if k.split(".")[0] in FIXED]
    if changed:
        was = {k: v[0] for k, v in diff(made, config).items()}
        raise UsageError(
            "\n".join(
                f"{k}: the run in {run_dir} has {was[k]!r}; it cannot change on --resume"
                for k in changed
            )
        )
    (run_dir / "config.yaml").write_text(to_yaml(config), encoding="utf-8")


def _write_description(
    run_dir: Path,
    config: Config,
    model: dict[str, Any],
    backend: str,
    isolation: str,
    start: Path | None,
) -> None:
    """``run.json``: one entry for each time that the run was started or resumed."""
    file = run_dir / "run.json"
    starts = json.loads(file.read_text(encoding="utf-8"))["starts"] if file.exists() else []
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "resumed_from": None if start is None else str(start),
        "backend": backend,
        "isolation": isolation,
        "blas": asdict(blas.enable()),
        "model": model,
        **describe_process(),
    }
    file.write_text(json.dumps({"starts": [*starts, entry]}, indent=1) + "\n", encoding="utf-8")


def describe_process(
    packages: Sequence[str] = ("mlx", "mlx-lm", "numpy", "transformers"),
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


def _evaluation(config: Config, backend: Any, sandbox: Sandbox) -> Any:
    """What runs every ``evaluation_interval`` steps: a bounded subset of each benchmark; None if
    never."""
    if not config.evaluation_interval:
        return None
    from azr_mlx import benchmarks
    from azr_mlx.evaluate import Settings, evaluate_backend

    e = config.evaluation
    loaded = [benchmarks.load(name) for name in e.benchmarks]
    temperature = 0.0 if e.num_samples == 1 else 0.8
    settings = Settings(
        e.num_samples,
        (1,),
        temperature,
        1.0,
        config.rollout.max_solve_tokens,
        e.max_tasks_per_benchmark,
        "auto",
        config.seed,
    )

    def run(step: int) -> dict[str, float]:
        row: dict[str, float] = {}
        for benchmark in loaded:
            row |= evaluate_backend(backend, benchmark, settings, sandbox).metrics
        return row

    return run
