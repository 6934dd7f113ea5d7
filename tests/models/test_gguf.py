"""GGUF files of all kinds: right logits and tokens as llama.cpp has them, or one line that says
why not."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
mlx_lm = pytest.importorskip("mlx_lm")
gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

from azr_mlx.config import Quantization  # noqa: E402
from azr_mlx.errors import ModelError  # noqa: E402
from azr_mlx.models.gguf import import_gguf  # noqa: E402
from azr_mlx.models.gguf.header import read_header  # noqa: E402
from azr_mlx.models.gguf.reader import read  # noqa: E402
from azr_mlx.models.gguf.rope import llama3_factors  # noqa: E402
from azr_mlx.models.locate import resolve  # noqa: E402
from azr_mlx.models.mlx_model import to_float32  # noqa: E402
from tests.models import tiny_gguf as t  # noqa: E402

pytestmark = pytest.mark.backend

PLAIN = Quantization(bits=0)
TOLERANCE = 1e-3
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 258, 40)]


def converted_logits(path: Path, **options: Any) -> np.ndarray:
    folder = path.with_suffix("")
    import_gguf(path, folder, PLAIN, "float32", **options)
    return mlx_logits(folder)


def mlx_logits(folder: Path, ids: list[int] = IDS) -> np.ndarray:
    model = to_float32(mlx_lm.load(str(folder))[0])
    return np.array(model(mx.array([ids]))[0], np.float64)


def torch_logits(folder: Path, ids: list[int] = IDS) -> np.ndarray:
    torch = pytest.importorskip("torch")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0].double().numpy()


def tokenizer_of(path: Path) -> Any:
    import_gguf(path, path.with_suffix(""), PLAIN)
    return mlx_lm.load(str(path.with_suffix("")))[1]


def refusal(path: Path) -> str:
    """The message of the error, after which nothing is left."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(ModelError) as caught:
        import_gguf(path, path.with_suffix(""), PLAIN)
    assert sorted(path.parent.iterdir()) == before
    assert "\n" not in str(caught.value)
    assert str(path.parent) in str(caught.value), "it names the file"
    return str(caught.value)


# ---- types of tensors ----

READ_ONLY = "Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS"
WRITTEN = "F32 F16 BF16 F64 I8 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 TQ1_0 TQ2_0 MXFP4 NVFP4"
KINDS = [kind for kind in f"{WRITTEN} {READ_ONLY}".split() if kind in t.Kind.__members__]


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_gives_right_logits(tmp_path: Path, kind: str) -> None:
    """Also in the last tensor of a file, which was once left out without a word."""
    kinds = {"output.weight": kind, "blk.1.ffn_down.weight": kind, "blk.0.attn_q.weight": kind}
    held = t.tiny(tmp_path / "m.gguf", kinds=kinds)
    assert np.abs(held["output.weight"]).max() > 0
    expected = t.logits(held, IDS)
    assert np.abs(converted_logits(tmp_path / "m.gguf") - expected).max() < TOLERANCE * max(
        1, np.abs(expected).max()
    )


@pytest.mark.parametrize(
    ("number", "name", "why"),
    [
        (4, "Q4_2 (4)", "ggml has removed"),
        (31, "Q4_0_4_4 (31)", "ggml has removed"),
        (36, "IQ4_NL_4_4 (36)", "ggml has removed"),
        (42, "Q2_0 (42)", "does not know"),
        (142, "type 142", "does not know"),
        (15, "type Q8_K", "cannot dequantise"),
    ],
)
def test_types_that_cannot_be_read_are_named(
    tmp_path: Path, number: int, name: str, why: str
) -> None:
    t.tiny(tmp_path / "m.gguf", kinds={"output.weight": "Q6_K"})
    t.set_type(tmp_path / "m.gguf", "output.weight", number)
    if number == 15:  # has another size than Q6_K, so that a file of it is written
        path = tmp_path / "m.gguf"
        path.write_bytes(path.read_bytes() + bytes(300 * 300))
    message = refusal(tmp_path / "m.gguf")
    assert name in message
    assert why in message
    assert "'output.weight'" in message


@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_big_endian_files_are_read(tmp_path: Path, kind: str) -> None:
    held = t.tiny(tmp_path / "m.gguf", kinds={"output.weight": kind}, big=True)
    difference = converted_logits(tmp_path / "m.gguf") - t.logits(held, IDS)
    assert np.abs(difference).max() < TOLERANCE


