"""``azr-mlx train``: sets up a run (folder, model, sandbox, trackers) and starts the trainer."""

from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from azr_mlx import run_folder
from azr_mlx.backends import blas
from azr_mlx.backends.ranks import World, gather
from azr_mlx.backends.select import (
    choose,
    load_adapters,
    open_backend,
    resolve_model,
    weights_of,
)
from azr_mlx.config import Config, ConfigError, diff, load_keys, to_yaml
from azr_mlx.config.plugins import PlugIn
from azr_mlx.errors import (
    PROGRAM,
    WRONG_VALUES,
    AzrError,
    Interrupted,
    UsageError,
    device_error,
    device_failed,
    no_room,
)
from azr_mlx.evaluation import benchmarks
from azr_mlx.evaluation.during_training import TrainingEvaluation
from azr_mlx.evaluation.held_out import (
    SHOWN_K,
    WAYS,
    BeforeAndAfter,
    HeldOut,
    Record,
    recorded,
)
from azr_mlx.evaluation.progress import reporter
from azr_mlx.files import write_whole
from azr_mlx.models import adapters as adapter_files
from azr_mlx.models.locate import ResolvedModel
from azr_mlx.models.template import check_template
from azr_mlx.monitoring import report
from azr_mlx.monitoring.terminal import (
    Display,
    gain_line,
    held_out_table,
    right_answer_line,
    standing_line,
)
from azr_mlx.monitoring.trackers import trackers
from azr_mlx.sandbox import Limits, Sandbox
from azr_mlx.selfplay import first_tasks
from azr_mlx.system import platform_name
from azr_mlx.tasks.chat import has_template
from azr_mlx.tasks.gate import Runner
from azr_mlx.tasks.prompts import chosen_form
from azr_mlx.text import counted, plain
from azr_mlx.training import plugins
from azr_mlx.training.asking import asked_by_size
from azr_mlx.training.distributed import SharedSandbox, open_world, share_files
from azr_mlx.training.memory import available, describe, fitting, kv_tokens_of
from azr_mlx.training.memory.limit import GB
from azr_mlx.training.model_check import check_model
from azr_mlx.training.power import PowerWatch
from azr_mlx.training.run import Trainer
from azr_mlx.training.step_times import StepTimes

# If one of these changed on --resume, it would be a different run under the same name.
FIXED = ("model_id", "quantization", "lora", "seed")

# What to ask the trained model first: a chat model, and one that continues code.
_TO_CHAT = "'Write a Python function that reverses the words of a sentence.'"
_TO_CONTINUE = "'def f(n):'"
_ROOM = (
    "close other programs, or give a lower rollout.max_batch or ppo.micro_batch_tokens, or "
    f"ppo.grad_checkpoint=true ({PROGRAM} train --dry-run says which phase needs most)"
)


