"""A SentencePiece tokenizer drops the blank that begins a text; a completion keeps its own, in
every command, and on both backends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx.backends.base import Sampling
from azr_mlx.backends.select import open_backend
from azr_mlx.cli import main
from azr_mlx.config import Lora, Quantization
from azr_mlx.types import Prompt
from tests.speller import BODY, PROMPT, speller_folder

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speller") / "model"
    speller_folder(folder)
    return folder


def test_a_base_protocol_body_keeps_its_indentation(
    speller: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {
        "task_id": "HumanEval/0",
        "prompt": PROMPT,
        "entry_point": "f",
        "canonical_solution": f"{BODY}\n",
        "test": "def check(candidate):\n    assert candidate(3) == 3\n",
    }
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(row) + "\n")
    words = ["--protocol", "base", "--data", "HumanEval.jsonl", "-m", "8", "--json"]
    assert main(["eval", "--model", str(speller), *words]) == 0
    result = json.loads(capsys.readouterr().out)["results"][0]
    assert result["pass_at"]["1"]["value"] == 1.0


@pytest.mark.parametrize("engine", ["mlx", "torch"])
def test_a_rollout_keeps_its_first_blank(engine: str, speller: Path) -> None:
    if engine == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    backend = open_backend(engine, speller, Lora(rank=1), Quantization(bits=0))
    ids = tuple(backend.tokenizer.encode(PROMPT))
    (done,) = backend.generate([Prompt(PROMPT, ids)], [Sampling(8, temperature=0.0)], [1])
    assert (done.text, done.finish) == (BODY, "stop")


def test_raw_text_goes_on_as_it_is(speller: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--raw", "-p", PROMPT, "--model", str(speller), "-m", "8"]) == 0
    assert capsys.readouterr().out == f"{BODY}\n"
