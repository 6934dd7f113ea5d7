"""A model that is exported as GGUF is the one that it came from: read by this project, by the
package gguf with llama.cpp's rules in numpy, by transformers, and by llama.cpp itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")
mlx_lm = pytest.importorskip("mlx_lm")
torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers")

from mlx.utils import tree_map_with_path  # noqa: E402
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers  # noqa: E402

from azr_mlx.cli import main  # noqa: E402
from azr_mlx.commands.export import _fuse, to_gguf  # noqa: E402
from azr_mlx.config import Quantization  # noqa: E402
from azr_mlx.errors import AzrError, ModelUsageError, UsageError  # noqa: E402
from azr_mlx.models.gguf import import_gguf, writer  # noqa: E402
from azr_mlx.models.gguf.header import read_header  # noqa: E402
from azr_mlx.models.gguf.modelfile import modelfile  # noqa: E402
from azr_mlx.models.gguf.tokenizer_keys import tokenizer_keys  # noqa: E402
from azr_mlx.models.gguf.turn_texts import turn_texts  # noqa: E402
from azr_mlx.models.mlx_model import open_model  # noqa: E402
from azr_mlx.tasks.chat import conversation, written  # noqa: E402
from tests import architectures, chats  # noqa: E402
from tests.models import llama_cpp, trained  # noqa: E402
from tests.models import tiny_gguf as t  # noqa: E402

pytestmark = pytest.mark.backend

IDS = [int(i) for i in np.random.default_rng(3).integers(3, 259, 24)]
MIXTURE = {"mlp_only_layers": []}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
    "gemma3_text": {"rope_local_base_freq": 100.0},
    "gemma3": {},
    "phi3": {},
    "qwen2_moe": MIXTURE,
    "qwen3_moe": MIXTURE,
}
# What each type changes: the mean difference of a logit, of which the largest is 2 to 5. Rows have
# 32 weights here, in which rounding shows more than in the thousands of a real model.
BOUNDS = {"f16": 1e-2, "q8_0": 0.1, "q4_0": 0.8}
EXACT = 1e-3  # of any logit, to the model with its weights rounded to the type


def logits(
    folder: Path, adapters: Path | None = None, outtype: str = "", ids: list[int] = IDS
) -> np.ndarray:
    """[tokens, vocabulary] in float32. With ``outtype`` the fused weights are rounded to it."""
    model = open_model(folder, adapters, dense=True).model
    if outtype:
        _fuse(model)
        model.update(
            tree_map_with_path(lambda name, w: rounded(name, w, outtype), model.parameters())
        )
    return np.array(model(mx.array([ids]))[0].astype(mx.float32))


def rounded(name: str, weight: Any, outtype: str) -> Any:
    if weight.ndim == 1 or name.endswith(("mlp.gate.weight", "shared_expert_gate.weight")):
        return weight
    top = name.removeprefix("language_model.") in ("model.embed_tokens.weight", "lm_head.weight")
    kind = t.Kind["Q8_0" if outtype == "q4_0" and top else outtype.upper()]
    packed = gguf.quants.quantize(np.array(weight), kind)
    if kind == t.Kind.F16:
        return mx.array(packed.astype(np.float32))
    return mx.array(gguf.quants.dequantize(packed, kind))


def read_back(file: Path, folder: Path) -> Path:
    import_gguf(file, folder, Quantization(bits=0), "float32", keep_blocks=True)
    return folder


@pytest.fixture
def learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A llama, and adapters on it."""
    base = trained.write_kind(tmp_path / "base", monkeypatch, "llama")
    return base, trained.train(base, tmp_path / "run")


@pytest.mark.parametrize("outtype", list(BOUNDS))
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_file_is_the_model_with_its_adapters(kind, outtype, tmp_path, monkeypatch):
    base = trained.write_kind(tmp_path / "base", monkeypatch, kind, **KINDS[kind])
    run = trained.train(base, tmp_path / "run")
    done = to_gguf(run, tmp_path / "out", kind=outtype)
    found = logits(read_back(done.path, tmp_path / "back"))
    assert np.abs(found - logits(base, run, outtype)).max() < EXACT
    expected = logits(base, run)
    assert np.abs(found - expected).mean() < BOUNDS[outtype]
    assert np.abs(logits(base) - expected).mean() > 0.02, "the adapters do nothing"
    assert sorted(p.name for p in done.path.parent.iterdir()) == ["Modelfile", done.path.name]