def train(
    config: Config,
    *,
    given: Collection[str] = (),
    resume: str | None = None,
    init_adapters: Path | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    earlier: str = "",
) -> int:
    """Start a training run, or continue one; returns the exit code. ``given`` are the keys that a
    user has chosen, which ``rollout.form: auto`` leaves alone. ``earlier`` is a line on a
    configuration of an earlier version, as ``load_run`` gives it.

    Raises:
        AzrError: the reason in one line; nothing has been overwritten.
    """
    config, asking = asked_by_size(config, given)
    plug_ins = plugins.in_use(config)
    if resume is None:  # a resumed run has its first tasks
        first_tasks.check(config)
    if dry_run:
        check_model(config, available(config))
        sys.stdout.write(plain(describe(config, asking)))
        return 0
    backend_name, why = choose(config.backend)
    world = open_world(backend_name)
    with ExitStack() as stack:
        run_dir, start = _place(world, config, plug_ins, resume, stack)
        record = _record(config, run_dir, start)
        config = fitting(config, backend_name)
        if chosen_form(None, config).style == "chat":
            check_template(*adapter_files.place_of_base(run_dir, config.model_id))
        model = resolve_model(backend_name, config.model_id, config.quantization, run_dir)
        evaluated = _load_benchmarks(config)
        leads = world.rank == 0
        display = _display(config, run_dir, quiet, leads)
        stack.callback(display.close)
        power = stack.enter_context(
            PowerWatch(display, str(run_dir), config.power.min_battery, world)
        )
        stack.enter_context(_device_errors(run_dir, leads))
        own = stack.enter_context(open_sandbox(config))
        _say_first(display, own, earlier, asking)
        sandbox = own if world.size == 1 else SharedSandbox(own, world)
        _make_run_dir(run_dir, config)
        logged = trackers(config, run_dir, display.warn, display.note) if leads else []
        for tracker in logged:
            stack.callback(tracker.close)
        if world.size == 1:
            logged.append(StepTimes(config, backend_name, display.warn))
        display.note(f"loading {config.model_id}")
        backend = _load(backend_name, config, model, init_adapters)
        backend.world = world
        _warn_of_changes(config, run_dir, backend_name, plug_ins, start, display)
        engine = f"{backend_name} ({why})" + (f", {world.size} ranks" if world.size > 1 else "")
        if backend.left_out:
            display.note(f"layers that cannot have adapters: {', '.join(backend.left_out)}")
        first = config.proposer.seed_tasks
        _describe_run(run_dir, model, backend, engine, own.isolation, start, first)
        config = _of_all_ranks(config, world)
        trainer = Trainer(
            config,
            run_dir,
            backend,
            sandbox,
            display=display,
            trackers=logged,
            evaluate=TrainingEvaluation(config, evaluated, backend, own) if evaluated else None,
            before_step=power.before_step,
        )
        _begin(trainer, start, display)
        stack.enter_context(_full_disk(run_dir))
        with _can_go_on(run_dir, leads):
            compared = _held_out(config, run_dir, record, trainer, sandbox, display)
        code = _run(trainer, compared, leads)
        if code == 0:
            power.tell(f"done, {counted(config.max_steps, 'step')}")
        return code


def _display(config: Config, run_dir: Path, quiet: bool, leads: bool) -> Display:
    """What the user sees; only the rank that leads says anything."""
    display = Display(
        config.max_steps,
        quiet=quiet or not leads,
        log_level=config.log_level,
        name=str(run_dir),
    )
    display.muted = not leads
    return display


@contextmanager
def _can_go_on(run_dir: Path, leads: bool) -> Iterator[None]:
    """If Ctrl-C ends the block, which measures, raises Interrupted with the command that continues
    the run; only the rank that leads knows the run's folder."""
    try:
        yield
    except KeyboardInterrupt:
        if not leads:
            raise
        again = f"to continue: {PROGRAM} train --resume {run_dir}"
        raise Interrupted(f"the measurement begins again; {again}") from None


@contextmanager
def _full_disk(run_dir: Path) -> Iterator[None]:
    """An error of a write that found no room, which tells no file, names the run's folder."""
    try:
        yield
    except OSError as error:
        if no_room(error) and not error.filename:
            error.filename = str(run_dir)
        raise


@contextmanager
def _device_errors(run_dir: Path, leads: bool) -> Iterator[None]:
    """If the device fails within the block, raises DeviceError, with the command that continues the
    run if it has a checkpoint. Only a new process can: MLX cannot use the GPU's stream again. The
    weights are lost with it, so nothing is saved."""
    try:
        yield
    except RuntimeError as error:
        if not device_failed(error):
            raise
        saved = leads and run_folder.checkpoints(run_dir)
        again = f"to continue: {PROGRAM} train --resume {run_dir}" if saved else ""
        raise device_error(error, _ROOM, again) from error


def _say_first(display: Display, sandbox: Sandbox, *texts: str) -> None:
    """The level of isolation in force, and then the texts that are not empty."""
    display.note(sandbox.summary)
    if sandbox.warning:
        display.warn(sandbox.warning)
    for text in filter(None, texts):
        display.note(text)


