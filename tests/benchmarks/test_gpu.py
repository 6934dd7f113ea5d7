"""The script for a GPU, at toy size on a CPU: every part runs, and none takes the others along."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="peft is not installed")

from tests.conftest import benchmark_script

pytestmark = pytest.mark.e2e
STUB = """
import sys, time
part = sys.argv[sys.argv.index("--one") + 1]
if part == "kernels":
    sys.exit("kernels do not compile here")
print("{'a': 'line that is not ours'}")
if part == "model":
    print('found: {"folder": "x"}')
if part == "step":
    print('found: {"rollout_tok_s": 5.0, "beginnings": [[1]], "peak_gb": 1.0}', flush=True)
    print('found: {"rollout_tok', end="", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def gpu():
    with benchmark_script("gpu") as script:
        yield script


def rows_in(file) -> dict[str, dict]:
    return {row["part"]: row for row in map(json.loads, file.read_text().splitlines())}


def test_the_rehearsal_finds_something_in_every_part(gpu, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    parts = ["kernels", "plain", "step", "selfplay"]
    code = gpu.main(["--rehearse", "--minutes", "30", "--out", str(out), "--parts", *parts])
    rows = rows_in(out)
    assert code == 0, rows
    assert list(rows) == ["machine", "model", *parts]
    found = {part: row["found"] for part, row in rows.items()}
    assert found["kernels"]["float32_logp_error"] < 1e-5
    assert found["kernels"]["bfloat16_tokens_equal"] == 1
    for name in ("rollout_tok_s", "update_tok_s", "step_s", "peak_gb"):
        assert found["step"][name] > 0
    assert found["step"]["beginnings"] == found["plain"]["beginnings"]
    assert found["selfplay"]["steps"] == 1 and len(found["selfplay"]["sampled_gain"]) == 3
    table = capsys.readouterr().out
    assert "rows that begin as without graphs   100%" in table and "sampled_gain" in table


def test_a_part_that_fails_or_is_slow_loses_nothing_of_the_others(gpu, tmp_path, monkeypatch):
    stub, out = tmp_path / "stub.py", tmp_path / "rows.jsonl"
    stub.write_text(STUB)
    monkeypatch.setattr(gpu, "SCRIPT", stub)
    monkeypatch.setitem(gpu.SECONDS, "step", 5)
    monkeypatch.setattr(gpu, "_has_trl", lambda options: False)
    code = gpu.main(["--out", str(out), "--parts", "kernels", "step", "trl"])
    rows = rows_in(out)
    assert code == 1
    assert rows["kernels"]["status"] == "failed"
    assert rows["kernels"]["why"] == "kernels do not compile here"
    assert rows["step"]["status"] == "out of time" and rows["step"]["found"]["rollout_tok_s"] == 5
    assert rows["trl"]["status"] == "left out" and "--peers" in rows["trl"]["why"]


def test_without_a_model_nothing_else_is_tried(gpu, tmp_path):
    out = tmp_path / "rows.jsonl"
    given = ["--rehearse", "--model", str(tmp_path / "none"), "--out", str(out)]
    assert gpu.main(given) == 1
    assert list(rows_in(out)) == ["machine", "model"]
    assert rows_in(out)["model"]["status"] == "failed"


def test_a_machine_without_a_gpu_is_told_so_at_once(gpu, tmp_path, monkeypatch):
    stub, out = tmp_path / "stub.py", tmp_path / "rows.jsonl"
    stub.write_text("""print('found: {"device": "cpu"}')""")
    monkeypatch.setattr(gpu, "SCRIPT", stub)
    assert gpu.main(["--out", str(out)]) == 1
    assert list(rows_in(out)) == ["machine"]
    assert "sees no GPU" in rows_in(out)["machine"]["why"]


def test_a_download_that_takes_too_long_is_explained(gpu, tmp_path, monkeypatch):
    stub, out = tmp_path / "stub.py", tmp_path / "rows.jsonl"
    stub.write_text("import sys, time\nif 'model' in sys.argv: time.sleep(60)")
    monkeypatch.setattr(gpu, "SCRIPT", stub)
    monkeypatch.setitem(gpu.SECONDS, "model", 2)
    assert gpu.main(["--out", str(out), "--model", "owner/name"]) == 1
    assert list(rows_in(out)) == ["machine", "model"]
    assert rows_in(out)["model"]["why"].endswith("fetch it first: hf download owner/name")


def test_kernels_that_could_not_be_built_are_not_called_triton(gpu, capsys, monkeypatch):
    from azr_mlx.backends.torch import kernels

    def fail(name):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(kernels, "_broken", [])
    monkeypatch.setattr(kernels, "_triton", fail)
    monkeypatch.setattr(kernels, "path", lambda logits: "torch" if kernels._broken else "triton")
    with pytest.warns(RuntimeWarning, match="C compiler"):
        gpu.gpu_parts.kernels(gpu.arguments(["--rehearse"]))
    mark = gpu.gpu_parts.MARK
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith(mark)]
    assert [json.loads(line.removeprefix(mark))["path"] for line in told] == ["torch"] * 2


def test_the_parts_fit_into_the_time(gpu):
    fixed = sum(gpu.SECONDS.values())
    assert fixed + gpu.LEAST_SELFPLAY + gpu.GRACE < 8 * 60