def test_big_endian_blocks_are_refused_by_name(tmp_path: Path) -> None:
    t.tiny(tmp_path / "m.gguf", kinds={"output.weight": "Q8_0"}, big=True)
    assert "a big-endian file, whose type Q8_0" in refusal(tmp_path / "m.gguf")


@pytest.mark.parametrize("version", [0, 1, 4, 300])
def test_other_versions_are_named(tmp_path: Path, version: int) -> None:
    path = tmp_path / "m.gguf"
    t.tiny(path)
    path.write_bytes(b"GGUF" + struct.pack("<I", version) + path.read_bytes()[8:])
    assert f"GGUF version {version} is not supported" in refusal(path)


def test_the_header_is_that_of_the_package(tmp_path: Path) -> None:
    t.tiny(tmp_path / "m.gguf", t.piece_vocabulary(), kinds={"output.weight": "Q5_K"})
    mine, theirs = read_header(tmp_path / "m.gguf"), gguf.GGUFReader(tmp_path / "m.gguf")
    assert list(mine.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        found = mine.tensors[tensor.name]
        assert (found.start, found.size) == (tensor.data_offset, tensor.n_bytes)
        assert (found.kind, found.shape[::-1]) == (tensor.tensor_type.name, tuple(tensor.shape))
    assert mine.metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-5, "not 9.99e-6"
    for key, value in mine.metadata.items():
        assert theirs.fields[key].contents() == pytest.approx(value), key


# ---- split files ----


def write_parts(
    folder: Path, more: dict[str, Any] | None = None, count: int = 3
) -> tuple[list[Path], dict[str, np.ndarray]]:
    vocabulary = t.byte_vocabulary() | (more or {})
    made = t.weights(len(vocabulary["tokenizer.ggml.tokens"]))
    names = np.array_split(list(made), count)
    parts = []
    for number, part in enumerate(names):
        split = {"split.no": number, "split.count": count, "split.tensors.count": len(made)}
        keys = {**t.model_keys(), **vocabulary} if number == 0 else {}
        parts.append(folder / f"m-{number + 1:05d}-of-{count:05d}.gguf")
        t.write(parts[-1], {str(name): made[str(name)] for name in part}, {**keys, **split})
    return parts, made


@pytest.mark.parametrize("given", [0, 2])
def test_any_part_of_a_split_file_names_the_model(tmp_path: Path, given: int) -> None:
    parts, made = write_parts(tmp_path)
    difference = converted_logits(parts[given]) - t.logits(made, IDS)
    assert np.abs(difference).max() < TOLERANCE


def test_a_split_file_is_converted_again_if_any_part_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, _ = write_parts(tmp_path)
    options: dict[str, Any] = {"quantization": PLAIN, "cache_dir": tmp_path / "cache"}
    first = resolve(str(parts[0]), **options)
    assert capsys.readouterr().err == (
        f"converting {parts[0].stem}, once: it is kept in {tmp_path / 'cache'}\n"
    )
    assert resolve(str(parts[0]), **options) == first
    assert capsys.readouterr().err == ""
    os.utime(parts[2], (1, 1))
    assert resolve(str(parts[0]), **options).path != first.path


def test_a_split_file_without_one_of_its_parts(tmp_path: Path) -> None:
    parts, _ = write_parts(tmp_path)
    parts[1].unlink()
    assert "one of 3 parts, and m-00002-of-00003.gguf is missing" in refusal(parts[0])
    parts[0].rename(tmp_path / "renamed.gguf")
    assert "give all parts their original names" in refusal(tmp_path / "renamed.gguf")


def test_parts_of_different_models(tmp_path: Path) -> None:
    parts, _ = write_parts(tmp_path)
    parts[1].write_bytes(parts[2].read_bytes())
    assert "m-00002-of-00003.gguf is not part 2 of m-00001-of-00003.gguf" in refusal(parts[0])


# ---- the rotary embedding ----

FREQUENCIES = t.inverse_frequencies()


@pytest.mark.parametrize(
    ("keys", "divided"),
    [
        ({"rope__scaling__factor": 4.0}, 4.0),
        ({"rope__scale_linear": 4.0}, 4.0),
        ({"rope__scaling__factor": 2.0, "rope__scale_linear": 4.0}, 2.0),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, 4.0),
        ({"rope__scaling__type": "linear"}, 1.0),
        ({"rope__scaling__type": "yarn"}, 1.0),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, 1.0),
        ({"rope__scaling__original_context_length": 64, "rope__scaling__finetuned": True}, 1.0),
    ],
)
def test_rotary_scaling(tmp_path: Path, keys: dict[str, Any], divided: float) -> None:
    held = t.tiny(tmp_path / "m.gguf", **keys)
    expected = t.logits(held, IDS, FREQUENCIES / divided)
    assert np.abs(converted_logits(tmp_path / "m.gguf") - expected).max() < TOLERANCE
    assert np.abs(torch_logits(tmp_path / "m") - expected).max() < TOLERANCE