def _run(trainer: Trainer, compared: BeforeAndAfter | None, leads: bool) -> int:
    """Train to the last step, show what changed and write the report; returns the exit code."""
    config, run_dir, display = trainer.config, trainer.run_dir, trainer.display
    if trainer.step >= config.max_steps:
        # The run may have been interrupted during its last measurement.
        if compared is not None and not compared.record.is_of(trainer.step, trainer.step):
            with _can_go_on(run_dir, leads):
                _show_gain(compared, trainer.step, display)
            _report(run_dir, display, leads)
        display.note(
            f"nothing to do: the run already has {counted(trainer.step, 'step')}; "
            "give a larger max_steps=N"
        )
        return 0
    code = trainer.run()
    if code == 0 and compared is not None:
        with _can_go_on(run_dir, leads):
            _show_gain(compared, trainer.step, display)
    if code == 0 and leads:
        run_folder.record(run_dir, **{run_folder.ENDED: trainer.step})
    _report(run_dir, display, leads)
    if code == 0:
        newest = run_dir / run_folder.NEWEST
        display.note(f"done: {counted(config.max_steps, 'step')}; adapters in {newest}")
        if trainer.best is not None:
            display.note(f"best on the selection half: {trainer.best.describe(run_dir)}")
        if compared is None and trainer.best is None:
            display.note(
                "what it gained was not measured (held_out.tasks and evaluation_interval are 0): "
                "train with held_out.tasks=100 next time, or measure it on HumanEval with "
                f"{PROGRAM} eval --adapter-path {run_dir} --compare base"
            )
        display.note(_try_line(run_dir, trainer.backend.tokenizer))
    return code


def _try_line(run_dir: Path, tokenizer: Any) -> str:
    """The command with which users see first what the trained model says."""
    asked = _TO_CHAT if has_template(tokenizer) else _TO_CONTINUE
    return f"try it: {PROGRAM} generate --adapter-path {run_dir} --prompt {asked}"


def _record(config: Config, run_dir: Path, start: Path | None) -> Record | None:
    """The held-out measurement that a resumed run made at its start. Raises UsageError if it can no
    longer be compared."""
    if not config.held_out.tasks:
        return None
    trained = start is not None and start != run_folder.checkpoint_of(run_dir, 0)
    return recorded(run_dir, config, resumed=trained)


def _held_out(
    config: Config,
    run_dir: Path,
    record: Record | None,
    trainer: Trainer,
    sandbox: Runner,
    display: Display,
) -> BeforeAndAfter | None:
    """Solve the held-out tasks once before the first step; None if the run has none, or solved them
    by other rules at its start: it goes on without a comparison."""
    if not config.held_out.tasks:
        return None
    if record is not None and (why := record.outdated(config)):
        display.warn(
            f"held-out tasks: {why}: what this run solved at its start cannot be compared with "
            "what it would solve at its end, so they are left out"
        )
        return None
    tasks = None if record is None else record.tasks
    if tasks is None:
        display.note("making held-out tasks")
    form, progress = trainer.selfplay.solver.form, reporter(display.silent)
    held = HeldOut(config, trainer.backend, sandbox, form, tasks, progress)
    compared = BeforeAndAfter(run_dir, held, record)
    for text in compared.shortage:
        display.warn(text)
    compared.measure_before(display.note)
    display.note(standing_line(compared.record))
    return compared


def _show_gain(compared: BeforeAndAfter, step: int, display: Display) -> None:
    """Solve the held-out tasks again after the last step, and show what changed."""
    display.note("held-out tasks after training")
    found, record = compared.measure_after(step), compared.record
    passed = {
        name: replace(lines[-1], name=f"pass@{SHOWN_K}")
        for name, lines in record.pass_at(SHOWN_K).items()
    }
    for way, lines in found.items():
        last = passed if way == "sampled" else None
        display.table(held_out_table(f"held-out tasks solved, {WAYS[way]}", lines, last))
    if said := right_answer_line(record.right_answers):
        display.note(said)
    for way, lines in found.items():
        display.note(gain_line(way, lines))


def _report(run_dir: Path, display: Display, leads: bool) -> None:
    """Write the report of a run that ended or was interrupted. If that fails, it is a warning
    only."""
    if not leads or not (run_dir / run_folder.METRICS_FILE).exists():
        return
    try:
        path = report.write(report.read(run_dir))
    except Exception as e:
        display.warn(
            f"no report: {type(e).__name__}: {e}; to try again: {PROGRAM} report {run_dir}"
        )
    else:
        display.note(f"report: {path} (for a browser)")


def _begin(trainer: Trainer, start: Path | None, display: Display) -> None:
    if start is None:
        trainer.start()
        return
    aside = trainer.resume(start)
    display.recall(list(trainer.metrics.rows()))
    past = f"; {aside} later rows of metrics were set aside" if aside else ""
    display.note(f"resumed {start}{past}")


