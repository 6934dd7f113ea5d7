"""What a run's record says of the model that its adapters belong to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from azr_mlx.config import Quantization
from azr_mlx.models.adapters import place_of_base, quantization_of

pytestmark = pytest.mark.pure

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def run_on(folder: Path, source: str, revision: str | None = None, backend: str = "mlx") -> Path:
    """A run whose adapters belong to "owner/model", from this source."""
    (folder / "adapters").mkdir(parents=True)
    (folder / "config.yaml").write_text("quantization:\n  bits: 8\n")
    start = {"backend": backend, "model": {"source": source, "revision": revision}}
    (folder / "run.json").write_text(json.dumps({"starts": [{"model": None}, start]}))
    (folder / "adapters" / "adapter_config.json").write_text('{"model": "owner/model"}')
    return folder


def test_the_commit_that_a_run_was_on_is_kept(tmp_path):
    """The repository may have another one by now, which would be another base."""
    run = run_on(tmp_path / "run", "hub:owner/model", COMMIT)
    for place in (run, run / "adapters"):
        assert place_of_base(place, "owner/model") == ("owner/model", COMMIT)
    assert place_of_base(run, "owner/other") == ("owner/other", None), "asked for by the user"
    (run / "run.json").unlink()
    (run / "metrics.jsonl").touch()
    assert place_of_base(run, "owner/model") == ("owner/model", None)
    assert place_of_base(None, "owner/model") == ("owner/model", None)


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_relative_path_means_what_it_meant_to_the_run(tmp_path, monkeypatch, kind):
    """From another folder it would be taken for the name of a model on the hub."""
    run = run_on(tmp_path / "run", f"{kind}:/models/owner/model")
    monkeypatch.chdir(tmp_path)
    assert place_of_base(run, "owner/model") == ("/models/owner/model", None)
    Path("owner/model").mkdir(parents=True)
    assert place_of_base(run, "owner/model") == ("owner/model", None), "it was moved with the run"


def test_what_torch_was_trained_on_is_evaluated_on_torch(tmp_path):
    for name, on_mlx in (("torch (cuda)", 0), ("mlx (auto)", 8)):
        run = run_on(tmp_path / name[:3], "hub:owner/model", backend=name)
        assert quantization_of(run, "torch") == Quantization(bits=8)
        assert quantization_of(run) == Quantization(bits=on_mlx)
