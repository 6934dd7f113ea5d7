"""A file or a folder is complete or absent, whatever fails while it is written."""

from pathlib import Path

import pytest

from azr_mlx.errors import ModelError
from azr_mlx.files import point, read_rows, whole_folder, write_json, write_whole

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
