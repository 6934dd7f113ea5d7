"""The commands: each reads its arguments, calls what does the work, and shows what came out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from azr_mlx import __version__
from azr_mlx.cli import completion
from azr_mlx.cli.arguments import config_of, given_text, names_in
from azr_mlx.cli.options import (
    ADAPTERS_HELP,
    MODEL_HELP,
    RUN_HELP,
    Adapters,
    BackendName,
    BenchmarkNames,
    Compare,
    Data,
    Debug,
    EvalForm,
    EvalMaxTokens,
    EvalOut,
    EvalProtocol,
    EvalStrategy,
    EvalThinking,
    Export,
    Json,
    Ks,
    MaxTokens,
    Model,
    Overrides,
    Quiet,
    Samples,
    Since,
    Split,
    Strategy,
    Temp,
    TestsFile,
    Thinking,
    TopP,
    Until,
)
from azr_mlx.cli.output import Answer, ignore, say, show_result, write
from azr_mlx.cli.process import CHECK_FAILED, start
from azr_mlx.errors import PROGRAM, AzrError, UsageError
from azr_mlx.text import one_line, storage

if TYPE_CHECKING:
    from azr_mlx.commands.evaluate import Report
    from azr_mlx.commands.generate_tested import Try
    from azr_mlx.sandbox import Sandbox

LARGE_CHANGE = 0.3  # mean change in nats per token above which the model is another one
PAUSE = 10  # seconds between two pages of a report that is followed

app = typer.Typer(
    name="azr-mlx",
    help="A small language model teaches itself to reason about code, on your own machine.",
    epilog=f"To begin: {PROGRAM} train -c quickstart (some minutes, no download).",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        write(f"azr-mlx {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def train(
    overrides: Overrides = None,
    config: Annotated[
        str | None,
        typer.Option(
            "-c",
            "--config",
            help="Name of a shipped configuration (quickstart, smollm2, qwen2.5-coder-0.5b, "
            "azr_config or azr_paper), or a YAML file. Default: azr_config.",
            autocompletion=completion.configurations,
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help=MODEL_HELP)] = None,
    backend: BackendName = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Random seed.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="[RUN_DIR|CHECKPOINT|latest]",
            help="Continue a run exactly; without a value, the latest one. Uses the run's own "
            "configuration unless -c is given.",
            autocompletion=completion.runs,
        ),
    ] = None,
    resume_adapter_file: Annotated[
        Path | None,
        typer.Option("--resume-adapter-file", help="Initialise the adapters from this file."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the configuration and memory estimates; do not load weights."
        ),
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Train by self-play: propose tasks, solve them, verify, learn."""
    if resume is not None and resume_adapter_file is not None:
        raise UsageError("--resume-adapter-file: cannot be combined with --resume; use one of them")
    if resume_adapter_file is not None and not os.path.isfile(resume_adapter_file):
        raise UsageError(f"--resume-adapter-file: {resume_adapter_file}: no such file; check it")
    flags = {"model_id": model, "backend": backend, "seed": seed}
    words = [f"{key}={value}" for key, value in flags.items() if value is not None]
    words += overrides or []
    resolved, earlier = config_of(config, resume, words)
    start()
    from azr_mlx.commands.train import train as run
    from azr_mlx.config import chosen_keys

    return run(
        resolved,
        given=chosen_keys(config, words),
        resume=resume,
        init_adapters=resume_adapter_file,
        dry_run=dry_run,
        quiet=quiet,
        earlier=earlier,
    )


