"""What a benchmark consists of, and how a completion is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, Protocol

from azr_mlx.errors import UsageError
from azr_mlx.evaluation.benchmarks.extract import extract_code
from azr_mlx.sandbox import Job, Limits, Result
from azr_mlx.tasks.excerpt import joined
from azr_mlx.tasks.verdicts import Check
from azr_mlx.text import is_text
from azr_mlx.types import Status, Task

DataRow = Mapping[str, Any]
DEFAULT_LIMITS = Limits()  # of one run of an answer with all its assertions


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one completion: PASS if all its test cases pass; ``share`` of them do.

    ``base`` is the verdict by the original benchmark's cases alone, if there are more, and None if
    it is not known.
    """

    status: Status
    share: float
    detail: str = ""
    base: Status | None = None


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
    """One problem. ``check`` grades ``program_with`` a completion, which follows the ``prefix``.

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
        return self.program or (self.program_with(self.reference) if self.reference else "")

    def program_with(self, completion: str) -> str:
        """The program that is graded: the completion behind the prefix, but for its imports from
        ``__future__``, with which a whole function may begin."""
        return joined(self.prefix, completion)

    def completion_in(self, program: str) -> str:
        """A completion of which ``program_with`` makes the program."""
        before, _, rest = program.partition(self.prefix) if self.prefix else ("", "", program)
        return before + rest


@dataclass(frozen=True, slots=True)
class Window:
    """The days from ``since`` to ``until``, both included; None: there is no such end."""

    since: date | None = None
    until: date | None = None

    @classmethod
    def given(cls, since: str | None, until: str | None) -> Window:
        """The window that the options name. Raises UsageError if they name none."""
        window = cls(_day("--since", since), _day("--until", until))
        if window.since and window.until and window.since > window.until:
            raise UsageError(f"--since {since} --until {until}: the first day is after the last")
        return window

    def __bool__(self) -> bool:
        return self.since is not None or self.until is not None

    def __contains__(self, day: date) -> bool:
        after = self.since is None or self.since <= day
        return after and (self.until is None or day <= self.until)

    def __str__(self) -> str:
        ends = (("since", self.since), ("until", self.until))
        return " ".join(f"{word} {day}" for word, day in ends if day is not None)


ALWAYS = Window()


def _day(option: str, text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text}: is not a day; write it like 2024-10-31") from None


@dataclass(frozen=True, slots=True)
class Spec:
    """A benchmark.

    ``parse`` gives None for a problem without tests; ``id_of`` is its id in any case, and
    ``selected`` says of an id whether it belongs to the benchmark; so does ``level``, if it is
    not "". ``date_of`` is the day of a problem, by which a window of them can be chosen (None: they
    have none). ``files`` are the names that ``--data FOLDER`` looks for, ``rows`` reads a folder
    that holds them otherwise (None: it does not), ``hub`` the arguments of
    ``datasets.load_dataset`` and ``hub_file`` the file that these read, if the hub does not say,
    ``package`` a module that holds the rows if it is installed, ``cached`` a file that another
    program has left; all of these may be empty.
    ``form`` is what the base prompt is, with ``shots`` examples; ``system`` comes before a chat
    model's question, and ``asked`` says what it is asked; ``extract`` finds the answer in what it
    says, given the name of the function, and ``reads`` says how. ``fix``: how to get the data by
    hand.
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
    date_of: Callable[[DataRow], date] | None = None
    shots: int = 0
    system: str = ""
    asked: str = "the question as a user message"
    extract: Callable[[str, str], str] = extract_code
    reads: str = "fenced Python block that defines the function, with what it needs"


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
