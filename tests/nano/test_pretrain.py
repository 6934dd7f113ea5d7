"""Nano's pre-training: what is cut off goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from azr_mlx.nano import pretrain  # noqa: E402

pytestmark = pytest.mark.backend

FOLDER = Path(pretrain.__file__).parent / "model"
PART = pretrain.Stretch(0, 4_000, 0.25)  # eight batches


class CutOff(Exception):
    """Stands for the end of the process."""


def weights(state: Path, seed: int = 0) -> dict[str, Any]:
    """The weights after a part that was trained from nothing, or from ``state``."""
    tokenizer = pretrain.PreTrainedTokenizerFast.from_pretrained(FOLDER)
    torch.manual_seed(seed)
    model = pretrain.make_model(tokenizer)
    pretrain.train(model, tokenizer, PART, 0, state)
    return model.state_dict()


def test_a_part_that_was_cut_off_makes_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BATCH", 512), ("POOL", 128), ("KEEP", 2)):
        monkeypatch.setattr(pretrain, name, value)
    whole = weights(tmp_path / "whole")
    assert not (tmp_path / "whole").exists()

    step, taken = pretrain.step, list[float]()

    def cut(*given: Any) -> float:
        if len(taken) == 5:
            raise CutOff
        taken.append(0.0)
        return step(*given)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "step", cut)
        with pytest.raises(CutOff):
            weights(tmp_path / "state")
    assert (tmp_path / "state").exists()
    again = weights(tmp_path / "state", seed=1)  # other weights, which the state replaces
    assert not (tmp_path / "state").exists()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_seed_goes_on_from_its_own_state_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list[Path]()

    def cut(*given: Any) -> None:
        found.append(given[-1])
        raise CutOff

    monkeypatch.setattr(pretrain, "train", cut)
    monkeypatch.setattr(pretrain, "sample", lambda seed, count: [[("def f", True)]])
    for seed in ("0", "1"):
        monkeypatch.setattr("sys.argv", ["pretrain", str(tmp_path / "out"), "--seed", seed])
        with pytest.raises(CutOff):
            pretrain.main()
    assert len(set(found)) == 2


def test_a_complete_folder_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["pretrain", str(FOLDER)])
    with pytest.raises(SystemExit):
        pretrain.main()
    assert "is complete; choose another folder" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["pretrain", str(tmp_path / "out"), "--begin", str(tmp_path)])
    with pytest.raises(SystemExit):
        pretrain.main()
    assert f"--begin {tmp_path}: not a complete first part" in capsys.readouterr().err


def test_muon_computes_in_single_precision() -> None:
    """What the docstring of ``Unrounded`` promises: against the same iteration in float64."""
    gradient = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    turned = gradient.double() / gradient.double().norm()
    for _ in range(5):
        gram = turned @ turned.T
        turned = 3.4445 * turned + (-4.775 * gram + 2.0315 * gram @ gram) @ turned
    weight = torch.nn.Parameter(torch.zeros(16, 32))
    # Of the first step's gradient, momentum and Nesterov's look ahead change the length alone.
    muon = torch.optim.Muon([weight], lr=1.0, weight_decay=0.0)
    weight.grad = gradient
    with pretrain.Unrounded():
        muon.step()
    torch.testing.assert_close(weight.detach().double(), -turned, rtol=1e-4, atol=1e-5)


def test_what_is_saved_is_loaded_and_others_may_read_it(tmp_path: Path) -> None:
    tokenizer = pretrain.PreTrainedTokenizerFast.from_pretrained(FOLDER)
    model = pretrain.make_model(tokenizer)
    pretrain.save(tmp_path / "out", model, tokenizer, [])
    again = pretrain.Qwen3ForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for name, made in model.state_dict().items():
        assert torch.equal(made.half().float(), again.state_dict()[name]), name
    (plain := tmp_path / "plain").touch()
    files = list((tmp_path / "out").iterdir())
    assert {file.stat().st_mode for file in files} == {plain.stat().st_mode}, files
