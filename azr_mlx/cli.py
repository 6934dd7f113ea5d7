"""The command line: parses, imports what a command needs inside it, maps errors to exit codes.

Exit codes: 0 ok; 1 the run failed; 2 usage or configuration; 3 a check failed; 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from azr_mlx import __version__
from azr_mlx.errors import AzrError, Interrupted, UsageError

if TYPE_CHECKING:
    from azr_mlx.commands.evaluate import Report
    from azr_mlx.commands.generate_tested import Try
    from azr_mlx.config import Config

LARGE_CHANGE = 0.3  # nats a token, mean: another model than it was
FAILED, USAGE, CHECK_FAILED, INTERRUPTED = 1, 2, 3, Interrupted.exit_code

app = typer.Typer(
    name="azr-mlx",
    help="A small language model teaches itself to reason about code, on your own machine.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example ppo.epochs=2")
]
_MODEL_HELP = "Hub repository, folder, .gguf file or package:NAME/FILE."

# Options that several commands have.
Model = Annotated[
    str | None, typer.Option("--model", help=_MODEL_HELP + " With adapters of a run: theirs.")
]
Adapters = Annotated[
    Path | None,
    typer.Option("--adapter-path", help="A run (runs/NAME), or a folder with adapters."),
]
MaxTokens = Annotated[int, typer.Option("-m", "--max-tokens", min=1, help="Longest completion.")]
Temp = Annotated[float, typer.Option("--temp", min=0.0, help="0 is greedy.")]
TopP = Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus.")]
BackendName = Annotated[str | None, typer.Option("--backend", help="auto, mlx or torch.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]

# Options of eval alone: with them its signature would hide its body.
Ks = Annotated[
    str, typer.Option("--k", help="pass@k for these, for example 1,5,10: at most num-samples.")
]
EvalStrategy = Annotated[
    str,
    typer.Option(
        "--strategy",
        help="How a chat model is asked: direct, step_by_step, test_driven, chain_of_thought, or "
        "auto: each in turn until the examples that the task shows pass.",
    ),
]
EvalProtocol = Annotated[
    str, typer.Option("--protocol", help="base, chat, or auto: chat where it has a template.")
]
Compare = Annotated[
    str | None,
    typer.Option("--compare", metavar="base", help="Measure without the adapters, too."),
]
Split = Annotated[
    str,
    typer.Option(
        "--split",
        help="all, or report: without the tasks that training selects its best checkpoint by.",
    ),
]
Samples = Annotated[
    Path | None,
    typer.Option("--samples", help="Score this .jsonl (task_id, completion); no model."),
]
Data = Annotated[
    Path | None, typer.Option("--data", help="The benchmark's own file, or a folder that holds it.")
]
EvalOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the samples, as they come; evals/BENCHMARK-HASH if none. The same command "
        "again goes on from them.",
    ),
]

# Options of generate alone.
TestsFile = Annotated[
    Path | None,
    typer.Option(
        "--tests",
        help="A Python file of assertions. Strategies are tried in turn until the sandbox passes "
        "them; the program goes to stdout, and the exit code is 3 if none did.",
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        help="direct, step_by_step, test_driven or chain_of_thought; with --tests also auto, which "
        "is the default there.",
    ),
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"azr-mlx {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What holds for every command."""