def open_sandbox(config: Config) -> Sandbox:
    s = config.sandbox
    limits = Limits(wall_s=s.wall_s, cpu_s=s.cpu_s, memory_mb=s.memory_mb, output_kb=s.output_kb)
    return Sandbox(workers=s.workers, isolation=s.isolation, limits=limits)


def backend_for(config: Config) -> Any:
    """The backend of a new run with this configuration."""
    name, _ = choose(config.backend)
    model = resolve_model(name, config.model_id, config.quantization)
    return _load(name, config, model, None)


def _load(name: str, config: Config, model: ResolvedModel, init_adapters: Path | None) -> Any:
    """The backend with its adapters. ``init_adapters`` is a file of weights to start from."""
    backend = open_backend(
        name,
        model.path,
        config.lora,
        config.quantization,
        memory_limit=int(config.memory_limit_gb * GB),
        seed=config.seed,
        max_rows=config.rollout.max_batch,
        kv_tokens=kv_tokens_of(config, name),
        micro_batch_tokens=config.ppo.micro_batch_tokens,
        grad_checkpoint=config.ppo.grad_checkpoint == "true",
        compile=config.ppo.compile,
        base=weights_of(name, config.model_id),
    )
    if init_adapters is not None:
        _refuse_another_scale(config, init_adapters)
        load_adapters(
            backend,
            init_adapters,
            "--resume-adapter-file",
            "give adapters of this model, and the same lora settings as when they were made",
        )
    return backend


def _refuse_another_scale(config: Config, adapters: Path) -> None:
    """Raises UsageError if the file beside adapters says that they are multiplied by another number
    than this run's would be; without such a file nobody knows."""
    try:
        made = adapter_files.read(adapters.parent).scale
    except (OSError, *WRONG_VALUES):
        return
    if made != config.lora.scale:
        raise UsageError(
            f"--resume-adapter-file {adapters}: made with a scale of {made:g}, and lora.scale is "
            f"{config.lora.scale:g}; give lora.scale={made:g}"
        )


def _place(
    world: World,
    config: Config,
    plug_ins: Sequence[PlugIn],
    resume: str | None,
    stack: ExitStack,
) -> tuple[Path, Path | None]:
    """(run folder, checkpoint to start from). Only rank 0 uses the real run folder. Every other
    rank gets a temporary folder with a copy of the files that rank 0 starts from.

    Raises UsageError if the ranks have different versions, configurations or plug-ins.
    """
    from azr_mlx import __version__

    if len(set(gather(world, __version__))) > 1:
        raise UsageError(
            "azr-mlx: the ranks have different versions; install the same version on all"
        )
    if len(set(gather(world, to_yaml(config)))) > 1:
        raise UsageError(
            "config: the ranks have different configurations; give the same arguments to all"
        )
    if len({str(found) for found in gather(world, plugins.described(plug_ins))}) > 1:
        raise UsageError(
            "config: the ranks have different files of plug-ins; copy the same ones to all"
        )
    if world.rank == 0:
        run_dir, start = _locate_run(config, resume)
    else:
        run_dir, start = Path(stack.enter_context(TemporaryDirectory(prefix="azr-mlx-"))), None
    name = gather(world, start and start.name)[0]
    if world.size == 1:
        return run_dir, start
    if name is not None:
        start = start or run_dir / run_folder.CHECKPOINTS / name
        share_files(world, [f for f in start.glob("*") if f.is_file()], start)
    share_files(world, list(run_dir.glob(run_folder.HELD_OUT_FILE)), run_dir)
    return run_dir, start


def _of_all_ranks(config: Config, world: World) -> Config:
    """The configuration of all ranks together: the number of tasks per step is multiplied by the
    number of ranks. Ranks other than 0 save no rollouts and no regular checkpoints."""
    n = world.size
    if n == 1:
        return config
    config = replace(
        config,
        batch_size=n * config.batch_size,
        proposer=replace(
            config.proposer, templates_per_step=n * config.proposer.templates_per_step
        ),
        solver=replace(
            config.solver, buffer_tasks_per_step=n * config.solver.buffer_tasks_per_step
        ),
    )
    if world.rank == 0:
        return config
    tracking = replace(config.tracking, save_rollouts=False)
    return replace(config, tracking=tracking, checkpoint_interval=config.max_steps)


