"""Qwen2.5-Coder-0.5B-Instruct (Q4_K_M) and gemma-3-270m (Q4_K_M), if AZR_MLX_TEST_GGUF_QWEN and
AZR_MLX_TEST_GGUF_GEMMA name their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
mlx_lm = pytest.importorskip("mlx_lm")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from azr_mlx.config import Quantization  # noqa: E402
from azr_mlx.models.gguf import import_gguf  # noqa: E402
from azr_mlx.models.mlx_model import to_float32  # noqa: E402

pytestmark = pytest.mark.e2e

CORPUS = [
    "def area(r):\n    return 3.14159 * r**2  # naïve: 日本語 🎉\n",
    "Hello, world! Don't they're WE'LL. 1234567890 12 345",
    "  leading,   multiple  spaces\t\ttabs\r\n\r\n\n\nend ",
]
CASES = {
    # variable, tokens that end a turn, tokens before a text, largest difference to transformers
    "qwen": ("AZR_MLX_TEST_GGUF_QWEN", {"<|im_end|>", "<|endoftext|>"}, [], 1e-3),
    # mlx-lm rounds gemma's scale of the embedding, 25.298, to bfloat16.
    "gemma": ("AZR_MLX_TEST_GGUF_GEMMA", {"<eos>", "<end_of_turn>"}, ["<bos>"], 0.5),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    variable, ends, first, tolerance = CASES[request.param]
    if variable not in os.environ:
        pytest.skip(f"needs {variable}=/path/to.gguf")
    folder = tmp_path_factory.mktemp(request.param) / "mlx"
    done = import_gguf(Path(os.environ[variable]), folder, Quantization(bits=0), "float32")
    assert (done.kept, done.quantized) == (0, 0)
    model, tokenizer = mlx_lm.load(str(folder))
    return folder, to_float32(model), tokenizer, ends, first, tolerance


def test_tokens(case: Any) -> None:
    _, _, tokenizer, ends, first, _ = case
    found = tokenizer.convert_ids_to_tokens(sorted(tokenizer.eos_token_ids))
    assert ends <= set(found)
    for text in CORPUS:
        ids = tokenizer.encode(text)
        assert tokenizer.convert_ids_to_tokens(ids)[: len(first)] == first
        assert tokenizer.decode(ids[len(first) :]) == text


def test_both_libraries_read_the_same_model_which_knows_paris(case: Any) -> None:
    folder, model, tokenizer, _, _, tolerance = case
    ids = tokenizer.encode("The capital of France is")
    logits = np.array(model(mx.array([ids]))[0])
    other = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = other.eval()(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(logits - expected).max() < tolerance
    best = np.argsort(logits[-1])[-5:]
    assert " Paris" in [tokenizer.decode([int(i)]).replace("\u2581", " ") for i in best] or (
        "Paris" in tokenizer.decode([int(best[-1])])
    )
