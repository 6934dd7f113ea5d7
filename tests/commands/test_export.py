"""What is exported gives, in the program it is for, the log-probabilities that it gives here."""

import json
import shutil

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from azr_mlx.backends.mlx import MlxBackend, adapters  # noqa: E402
from azr_mlx.cli import main  # noqa: E402
from azr_mlx.commands import export  # noqa: E402
from azr_mlx.commands.evaluate import quantization_for  # noqa: E402
from azr_mlx.commands.export import to_gguf, to_model, to_peft  # noqa: E402
from azr_mlx.commands.generate import Generator  # noqa: E402
from azr_mlx.config import Config, Lora, Quantization, to_yaml  # noqa: E402
from azr_mlx.errors import AzrError, ModelError, UsageError  # noqa: E402
from azr_mlx.models.adapters import base_of, read_lora  # noqa: E402
from azr_mlx.models.locate import resolve  # noqa: E402
from azr_mlx.models.mlx_model import open_model  # noqa: E402
from tests import architectures  # noqa: E402
from tests.backends.test_mlx_ppo import make_backend, make_batch  # noqa: E402
from tests.backends.test_torch_backend import torch_model  # noqa: E402
from tests.models import test_config_keys as config_keys  # noqa: E402
from tests.models import trained  # noqa: E402
from tests.tiny import tiny_folder, tiny_model, write_folder  # noqa: E402

pytestmark = pytest.mark.backend


@pytest.fixture
def saved(tmp_path):
    backend = make_backend(base="tiny/model")
    (tmp_path / "run").mkdir()
    backend.save(tmp_path / "run")
    return backend, tmp_path / "run"


def require_same_logprobs(model, backend):
    """The exported model in torch scores a batch as the backend does, and not as its base."""
    batch = make_batch()
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(batch.tokens).long()).logits.log_softmax(-1)
    tokens = torch.from_numpy(batch.tokens).long()[:, 1:, None]
    theirs = logits[:, :-1].gather(-1, tokens)[..., 0].numpy() * batch.mask[:, 1:]
    ours = backend.score(batch, "current", 1.0).logp[:, 1:]
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    reference = backend.score(batch, "reference", 1.0).logp[:, 1:]
    assert np.abs(theirs - reference).max() > 0.01, "the adapters do nothing: this proves nothing"


def test_peft_loads_it_and_computes_the_same(saved, tmp_path):
    backend, run = saved
    done = to_peft(run, tmp_path / "out")
    assert (done.model, done.rank, done.alpha) == ("tiny/model", 4, 8.0)
    plain = torch_model(tiny_model(scale=2.0))
    model = peft.PeftModel.from_pretrained(plain, tmp_path / "out").eval()
    require_same_logprobs(model, backend)


def test_others_may_read_what_is_written_as_the_umask_says(saved, tmp_path):
    _, run = saved
    to_peft(run, tmp_path / "out")
    (plain := tmp_path / "plain").touch()
    written = [*run.rglob("*.safetensors"), *(tmp_path / "out").iterdir()]
    assert len(written) >= 3
    assert {file.stat().st_mode for file in written} == {plain.stat().st_mode}


def test_adapters_in_bfloat16_are_written_as_float32(saved, tmp_path):
    _, run = saved
    file = run / "adapters.safetensors"
    arrays = {name: a.astype(mx.bfloat16) for name, a in mx.load(str(file)).items()}
    mx.save_safetensors(str(file), arrays)
    to_peft(run, tmp_path / "out")
    made = mx.load(str(tmp_path / "out" / "adapter_model.safetensors"))
    assert {a.dtype for a in made.values()} == {mx.float32}
    total = sum(float(mx.abs(a.astype(mx.float32)).sum()) for a in arrays.values())
    found = sum(float(mx.abs(a).sum()) for a in made.values())
    assert total > 0 and found == pytest.approx(total, rel=1e-5)


