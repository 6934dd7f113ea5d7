"""Files and folders that are complete or absent, and the one way in which text files are read.

Everything is written under a temporary name in the same folder and renamed at the end. If the
process is killed, the old file or the new one remains, never a part of one.
"""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from azr_mlx.errors import ModelError

# The marks with which a file says its encoding. UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Unreadable(ValueError):
    """A file that is not text, not JSON or not whole. The message says why, and often the fix."""


def write_whole(path: Path, text: str) -> None:
    """Write a file. On an error, such as OSError, the old file stays as it was.

    A link stays, and the file that it leads to is replaced. A device or a pipe, such as
    /dev/stdout, is written to: if it were replaced, nobody could use it any more.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    path = Path(os.path.realpath(path))
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # others may write the same file
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Write a value as JSON and a newline. Raises OSError, and then leaves the old file."""
    write_whole(path, json.dumps(value, indent=indent) + "\n")


def point(link: Path, target: Path) -> None:
    """Make ``link`` a relative symbolic link to ``target``, in one step."""
    fresh = link.with_name(f".{link.name}.tmp")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(target, link.parent))
    fresh.replace(link)


def fsync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_lines(rows: Iterable[Any]) -> str:
    """One line of JSON for each row."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file (see ``lines_of``, also for what is raised)."""
    with open_bytes(path) as file:
        yield from lines_of(file)


def open_bytes(path: Path) -> Any:
    """A file to read bytes from, decompressed if its name ends in ``.gz``. Raises OSError."""
    return (gzip.open if path.suffix == ".gz" else open)(path, "rb")


def lines_of(file: Any, errors: str = "strict") -> Iterator[str]:
    """The lines of a buffered binary file. They are UTF-8, or what the file's byte order mark says;
    they may end in CR, LF or both, and end here in LF. ``errors`` is that of ``open``.

    Raises OSError, or Unreadable if the file is damaged or is not text.
    """
    try:
        lines = io.TextIOWrapper(file, encoding=_encoding(file.peek(4)[:4]), errors=errors)
        try:
            yield from iter(lines.readline, "")
        finally:
            if not file.closed:
                lines.detach()  # the file is the caller's to close
    except UnicodeDecodeError as error:
        raise Unreadable(_not_text(error)) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Unreadable(f"not a whole .gz file ({error}); fetch or make it again") from error


def read_text(path: Path) -> str:
    """The text of a file (see ``lines_of``, also for what is raised)."""
    return "".join(read_lines(path))


def text_of(data: bytes) -> str:
    """The text of a file's content (see ``lines_of``, also for what is raised)."""
    return "".join(lines_of(io.BufferedReader(io.BytesIO(data))))


def read_rows(path: Path) -> Iterator[Any]:
    """The value in each line of a ``.jsonl`` or ``.jsonl.gz`` file.

    Raises OSError, or Unreadable if it cannot be read.
    """
    return map(from_json, read_lines(path))


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises OSError, or Unreadable if it cannot be read."""
    return from_json(read_text(path))


def from_json(text: str) -> Any:
    """The value that the text is in JSON. Raises Unreadable."""
    try:
        return json.loads(text)
    except RecursionError:
        raise Unreadable("not JSON (nested too deeply)") from None
    except ValueError as error:  # also a whole number of thousands of digits
        raise Unreadable(f"not JSON ({error})") from error


def has_mark(path: Path) -> bool:
    """Whether a file begins with a byte order mark. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(4)
    return any(start.startswith(mark) for mark, _ in _MARKS)


def _encoding(start: bytes) -> str:
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    if b"\0" in start:
        wide = start[:1] == b"\0" or start[1:2] == b"\0"
        looks = "like UTF-16 without a byte order mark" if wide else "binary"
        raise Unreadable(f"not UTF-8 text (it looks {looks}); save it as UTF-8")
    return "utf-8"


def _not_text(error: UnicodeDecodeError) -> str:
    name = error.encoding.upper()
    looks = ""
    if name == "UTF-8":
        try:
            error.object.decode("cp1252")
            looks = "it looks like Latin-1 or Windows-1252: "
        except UnicodeDecodeError:
            looks = ""
    at = f"byte 0x{error.object[error.start]:02X}"
    return f"not {name} text ({looks}{at}, {error.reason}); save it as UTF-8"


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary path at which to make a folder. At the end it is renamed to ``target``, or
    removed if there was an error.

    If another process has made ``target`` in the meantime, its folder stays. Raises ModelError if
    the folder cannot be made.
    """
    with scratch_folder(target) as work:
        yield work
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():
                raise


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` at which to make a folder, which is removed at the end.

    Temporary folders that a killed process left behind are removed. Raises ModelError if the folder
    cannot be made.
    """
    work = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        work.mkdir()  # an error, if any, should come before the work, not after it
        work.rmdir()
    except OSError as error:
        raise ModelError(
            f"folder {str(target)!r} cannot be created: {error.strerror}",
            "choose one that can be written",
        ) from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_stale(target: Path) -> None:
    for path in target.parent.glob("*.tmp"):
        match = re.fullmatch(re.escape(target.name) + r"\.(\d+)\.tmp(\..+)?", path.name)
        if match and (int(match[1]) == os.getpid() or not _alive(int(match[1]))):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
