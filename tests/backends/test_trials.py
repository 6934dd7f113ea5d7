"""What is told from a trial of a model: a device that fails is not the model's fault."""

from __future__ import annotations

import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx.backends.mlx import backend, trials  # noqa: E402
from azr_mlx.backends.mlx.anatomy import Anatomy  # noqa: E402
from tests.tiny import tiny_model  # noqa: E402

pytestmark = pytest.mark.backend

METAL = "[METAL] Command buffer execution failed: Impacting Interactivity (0000000e)"


def failing(monkeypatch: pytest.MonkeyPatch, *, calls: int, text: str) -> Anatomy:
    """A model whose forward pass raises an error with this text after so many calls."""
    model, left = Anatomy(tiny_model(quantized=False)), iter(range(calls))
    real = model.hidden

    def hidden(*given: object, **options: object) -> mx.array:
        if next(left, None) is None:
            raise RuntimeError(text)
        return real(*given, **options)

    monkeypatch.setattr(model, "hidden", hidden)
    return model


@pytest.mark.parametrize("calls", [0, 5, 8])  # stages, whole texts, decoding
def test_a_device_that_fails_is_not_a_model_that_cannot_share(
    monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    model = failing(monkeypatch, calls=calls, text=METAL)
    with pytest.raises(RuntimeError, match="Impacting Interactivity"):
        trials.path_of(model)


def test_nor_a_model_that_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = failing(monkeypatch, calls=0, text=METAL)
    for trial in (trials.runs, lambda model: trials.same_gradients(model, {})):
        with pytest.raises(RuntimeError, match="Impacting Interactivity"):
            trial(model)
    with (
        pytest.raises(RuntimeError, match="Impacting Interactivity"),
        backend._refusing(model.model),
    ):
        raise RuntimeError(METAL)


def test_other_errors_are_the_model_s(monkeypatch: pytest.MonkeyPatch) -> None:
    model = failing(monkeypatch, calls=0, text="[matmul] shapes")
    assert not trials.runs(model)
    assert not trials.same_gradients(model, {})