def test_adapters_of_another_rank_than_their_file_says_are_refused(saved, tmp_path):
    """PEFT would read them, and fail at the first layer."""
    _, run = saved
    file = run / "adapter_config.json"
    config = json.loads(file.read_text())
    config["lora_parameters"]["rank"] += 1
    file.write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"is not of rank \d+, which adapter_config.json says"):
        to_peft(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapters_of_a_wrapped_model_are_refused(saved, tmp_path):
    _, run = saved
    file = run / "adapters.safetensors"
    arrays = {f"language_model.{name}": a for name, a in mx.load(str(file)).items()}
    mx.save_safetensors(str(file), arrays)
    with pytest.raises(UsageError, match=r"language_model\..* other names .*; use --to mlx"):
        to_peft(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["gemma3", "qwen3_vl"])
def test_peft_computes_the_same_in_a_wrapper(kind, tmp_path):
    """transformers has other names than mlx-lm for the same parts."""
    text, vision = config_keys.WRAPPED[kind]
    config = transformers.AutoConfig.for_model(
        kind, text_config={**config_keys.SIZES, **text}, vision_config=vision
    )
    made = transformers.AutoModelForImageTextToText
    config_keys.save(made.from_config(config), tmp_path / "hf")
    cache = tmp_path / "cache"
    base = resolve(str(tmp_path / "hf"), quantization=config_keys.PLAIN, cache_dir=cache).path
    run = trained.train(base, tmp_path / "run")
    to_peft(run, tmp_path / "out")
    model = made.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    before = config_keys.torch_logits(model)
    after = config_keys.torch_logits(peft.PeftModel.from_pretrained(model, tmp_path / "out"))
    ours = open_model(base, run, dense=True).model(mx.array([config_keys.IDS]))[0]
    np.testing.assert_allclose(after, np.array(ours), atol=1e-4)
    assert np.abs(after - before).max() > 0.01, "the adapters do nothing: this proves nothing"


def test_the_base_of_adapters_without_a_run_is_taken_as_it_is(learned, tmp_path, monkeypatch):
    _, run = learned
    asked, located = [], export.resolve

    def resolve(name, *, quantization, **others):
        asked.append((name, quantization))
        return located(name, quantization=quantization, **others)

    monkeypatch.setattr(export, "resolve", resolve)
    to_model(run, tmp_path / "out")
    assert [quantization for _, quantization in asked] == [Quantization(bits=0)]
    name = asked[0][0]
    assert quantization_for(name, run, "mlx") == Quantization(bits=0)
    assert quantization_for("M.GGUF", run, "mlx") == Quantization(bits=8, group_size=32)
    assert quantization_for(name, None, "mlx") == Quantization(), "a model alone has the default"


def test_the_commit_that_the_run_was_on_is_exported(learned, tmp_path, monkeypatch):
    """The repository may have another one by now, and the adapters belong to the former."""
    _, made = learned
    run = tmp_path / "run"
    shutil.copytree(made, run / "adapters")
    file = run / "adapters" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model": "owner/model"}))
    (run / "config.yaml").write_text("quantization: {bits: 0}\n")
    start = {"backend": "mlx", "model": {"source": "hub:owner/model", "revision": "c0ffee"}}
    (run / "run.json").write_text(json.dumps({"starts": [start]}))
    asked = []

    def resolve(name, *, revision, **others):
        asked.append((name, revision))
        raise ModelError("not here")

    monkeypatch.setattr(export, "resolve", resolve)
    for write in (to_model, to_gguf):
        with pytest.raises(ModelError, match="not here"):
            write(run, tmp_path / "out")
    assert asked == [("owner/model", "c0ffee")] * 2


def test_adapters_of_peft_are_named_as_that(learned, tmp_path):
    _, run = learned
    base = base_of(run)
    to_peft(run, tmp_path / "peft")
    for use in (
        lambda: to_model(tmp_path / "peft", tmp_path / "out", model=base),
        lambda: to_peft(tmp_path / "peft", tmp_path / "out"),
        lambda: read_lora(tmp_path / "peft"),
        lambda: Generator(base, tmp_path / "peft", raw=True),
    ):
        with pytest.raises(UsageError, match=r"holds PEFT's adapters, .*; merge them into"):
            use()
    assert not (tmp_path / "out").exists()


def test_a_configuration_of_adapters_without_layers_says_so(learned, tmp_path):
    _, run = learned
    file = run / "adapter_config.json"
    row = json.loads(file.read_text())
    del row["num_layers"]
    file.write_text(json.dumps(row))
    with pytest.raises(UsageError, match=r"adapter_config.json has no 'num_layers'; give adapters"):
        to_model(run, tmp_path / "out")


@pytest.mark.parametrize("there", [True, False], ids=["bitsandbytes", "without it"])
def test_torch_quantises_a_model_alone_if_it_can(there, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if there else None)
    expected = Quantization() if there else Quantization(bits=0)
    assert quantization_for("owner/model", None, "torch") == expected


def test_a_full_disk_names_the_folder_and_leaves_nothing(learned, tmp_path, monkeypatch):
    """As MLX says it."""
    _, run = learned

    def full(*_, **__):
        raise RuntimeError("[write] Unable to write 8 bytes to file.")

    monkeypatch.setattr("mlx_lm.utils.save_model", full)
    with pytest.raises(AzrError, match=r"--out .*out: cannot be written: .*; make room"):
        to_model(run, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "run"]


def test_bad_input_is_one_line_and_writes_nothing(saved, tmp_path):
    _, run = saved
    with pytest.raises(UsageError, match="no LoRA adapters there"):
        to_peft(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists; name another folder"):
        to_peft(run, tmp_path / "there")
    config = json.loads((run / "adapter_config.json").read_text())
    (run / "adapter_config.json").write_text(json.dumps({**config, "fine_tune_type": "dora"}))
    with pytest.raises(UsageError, match="dora: not a LoRA adapter"):
        to_peft(run, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "there"]


@pytest.fixture
def learned(tmp_path):
    """A 4-bit folder, and adapters on it that change what it says."""
    tiny_folder(tmp_path / "base")
    name = str(tmp_path / "base")
    backend = MlxBackend.from_folder(tmp_path / "base", Lora(rank=4, scale=2.0), base=name)
    draw = np.random.default_rng(1)
    for _, layer in adapters.adapter_layers(backend.policy.lm):
        layer.lora_b = mx.array(draw.normal(size=layer.lora_b.shape).astype(np.float32) * 0.2)
    (tmp_path / "run").mkdir()
    backend.save(tmp_path / "run")
    return backend, tmp_path / "run"


def test_transformers_loads_the_fused_model_and_computes_the_same(learned, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    backend, run = learned
    done = to_model(run, tmp_path / "out")
    assert done.dtype == "float32" and done.quantization is None
    assert done.logp_change_max < 1e-4 and done.measured_on == "a fixed text"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    require_same_logprobs(model, backend)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    asked = tokenizer("def f(x):", return_tensors="pt")
    answer = model.generate(**asked, max_new_tokens=5, do_sample=False)
    assert tokenizer.decode(answer[0]).startswith("def f(x):")


def test_a_fused_mlx_model_is_quantised_as_its_base_and_says_what_that_costs(learned, tmp_path):
    _, run = learned
    exact, lossy = to_model(run, tmp_path / "hf"), to_model(run, tmp_path / "mlx", to="mlx")
    assert lossy.quantization == {"group_size": 32, "bits": 4}
    assert lossy.bytes < exact.bytes / 2
    assert lossy.logp_change_mean > 1e-3 > exact.logp_change_mean


def test_what_fusing_changed_is_measured_on_the_rollouts_of_the_run(learned, tmp_path):
    _, run = learned
    (run / "config.yaml").write_text(to_yaml(Config()))
    (run / "rollouts").mkdir()
    row = {"prompt": {"token_ids": [5, 6, 7]}, "completion": {"token_ids": [8, 9, 0]}}
    lines = f"{json.dumps(row)}\n" * 40
    (run / "rollouts" / "step_000003.jsonl").write_text(lines)
    done = to_model(run, tmp_path / "out")
    assert (done.measured_on, done.measured_tokens) == ("32 rollouts of step_000003", 96)


def test_the_command_prints_what_was_written(learned, tmp_path, capsys):
    _, run = learned
    given = ["export", "--adapter-path", str(run), "--out", str(tmp_path / "out"), "--json"]
    assert main([*given, "--dtype", "float16"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["dtype"], said["path"]) == ("float16", str(tmp_path / "out"))
    assert main(given) == 2 and "exists; name another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("qwen3_moe", "peft", "PEFT has no adapters for stacked experts"),
        ("qwen3_moe", "hf", "'qwen3_moe', whose weights MLX keeps in another order"),
        ("lfm2", "hf", "'lfm2', whose weights MLX keeps in another order"),
        ("gemma4", "hf", "'gemma4', whose weights MLX keeps in another order"),
        ("lfm2", "mlx", ""),
        ("gemma4", "mlx", ""),
    ],
)
def test_a_model_that_transformers_could_not_read_is_refused(
    name, to, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(architectures, "VOCABULARY", 257)
    monkeypatch.setitem(architectures.SIZES, "vocab_size", 257)
    monkeypatch.setitem(architectures.SIZES, "vocab_size_per_layer_input", 257)
    base, run, out = tmp_path / "base", tmp_path / "run", tmp_path / "out"
    config = {**architectures.configuration(name), "eos_token_id": 0}
    write_folder(base, architectures.tiny(name), config)
    run.mkdir()
    MlxBackend.from_folder(base, Lora(rank=2), base=str(base)).save(run)
    export = (lambda: to_peft(run, out)) if to == "peft" else lambda: to_model(run, out, to=to)
    if message:
        with pytest.raises(UsageError, match=message):
            export()
        assert not out.exists()
    else:
        assert export().logp_change_max < 1e-3


def test_what_cannot_be_fused_is_one_line_and_writes_nothing(learned, tmp_path):
    _, run = learned
    with pytest.raises(UsageError, match="no adapters there; give runs/NAME"):
        to_model(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ModelError, match="dtype 'int8' is not known"):
        to_model(run, tmp_path / "out", dtype="int8")
    config = json.loads((run / "adapter_config.json").read_text())
    (run / "adapter_config.json").write_text(json.dumps({**config, "model": None}))
    with pytest.raises(UsageError, match="--model: missing"):
        to_model(run, tmp_path / "out")
    wider = {**config, "lora_parameters": {**config["lora_parameters"], "rank": 8}}
    (run / "adapter_config.json").write_text(json.dumps(wider))
    with pytest.raises(UsageError, match="does not fit the model"):
        to_model(run, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "run"]