def test_a_model_that_mlx_lm_runs_as_a_llama_is_written_as_one(tmp_path, monkeypatch):
    base = trained.write_kind(tmp_path / "base", monkeypatch, "llama", model_type="mistral")
    run = trained.train(base, tmp_path / "run")
    done = to_gguf(run, tmp_path / "out")
    assert read_header(done.path).metadata["general.architecture"] == "llama"
    found = logits(read_back(done.path, tmp_path / "back"))
    assert np.abs(found - logits(base, run, "f16")).max() < EXACT


def read(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and weights as the package gguf reads them."""
    reader = gguf.GGUFReader(file)
    tensors = {
        one.name: np.array(gguf.quants.dequantize(one.data, one.tensor_type))
        for one in reader.tensors
    }
    return {name: field.contents() for name, field in reader.fields.items()}, tensors


@pytest.mark.parametrize("outtype", list(BOUNDS))
def test_the_weights_are_in_llama_cpps_order(outtype, tmp_path):
    """Read by the package gguf, and computed by llama.cpp's rules in float64."""
    vocabulary = t.byte_vocabulary(("<e>", t.CONTROL)) | {"tokenizer.ggml.eos_token_id": 258}
    t.tiny(tmp_path / "given.gguf", vocabulary)
    import_gguf(tmp_path / "given.gguf", tmp_path / "base", Quantization(bits=0))
    run = trained.train(tmp_path / "base", tmp_path / "run", 0.02)
    done = to_gguf(run, tmp_path / "out", kind=outtype)
    found = t.logits(read(done.path)[1], IDS)
    assert np.abs(found - logits(tmp_path / "base", run, outtype)).max() < EXACT
    assert np.abs(found - logits(tmp_path / "base")).max() > 0.1, "the adapters do nothing"


# Those of which transformers reads all that the metadata says.
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_transformers_reads_the_same_model(kind, tmp_path, monkeypatch):
    base = trained.write_kind(tmp_path / "base", monkeypatch, kind, **KINDS[kind])
    run = trained.train(base, tmp_path / "run")
    done = to_gguf(run, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        done.path.parent, gguf_file=done.path.name, dtype=torch.float32
    )
    with torch.no_grad():
        found = model.eval()(torch.tensor([IDS])).logits[0].numpy()
    assert np.abs(found - logits(base, run, "f16")).max() < EXACT


# llama.cpp rounds what is multiplied, too: to float16, or if the weights are in blocks to 8 bits.
# That Gemma's norms and a choice between experts make more of it says nothing about the file.
ROUNDED = {"f16": 0.02, "q8_0": 0.1, "q4_0": 0.1}
DENSE = ("llama", "qwen2", "qwen3", "phi3")
CASES = [(kind, "f16") for kind in KINDS] + [(k, q) for k in DENSE for q in ("q8_0", "q4_0")]


@pytest.mark.parametrize(("kind", "outtype"), CASES)
def test_llama_cpp_says_the_same(kind, outtype, tmp_path, monkeypatch):
    base = trained.write_kind(tmp_path / "base", monkeypatch, kind, **KINDS[kind])
    run = trained.train(base, tmp_path / "run")
    done = to_gguf(run, tmp_path / "out", kind=outtype)
    tokenizer = open_model(base).tokenizer
    texts = ["the hen, 12 of them\n\tdon't", "Gr\u00fc\u00dfe \U0001f389", "<|im_start|>user\nhe"]
    said = conversation("Hello", "Be short.")
    bytes_alone = [i for i in range(trained.ROWS) if "\ufffd" in tokenizer.decode([i])]
    found = llama_cpp.ask(done.path, texts, IDS, 8, [said], bytes_alone)
    assert found["tokens"] == [tokenizer.encode(text) for text in texts]
    assert found["chats"] == [written(tokenizer, said)]
    values = logits(base, run, outtype, [*IDS, *found["answer"]])[len(IDS) - 1 : -1]
    assert llama_cpp.difference(found, values, bytes_alone) < ROUNDED[outtype]


def imported(tmp_path: Path, vocabulary: dict[str, Any], **keys: Any) -> Path:
    """An MLX folder made from a tiny GGUF file with this vocabulary and these keys."""
    extra = keys.pop("extra", None)
    t.tiny(tmp_path / "given.gguf", vocabulary, extra=extra, **keys)
    import_gguf(tmp_path / "given.gguf", tmp_path / "base", Quantization(bits=0), "float32")
    return tmp_path / "base"


PIECES = t.piece_vocabulary(add_space_prefix=False)
BYTES = t.byte_vocabulary(("<e>", t.CONTROL), ("<b>", t.CONTROL), ("<think>", t.USER_DEFINED))
ENDS = {"tokenizer.ggml.eos_token_id": 258, "tokenizer.ggml.bos_token_id": 259}


@pytest.mark.parametrize(
    "given",
    [
        {**BYTES, **ENDS, "tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": bos}
        for pre, bos in [
            *((pre, True) for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2", "tekken")),
            ("deepseek-coder", False),
        ]
    ]
    + [PIECES, t.piece_vocabulary(add_space_prefix=True, add_bos_token=False)],
)
def test_the_metadata_is_that_of_the_file_that_the_model_came_from(given, tmp_path):
    base = imported(tmp_path, {**given, "tokenizer.chat_template": trained.CHATML})
    done = to_gguf(trained.train(base, tmp_path / "run"), tmp_path / "out")
    wrote, had = read_header(done.path), read_header(tmp_path / "given.gguf")
    for name, value in had.metadata.items():
        if not name.endswith("scores"):
            assert wrote.metadata[name] == value, name
    assert {name: one.shape for name, one in wrote.tensors.items()} == {
        name: one.shape for name, one in had.tensors.items()
    }
    if "tokenizer.ggml.scores" in given:  # others, which put the same merges first
        ranks = [np.argsort(np.argsort(-np.array(scores))) for scores in scores_of(wrote, had)]
        assert ranks[0].tolist() == ranks[1].tolist()


def scores_of(*headers: Any) -> list[list[float]]:
    """The scores of the tokens that merges make, without those that are equal."""
    made = [i for i, token in enumerate(PIECES["tokenizer.ggml.tokens"]) if len(token) > 1]
    kinds = PIECES["tokenizer.ggml.token_type"]
    tokens = PIECES["tokenizer.ggml.tokens"]
    sizes = [len(token) for token in tokens]
    alone = [i for i in made if kinds[i] == t.NORMAL and sizes[i] in (5, 6)]
    return [[header.metadata["tokenizer.ggml.scores"][i] for i in alone] for header in headers]


def llama3(factor: float) -> dict[str, Any]:
    return {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0} | {
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
        {"rope_type": "yarn", "factor": 4.0, "mscale": 0.5, "beta_fast": 8, "beta_slow": 2},
        llama3(8.0),
    ],
)
def test_rotary_scaling(scaling, tmp_path, monkeypatch):
    base = trained.write_kind(tmp_path / "base", monkeypatch, "llama", rope_scaling=scaling)
    run = trained.train(base, tmp_path / "run")
    done = to_gguf(run, tmp_path / "out")
    found = logits(read_back(done.path, tmp_path / "back"))
    assert np.abs(found - logits(base, run, "f16")).max() < EXACT
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rope_scaling": None}))
    assert np.abs(found - logits(base, run, "f16")).max() > 5 * EXACT, "the scaling does nothing"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("lfm2", {}, "model type 'lfm2' cannot be written as GGUF .only llama, qwen2"),
        ("llama", {"rope_traditional": True}, "llama with rope_traditional True cannot be written"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "scaling 'dynamic' of a"),
        (
            "llama",
            {"layer_types": ["full_attention", "sliding_attention"] * 2, "sliding_window": 8},
            "layers that see a window",
        ),
        ("gemma3_text", {"query_pre_attn_scalar": 9}, "query_pre_attn_scalar 9 cannot"),
        ("qwen3_moe", {**MIXTURE, "norm_topk_prob": False}, "norm_topk_prob False cannot"),
    ],
)
def test_a_model_that_a_file_cannot_hold_is_refused(kind, changes, message, tmp_path, monkeypatch):
    base = trained.write_kind(tmp_path / "base", monkeypatch, kind, **changes)
    run = trained.train(base, tmp_path / "run")
    with pytest.raises(ModelUsageError, match=message) as error:
        to_gguf(run, tmp_path / "out")
    assert error.value.exit_code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "run"]


