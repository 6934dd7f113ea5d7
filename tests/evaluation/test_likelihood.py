"""The probability of the right answer is the product over its tokens, of one task and of many."""

from __future__ import annotations

import re

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx.backends.mlx import MlxBackend  # noqa: E402
from azr_mlx.config import Lora  # noqa: E402
from azr_mlx.evaluation import likelihood  # noqa: E402
from azr_mlx.tasks.prompts import load_form  # noqa: E402
from azr_mlx.types import Task, TaskKind  # noqa: E402
from tests.tiny import EOS, CharTokenizer, tiny_model  # noqa: E402

pytestmark = pytest.mark.backend

TASKS = [
    Task.create(
        TaskKind.DEDUCTION,
        f"def f(x):\n    return x + {i}" + " + 0" * (i % 3),
        (f"({i},)",),
        (str(2 * i),),
    )
    for i in range(5)
]


class Merging(CharTokenizer):
    """A digit and the line end after it are one token, as a bracket and a line end are for many
    tokenizers."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        merged = re.sub(r"(\d)\n", lambda found: chr(1 + int(found[1])), text)
        return super().encode(merged)


@pytest.fixture(scope="module")
def backend() -> MlxBackend:
    return MlxBackend(tiny_model(scale=2.0), CharTokenizer(), Lora(rank=4))


def chances_of(backend: MlxBackend, tokenizer: CharTokenizer, task: Task, end: str = ""):
    """From the model's own forward pass: the probabilities of the answer's tokens, and those of all
    tokens after it."""
    form = load_form("few_shot")
    asked, answer = form.solve(task).text, form.right_answer(task).rstrip("\n")
    ids, size = tokenizer.encode(asked + answer + end), len(tokenizer.encode(asked))
    logits = np.array(backend.policy.lm(mx.array([ids]))[0].astype(mx.float32), np.float64)
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    return [chances[place - 1, ids[place]] for place in range(size, len(ids))], chances[-1]


def plainly(backend: MlxBackend, task: Task) -> float:
    """Character by character: the answer, and then a line end or the end of the text."""
    body, after = chances_of(backend, CharTokenizer(), task)
    return float(np.prod(body) * after[[ord("\n"), EOS]].sum())


def test_it_is_the_product_over_the_answers_tokens_and_the_sum_over_its_ends(backend, monkeypatch):
    monkeypatch.setattr(likelihood, "ROWS", 2)  # in several calls
    found = likelihood.right_answers(backend, load_form("few_shot"), TASKS)
    expected = [plainly(backend, task) for task in TASKS]
    assert len(set(found)) == len(TASKS) and min(found) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_line_end_may_be_one_token_with_the_sign_before_it(backend, monkeypatch):
    monkeypatch.setattr(backend, "tokenizer", Merging())
    found = likelihood.right_answers(backend, load_form("few_shot"), TASKS)
    expected = []
    for task in TASKS:
        body, after = chances_of(backend, Merging(), task)
        with_line_end, _ = chances_of(backend, Merging(), task, "\n")
        assert len(with_line_end) == len(body)
        expected.append(np.prod(body) * after[EOS] + np.prod(with_line_end))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_reference_is_the_model_without_its_adapters(backend):
    form = load_form("few_shot")
    before = likelihood.right_answers(backend, form, TASKS)
    layer = backend.policy.lm.layers[0].self_attn.q_proj
    kept = layer.lora_b
    layer.lora_b = mx.ones_like(kept)
    try:
        moved = likelihood.right_answers(backend, form, TASKS)
        reference = likelihood.right_answers(backend, form, TASKS, policy="reference")
    finally:
        layer.lora_b = kept
    np.testing.assert_allclose(reference, before, rtol=1e-5)
    assert np.abs(np.array(moved) / before - 1).max() > 0.01