@pytest.mark.parametrize("attention", [None, 0.5])
@pytest.mark.parametrize("betas", [(32.0, 1.0), (8.0, 2.0)])
def test_yarn(tmp_path: Path, betas: tuple[float, float], attention: float | None) -> None:
    """As in ggml_rope_yarn: between two dimensions the scaled frequencies become the unscaled."""
    factor, length = 8.0, 64
    keys = {"type": "yarn", "factor": factor, "original_context_length": length}
    keys |= {"yarn_beta_fast": betas[0], "yarn_beta_slow": betas[1], "attn_factor": attention}
    held = t.tiny(
        tmp_path / "m.gguf", **{f"rope__scaling__{name}": value for name, value in keys.items()}
    )
    ends = [t.WIDTH * math.log(length / (b * 2 * math.pi)) / (2 * math.log(t.THETA)) for b in betas]
    low, high = max(0, math.floor(ends[0])), min(t.WIDTH - 1, math.ceil(ends[1]))
    ramp = 1 - np.clip((np.arange(t.WIDTH // 2) - low) / max(0.001, high - low), 0, 1)
    frequencies = FREQUENCIES / factor * (1 - ramp) + FREQUENCIES * ramp
    magnitude = (attention or 1.0) * (1 + 0.1 * math.log(factor))
    expected = t.logits(held, IDS, frequencies, magnitude)
    assert np.abs(converted_logits(tmp_path / "m.gguf") - expected).max() < TOLERANCE
    assert np.abs(torch_logits(tmp_path / "m") - expected).max() < TOLERANCE


@pytest.mark.parametrize(
    ("factor", "low", "high", "length"),
    [
        (8.0, 1.0, 4.0, 8192),
        (32.0, 1.0, 4.0, 8192),
        (8.0, 1.0, 4.0, 64),
        (3.5, 2.0, 3.0, 100),
        (4.0, 1.0, 1.01, 128),  # none or one of the waves lies between
        (16.0, 1.0, 64.0, 512),
        (8.0, 0.002, 4.0, 512),  # none of the waves is scaled by the whole factor
        (5.0, 1e4, 1e5, 16),  # all of them are
    ],
)
def test_llama3_factors_of_any_parameters(
    tmp_path: Path, factor: float, low: float, high: float, length: int
) -> None:
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    scaling = dict(zip(names, (factor, low, high, length), strict=True))
    factors = llama3_factors(scaling, t.THETA, t.WIDTH)
    held = t.tiny(tmp_path / "m.gguf", extra={"rope_freqs.weight": factors.astype(np.float32)})
    expected = t.logits(held, IDS, FREQUENCIES / factors)
    assert np.abs(converted_logits(tmp_path / "m.gguf") - expected).max() < TOLERANCE
    assert np.abs(torch_logits(tmp_path / "m") - expected).max() < TOLERANCE


def test_other_rotary_factors_are_refused(tmp_path: Path) -> None:
    factors = np.geomspace(1, 9, t.WIDTH // 2, dtype=np.float32)[::-1].copy()
    t.tiny(tmp_path / "m.gguf", extra={"rope_freqs.weight": factors})
    assert "rope_freqs.weight holds rotary factors" in refusal(tmp_path / "m.gguf")
    t.tiny(tmp_path / "n.gguf", extra={"rope_freqs.weight": factors}, rope__scaling__factor=2.0)
    assert "rope_freqs.weight and rotary scaling 'linear'" in refusal(tmp_path / "n.gguf")


# ---- metadata ----


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expert_count", 4),
        ("attention__sliding_window", 64),
        ("attention__scale", 0.5),
        ("attention__value_length", 32),
        ("attention__causal", False),
        ("logit_scale", 0.5),
        ("embedding_scale", 12.0),
        ("residual_scale", 0.2),
        ("final_logit_softcapping", 30.0),
        ("rope__dimension_sections", [4, 4, 4, 0]),
        ("rope__scaling__attn_factor", 2.0),
        ("rope__scaling__yarn_log_multiplier", 0.1),
        ("rope__scaling__type", "longrope"),
        ("rope__dimension_count", 32),
        ("a_key_of_next_year", 1),
    ],
)
def test_a_key_that_might_change_the_model_is_refused_by_name(
    tmp_path: Path, key: str, value: Any
) -> None:
    t.tiny(tmp_path / "m.gguf", **{key: value})
    message = refusal(tmp_path / "m.gguf")
    assert key.replace("__", ".") in message or "longrope" in message or "32 of 64" in message


def test_keys_that_change_nothing(tmp_path: Path) -> None:
    keys = {"expert_count": 0, "attention__sliding_window": 512, "attention__scale": 0.125}
    keys |= {"logit_scale": 1.0, "attention__causal": True, "attention__value_length": 64}
    keys |= {"vocab_size": 258, "tensor_data_layout": "Meta AI original pth"}
    keys |= {"attention__key_length": 64, "rope__dimension_count": 64, "residual_scale": 0.0}
    vocabulary = t.byte_vocabulary() | {"general.name": "a", "quantize.imatrix.file": "b"}
    held = t.tiny(tmp_path / "m.gguf", vocabulary, **keys)
    difference = converted_logits(tmp_path / "m.gguf") - t.logits(held, IDS)
    assert np.abs(difference).max() < TOLERANCE


def test_adapters_and_unknown_tokenizer_keys_are_refused(tmp_path: Path) -> None:
    t.tiny(tmp_path / "m.gguf", t.byte_vocabulary() | {"general.type": "adapter"})
    assert "general.type is 'adapter'" in refusal(tmp_path / "m.gguf")
    t.tiny(tmp_path / "n.gguf", t.byte_vocabulary() | {"tokenizer.ggml.add_sep_token": True})
    assert "tokenizer.ggml.add_sep_token might change the tokens" in refusal(tmp_path / "n.gguf")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"block_count": 1 << 30}, "layer 2 of 1073741824 is missing"),
        ({"embedding_length": 1 << 20}, "embedding_length is not the width"),
        ({"attention__head_count": 0}, "attention.head_count is not one whole number above 0: 0"),
        ({"attention__head_count": 5}, "256 rows, which are not those of 5 heads"),
        ({"attention__head_count": [4, 2]}, "attention.head_count is not one whole number"),
        ({"feed_forward_length": 1 << 29}, "do not form a model"),
        ({"attention__layer_norm_rms_epsilon": math.nan}, "is not a number: nan"),
        ({"rope__freq_base": "much"}, "rope.freq_base is not a number: 'much'"),
        ({"context_length": None}, "the metadata has no llama.context_length"),
    ],
)
def test_numbers_that_cannot_be(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    t.tiny(tmp_path / "m.gguf", **keys)
    assert message in refusal(tmp_path / "m.gguf")


# ---- tokenizers ----


@pytest.mark.parametrize(
    ("named", "ends"),
    [
        ({"<|end_of_text|>": 3, "<|eot_id|>": 3, "<|eom_id|>": 3}, None),
        ({"<|endoftext|>": 3, "<|im_end|>": 3, "<|im_start|>": 3}, {"<|endoftext|>", "<|im_end|>"}),
        ({"<end_of_turn>": 1, "<eos>": 3}, None),
        ({"<|end|>": 3, "<|return|>": 3, "<|call|>": 3}, {"<|return|>", "<|call|>"}),
        ({"<EOT>": 4, "plain": 3}, {"<EOT>"}),
    ],
)
def test_tokens_that_end_a_turn(
    tmp_path: Path, named: dict[str, int], ends: set[str] | None
) -> None:
    vocabulary = t.byte_vocabulary(*named.items())
    t.tiny(tmp_path / "m.gguf", vocabulary)
    tokenizer = tokenizer_of(tmp_path / "m.gguf")
    found = set(tokenizer.convert_ids_to_tokens(sorted(tokenizer.eos_token_ids)))
    assert found == (set(named) if ends is None else ends)
    for name in named:
        assert tokenizer.tokenize(name) == [name], "and is one token"


def test_ends_that_the_metadata_names_come_first(tmp_path: Path) -> None:
    vocabulary = t.byte_vocabulary(("<|im_end|>", 3), ("stop", 3), ("wait", 3))
    vocabulary |= {"tokenizer.ggml.eos_token_id": 259, "tokenizer.ggml.eom_token_id": 260}
    t.tiny(tmp_path / "m.gguf", vocabulary)
    import_gguf(tmp_path / "m.gguf", tmp_path / "m", PLAIN)
    made = json.loads((tmp_path / "m" / "generation_config.json").read_text())
    assert made["eos_token_id"] == [259, 260, 258]


@pytest.mark.parametrize(
    ("prefix", "text", "pieces"),
    [
        (None, "hello", ["\u2581hello"]),
        (True, " hello", ["\u2581\u2581", "hello"]),
        (True, "hello</s>world", ["\u2581hello", "</s>", "\u2581world"]),
        (False, "hello", ["hello"]),
        (False, " hello", ["\u2581hello"]),
        (False, "  hello  ", ["\u2581\u2581", "hello", "\u2581\u2581"]),
        (False, "h\u00e9", ["h", "<0xC3>", "<0xA9>"]),
        (False, "hello\n\tworld", ["hello", "<0x0A>", "<0x09>", "world"]),
    ],
)
def test_sentencepiece(tmp_path: Path, prefix: bool | None, text: str, pieces: list[str]) -> None:
    flags = {} if prefix is None else {"add_space_prefix": prefix}
    t.tiny(tmp_path / "m.gguf", t.piece_vocabulary(**flags))
    tokenizer = tokenizer_of(tmp_path / "m.gguf")
    ids = tokenizer.encode(text)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", *pieces]
    if "</s>" not in text:
        assert tokenizer.decode(ids[1:]) == text


@pytest.mark.parametrize("seed", range(3))
def test_pieces_merge_in_the_order_of_their_scores(tmp_path: Path, seed: int) -> None:
    """Held to llama.cpp's procedure, with scores that differ, in any order."""
    draw = np.random.default_rng(seed)
    vocabulary = t.piece_vocabulary(add_bos_token=False, add_space_prefix=False)
    tokens = vocabulary["tokenizer.ggml.tokens"]
    letters = "\u2581helo"
    made = {"".join(draw.choice([*letters], draw.integers(2, 6))) for _ in range(120)}
    fresh = sorted(made - set(tokens))
    tokens += fresh
    vocabulary["tokenizer.ggml.token_type"] += [t.NORMAL] * len(fresh)
    vocabulary["tokenizer.ggml.scores"] = [float(s) for s in draw.permutation(len(tokens))]
    t.tiny(tmp_path / "m.gguf", vocabulary)
    tokenizer = tokenizer_of(tmp_path / "m.gguf")
    for _ in range(50):
        text = "".join(draw.choice([*letters, "\u00e9"], 20))
        found = tokenizer.convert_ids_to_tokens(tokenizer.encode(text))
        assert found == t.pieces_of(text, vocabulary)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({}, "he"),
        ({"add_bos_token": True}, "[he"),
        ({"add_eos_token": True}, "he]"),
        ({"add_bos_token": True, "add_eos_token": True}, "[he]"),
        ({"pre": "llama-bpe"}, "[he"),
        ({"pre": "tekken", "add_bos_token": False}, "he"),
    ],
)
def test_tokens_at_the_ends_of_a_text(tmp_path: Path, flags: dict[str, Any], text: str) -> None:
    vocabulary = t.byte_vocabulary(("<begin of:0 text>", 3), ("$end", 3))
    vocabulary |= {f"tokenizer.ggml.{name}": value for name, value in flags.items()}
    vocabulary |= {"tokenizer.ggml.bos_token_id": 258, "tokenizer.ggml.eos_token_id": 259}
    t.tiny(tmp_path / "m.gguf", vocabulary)
    found = tokenizer_of(tmp_path / "m.gguf").encode("he")
    assert found == [{"[": 258, "]": 259}.get(c, 256) for c in text.replace("he", "h")]


