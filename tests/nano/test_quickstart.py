"""The model in the package, and the quickstart that trains it."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx.config import load
from azr_mlx.models.locate import resolve
from azr_mlx.nano import FOLDER
from azr_mlx.nano.lessons import Lesson, lessons
from azr_mlx.run_folder import HELD_OUT_FILE
from azr_mlx.tasks.prompts import load_form
from tests.runs import rows_of

pytestmark = pytest.mark.e2e

TEXT = "def f(a):\n    return sorted(a[1:])\nassert f([3, 1, 2]) =="


def test_it_is_small_and_says_how_it_was_made():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8e6
    made = json.loads((FOLDER / "training.json").read_text())
    assert 0.5e6 <= made["parameters"] <= 2e6
    assert made["log"][-1]["loss"] < made["log"][0]["loss"] / 2
    assert {"torch", "transformers", "tokenizers"} <= set(made["versions"])


def test_it_is_used_as_it_is(tmp_path):
    config = load("quickstart")
    found = resolve(config.model_id, quantization=config.quantization, cache_dir=tmp_path)
    assert not found.converted and found.path == FOLDER
    assert not any(tmp_path.iterdir())


def test_mlx_lm_and_transformers_agree_on_it():
    import mlx.core as mx
    from mlx_lm.utils import load as load_mlx

    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from azr_mlx.models.mlx_model import to_float32

    model, tokenizer = load_mlx(str(FOLDER))
    other = AutoTokenizer.from_pretrained(FOLDER)
    ids = tokenizer.encode(TEXT)
    assert list(other(TEXT)["input_ids"]) == list(ids)
    assert tokenizer.decode(ids) == TEXT == other.decode(ids)
    ours = np.array(to_float32(model)(mx.array([ids])))[0]
    theirs = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(ours - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_a_prompt_and_its_answer_are_tokens_apart():
    """What training read in two parts, a rollout reads and writes in two parts."""
    from itertools import islice

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    digits = {tokenizer.tokenize(text)[-1] for text in ("[1, 5", "[5", " 5", "15", "n + 5")}
    assert digits == {"5"}, "a digit is one token, wherever it stands"
    rows: list[Lesson] = list(islice(lessons(load_form("compact"), 3, 3), 200))
    for (prompt, _), (answer, _), *_ in rows:
        ids = [*tokenizer.encode(prompt), *tokenizer.encode(answer)]
        assert tokenizer.decode(ids) == prompt + answer


SHORT = (
    *("max_steps=2", "batch_size=12", "held_out.tasks=6", "rollout.group_size=4"),
    "checkpoint_interval=1",
)


def test_the_quickstart_ends_with_a_table_and_a_report(cli, tmp_path):
    done = cli("train", "-c", "quickstart", *SHORT, "run_name=first")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "first"
    assert "gain in points" in done.stderr and "one step harder" in done.stderr
    assert "report: runs/first/report.html" in done.stderr
    report = (run / "report.html").read_text()
    assert "one step harder" in report and "solve_rate/{deduction" in report
    measured = json.loads((run / HELD_OUT_FILE).read_text())
    assert len(measured["before"]["greedy"]) == 36 == len(measured["after"]["sampled"])
    rows = rows_of(run)
    assert len(rows) == 2 and all(row["grad_norm"] > 0 for row in rows)
    assert all(row["propose/valid"] > 0 for row in rows)
    _check_resumed(cli, run, measured)


def _check_resumed(cli, run, measured):
    """What was cut off in its last measurement is measured; what cannot be compared is refused."""
    cut = {**measured, "after": {}}
    (run / HELD_OUT_FILE).write_text(json.dumps(cut))
    (run / "report.html").unlink()
    done = cli("train", "--resume", "runs/first")
    assert done.returncode == 0 and "report: runs/first/report.html" in done.stderr
    assert json.loads((run / HELD_OUT_FILE).read_text()) == measured, "not the same figures"
    config = (run / "config.yaml").read_text()
    done = cli("train", "--resume", "runs/first", "max_steps=3", "rollout.temperature=0.5")
    assert done.returncode == 2
    (line,) = [one for one in done.stderr.splitlines() if "error:" in one]
    assert "rollout.temperature: 0.5" in line and "held_out.tasks=0" in line
    assert "loading" not in done.stderr and (run / "config.yaml").read_text() == config
