"""The command line: parses arguments, calls a command, and maps errors to exit codes.

Exit codes: 0 ok; 1 the run failed; 2 usage or configuration; 3 a check failed; 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from azr_mlx import __version__
from azr_mlx.errors import PROGRAM, AzrError, Interrupted, UsageError
from azr_mlx.text import is_text, middle_out, one_line, plain, storage

if TYPE_CHECKING:
    from azr_mlx.commands.evaluate import Report
    from azr_mlx.commands.generate_tested import Try
    from azr_mlx.config import Config
    from azr_mlx.sandbox import Sandbox

LARGE_CHANGE = 0.3  # mean change in nats per token above which the model is another one
LONGEST_LINE = 1000  # characters of an error message, in which a word of any length may be
FAILED, USAGE, CHECK_FAILED, INTERRUPTED = 1, 2, 3, Interrupted.exit_code

_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)*=")  # how a word that is KEY=VALUE begins

_PROGRAM = "azr-mlx"
_COMPLETE = "_AZR_MLX_COMPLETE"  # by which a shell asks for completions, as typer names it

_own_process = False  # whether this process ends with this command

app = typer.Typer(
    name=_PROGRAM,
    help="A small language model teaches itself to reason about code, on your own machine.",
    epilog=f"To begin: {PROGRAM} train -c quickstart (some minutes, no download).",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback if an error occurs.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Override keys of the configuration, for example ppo.epochs=2.",
    ),
]
_MODEL_HELP = "Model: hub repository, local folder, .gguf file, or package:NAME/FILE."
_RUN_HELP = "Run folder (runs/NAME), one of its checkpoints, or latest."

# Options that several commands have.
Model = Annotated[
    str | None, typer.Option("--model", help=_MODEL_HELP + " Default: the model of the adapters.")
]
_ADAPTERS_HELP = "Trained adapters: a run (runs/NAME), latest, or a folder."
Adapters = Annotated[Path | None, typer.Option("--adapter-path", help=_ADAPTERS_HELP)]
MaxTokens = Annotated[
    int, typer.Option("-m", "--max-tokens", min=1, help="Maximum number of tokens to generate.")
]
Temp = Annotated[float, typer.Option("--temp", min=0.0, help="Sampling temperature; 0 is greedy.")]
TopP = Annotated[
    float, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus sampling probability.")
]
BackendName = Annotated[str | None, typer.Option("--backend", help="Backend: auto, mlx or torch.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Do not show progress.")]

Thinking = Annotated[
    bool,
    typer.Option(
        "--thinking",
        help="Let a chat model think before it answers; --max-tokens must be 2048 or more.",
    ),
]

# Options of eval alone: with them its signature would hide its body. None is what was not given.
BenchmarkNames = Annotated[
    str,
    typer.Option(
        "--benchmark",
        help="Benchmarks, separated by commas: humaneval, humaneval-plus, mbpp, mbpp-sanitized, "
        "mbpp-plus, apps, apps-LEVEL, cruxeval, cruxeval-i, cruxeval-o, livecodebench; or "
        "your own, as module:function.",
    ),
]
_RUNS = "with --protocol training that of the adapters' run"
EvalMaxTokens = Annotated[
    int | None,
    typer.Option(
        "-m",
        "--max-tokens",
        min=1,
        help=f"Maximum number of tokens to generate. Default: 512; {_RUNS}.",
    ),
]
EvalThinking = Annotated[
    bool | None,
    typer.Option(
        "--thinking/--no-thinking",
        help="Let a chat model think before it answers; --max-tokens must be 2048 or more. "
        f"Default: no; {_RUNS}.",
    ),
]
Ks = Annotated[
    str,
    typer.Option("--k", help="Values of k for pass@k, for example 1,5,10; at most --num-samples."),
]
EvalStrategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        help="How to ask a chat model: direct, step_by_step, test_driven or chain_of_thought; or "
        "auto, which tries one after another until the task's visible examples pass. "
        "Default: direct; with --protocol training the first of the adapters' run.",
    ),
]
EvalProtocol = Annotated[
    str,
    typer.Option(
        "--protocol",
        help="Prompt protocol: base, chat, auto (chat if the model has a template), or training, "
        "which asks as self-play does (CRUXEval only).",
    ),
]
EvalForm = Annotated[
    str,
    typer.Option(
        "--form",
        help="Prompt form of --protocol training: few_shot, chat or a .yaml file. Default: that of "
        "the adapters' run.",
    ),
]
Compare = Annotated[
    str | None,
    typer.Option(
        "--compare", metavar="base", help="Also evaluate the base model without the adapters."
    ),
]
Split = Annotated[
    str,
    typer.Option(
        "--split",
        help="Tasks to use: all, or report, which leaves out the tasks that training uses to "
        "select its best checkpoint.",
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="DATE",
        help="Use only problems of contests on or after this day, such as 2024-10-31 "
        "(LiveCodeBench).",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until", metavar="DATE", help="Use only problems of contests on or before this day."
    ),
]
Samples = Annotated[
    Path | None,
    typer.Option(
        "--samples", help="Score a .jsonl file of samples (task_id, completion) without a model."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="The benchmark's data file, or the folder that contains it."),
]
EvalOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Output folder for samples and results; default evals/BENCHMARK-HASH. The same "
        "command again continues from it.",
    ),
]
Export = Annotated[
    str,
    typer.Option(
        "--export",
        metavar="FORMATS",
        help="Also write the results as other projects do, next to the samples: lm-eval "
        "(lm-evaluation-harness), evalplus, or both, separated by a comma.",
    ),
]

# Options of generate alone.
TestsFile = Annotated[
    Path | None,
    typer.Option(
        "--tests",
        help="Python file of assertions. Strategies are tried one after another until a program "
        "passes them in the sandbox. Exit code 3 if none does.",
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        help="How to ask a chat model: direct, step_by_step, test_driven or chain_of_thought; with "
        "--tests also auto (the default there).",
    ),
]


def _version(asked: bool) -> None:
    if asked:
        _print(f"azr-mlx {__version__}")
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
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help=_MODEL_HELP)] = None,
    backend: BackendName = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Random seed.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="[RUN_DIR|CHECKPOINT|latest]",
            help="Continue a run exactly; without a value, the latest one. Uses the run's own "
            "configuration unless -c is given.",
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
    resolved, earlier = _config(config, resume, words)
    _start()
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
    hf_path: Annotated[str, typer.Option("--hf-path", "--model", help=_MODEL_HELP)],
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
    _start("mlx")
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
        warn=lambda text: _say(f"azr-mlx: warning: {one_line(text)}"),
    )
    _result(report.to_json(), as_json)
    if (report.logp_change_mean or 0.0) > LARGE_CHANGE:
        _say(
            "azr-mlx: warning: quantization changed the model's answers; use more bits, or a "
            "smaller --q-group-size"
        )
    return 0


@app.command()
def export(
    adapter_path: Annotated[Path, typer.Option("--adapter-path", help=_ADAPTERS_HELP)],
    out: Annotated[Path, typer.Option("--out", "--save-path", help="Output folder.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="Format. hf: full model for transformers, adapters fused into dequantized "
            "weights. mlx: for mlx-lm, quantized like the base (lossy). gguf: one file for Ollama, "
            "LM Studio and llama.cpp, with a Modelfile. peft: the adapters alone.",
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
    if to not in ("hf", "mlx", "gguf", "peft"):
        raise UsageError(f"--to {to}: unknown; take hf, mlx, gguf or peft")
    if to == "peft" and (model or dtype):
        raise UsageError("--to peft: writes adapters alone; leave --model and --dtype out")
    if to == "gguf" and dtype:
        raise UsageError("--to gguf: takes --outtype f16, q8_0 or q4_0; leave --dtype out")
    if to != "gguf" and outtype:
        raise UsageError(f"--outtype: only for --to gguf; leave it out for --to {to}")
    _start("mlx")
    from azr_mlx.commands.export import to_gguf, to_model, to_peft

    if to == "peft":
        done: Any = to_peft(adapter_path, out)
    elif to == "gguf":
        done = to_gguf(adapter_path, out, kind=(outtype or "f16").lower(), model=model)
    else:
        done = to_model(adapter_path, out, to=to, model=model, dtype=dtype)
    _result({**asdict(done), "path": str(done.path)}, as_json)
    if to == "gguf" and done.logp_change_mean > LARGE_CHANGE:
        _say(
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
    text, system = _text("--prompt", prompt, stdin=True), _text("--system", system)
    if not text:
        raise UsageError("--prompt: empty; give some text")
    from azr_mlx.commands import generate_tested

    checked = None if tests is None else generate_tested.read_tests(tests)
    if checked is None and strategy == "auto":
        raise UsageError("--strategy auto: needs --tests to choose by; or name a strategy")
    if thinking:
        from azr_mlx.evaluation.protocol import check_thought_fits

        check_thought_fits(max_tokens)
    _start("mlx")
    from azr_mlx.backends.base import Sampling
    from azr_mlx.commands.generate import Generator, seed_sampler

    shown, thought = _Answer(sys.stdout), _Answer(sys.stderr)
    streams = checked is None and not as_json
    on_thought = thought.add if streams else _ignore
    generator = Generator(model, adapter_path, raw=raw, thinking=thinking, on_thought=on_thought)
    if not raw and not generator.has_template:
        _say("the model has no chat template, so it continues the text (as with --raw)")
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

    done = generate_tested.answer(generator, question, wanted, on_text=show if streams else _ignore)
    if as_json:
        _result(done.to_json(), True)
        return 0
    thought.end_line()
    shown.end()
    speed = f"{done.tokens} tokens ({done.finish}), {done.tokens_per_s:.1f} tokens/s"
    _say(f"{speed}, peak {storage(done.peak_gb * 1e9)}")
    return 0


def _say_isolation(sandbox: Sandbox, quiet: bool = False) -> None:
    if not quiet:
        typer.echo(sandbox.summary, err=True)
    if sandbox.warning:
        typer.echo(f"azr-mlx: warning: {sandbox.warning}", err=True)


def _say_try(one: Try) -> None:
    _say(one_line(one.line()))


def _solved(tries: Sequence[Try], as_json: bool) -> int:
    """Print the last program, and which strategy wrote it, or that none passed."""
    last = tries[-1]
    if as_json:
        taken = last.strategy if last.passed else None
        _result({**last.to_json(), "taken": taken, "tries": [t.to_json() for t in tries]}, True)
    else:
        shown = _Answer(sys.stdout)
        shown.add(last.code)
        shown.end()
    if last.passed:
        _say(f"the tests pass, with strategy {last.strategy}")
        return 0
    _say("no program passes the tests; the last one is shown")
    return CHECK_FAILED


@app.command("eval")
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
    _start()
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
        _names(benchmark),
        settings,
        model=model,
        adapter_path=adapter_path,
        data=data,
        samples=samples,
        compare=compare,
        out=out,
        exported=_names(export),
        backend=backend or "auto",
        left_open=open_to_the_run.keys() - given.keys(),
    )
    report = run(request, reporter(quiet), partial(_say_isolation, quiet=quiet))
    if as_json:
        _result(report.to_json(), True)
        return 0
    _print(*report.lines())
    _set_beside(report)
    return 0


def _names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


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
    _print(*drawn[1])


@app.command()
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
        _result(shown, True)
    else:
        _print(*cache.lines(shown))
    return 0


@app.command("report")
def show_run(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run folder (runs/NAME), or latest.")
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
        Path | None, typer.Option("--out", help="Output file. Default: RUN/report.html.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Write it again and again until the run ends; the page renews itself."
        ),
    ] = False,
    every: Annotated[
        int, typer.Option("--every", min=1, help="Seconds between two pages of --follow.")
    ] = 10,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Write a run's report as one HTML file: curves, held-out tasks, samples."""
    from azr_mlx.commands import report

    if follow:
        written = report.follow(run, compare or (), out, every, _say)
    else:
        written = report.write_report(run, compare or (), out)
    if as_json:
        _result(written, True)
    else:
        _print(written["path"])
    return 0


