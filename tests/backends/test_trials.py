"""What is told from a trial of a model: a device that fails is not the model's fault, coarse
products are not a mistake, and a mask or a position that is wrong by one token is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

import mlx.nn as nn  # noqa: E402

from azr_mlx.backends.kv_places import Places  # noqa: E402
from azr_mlx.backends.mlx import backend, trials  # noqa: E402
from azr_mlx.backends.mlx.anatomy import Anatomy  # noqa: E402
from azr_mlx.backends.mlx.prefix_sharing import Span  # noqa: E402
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


# -- how exact -------------------------------------------------------------------------------------


def test_products_as_coarse_as_an_m5_s_are_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """It multiplies matrices in TF32, but not single rows: what is computed token by token is
    exact, and the whole text is off, by up to 2.5e-3. Factors in bfloat16 give as much here."""
    model, real = Anatomy(tiny_model(quantized=False)), nn.Linear.__call__

    def coarse(layer: nn.Linear, x: mx.array) -> mx.array:
        if x.shape[-2] == 1:
            return real(layer, x)
        return _rounded(x) @ _rounded(layer.weight).T

    monkeypatch.setattr(nn.Linear, "__call__", coarse)
    with pytest.raises(ValueError, match="not give the same logits"):
        trials.path_of(model)  # the products that were measured are exact
    monkeypatch.setattr(trials, "coarse_products", lambda: True)
    assert trials.path_of(model) == "shared"


def test_whether_products_are_coarse_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not trials.coarse_products.__wrapped__(), "MLX_ENABLE_TF32 is 0 in tests"
    real = mx.matmul
    monkeypatch.setattr(mx, "matmul", lambda a, b: real(tf32(a), tf32(b)))
    assert trials.coarse_products.__wrapped__()


def tf32(x: mx.array) -> mx.array:
    """Rounded to 10 bits behind the point, as far as float16 reaches."""
    return x.astype(mx.float16).astype(mx.float32)


def _rounded(x: mx.array) -> mx.array:
    return x.astype(mx.bfloat16).astype(mx.float32)


def stage_positions(span: Span) -> None:
    span.offset = span.offset + 1


def stage_padding(span: Span) -> None:
    span.past = mx.ones_like(span.past)


def stage_first(span: Span) -> None:
    span.past = span.past & (mx.arange(span.past.shape[1])[None] > 0)


@pytest.mark.parametrize("mistake", [stage_positions, stage_padding, stage_first])
def test_a_stage_that_is_wrong_by_a_token_is_found(
    monkeypatch: pytest.MonkeyPatch, mistake: Callable[[Span], None]
) -> None:
    monkeypatch.setattr(trials, "coarse_products", lambda: True)  # the wider bound
    model, real = Anatomy(tiny_model(quantized=False)), Span.__init__

    def init(span: Span, stage: dict, before: Span | None) -> None:
        real(span, stage, before)
        if before is not None:
            mistake(span)

    monkeypatch.setattr(Span, "__init__", init)
    assert trials.path_of(model) == "batched"


def later(places: Places) -> None:
    places.offset = places.offset + 1


def one_slot_more(places: Places) -> None:
    seen = mx.arange(places.end + 1) >= mx.array(places.start - 1)[:, None]
    places.masks = {(0, 0): seen[:, None, None]}


def without_the_first(places: Places) -> None:
    seen = mx.arange(places.end + 1) >= mx.array(places.start + 1)[:, None]
    places.masks = {(0, 0): seen[:, None, None]}


@pytest.mark.parametrize("mistake", [later, one_slot_more, without_the_first])
def test_decoding_that_is_wrong_by_a_token_is_found(
    monkeypatch: pytest.MonkeyPatch, mistake: Callable[[Places], None]
) -> None:
    monkeypatch.setattr(trials, "coarse_products", lambda: True)  # the wider bound
    model, real = Anatomy(tiny_model(quantized=False)), Places._describe

    def describe(places: Places) -> None:
        real(places)
        mistake(places)

    monkeypatch.setattr(Places, "_describe", describe)
    assert trials.path_of(model) == "batched"