@app.command()
def convert(
    mlx_path: Annotated[Path, typer.Option("--mlx-path", help="Output folder.")],
    hf_path: Annotated[str, typer.Option("--hf-path", "--model", help=MODEL_HELP)],
    quantize: Annotated[
        bool, typer.Option("-q", "--quantize", help="Quantize the weights.")
    ] = False,
    q_bits: Annotated[
        int | None, typer.Option("--q-bits", help="Bits per weight for quantization.")
    ] = None,
    q_group_size: Annotated[
        int | None, typer.Option("--q-group-size", help="Group size for quantization.")
    ] = None,
    q_mode: Annotated[
        str, typer.Option("--q-mode", help="Quantization mode: affine, mxfp4, nvfp4 or mxfp8.")
    ] = "affine",
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="Type of the weights: float16, bfloat16 or float32."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Hub revision (branch, tag or commit).")
    ] = None,
    keep_quantized: Annotated[
        bool,
        typer.Option(
            "--keep-quantized", help="Keep the Q4_0, Q4_1 and Q8_0 blocks of a .gguf file."
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Convert a Hugging Face model or a .gguf file to MLX's format."""
    start("mlx")
    from azr_mlx.commands.convert import convert as run

    report = run(
        hf_path,
        mlx_path,
        quantize=quantize,
        q_bits=q_bits,
        q_group_size=q_group_size,
        q_mode=q_mode,
        dtype=dtype,
        revision=revision,
        keep_quantized=keep_quantized,
        warn=lambda text: say(f"azr-mlx: warning: {one_line(text)}"),
    )
    show_result(report.to_json(), as_json)
    if (report.logp_change_mean or 0.0) > LARGE_CHANGE:
        say(
            "azr-mlx: warning: quantization changed the model's answers; use more bits, or a "
            "smaller --q-group-size"
        )
    return 0


@app.command(short_help="Export for other programs.")
def export(
    adapter_path: Annotated[
        Path,
        typer.Option("--adapter-path", help=ADAPTERS_HELP, autocompletion=completion.runs),
    ],
    out: Annotated[Path, typer.Option("--out", "--save-path", help="Output folder.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="Format. hf: full model for transformers, adapters fused into dequantized "
            "weights. mlx: for mlx-lm, quantized like the base (lossy). gguf: one file for Ollama, "
            "LM Studio and llama.cpp, with a Modelfile. peft: the adapters alone.",
            autocompletion=completion.exports,
        ),
    ] = "hf",
    outtype: Annotated[
        str | None,
        typer.Option("--outtype", help="gguf: type of the weights, f16 (default), q8_0 or q4_0."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Base model, if the adapters do not name it.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype", help="Type of the weights: float16, bfloat16 or float32 (hf's default)."
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Export a trained model for other programs: transformers, vLLM, mlx-lm, Ollama, LM Studio,
    llama.cpp, PEFT."""
    if to not in completion.EXPORTS:
        raise UsageError(f"--to {to}: unknown; take hf, mlx, gguf or peft")
    if to == "peft" and (model or dtype):
        raise UsageError("--to peft: writes adapters alone; leave --model and --dtype out")
    if to == "gguf" and dtype:
        raise UsageError("--to gguf: takes --outtype f16, q8_0 or q4_0; leave --dtype out")
    if to != "gguf" and outtype:
        raise UsageError(f"--outtype: only for --to gguf; leave it out for --to {to}")
    start("mlx")
    from azr_mlx.commands.export import to_gguf, to_model, to_peft

    if to == "peft":
        done: Any = to_peft(adapter_path, out)
    elif to == "gguf":
        done = to_gguf(adapter_path, out, kind=(outtype or "f16").lower(), model=model)
    else:
        done = to_model(adapter_path, out, to=to, model=model, dtype=dtype)
    show_result({**asdict(done), "path": str(done.path)}, as_json)
    if to == "gguf" and done.logp_change_mean > LARGE_CHANGE:
        say(
            f"azr-mlx: warning: {done.dtype} changed the model's answers; take --outtype f16, and "
            "let llama-quantize or Ollama quantize that"
        )
    return 0


@app.command()
def generate(
    prompt: Annotated[
        str, typer.Option("-p", "--prompt", help="Prompt text; - reads it from stdin.")
    ],
    model: Model = None,
    adapter_path: Adapters = None,
    max_tokens: MaxTokens = 256,
    temp: Temp = 0.0,
    top_p: TopP = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Random seed.")] = None,
    system: Annotated[str, typer.Option("--system", help="System message of the chat.")] = "",
    thinking: Thinking = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text without a chat template.")
    ] = False,
    tests: TestsFile = None,
    strategy: Strategy = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Generate text from a prompt, on this machine. Text goes to stdout, the rest to stderr, also
    what the model thinks before it answers."""
    text, system = given_text("--prompt", prompt, stdin=True), given_text("--system", system)
    if not text:
        raise UsageError("--prompt: empty; give some text")
    from azr_mlx.commands import generate_tested

    checked = None if tests is None else generate_tested.read_tests(tests)
    if checked is None and strategy == "auto":
        raise UsageError("--strategy auto: needs --tests to choose by; or name a strategy")
    if thinking:
        from azr_mlx.evaluation.protocol import check_thought_fits

        check_thought_fits(max_tokens)
    start("mlx")
    from azr_mlx.backends.base import Sampling
    from azr_mlx.commands.generate import Generator, seed_sampler

    shown, thought = Answer(sys.stdout), Answer(sys.stderr)
    streams = checked is None and not as_json
    on_thought = thought.add if streams else ignore
    generator = Generator(model, adapter_path, raw=raw, thinking=thinking, on_thought=on_thought)
    wanted = strategy or ("direct" if checked is None else "auto")
    strategies = generate_tested.strategies_for(generator, wanted, raw=raw)
    seed_sampler(seed)
    question = generate_tested.Question(text, Sampling(max_tokens, temp, top_p), raw, system)
    if checked is not None:
        tries = generate_tested.solve(
            generator, question, checked, strategies, on_sandbox=_say_isolation, on_try=_say_try
        )
        return _solved(tries, as_json)

    def show(text: str) -> None:
        if text:
            thought.end_line()
        shown.add(text)

    if not (raw or system or generator.has_template):
        say("the model has no chat template, so it continues the text (as with --raw)")
    done = generate_tested.answer(generator, question, wanted, on_text=show if streams else ignore)
    if as_json:
        show_result(done.to_json(), True)
        return 0
    thought.end_line()
    shown.end()
    speed = f", {done.tokens_per_s:.1f} tokens/s" if done.tokens > 1 else ""
    count = f"{done.tokens} token{'s' * (done.tokens != 1)} ({done.finish})"
    say(f"{count}{speed}, peak {storage(done.peak_gb * 1e9)}")
    return 0


def _say_isolation(sandbox: Sandbox, quiet: bool = False) -> None:
    if not quiet:
        typer.echo(sandbox.summary, err=True)
    if sandbox.warning:
        typer.echo(f"azr-mlx: warning: {sandbox.warning}", err=True)


def _say_try(one: Try) -> None:
    say(one_line(one.line()))


def _solved(tries: Sequence[Try], as_json: bool) -> int:
    """Print the last program, and which strategy wrote it, or that none passed."""
    last = tries[-1]
    if as_json:
        taken = last.strategy if last.passed else None
        show_result({**last.to_json(), "taken": taken, "tries": [t.to_json() for t in tries]}, True)
    else:
        shown = Answer(sys.stdout)
        shown.add(last.code)
        shown.end()
    if last.passed:
        say(f"the tests pass, with strategy {last.strategy}")
        return 0
    say("no program passes the tests; the last one is shown")
    return CHECK_FAILED


@app.command("eval", short_help="Evaluate a model on code benchmarks.")
def evaluate(
    benchmark: BenchmarkNames = "humaneval",
    model: Model = None,
    adapter_path: Adapters = None,
    num_samples: Annotated[
        int, typer.Option("--num-samples", min=1, help="Number of samples per task.")
    ] = 1,
    k: Ks = "1",
    temp: Temp = 0.0,
    top_p: TopP = 1.0,
    max_tokens: EvalMaxTokens = None,
    strategy: EvalStrategy = None,
    thinking: EvalThinking = None,
    protocol: EvalProtocol = "auto",
    form: EvalForm = "",
    compare: Compare = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use only the first N tasks.")
    ] = None,
    split: Split = "all",
    since: Since = None,
    until: Until = None,
    samples: Samples = None,
    data: Data = None,
    out: EvalOut = None,
    export: Export = "",
    backend: BackendName = None,
    seed: Annotated[int, typer.Option("--seed", help="Random seed.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Evaluate a model on code benchmarks: pass@k with intervals and the protocol used."""
    if not all(part.strip().isdecimal() for part in k.split(",")):
        raise UsageError(f"--k {k}: must be whole numbers separated by commas, for example 1,5,10")
    start()
    from azr_mlx.commands.evaluate import EvalRequest
    from azr_mlx.commands.evaluate import evaluate as run
    from azr_mlx.evaluation.benchmarks import Window
    from azr_mlx.evaluation.progress import reporter
    from azr_mlx.evaluation.protocol import Settings

    open_to_the_run = {"max_tokens": max_tokens, "strategy": strategy, "thinking": thinking}
    given: dict[str, Any] = {k: v for k, v in open_to_the_run.items() if v is not None}
    settings = Settings(
        num_samples=num_samples,
        ks=tuple(int(part) for part in k.split(",")),
        temperature=temp,
        top_p=top_p,
        limit=limit,
        window=Window.given(since, until),
        split=split,
        protocol=protocol,
        form=form,
        seed=seed,
        **given,
    )
    request = EvalRequest(
        names_in(benchmark),
        settings,
        model=model,
        adapter_path=adapter_path,
        data=data,
        samples=samples,
        compare=compare,
        out=out,
        exported=names_in(export),
        backend=backend or "auto",
        left_open=open_to_the_run.keys() - given.keys(),
    )
    report = run(request, reporter(quiet), partial(_say_isolation, quiet=quiet))
    if as_json:
        show_result(report.to_json(), True)
    else:
        write(*report.lines())
        _set_beside(report)
    if report.not_exported:
        raise AzrError(report.not_exported)
    return 0


def _set_beside(report: Report) -> None:
    """Print our figures next to published ones for the same benchmarks."""
    from rich.console import Console

    from azr_mlx.evaluation.published_scores import Comparable, table

    ours = [Comparable("this model", report.results)]
    if report.comparisons:
        ours.append(Comparable("its base", [one.before for one in report.comparisons]))
    if (drawn := table(ours)) is None:
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    console.print(drawn[0])
    write(*drawn[1])


@app.command(short_help="Check this machine, and say what to do.")
def doctor(
    as_json: Json = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report", help="Train nano for two steps, too, and print all as Markdown to paste."
        ),
    ] = False,
    debug: Debug = False,
) -> int:
    """Check this machine, and say how to fix what does not work (exit code 3 if any)."""
    from azr_mlx.commands.doctor import doctor as run

    good = run(as_json=as_json, report=report, debug=debug)
    return 0 if good else CHECK_FAILED


@app.command("cache")
def show_cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything in it.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Show the cache of converted models and its size, or empty it."""
    from azr_mlx.commands import cache

    shown = cache.show(clear=clear)
    if as_json:
        show_result(shown, True)
    else:
        write(*cache.lines(shown))
    return 0


@app.command("report", short_help="Write a run's report as one HTML file.")
def show_run(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="Run folder (runs/NAME), or latest.",
            autocompletion=completion.runs,
        ),
    ] = "latest",
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare",
            metavar="RUN2",
            help="Another run to draw in the same charts; may be given several times.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Output file. Default: RUN/report.html, or RUN/compared.html with --compare.",
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Write it again and again until the run ends; the page renews itself."
        ),
    ] = False,
    every: Annotated[
        int | None,
        typer.Option(
            "--every",
            metavar="SECONDS",
            min=1,
            help=f"Between two pages of --follow. Default: {PAUSE}.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Write a run's report as one HTML file: curves, held-out tasks, samples."""
    from azr_mlx.commands import report

    if every and not follow:
        raise UsageError("--every: is for a page that is followed; add --follow, or leave it out")
    if follow:
        written = report.follow(run, compare or (), out, every or PAUSE, say)
    else:
        written = report.write_report(run, compare or (), out)
    if as_json:
        show_result(written, True)
    else:
        write(written["path"])
    return 0


@app.command("tasks")
def show_tasks(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=completion.runs),
    ] = "latest",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Output: a .jsonl file, or a new folder for datasets.load_dataset, with a card. "
            "Default: stdout.",
        ),
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="Kinds of tasks, separated by commas.")
    ] = "deduction,abduction,induction",
    min_solve_rate: Annotated[
        float | None,
        typer.Option(
            "--min-solve-rate", min=0.0, max=1.0, help="Leave out tasks that are solved less often."
        ),
    ] = None,
    max_solve_rate: Annotated[
        float | None,
        typer.Option(
            "--max-solve-rate", min=0.0, max=1.0, help="Leave out tasks that are solved more often."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most N tasks: the newest.")
    ] = None,
    debug: Debug = False,
) -> int:
    """Write the verified tasks of a run as JSON lines."""
    from azr_mlx.commands import tasks
    from azr_mlx.files import json_lines

    filters = tasks.Filters(tasks.kinds_of(kind), min_solve_rate, max_solve_rate, limit)
    checkpoint, rows = tasks.tasks_of(run, filters)
    if out is None:
        sys.stdout.write(json_lines(rows))
        return 0
    write(str(tasks.write(checkpoint, rows, out)))
    say(f"{len(rows)} tasks: {tasks.counts(rows)}")
    return 0


@app.command(short_help="Publish a run on the Hugging Face hub.")
def push(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=completion.runs)
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="USER/NAME", help="Repository; made if it does not exist."),
    ],
    what: Annotated[
        str,
        typer.Option(
            "--what",
            help="adapters; fused: the whole model, as export makes it; or tasks: a dataset.",
        ),
    ] = "adapters",
    model_format: Annotated[
        str | None,
        typer.Option(
            "--format", help="Format of --what fused: hf (default) or mlx (see export --to)."
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Write the folder to look at; send nothing, ask nobody."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder that --dry-run writes. Default: NAME of --to."),
    ] = None,
    debug: Debug = False,
) -> int:
    """Publish what was trained on the Hugging Face hub, with a card of its figures."""
    if out is not None and not dry_run:
        raise UsageError("--out: only --dry-run writes a folder; add it or leave --out out")
    if what == "fused":
        start("mlx")
    from azr_mlx.commands import push as pushing

    wanted = pushing.Wanted(run, to, what, model_format, private)
    write(str(pushing.write(wanted, out, say) if dry_run else pushing.push(wanted, say)))
    return 0