@app.command("tasks")
def show_tasks(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help=_RUN_HELP),
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
    _print(str(tasks.write(checkpoint, rows, out)))
    _say(f"{len(rows)} tasks: {tasks.counts(rows)}")
    return 0


@app.command()
def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help=_RUN_HELP)],
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
        str, typer.Option("--format", help="Format of --what fused: hf or mlx (see export --to).")
    ] = "hf",
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
        _start("mlx")
    from azr_mlx.commands import push as pushing

    wanted = pushing.Wanted(run, to, what, model_format, private)
    _print(str(pushing.write(wanted, out, _say) if dry_run else pushing.push(wanted, _say)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; an error is one line on stderr.

    Without ``argv`` this is the process's own command line, and nothing runs after it.
    """
    global _own_process
    _own_process = argv is None
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before the start
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    with _escaping(sys.stdout), _escaping(sys.stderr):
        return _exit_code(arguments)


@contextmanager
def _escaping(stream: TextIO) -> Iterator[None]:
    """Within the block, what the encoding of the stream does not have is written as an escape, for
    example ``\\xe9`` or ``\\u2500``."""
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors=before)


def _exit_code(arguments: list[str]) -> int:
    try:
        arguments = _bare_resume(arguments)
        code = _run(arguments) if arguments else _run(["--help"]) or USAGE
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader closed the pipe. Python would fail again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        _say("azr-mlx: interrupted")
        return INTERRUPTED
    except Interrupted as interrupt:
        _say(f"azr-mlx: interrupted: {interrupt}")
        return interrupt.exit_code
    except AzrError as error:
        _report(getattr(error, "lines", [str(error)]), arguments)
        return error.exit_code
    except Exception as error:
        _report([_unexpected(error, arguments)], arguments)
        return FAILED


def _unexpected(error: Exception, arguments: Sequence[str]) -> str:
    """The line for an error that nobody foresaw. Any write can fail if the disk is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; make room; a training run goes on with train --resume"
    hint = "" if "--debug" in arguments else " (--debug shows the traceback)"
    return f"{type(error).__name__}: {error}{hint}"


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    if _own_process and _COMPLETE in os.environ:
        command.main([], _PROGRAM)  # prints what the shell asks for, and ends the process
    try:
        # Not command.main: it turns Ctrl-C into an exit code without a message.
        with command.make_context(_PROGRAM, list(arguments)) as context:
            code = command.invoke(context)
    except typer.Exit as end:
        return int(end.exit_code)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        # One of typer's usage errors. Typer does not export a class to catch them by.
        where = getattr(getattr(error, "ctx", None), "command_path", "azr-mlx")
        fix = _meant(error, arguments) or f"see {where} --help"
        raise UsageError(f"{message().rstrip('.')}; {fix}") from error
    return int(code or 0)


def _meant(error: Exception, arguments: Sequence[str]) -> str:
    """A hint for someone who typed a configuration key as an option, or a configuration as a
    command."""
    from dataclasses import fields

    from azr_mlx.config import Config
    from azr_mlx.config.shipped import shipped_configs

    key = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
    if key in {f.name for f in fields(Config)}:
        return f"it is a key of the configuration: write {key}=VALUE"
    if arguments and arguments[0] in shipped_configs():
        return f"did you mean train -c {arguments[0]}?"
    return ""


def _bare_resume(argv: list[str]) -> list[str]:
    """Let ``train --resume`` without a value mean the latest run: typer has no options with
    optional values. A word like ``seed=1`` is an override, even if a folder has that name."""
    if argv[:1] != ["train"]:
        return argv
    arguments: list[str] = []
    for index, word in enumerate(argv):
        arguments.append(word)
        following = argv[index + 1] if index + 1 < len(argv) else "-"
        if word == "--resume" and (following.startswith("-") or _OVERRIDE.match(following)):
            arguments.append("latest")
    return arguments


def _config(name: str | None, resume: str | None, overrides: list[str]) -> tuple[Config, str]:
    """The named configuration; without a name that of the resumed run, or else the default. And a
    line, if it is that of a run of an earlier version. A rank that does not see the run it resumes
    is given a copy of its file by name."""
    from azr_mlx import run_folder
    from azr_mlx.config import is_of_run, load, load_run

    if resume is not None and name is not None and os.path.isfile(name) and is_of_run(name):
        return load_run(name, overrides)
    if name is not None or resume is None:
        return load(name or "azr_config", overrides), ""
    output_dir = load(None, [o for o in overrides if o.startswith("output_dir=")]).output_dir
    run_dir, _ = run_folder.find(resume, Path(output_dir))
    return load_run(run_dir / run_folder.CONFIG_FILE, overrides)


def _start(backend: str = "") -> None:
    """Load a fast BLAS, before MLX is imported and binds to the BLAS that it finds. A command that
    runs on one backend only names it, and ends here if it is not installed."""
    from azr_mlx.backends import select

    if _own_process:
        select.own_process()
    _load_blas()
    if backend:
        select.choose(backend)


def _load_blas() -> None:
    from azr_mlx.backends import blas

    if importlib.util.find_spec("mlx") is None:
        return
    info = blas.enable()
    if not info.fast:
        _say(f"azr-mlx: warning: MLX runs on a slow BLAS ({info.reason}); {info.fix}")


def _text(option: str, given: str, stdin: bool = False) -> str:
    """Text that a user gives, in Unicode, with lines that end in LF. With ``stdin``, ``-`` stands
    for what is read there. Raises UsageError if it is not text."""
    from azr_mlx.files import Unreadable, lines_of, text_of

    if stdin and given == "-":
        if sys.stdin is None:
            raise UsageError(f"{option} -: stdin is closed; give some text")
        try:
            return "".join(lines_of(sys.stdin.buffer))
        except Unreadable as error:
            raise UsageError(f"{option} -: stdin is {error}") from error
    if is_text(given):
        return given.replace("\r\n", "\n").replace("\r", "\n")
    try:  # UTF-8 in a locale that has another encoding
        return text_of(os.fsencode(given))
    except ValueError as error:
        raise UsageError(f"{option}: not UTF-8 text; write it in UTF-8") from error


class _Answer:
    """Writes a model's text while it comes: as it is into a file or a pipe, and on a terminal with
    control characters made visible."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._raw = stream, not stream.isatty()
        self._held = ""  # a CR at the end of a piece, which may be half of a line's end
        self._begun = False

    def add(self, text: str) -> None:
        if not self._raw:
            text = self._held + text
            self._held = "\r" if text.endswith("\r") else ""
            text = plain(text.removesuffix("\r"))
        self._begun = self._begun or bool(text)
        self._stream.write(text)
        self._stream.flush()

    def end(self) -> None:
        self._stream.write(plain(self._held) + "\n")
        self._begun, self._held = False, ""

    def end_line(self) -> None:
        """End the text, if there is any that has not been ended."""
        if self._begun:
            self.end()


def _ignore(text: str) -> None:
    """Do not stream: the text is part of the result."""


def _result(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print(json.dumps(row))
        return
    for key, value in row.items():
        if value is not None:
            _print(f"{key}: {f'{value:.4g}' if isinstance(value, float) else value}")


def _print(*lines: str) -> None:
    """Write lines to stdout, with control characters made visible."""
    sys.stdout.write("".join(f"{plain(line)}\n" for line in lines))


def _say(*lines: str) -> None:
    """Write lines to stderr, with control characters made visible."""
    sys.stderr.write("".join(f"{plain(line)}\n" for line in lines))
    sys.stderr.flush()


def _report(lines: Sequence[str], arguments: Sequence[str]) -> None:
    if "--debug" in arguments:
        _say(traceback.format_exc().rstrip("\n"))
    for line in lines:
        _say(f"azr-mlx: error: {middle_out(one_line(line), LONGEST_LINE)}")


if __name__ == "__main__":
    sys.exit(main())
