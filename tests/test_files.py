"""A file or a folder is complete or absent, whatever fails while it is written."""

import codecs
import gc
import gzip
import os
from pathlib import Path

import pytest

from azr_mlx.errors import ModelError
from azr_mlx.files import (
    Unreadable,
    point,
    read_json,
    read_lines,
    read_rows,
    read_text,
    text_of,
    whole_folder,
    write_json,
    write_whole,
)

pytestmark = pytest.mark.pure


def full_disk(self: Path, text: str, **options: str) -> None:
    with self.open("w") as file:
        file.write(text[:3])
    raise OSError(28, "No space left on device")


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_json(path, {"steps": 1})
    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "something longer")
    monkeypatch.undo()
    assert list(read_rows(path)) == [{"steps": 1}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_to_and_stays(tmp_path):
    """As root, /dev/null would become a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)
    try:
        write_whole(pipe, "text")
        assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]
        assert os.read(end, 10) == b"text"
    finally:
        os.close(end)


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    link, file = tmp_path / "link", tmp_path / "there" / "file"
    link.symlink_to(file)
    for text in ("new", "newer"):
        write_whole(link, text)
        assert link.is_symlink() and file.read_text() == text
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("name", ["", ".", "..", "folder"])
def test_a_folder_is_no_place_for_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(Path(name), "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_new_file_appears_in_one_step(tmp_path, monkeypatch):
    """Until the last moment, a reader finds the old text."""
    path, seen = tmp_path / "metrics", []
    write_whole(path, "old")
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append((self.read_text(), target.read_text()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_whole(path, "new")
    assert seen == [("new", "old")] and path.read_text() == "new"


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="half way"), whole_folder(tmp_path / "model") as work:
        work.mkdir()
        (work / "weights").write_text("half")
        raise ValueError("half way")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_made_meanwhile_stays(tmp_path):
    target = tmp_path / "model"
    with whole_folder(target) as work:
        work.mkdir()
        (work / "weights").write_text("ours")
        target.mkdir()
        (target / "weights").write_text("theirs")
    assert (target / "weights").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_made_is_one_line_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ModelError, match="cannot be created"),
        whole_folder(tmp_path / "file" / "m"),
    ):
        pytest.fail("the work has begun")


def test_a_link_is_relative_and_can_be_moved_on(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        point(tmp_path / "best", tmp_path / name)
        assert (tmp_path / "best").resolve() == tmp_path / name
    assert (tmp_path / "best").readlink() == Path("b")


TEXT = 'one "é"\ntwo\nthree\n'
ENDS = {"lf": "\n", "crlf": "\r\n", "cr": "\r"}
MARKED = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize("encoding", [*MARKED, "utf-16-be with mark"])
def test_text_is_the_same_in_every_encoding_that_says_what_it_is(
    tmp_path: Path, encoding: str, name: str, end: str
) -> None:
    text = TEXT.replace("\n", end)
    known = encoding in MARKED
    data = text.encode(encoding) if known else codecs.BOM_UTF16_BE + text.encode("utf-16-be")
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read_text(path) == TEXT == text_of(data)
    assert list(read_lines(path)) == TEXT.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (TEXT.encode("latin-1"), "looks like Latin-1 or Windows-1252: byte 0xE9"),
        (TEXT.encode("utf-16-le"), "looks like UTF-16 without a byte order mark"),
        (TEXT.encode("utf-16-be"), "looks like UTF-16 without a byte order mark"),
        (b"\x7fELF\x00\x81", "not UTF-8 text"),
        (b"PK\x03\x00", "it looks binary"),
        (TEXT.encode("utf-16")[:-1], "not UTF-16"),
        (b"\x81" * 10, "byte 0x81"),
    ],
)
def test_what_is_not_text_is_said_in_a_line(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(Unreadable, match=why) as caught:
        read_text(tmp_path / "a.txt")
    assert str(caught.value).endswith("; save it as UTF-8")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut off", "flipped", "not compressed"])
def test_a_damaged_gz_file_is_said_in_a_line(tmp_path: Path, damage: str) -> None:
    path, whole = tmp_path / "a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 1000)
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 0x40]) + whole[middle + 1 :]
    path.write_bytes({"cut off": whole[:middle], "flipped": flipped}.get(damage, b'{"a": 1}\n'))
    with pytest.raises(Unreadable, match=r"not a whole \.gz file"):
        list(read_rows(path))


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "9" * 5000, '{"a": 1} 2', "nul", '{"a": "\x00"}']
)
def test_what_is_not_json_is_said_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Unreadable, match=r"^not JSON"):
        read_json(tmp_path / "a.json")


def test_lines_that_nobody_reads_to_the_end_leave_the_file_closed(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "a.txt").write_text("a\n" * 100_000)
    lines = read_lines(tmp_path / "a.txt")
    assert next(lines) == "a\n"
    lines.close()  # type: ignore[attr-defined]
    del lines
    gc.collect()
    assert not recwarn.list


def test_a_text_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a", "\ud800")
    assert list(tmp_path.iterdir()) == []
