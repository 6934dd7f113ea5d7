"""Adapters in PEFT's layout give the log-probabilities that they give here."""

import json

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")

from azr_mlx.errors import UsageError  # noqa: E402
from azr_mlx.export import to_peft  # noqa: E402
from tests.backend.test_mlx_ppo import make_backend, make_batch  # noqa: E402
from tests.backend.test_torch_backend import torch_model  # noqa: E402
from tests.tiny import tiny_model  # noqa: E402

pytestmark = pytest.mark.backend


@pytest.fixture
def saved(tmp_path):
    backend = make_backend(base="tiny/model")
    (tmp_path / "run").mkdir()
    backend.save(tmp_path / "run")
    return backend, tmp_path / "run"


def test_peft_loads_it_and_computes_the_same(saved, tmp_path):
    backend, run = saved
    done = to_peft(run, tmp_path / "out")
    assert (done.model, done.rank, done.alpha) == ("tiny/model", 4, 8.0)
    plain = torch_model(tiny_model(scale=2.0))
    model = peft.PeftModel.from_pretrained(plain, tmp_path / "out").eval()
    batch = make_batch()
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(batch.tokens).long()).logits.log_softmax(-1)
    tokens = torch.from_numpy(batch.tokens).long()[:, 1:, None]
    theirs = logits[:, :-1].gather(-1, tokens)[..., 0].numpy() * batch.mask[:, 1:]
    ours = backend.score(batch, "current", 1.0).logp[:, 1:]
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    reference = backend.score(batch, "reference", 1.0).logp[:, 1:]
    assert np.abs(theirs - reference).max() > 0.01, "the adapters do nothing: this proves nothing"


def test_bad_input_is_one_line_and_writes_nothing(saved, tmp_path):
    _, run = saved
    with pytest.raises(UsageError, match="no LoRA adapters there"):
        to_peft(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists; name another folder"):
        to_peft(run, tmp_path / "there")
    config = json.loads((run / "adapter_config.json").read_text())
    (run / "adapter_config.json").write_text(json.dumps({**config, "fine_tune_type": "dora"}))
    with pytest.raises(UsageError, match="dora: not LoRA's"):
        to_peft(run, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "there"]
