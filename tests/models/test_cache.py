"""The user's cache: where it is, what counts as its own, and how it is emptied."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from azr_mlx.cli import main
from azr_mlx.models import cache

pytestmark = pytest.mark.pure


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "mine"))
    return tmp_path / "mine"


def fill(here: Path) -> tuple[list[Path], list[Path]]:
    """(what belongs to the cache, what does not)."""
    model = here / "models" / "tiny-01234567-0123456789ab"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"x" * 1000)
    linked = here / "models" / "tiny-01234567-ba9876543210"
    linked.symlink_to(model.name)
    stale = here / "models" / "tiny-01234567-0123456789ab.4000000.tmp"
    stale.mkdir()
    outside = here.parent / "weights"
    outside.write_bytes(b"y" * 5000)
    (model / "weights").symlink_to(outside)
    library = here / "libopenblas-0011aabb.so"
    library.write_bytes(b"z" * 10)
    notes, other = here / "notes.txt", here / "models" / "my-model"
    notes.write_text("mine")
    other.mkdir()
    return [model, library, linked, stale], [notes, other, outside]


def test_one_folder_for_all_working_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    first = cache.models()
    monkeypatch.chdir(tmp_path)
    assert cache.models() == first
    if sys.platform == "linux":
        assert first == tmp_path / "xdg" / "azr-mlx" / "models"


def test_the_variable_moves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for named, meant in (("~/c", tmp_path / "c"), ("c", tmp_path / "c"), ("/c", Path("/c"))):
        monkeypatch.setenv(cache.VARIABLE, named)
        assert cache.folder() == meant


def test_an_empty_cache_is_shown_and_not_made(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"0 kB in {here}\n"
    assert main(["cache", "--clear"]) == 0
    assert not here.exists()


def test_its_own_entries_are_shown_largest_first(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, _ = fill(here)
    assert main(["cache", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    sizes = {Path(row["path"]): row["bytes"] for row in shown["entries"]}
    assert (shown["path"], shown["bytes"], shown["cleared"]) == (str(here), 1010, False)
    assert sizes == dict.fromkeys(own, 0) | {own[0]: 1000, own[1]: 10}
    assert list(sizes)[:2] == own[:2]


def test_clearing_removes_its_own_and_nothing_else(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, others = fill(here)
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"1 kB removed from {here}"
    assert not any(path.is_symlink() or path.exists() for path in own)
    assert all(path.exists() for path in others)


def test_what_cannot_be_removed_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, _ = fill(here)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(cache.shutil, "rmtree", refuse)
    assert main(["cache", "--clear"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{own[0]}: Permission denied; remove it yourself" in line
