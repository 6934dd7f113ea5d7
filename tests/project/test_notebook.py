"""The notebook of docs/ runs from its first cell to its last, on nano, and finds what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

pytestmark = pytest.mark.e2e

NOTEBOOK = ROOT / "docs" / "an-afternoon.ipynb"
# A shorter run: fewer steps, and fewer tasks before and after.
SHORTER = {
    "STEPS = 120": "STEPS = 2",
    "run_name=notebook": "run_name=notebook held_out.tasks=3 batch_size=9 sandbox.workers=1",
}


def said(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def test_it_runs_and_shows_a_gain_tasks_and_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(NOTEBOOK, 4)
    for old, new in SHORTER.items():
        [cell] = [one for one in book.cells if old in one.source and one.cell_type == "code"]
        cell.source = cell.source.replace(old, new)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=400, kernel_name="python3", resources=place).execute()
    trained, learned, tasks, answer, taken = [
        said(one) for one in book.cells if one.cell_type == "code"
    ][1:]
    assert "done: 2 steps; adapters in runs/notebook/adapters" in trained
    assert [line.split()[0] for line in learned.splitlines()] == ["greedy"] * 2 + ["sampled"] * 2
    assert "of them by the model" in tasks and "def f(" in tasks
    assert "[2, 1, 3]" in answer, "nano has known this since its lessons"
    assert (tmp_path / "nano-trained" / "config.json").exists(), taken


def test_it_is_kept_without_what_a_run_of_it_printed() -> None:
    book = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