def test_merges_without_a_token_are_passed_over(tmp_path: Path) -> None:
    vocabulary = t.byte_vocabulary()
    merges = ["th e", "x y", "q", "h e", "t he", "the zz", "\u0120 the"]
    t.tiny(tmp_path / "m.gguf", vocabulary | {"tokenizer.ggml.merges": merges})
    tokenizer = tokenizer_of(tmp_path / "m.gguf")
    assert tokenizer.tokenize("the xy he") == ["the", "\u0120", "x", "y", "\u0120", "he"]


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["12345", " aB", "'ll", "++"]),
        ("smollm", ["1", "2", "3", "4", "5", " aB", "'ll", "++"]),
        ("llama-bpe", ["123", "45", " aB", "'ll", "++"]),
        ("qwen2", ["1", "2", "3", "4", "5", " aB", "'ll", "++"]),
        ("tekken", ["1", "2", "3", "4", "5", " a", "B", "'ll", "++"]),
        ("gpt-4o", ["123", "45", " a", "B'll", "++"]),
        ("deepseek-coder", ["1", "2", "3", "4", "5", " aB", "'", "ll", "++"]),
        ("deepseek-v3", ["123", "45", " aB", "'ll", "++"]),
        ("default", ["123", "45", " aB", "'", "ll", "++"]),
    ],
)
def test_how_text_is_split(tmp_path: Path, pre: str, pieces: list[str]) -> None:
    from azr_mlx.models.gguf.splits import SPLITS
    from azr_mlx.models.gguf.tokenizer import _pre_tokenizer

    found = _pre_tokenizer(SPLITS[pre]).pre_tokenize_str("12345 aB'll++")
    assert [piece.replace("\u0120", " ") for piece, _ in found] == pieces


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "t5"}, "has a tokenizer of model 't5'"),
        ({"model": "bert"}, "has a tokenizer of model 'bert'"),
        ({"pre": "unheard-of"}, "tokenizer.ggml.pre 'unheard-of' is not one of"),
        ({"pre": ["llama-bpe"]}, "tokenizer.ggml.pre ['llama-bpe'] is not one of"),
        ({"eos_token_id": 999}, "eos_token_id is 999, and the vocabulary has 258 tokens"),
        ({"bos_token_id": 4294967295}, "bos_token_id is 4294967295"),
        ({"token_type": [1, 1]}, "258 tokens and 2 types"),
        ({"merges": "h e"}, "tokenizer.ggml.merges is not a list of str"),
        ({"add_bos_token": 1}, "tokenizer.ggml.add_bos_token is not true or false: 1"),
    ],
)
def test_tokenizers_that_cannot_be_made(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    changed = {f"tokenizer.ggml.{name}": value for name, value in change.items()}
    t.tiny(tmp_path / "m.gguf", t.byte_vocabulary() | changed)
    assert message in refusal(tmp_path / "m.gguf")


@pytest.mark.parametrize("padding", [4294967295, 258])
def test_padding_outside_of_the_vocabulary_is_none(tmp_path: Path, padding: int) -> None:
    changed = {"tokenizer.ggml.padding_token_id": padding}
    t.tiny(tmp_path / "m.gguf", t.byte_vocabulary() | changed)
    import_gguf(tmp_path / "m.gguf", tmp_path / "out", PLAIN)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] is None


