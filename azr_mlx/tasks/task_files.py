"""Files of tasks: the rows that ``azr-mlx tasks`` writes, and rows read as drafts for the gate.

Two formats are read: these rows, and the seeds of the Absolute Zero Reasoner repository
(``*_seed_io.jsonl``), whose inputs are arguments without the outer parentheses. What a row says of
outputs is not used: the gate runs every program anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from azr_mlx.errors import PROGRAM, UsageError, first_line
from azr_mlx.files import Unreadable, from_json, read_lines
from azr_mlx.tasks.gate import Draft
from azr_mlx.tasks.inputs import arguments_of_call
from azr_mlx.tasks.parse import Proposal
from azr_mlx.text import storage
from azr_mlx.types import Task, TaskKind

TASKS_FILE = "tasks.jsonl"  # in a folder that ``azr-mlx tasks`` wrote
MOST_BYTES = 64_000_000  # of a file of tasks; a thousand times what a run's buffers hold
SOURCE = "file"  # ``Task.source`` of what comes from a file
PAIRS = (TaskKind.DEDUCTION, TaskKind.ABDUCTION)


def row_of(task: Task, attempts: int, successes: int) -> dict[str, Any]:
    """A task as a row of JSON, with what self-play measured of it. ``solve_rate`` is None if it was
    never tried. Raises ValueError if the task lacks inputs or outputs."""
    if not task.inputs or len(task.inputs) != len(task.outputs):
        raise ValueError("a task without an output for each of its inputs")
    return {
        "id": task.id,
        "kind": task.kind.value,
        "program": task.program,
        "inputs": list(task.inputs),
        "outputs": list(task.outputs),
        "message": task.message,
        "hidden": list(task.hidden),
        "solve_rate": successes / attempts if attempts else None,
        "attempts": attempts,
        "difficulty": task.difficulty,
        "step": task.origin_step,
        "origin": task.source,
        "parents": list(task.parents),
    }


def rows_of(buffer: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows (see ``row_of``) of what a checkpoint keeps of its tasks. Raises one of
    ``WRONG_VALUES`` if that is damaged."""
    return [
        row_of(Task.from_json(row["task"]), int(row["attempts"]), int(row["successes"]))
        for row in buffer
    ]


def drafts_in(path: Path, kinds: Collection[TaskKind]) -> Iterator[list[Draft] | None]:
    """What each line of a file of tasks offers to the gate: drafts of these kinds (none if it is a
    task of another), or None if it is a row of no known format.

    Raises UsageError with one line if the file is too large, cannot be read or is not JSON lines.
    """
    lines = 0
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UsageError(
                f"a file of {storage(size)}, and at most {storage(MOST_BYTES)} are read; "
                f"take fewer, for example with {PROGRAM} tasks --limit"
            )
        for line in read_lines(path):
            lines += 1
            if line.strip():
                yield _drafts(from_json(line), kinds)
    except Unreadable as error:
        where = f"line {lines}: " if lines else ""
        raise UsageError(f"{where}{first_line(error)}; give a file of JSON lines") from error
    except OSError as error:
        raise UsageError(f"cannot be read: {first_line(error)}; name another file") from error


def _drafts(row: Any, kinds: Collection[TaskKind]) -> list[Draft] | None:
    if not isinstance(row, Mapping):
        return None
    if "snippet" in row:
        return _of_seed(row, kinds)
    kind = next((one for one in TaskKind if one.value == row.get("kind")), None)
    program, message = row.get("program"), row.get("message") or ""
    inputs: Any = row.get("inputs")
    if kind is None or not _texts([program, message]) or not _texts(inputs):
        return None
    level = row.get("difficulty", 0.5)
    known = type(level) in (int, float) and 0 <= level <= 1
    proposal = Proposal(str(program), tuple(inputs), str(message))
    draft = Draft(proposal, kind, float(level) if known else 0.5, source=SOURCE)
    return [draft] if kind in kinds else []


def _of_seed(row: Mapping[str, Any], kinds: Collection[TaskKind]) -> list[Draft] | None:
    """A triplet gives a task of deduction and one of abduction; several inputs, one of
    induction."""
    snippet, imports = row["snippet"], row.get("imports") or []
    single = row.get("inputs") is None
    given: Any = [row.get("input")] if single else row["inputs"]
    message = row.get("message") or ""
    if not (_texts([snippet, message]) and _texts(given) and _texts(imports)):
        return None
    missing = [line for line in imports if line not in snippet]
    program = "\n".join([*missing, snippet])
    inputs = tuple(_tuple(text, program) for text in given)
    proposal = Proposal(program, inputs, message)
    own = PAIRS if single else (TaskKind.INDUCTION,)
    return [Draft(proposal, kind, source=SOURCE) for kind in own if kind in kinds]


def _tuple(arguments: str, program: str) -> str:
    """The source of the tuple of arguments; a text that is none stays, and the gate refuses it."""
    return arguments_of_call(f"f({arguments}\n)", program) or arguments


def _texts(values: object) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and all(isinstance(value, str) for value in values)
    )