def split(pattern: str) -> Any:
    splitter = pre_tokenizers.Split(Regex(pattern), "isolated")
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([splitter, last])


def lowercased() -> Any:
    tokenizer = trained.byte_level()
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def unigram() -> Any:
    tokenizer = trained.byte_level()
    tokenizer.model = models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0)
    return tokenizer


def whole_words() -> Any:
    tokenizer = trained.byte_level()
    tokenizer.add_tokens([AddedToken("rain", single_word=True)])  # and not that of a train
    return tokenizer


def bigger() -> Any:
    tokenizer = trained.byte_level()
    tokenizer.add_tokens([f"<extra {i}>" for i in range(20)])
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "settings", "message"),
    [
        (lambda: trained.byte_level(split(r"\w+|\W")), {}, "has no name in llama.cpp"),
        (lambda: trained.byte_level(merges=()), {}, "has no merges"),
        (
            lambda: trained.byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
            {},
            "ByteLevel in a way that llama.cpp does not know",
        ),
        (lowercased, {}, "changes texts by Lowercase"),
        (unigram, {}, "is Unigram, not BPE"),
        (whole_words, {}, "splits 'def count_vowels.* in a way of its own"),
        (bigger, {}, "has 281 tokens, and the model's embedding 272 rows"),
        (trained.byte_level, {"eos_token": None}, "no token that ends a text"),
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(
    tokenizer, settings, message, tmp_path, monkeypatch
):
    monkeypatch.setitem(architectures.SIZES, "vocab_size", trained.ROWS)
    config = architectures.configuration("llama")
    model = architectures.tiny("llama")
    base = trained.write_base(tmp_path / "base", model, config, tokenizer(), **settings)
    run = trained.train(base, tmp_path / "run")
    with pytest.raises(ModelUsageError, match=message):
        to_gguf(run, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "run"]


def test_special_tokens_without_a_row_are_left_out(tmp_path, monkeypatch):
    """As the smallest Gemma 3 has one for images."""
    monkeypatch.setitem(architectures.SIZES, "vocab_size", trained.ROWS)
    tokenizer = trained.byte_level()
    more = [f"<image {i}>" for i in range(trained.ROWS - tokenizer.get_vocab_size() + 1)]
    tokenizer.add_special_tokens(more)
    assert tokenizer.get_vocab_size() == trained.ROWS + 1
    config = architectures.configuration("llama")
    base = trained.write_base(tmp_path / "base", architectures.tiny("llama"), config, tokenizer)
    done = to_gguf(trained.train(base, tmp_path / "run"), tmp_path / "out")
    assert done.path.is_file()


def test_a_weight_too_large_for_float16_is_refused(learned, tmp_path):
    base, run = learned
    weights = mx.load(str(base / "model.safetensors"))
    weights["model.layers.1.mlp.up_proj.weight"] = mx.full((64, 32), 1e5)
    mx.eval(weights)
    mx.save_safetensors(str(base / "model.safetensors"), weights, {"format": "mlx"})
    with pytest.raises(
        ModelUsageError, match=r"layers\.1\.mlp\.up_proj\.weight has a weight of 1e"
    ):
        to_gguf(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_one_line_and_writes_nothing(learned, tmp_path, capsys):
    _, run = learned
    given = ["export", "--adapter-path", str(run), "--to", "gguf", "--out"]
    out = str(tmp_path / "out")
    for more, message in [
        ([out, "--outtype", "q5_k"], "--outtype q5_k: unknown; take one of f16, q8_0, q4_0"),
        ([f"{out}.gguf"], "is the folder for the file and its Modelfile; leave .gguf out"),
        ([out, "--dtype", "float16"], "--to gguf: takes --outtype"),
        ([str(run)], "already exists"),
        ([out, "--to", "hf", "--outtype", "f16"], "--outtype: only for --to gguf"),
    ]:
        assert main([*given, *more]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1, said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "run"]
    with pytest.raises(UsageError, match="no adapters there"):
        to_gguf(tmp_path / "none", tmp_path / "out")


def test_what_cannot_be_written_leaves_nothing(learned, tmp_path, monkeypatch):
    _, run = learned

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(AzrError, match="No space left on device; make room, or choose another"):
        to_gguf(run, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "run"]


def test_the_command_says_what_it_wrote_and_what_that_changed(learned, tmp_path, capsys):
    _, run = learned
    given = ["export", "--adapter-path", str(run), "--to", "gguf", "--json", "--outtype", "Q8_0"]
    assert main([*given, "--out", str(tmp_path / "mine")]) == 0
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert said["path"] == str(tmp_path / "mine" / "mine-Q8_0.gguf")
    assert (said["dtype"], said["quantization"]) == ("q8_0", None)
    assert 0 < said["logp_change_mean"] < 0.05 and "warning" not in printed.err
    assert read_header(Path(said["path"])).metadata["general.name"] == "mine"


def test_a_type_that_changes_the_answers_is_warned_of(learned, tmp_path, capsys, monkeypatch):
    _, run = learned
    monkeypatch.setattr("azr_mlx.cli.commands.LARGE_CHANGE", 0.01)
    given = ["export", "--adapter-path", str(run), "--to", "gguf", "--outtype", "q4_0"]
    assert main([*given, "--out", str(tmp_path / "out")]) == 0
    assert "warning: q4_0 changed the model's answers; take" in capsys.readouterr().err


def test_weights_are_written_one_by_one(tmp_path, monkeypatch):
    """Memory beside the model: MLX never has more than a few of the 28 matrices."""
    monkeypatch.setitem(architectures.SIZES, "hidden_size", 256)
    monkeypatch.setitem(architectures.SIZES, "intermediate_size", 1024)
    base = trained.write_kind(tmp_path / "base", monkeypatch, "llama", head_dim=64)
    run = trained.train(base, tmp_path / "run")
    total = (base / "model.safetensors").stat().st_size
    peaks: list[int] = []

    def measured(*arguments: Any) -> None:
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        write(*arguments)
        peaks.append(mx.get_peak_memory() - before)

    write = writer.write_gguf
    monkeypatch.setattr(writer, "write_gguf", measured)
    to_gguf(run, tmp_path / "out")
    assert total > 12e6 and peaks[0] < total / 3


def wrapped(family: str) -> Any:
    """A tokenizer with the chat template of this family, as mlx-lm loads it."""
    return mlx_lm.tokenizer_utils.TokenizerWrapper(chats.tokenizer_of(family))


def go(template: str, messages: Any) -> str:
    """What Ollama makes of a TEMPLATE of the form that is written here."""
    begins, _, rest = template.rpartition("{{ range .Messages }}{{ if eq .Role ")
    turns, _, asks = rest.partition("{{ end }}{{ end }}")
    around = {}
    for part in turns.split("{{ else if eq .Role "):
        role, _, text = part.partition(" }}")
        around[role.strip('"')] = text
    first = begins.removeprefix("{{ if not .System }}").removesuffix("{{ end }}")
    said = "".join(around[m["role"]].replace("{{ .Content }}", m["content"]) for m in messages)
    return ("" if messages[0]["role"] == "system" else first) + said + asks


@pytest.mark.parametrize("family", ["llama3", "phi4", "qwen2_5", "qwen3"])
def test_the_modelfile_asks_as_training_asks(family):
    """That is, for an answer at once: no thoughts. Ollama puts <s> first by itself."""
    tokenizer = wrapped(family)
    text = modelfile("mine.gguf", tokenizer)
    assert text.startswith('FROM ./mine.gguf\nTEMPLATE """')
    template = text.split('"""')[1]
    told = [*conversation("Hi"), {"role": "assistant", "content": "Yes?"}, *conversation("Why")]
    for said in (conversation("Hi"), conversation("Hi", "Be short."), told):
        assert go(template, said) == written(tokenizer, said).removeprefix("<s>")


@pytest.mark.parametrize("family", ["gemma3", "mistral_v0_3"])
def test_a_template_without_system_messages_is_left_to_ollama(family):
    text = modelfile("mine.gguf", wrapped(family))
    assert 'TEMPLATE "' not in text and "# The chat template has no form" in text
    assert turn_texts(chats.tokenizer_of(family)).system is None


def test_what_ends_an_answer(learned, tmp_path):
    """The end of a turn, and the eos token; once if they are the same."""
    base, _ = learned
    tokenizer = open_model(base).tokenizer
    assert modelfile("m.gguf", tokenizer).count("PARAMETER stop") == 1
    assert modelfile("m.gguf", tokenizer).endswith('PARAMETER stop "<|im_end|>"\n')
    tokenizer._tokenizer.eos_token = "<|endoftext|>"
    ends = 'PARAMETER stop "<|im_end|>"\nPARAMETER stop "<|endoftext|>"\n'
    assert modelfile("m.gguf", tokenizer).endswith(ends)
    keys = tokenizer_keys(tokenizer, trained.ROWS)
    assert keys["tokenizer.ggml.eos_token_id"] == 0 and keys["tokenizer.ggml.eot_token_id"] == 2
    # Of further ends llama.cpp knows some by their names.
    tokenizer.eos_token_ids = {0, 2, 3, 999}  # and one that is no token
    assert modelfile("m.gguf", tokenizer).endswith(ends + 'PARAMETER stop "!"\n')
    bare = mlx_lm.tokenizer_utils.TokenizerWrapper(chats.tokenizer_with(None))
    assert "# The model has no chat template" in modelfile("m.gguf", bare)


def test_tokens_that_the_vocabulary_lacks_are_unused(learned):
    base, _ = learned
    keys = tokenizer_keys(open_model(base).tokenizer, trained.ROWS)
    kinds = keys["tokenizer.ggml.token_type"]
    assert len(kinds) == len(keys["tokenizer.ggml.tokens"]) == trained.ROWS
    assert kinds[:4] == [t.CONTROL, t.CONTROL, t.CONTROL, t.NORMAL] and kinds[-1] == t.UNUSED
    assert keys["tokenizer.ggml.tokens"][-1] == "[PAD271]"


def fast(kind: str, **options: Any) -> Any:
    """A tokenizer as transformers makes it for a family, with a small vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", "a", "b", "ab", "\u2581ab"]
    merges = [("a", "b"), ("\u2581", "ab")]
    sentencepiece = kind in ("Llama", "Gemma")
    names = pieces if sentencepiece else [*letters, "<eos>", "ab", "\u0120ab"]
    pairs = merges if sentencepiece else [("a", "b"), ("\u0120", "ab")]
    ends = {} if sentencepiece else {"eos_token": "<eos>"}
    if kind == "Gemma":
        ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    make = getattr(transformers, f"{kind}Tokenizer")
    return make(vocab={name: i for i, name in enumerate(names)}, merges=pairs, **ends, **options)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("GPT2", {}, {"model": "gpt2", "pre": "gpt-2"}),
        ("Qwen2", {}, {"model": "gpt2", "pre": "qwen2"}),
        ("Llama", {}, {"model": "llama", "add_space_prefix": True}),
        ("Gemma", {}, {"model": "llama", "add_space_prefix": False}),
    ],
)
def test_tokenizers_as_transformers_makes_them(kind, options, expected):
    keys = tokenizer_keys(fast(kind, **options), 300)
    for name, value in expected.items():
        assert keys[f"tokenizer.ggml.{name}"] == value
    if expected["model"] == "llama":
        scores = dict(
            zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"], strict=True)
        )
        assert scores["ab"] > scores["\u2581ab"]
        kinds = keys["tokenizer.ggml.token_type"]
        assert kinds[3:259] == [t.BYTE] * 256 and kinds[0] == t.UNKNOWN