@app.command()
def train(
    overrides: Overrides = None,
    config: Annotated[
        str | None,
        typer.Option(
            "-c", "--config", help="A shipped config's name, or a YAML file; azr_config if none."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help=_MODEL_HELP)] = None,
    backend: BackendName = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of every random draw.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="[RUN_DIR|CHECKPOINT|latest]",
            help="Continue exactly; alone: the latest run. Without -c the run's own config holds.",
        ),
    ] = None,
    resume_adapter_file: Annotated[
        Path | None, typer.Option("--resume-adapter-file", help="Start from these adapter weights.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print config and estimates; load no weights.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Train by self-play: propose tasks, solve them, verify, learn."""
    if resume is not None and resume_adapter_file is not None:
        raise UsageError(
            "--resume-adapter-file: with --resume there would be two starts; give one of them"
        )
    if resume_adapter_file is not None and not resume_adapter_file.is_file():
        raise UsageError(f"--resume-adapter-file: {resume_adapter_file}: no such file; check it")
    flags = {"model_id": model, "backend": backend, "seed": seed}
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    resolved = _config(config, resume, [*given, *(overrides or [])])
    _start()
    from azr_mlx.commands.train import train as run

    return run(
        resolved,
        resume=resume,
        init_adapters=resume_adapter_file,
        dry_run=dry_run,
        quiet=quiet,
    )


@app.command()
def convert(
    mlx_path: Annotated[Path, typer.Option("--mlx-path", help="The folder to write.")],
    hf_path: Annotated[str, typer.Option("--hf-path", "--model", help=_MODEL_HELP)],
    quantize: Annotated[bool, typer.Option("-q", "--quantize", help="Quantise.")] = False,
    q_bits: Annotated[int | None, typer.Option("--q-bits", help="Bits per weight.")] = None,
    q_group_size: Annotated[
        int | None, typer.Option("--q-group-size", help="Weights that share a scale.")
    ] = None,
    q_mode: Annotated[
        str, typer.Option("--q-mode", help="affine, mxfp4, nvfp4 or mxfp8.")
    ] = "affine",
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float16, bfloat16 or float32.")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Hub revision.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Convert a Hugging Face model or a .gguf file to MLX's format."""
    _start()
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
    )
    _result(report.to_json(), as_json)
    if (report.logp_change_mean or 0.0) > LARGE_CHANGE:
        typer.echo(
            "azr-mlx: warning: quantising changed what the model says; take more bits, or a "
            "smaller --q-group-size",
            err=True,
        )
    return 0


@app.command()
def export(
    adapter_path: Annotated[
        Path, typer.Option("--adapter-path", help="A run, or a folder of adapters.")
    ],
    out: Annotated[Path, typer.Option("--out", "--save-path", help="The folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="hf: a whole model for transformers, the adapters fused into its dequantised "
            "weights. mlx: for mlx-lm, quantised as the base is (lossy). peft: the adapters alone.",
        ),
    ] = "hf",
    model: Annotated[
        str | None, typer.Option("--model", help="The base, where the adapters do not name it.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float16, bfloat16 or float32, which hf takes if none."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Write what was learned for other programs: transformers, vLLM, mlx-lm, TRL."""
    if to not in ("hf", "mlx", "peft"):
        raise UsageError(f"--to {to}: unknown; take hf, mlx or peft")
    if to == "peft" and (model or dtype):
        raise UsageError("--to peft: writes adapters alone; leave --model and --dtype out")
    _start()
    from azr_mlx.commands.export import to_model, to_peft

    if to == "peft":
        done: Any = to_peft(adapter_path, out)
    else:
        done = to_model(adapter_path, out, to=to, model=model, dtype=dtype)
    _result({**asdict(done), "path": str(done.path)}, as_json)
    return 0


@app.command()
def generate(
    prompt: Annotated[str, typer.Option("-p", "--prompt", help="The prompt; - reads stdin.")],
    model: Model = None,
    adapter_path: Adapters = None,
    max_tokens: MaxTokens = 256,
    temp: Temp = 0.0,
    top_p: TopP = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the sampler.")] = None,
    system: Annotated[str, typer.Option("--system", help="System turn of the chat.")] = "",
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text: no template.")] = False,
    tests: TestsFile = None,
    strategy: Strategy = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Complete a prompt. The text goes to stdout, everything else to stderr."""
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text:
        raise UsageError("--prompt: empty; give some text")
    from azr_mlx.commands import generate_tested

    checked = None if tests is None else generate_tested.read_tests(tests)
    if checked is None and strategy == "auto":
        raise UsageError("--strategy auto: needs --tests to choose by; or name a strategy")
    _start()
    from azr_mlx.backends.base import Sampling
    from azr_mlx.commands.generate import Generator, seed_sampler

    generator = Generator(model, adapter_path)
    wanted = strategy or ("direct" if checked is None else "auto")
    strategies = generate_tested.strategies_for(generator, wanted, raw=raw)
    seed_sampler(seed)
    question = generate_tested.Question(text, Sampling(max_tokens, temp, top_p), raw, system)
    if checked is not None:
        tries = generate_tested.solve(generator, question, checked, strategies, on_try=_say_try)
        return _solved(tries, as_json)
    done = generate_tested.answer(
        generator, question, wanted, on_text=_ignore if as_json else _stream
    )
    if as_json:
        _result(done.to_json(), True)
        return 0
    typer.echo()
    speed = f"{done.tokens} tokens ({done.finish}), {done.tokens_per_s:.1f} tokens/s"
    typer.echo(f"{speed}, peak {done.peak_gb:.2f} GB", err=True)
    return 0


def _say_try(one: Try) -> None:
    typer.echo(one.line(), err=True)


def _solved(tries: Sequence[Try], as_json: bool) -> int:
    """The last try's program, whether or not it passed; which strategy it was, or that none did."""
    last = tries[-1]
    if as_json:
        taken = last.strategy if last.passed else None
        _result({**last.to_json(), "taken": taken, "tries": [t.to_json() for t in tries]}, True)
    else:
        typer.echo(last.code)
    if last.passed:
        typer.echo(f"the tests pass, with strategy {last.strategy}", err=True)
        return 0
    typer.echo("no strategy's program passes the tests; the last one is shown", err=True)
    return CHECK_FAILED


@app.command("eval")
def evaluate(
    benchmark: Annotated[
        str,
        typer.Option(
            "--benchmark",
            help="One, or several with commas: humaneval, humaneval-plus, mbpp, mbpp-sanitized, "
            "mbpp-plus, apps, apps-LEVEL, cruxeval, cruxeval-i, cruxeval-o.",
        ),
    ] = "humaneval",
    model: Model = None,
    adapter_path: Adapters = None,
    num_samples: Annotated[
        int, typer.Option("--num-samples", min=1, help="Completions per task.")
    ] = 1,
    k: Ks = "1",
    temp: Temp = 0.0,
    top_p: TopP = 1.0,
    max_tokens: MaxTokens = 512,
    strategy: EvalStrategy = "direct",
    protocol: EvalProtocol = "auto",
    compare: Compare = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The first tasks only.")
    ] = None,
    split: Split = "all",
    samples: Samples = None,
    data: Data = None,
    out: EvalOut = None,
    backend: BackendName = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the sampler.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Measure pass@k on benchmarks, each figure with its interval and protocol."""
    if not all(part.strip().isdecimal() for part in k.split(",")):
        raise UsageError(f"--k {k}: must be whole numbers with commas between, for example 1,5,10")
    _start()
    from azr_mlx.commands.evaluate import Request
    from azr_mlx.commands.evaluate import evaluate as run
    from azr_mlx.evaluation.progress import reporter
    from azr_mlx.evaluation.protocol import Settings

    settings = Settings(
        num_samples=num_samples,
        ks=tuple(int(part) for part in k.split(",")),
        temperature=temp,
        top_p=top_p,
        max_tokens=max_tokens,
        limit=limit,
        split=split,
        protocol=protocol,
        strategy=strategy,
        seed=seed,
    )
    request = Request(
        [name.strip() for name in benchmark.split(",") if name.strip()],
        settings,
        model=model,
        adapter_path=adapter_path,
        data=data,
        samples=samples,
        compare=compare,
        out=out,
        backend=backend or "auto",
    )
    report = run(request, reporter(quiet))
    if as_json:
        _result(report.to_json(), True)
        return 0
    typer.echo("\n".join(report.lines()))
    _set_beside(report)
    return 0


def _set_beside(report: Report) -> None:
    """Ours beside the figures that others have published for the same benchmarks."""
    from rich.console import Console

    from azr_mlx.evaluation.published_scores import Comparable, table

    ours = [Comparable("this model", report.results)]
    if report.comparisons:
        ours.append(Comparable("its base", [one.before for one in report.comparisons]))
    if (drawn := table(ours)) is None:
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    console.print(drawn[0])
    typer.echo("\n".join(drawn[1]))


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> int:
    """Say what this machine can do, and the mend of what it cannot (exit code 3 if any)."""
    from azr_mlx.commands.doctor import doctor as run

    return 0 if run(as_json=as_json, debug=debug) else CHECK_FAILED


@app.command("report")
def show_run(
    run: Annotated[str, typer.Argument(metavar="RUN", help="runs/NAME, or latest.")] = "latest",
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="RUN2", help="Draw this run's curves, too.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; RUN/report.html if none.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Write one HTML file that shows a run: curves, held-out tasks, samples."""
    from azr_mlx.monitoring import report

    shown = report.read(report.locate(run))
    beside = None if compare is None else report.read(report.locate(compare))
    path = str(report.write(shown, beside, out))
    if as_json:
        runs = [report.to_json(one) for one in (shown, beside) if one is not None]
        _result({"path": path, "runs": runs}, True)
    else:
        typer.echo(path)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; an error is one line on stderr."""
    arguments = _bare_resume(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments) if arguments else _run(["--help"]) or USAGE
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader left. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        typer.echo("azr-mlx: interrupted", err=True)
        return INTERRUPTED
    except Interrupted as interrupt:
        typer.echo(f"azr-mlx: interrupted: {interrupt}", err=True)
        return interrupt.exit_code
    except AzrError as error:
        _report(str(error), arguments)
        return error.exit_code
    except Exception as error:
        _report(_unexpected(error, arguments), arguments)
        return FAILED


def _unexpected(error: Exception, arguments: Sequence[str]) -> str:
    """A line for what no command has a word for; a full disk may fail any write."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; make room; a training run goes on with train --resume"
    hint = "" if "--debug" in arguments else " (--debug shows the traceback)"
    return f"{type(error).__name__}: {error}{hint}"


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        # Not by command.main, which makes an exit code of Ctrl-C and says nothing.
        with command.make_context("azr-mlx", list(arguments)) as context:
            code = command.invoke(context)
    except typer.Exit as end:
        return int(end.exit_code)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        # One of typer's usage errors; it exports no class of its own to catch them by.
        where = getattr(getattr(error, "ctx", None), "command_path", "azr-mlx")
        mend = _meant(error, arguments) or f"see {where} --help"
        raise UsageError(f"{message().rstrip('.')}; {mend}") from error
    return int(code or 0)


def _meant(error: Exception, arguments: Sequence[str]) -> str:
    """What somebody meant who gave a key as an option, or a configuration as a command."""
    from dataclasses import fields

    from azr_mlx.config import Config
    from azr_mlx.config.shipped import shipped_configs

    key = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
    if key in {f.name for f in fields(Config)}:
        return f"it is a key of the configuration: write {key}=VALUE"
    if arguments and arguments[0] in shipped_configs():
        return f"did you mean train -c {arguments[0]}?"
    return ""


def _bare_resume(argv: Sequence[str]) -> list[str]:
    """``--resume`` with no value means the latest run: options with optional values are ours."""
    arguments: list[str] = []
    for index, word in enumerate(argv):
        arguments.append(word)
        following = argv[index + 1] if index + 1 < len(argv) else "-"
        is_value = not following.startswith("-") and (
            "=" not in following or Path(following).exists()
        )
        if word == "--resume" and not is_value:
            arguments.append("latest")
    return arguments


def _config(name: str | None, resume: str | None, overrides: list[str]) -> Config:
    """The named configuration; without a name the resumed run's own, or the product's default."""
    from azr_mlx.config import load
    from azr_mlx.training import checkpoint

    if name is not None or resume is None:
        return load(name or "azr_config", overrides)
    output_dir = load(None, [o for o in overrides if o.startswith("output_dir=")]).output_dir
    run_dir, _ = checkpoint.find(resume, Path(output_dir))
    return load(run_dir / "config.yaml", overrides)


def _start() -> None:
    """MLX binds its BLAS when it is first imported, so a fast one must be there before."""
    from azr_mlx.backends import blas

    if importlib.util.find_spec("mlx") is None:
        return
    info = blas.enable()
    if not info.fast:
        typer.echo(
            f"azr-mlx: warning: MLX runs on a slow BLAS ({info.reason}); {info.fix}", err=True
        )


def _stream(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _ignore(text: str) -> None:
    """No stream: the text is in the result."""


def _result(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(row))
        return
    for key, value in row.items():
        shown = f"{value:.4g}" if isinstance(value, float) else "-" if value is None else value
        typer.echo(f"{key}: {shown}")


def _report(message: str, arguments: Sequence[str]) -> None:
    if "--debug" in arguments:
        traceback.print_exc()
    for line in message.splitlines() or [""]:
        typer.echo(f"azr-mlx: error: {line}", err=True)


if __name__ == "__main__":
    sys.exit(main())
