"""The options that commands have, with their help."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from azr_mlx.cli import completion
from azr_mlx.errors import UsageError

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback if an error occurs.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Override keys of the configuration, for example ppo.epochs=2; --dry-run shows all.",
    ),
]
MODEL_HELP = "Model: hub repository, local folder, .gguf file, or package:NAME/FILE."
RUN_HELP = "Run folder (runs/NAME), one of its checkpoints, or latest."


def _finite(value: float) -> float:
    """The number; "inf" is one, too, and passes the bound of an option."""
    if not math.isfinite(value):
        raise UsageError(f"--temp {value}: not a temperature; give a number such as 0.8")
    return value


# Options that several commands have.
Model = Annotated[
    str | None, typer.Option("--model", help=MODEL_HELP + " Default: the model of the adapters.")
]
ADAPTERS_HELP = "Trained adapters: a run (runs/NAME), latest, or a folder."
Adapters = Annotated[
    Path | None,
    typer.Option("--adapter-path", help=ADAPTERS_HELP, autocompletion=completion.runs),
]
MaxTokens = Annotated[
    int, typer.Option("-m", "--max-tokens", min=1, help="Maximum number of tokens to generate.")
]
Temp = Annotated[
    float,
    typer.Option("--temp", min=0.0, callback=_finite, help="Sampling temperature; 0 is greedy."),
]
TopP = Annotated[
    float, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus sampling probability.")
]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend", help="Backend: auto, mlx or torch.", autocompletion=completion.backends
    ),
]
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
        autocompletion=completion.benchmarks,
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
        help="Prompt form of --protocol training: few_shot, chat, compact or a .yaml file. "
        "Default: that of the adapters' run.",
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