def test_a_token_that_is_there_twice(tmp_path: Path) -> None:
    t.tiny(tmp_path / "m.gguf", t.byte_vocabulary(("the", 1)))
    assert "the vocabulary has 'the' twice" in refusal(tmp_path / "m.gguf")


# ---- dense or not ----


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_without_quantising_the_model_is_dense(tmp_path: Path, kind: str) -> None:
    names = [name for name in t.weights(258) if "norm" not in name]
    held = t.tiny(tmp_path / "m.gguf", kinds=dict.fromkeys(names, kind))
    expected = t.logits(held, IDS)
    assert np.abs(converted_logits(tmp_path / "m.gguf") - expected).max() < TOLERANCE
    assert "quantization" not in json.loads((tmp_path / "m" / "config.json").read_text())
    assert np.abs(torch_logits(tmp_path / "m") - expected).max() < TOLERANCE
    kept = import_gguf(tmp_path / "m.gguf", tmp_path / "k", PLAIN, "float32", keep_blocks=True)
    assert (kept.kept, kept.dequantized, kept.quantized) == (len(names), 0, 0)
    bits = json.loads((tmp_path / "k" / "config.json").read_text())["quantization"]["bits"]
    assert bits == (8 if kind == "Q8_0" else 4)
    assert np.abs(mlx_logits(tmp_path / "k") - expected).max() < TOLERANCE


def test_no_weights_are_read_for_the_header(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    t.tiny(path)
    tensors = read(path).tensors
    assert sum(tensor.size for tensor in tensors.values()) > path.stat().st_size / 2