def _locate_run(config: Config, resume: str | None) -> tuple[Path, Path | None]:
    """(run folder, checkpoint to start from). A new run never writes into the folder of an old
    one."""
    output_dir = Path(config.output_dir)
    if resume is not None:
        run_dir, start = run_folder.find(resume, output_dir)
        _refuse_another_run(config, run_dir)
        return run_dir, start
    run_dir = output_dir / (config.run_name or time.strftime("%Y%m%d-%H%M%S"))
    if run_folder.checkpoints(run_dir):
        raise UsageError(
            f"run_name: {run_dir} has checkpoints of an earlier run; continue that run with "
            f"--resume {run_dir}, or choose another run_name"
        )
    return run_dir, None


def _make_run_dir(run_dir: Path, config: Config) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        text = to_yaml(replace(config, run_name=run_dir.name))
        write_whole(run_dir / run_folder.CONFIG_FILE, text)
    except OSError as e:
        why = e.strerror or str(e)
        raise AzrError(f"output_dir: {run_dir}: {why}; choose a folder that can be written") from e


def _refuse_another_run(config: Config, run_dir: Path) -> None:
    """Raises UsageError if a setting in ``FIXED`` differs from that of the run to be resumed."""
    made = load_keys(run_dir / run_folder.CONFIG_FILE, *FIXED)
    changed = {k: v for k, v in diff(made, config).items() if k.split(".")[0] in FIXED}
    if changed:
        raise ConfigError(
            [
                f"{key}: {new!r}: the run in {run_dir} has {old!r}, which cannot change on --resume"
                for key, (old, new) in changed.items()
            ]
        )


def _warn_of_changes(
    config: Config,
    run_dir: Path,
    backend: str,
    plug_ins: Sequence[PlugIn],
    start: Path | None,
    display: Display,
) -> None:
    """Warn if a resumed run cannot go on exactly as it would have. Notes its plug-ins."""
    _warn_of_other_weights(config, run_dir, backend, display)
    for text in plugins.record(run_dir, plug_ins, resumed=start is not None):
        display.warn(text)


def _warn_of_other_weights(config: Config, run_dir: Path, backend: str, display: Display) -> None:
    """Warn if a quantised run is resumed on another backend. Backends quantise differently or not
    at all, and the adapters have learned to correct the rounding errors of one of them."""
    starts = run_folder.starts(run_dir)
    last = (str(starts[-1].get("backend") or backend) if starts else backend).split()[0]
    if last != backend and config.quantization.bits:
        display.warn(
            f"backend: {backend}: the run was on {last}, whose {config.quantization.bits}-bit "
            "weights differ from those of this backend; rewards may change at the beginning"
        )


def _describe_run(
    run_dir: Path,
    model: ResolvedModel,
    backend: Any,
    engine: str,
    isolation: str,
    start: Path | None,
    seed_tasks: str,
) -> None:
    """Add an entry to ``run.json``, which has one for each start or resume of the run."""
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "resumed_from": None if start is None else str(start),
        "backend": engine,
        "isolation": isolation,
        "blas": asdict(blas.enable()),
        "model": {
            "source": model.source,
            "revision": model.revision,
            "path": str(model.path),
            "rows": backend.path,
            "without_adapters": list(backend.left_out),
        },
        **describe_process(),
    }
    run_folder.record_start(run_dir, entry, seed_tasks)


def describe_process(
    packages: Sequence[str] = ("mlx", "mlx-lm", "torch", "peft", "numpy", "transformers"),
) -> dict[str, Any]:
    """A description of the process: argv, versions, platform, cores."""
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
        "platform": platform_name(),
        "cores": cpu_count(),
        "versions": versions,
    }


def _load_benchmarks(config: Config) -> list[benchmarks.Benchmark]:
    """The benchmarks to evaluate during training. They are loaded before the model, so that missing
    data is reported early."""
    if not config.evaluation_interval:
        return []
    data = Path(config.evaluation.data) if config.evaluation.data else None
    try:
        return [benchmarks.load(name, data) for name in config.evaluation.benchmarks]
    except UsageError as e:
        why = re.sub(r"--benchmark:? ", "", str(e)).replace("--data", "evaluation.data")
        raise UsageError(
            f"evaluation.benchmarks: {why}; evaluation_interval=0 trains without them"
        ) from e
