"""What a benchmark consists of, and how a completion is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from azr_mlx.evaluation.benchmarks.extract import extract_code
from azr_mlx.sandbox import Job, Limits, Result
from azr_mlx.tasks.verdicts import Check
from azr_mlx.text import is_text
from azr_mlx.types import Status, Task

DataRow = Mapping[str, Any]
DEFAULT_LIMITS = Limits()  # of one run of an answer with all its assertions


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one completion: PASS if all its test cases pass; ``share`` of them do."""

    status: Status
    share: float
    detail: str = ""


class ProblemCheck(Check, Protocol):
    """How a completion is judged."""

    def content(self) -> Any:
        """What the verdict depends on, as JSON: it goes into the benchmark's hash."""
        ...


@dataclass(frozen=True, slots=True)
class AssertCheck:
    """Assertions that run after the program, all of them one case."""

    tests: str
    limits: Limits = DEFAULT_LIMITS

    def jobs(self, code: str) -> list[Job]:
        return [Job("0", code, tests=self.tests, limits=self.limits)]

    def grade(self, code: str, results: Sequence[Result]) -> Grade:
        [result] = results
        return Grade(result.status, float(result.status is Status.PASS), result.detail)

    def content(self) -> Any:
        return self.tests


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. ``prefix + completion`` is graded by ``check``.

    ``prompt`` is what a base model continues, ``question`` what a chat model is asked,
    ``entry_point`` the function that is tested ("" for a whole program), ``reference`` a right
    completion ("" if none is known). ``visible`` judges by the examples that the model is shown;
    None if there are none. ``level`` is the benchmark's own word for how hard it is, ``program``
    what a question about a program shows, ``task`` the same question as self-play would ask it,
    None if it would not. Raises ValueError if one of the strings is not text.
    """

    id: str
    prompt: str
    question: str
    check: ProblemCheck
    prefix: str = ""
    entry_point: str = ""
    reference: str = ""
    visible: ProblemCheck | None = None
    level: str = ""
    program: str = ""
    task: Task | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type == "str" and not (isinstance(value, str) and is_text(value)):
                raise ValueError(f"its {f.name} is not text")

    @property
    def solution(self) -> str:
        """The program that the problem is about: a right one, or the one that is asked about; ""
        if none is known.
        """
        return self.program or (self.prefix + self.reference if self.reference else "")


@dataclass(frozen=True, slots=True)
class Spec:
    """A benchmark.

    ``parse`` gives None for a problem without tests; ``id_of`` is its id in any case, and
    ``selected`` says of an id whether it belongs to the benchmark; so does ``level``, if it is
    not "". ``files`` are the names that ``--data FOLDER`` looks for, ``rows`` reads a folder that
    holds them otherwise (None: it does not), ``hub`` the arguments of ``datasets.load_dataset``
    and ``hub_file`` the file that these read, if the hub does not say,
    ``package`` a module that holds the rows if it is installed, ``cached`` a file that another
    program has left; all of these may be empty.
    ``form`` is what the base prompt is, with ``shots`` examples; ``extract`` finds the answer in
    what a chat model says, given the name of the function, and ``reads`` says how. ``fix``: how to
    get the data by hand.
    """

    name: str
    parse: Callable[[DataRow], Problem | None]
    id_of: Callable[[DataRow], str]
    stop: tuple[str, ...]
    limits: Limits
    form: str
    files: tuple[str, ...]
    hub: tuple[str, ...]
    fix: str
    hub_file: str = ""
    package: str = ""
    cached: Callable[[], Path | None] = lambda: None
    rows: Callable[[Path], Iterator[DataRow] | None] = lambda folder: None
    selected: Callable[[str], bool] = lambda name: True
    level: str = ""
    shots: int = 0
    extract: Callable[[str, str], str] = extract_code
    reads: str = "fenced Python block that defines the function"


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
