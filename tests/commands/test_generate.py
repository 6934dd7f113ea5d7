"""Inference loads adapters onto the right weights, in the precision that the device wants."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx import cli  # noqa: E402
from azr_mlx.backends.base import Sampling  # noqa: E402
from azr_mlx.commands import generate  # noqa: E402
from azr_mlx.config import Quantization  # noqa: E402
from azr_mlx.errors import ModelError, UsageError  # noqa: E402
from azr_mlx.models import hub  # noqa: E402
from azr_mlx.types import Prompt  # noqa: E402
from tests import chats  # noqa: E402
from tests.tiny import tiny_folder  # noqa: E402

pytestmark = pytest.mark.backend

TOKENS = [[5, 17, 33, 2, 90]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_folder(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random, non-zero adapters in mlx-lm's format."""
    from mlx.utils import tree_flatten
    from mlx_lm import load
    from mlx_lm.tuner.utils import linear_to_lora_layers

    folder = tmp_path_factory.mktemp("adapters")
    parameters = {"rank": 2, "scale": 4.0, "dropout": 0.0}
    network = load(str(model))[0]
    network.freeze()
    linear_to_lora_layers(network, -1, parameters)
    shapes = {name: value.shape for name, value in tree_flatten(network.trainable_parameters())}
    keys = mx.random.split(mx.random.key(1), len(shapes))
    weights = {
        n: mx.random.normal(s, key=k) for (n, s), k in zip(shapes.items(), keys, strict=True)
    }
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def logits(network: Any) -> Any:
    return network(mx.array(TOKENS)).astype(mx.float32)


def test_the_loaded_model_is_the_one_that_mlx_lm_loads(model: Path, adapters: Path) -> None:
    from mlx_lm import load

    for path in (None, adapters):
        ours, _ = generate.load(str(model), path)
        theirs = load(str(model), adapter_path=str(path) if path else None)[0]
        assert mx.allclose(logits(ours), logits(theirs), atol=1e-4, rtol=1e-4), path
    plain = logits(generate.load(str(model))[0])
    assert mx.abs(logits(ours) - plain).max().item() > 1e-2  # the adapters do something


def test_a_cpu_gets_float32(model: Path, adapters: Path) -> None:
    from mlx.utils import tree_flatten

    if mx.default_device() == mx.gpu:
        pytest.skip("the default device is a GPU: weights stay as they are")
    network, _ = generate.load(str(model), adapters)
    assert {value.dtype for _, value in tree_flatten(network.parameters())} == {mx.float32}


def test_the_stream_is_the_text(model: Path) -> None:
    pieces: list[str] = []
    generate.seed_sampler(3)
    generator = generate.Generator(str(model))
    done = generator.complete("def f", Sampling(12, 1.0), raw=True, on_text=pieces.append)
    assert "".join(pieces) == done.text
    assert done.prompt_tokens == len("def f")
    assert done.to_json()["tokens"] == done.tokens <= 12


def test_adapters_of_another_model_are_refused(model: Path, adapters: Path, tmp_path: Path) -> None:
    for file in adapters.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = mx.load(str(adapters / "adapters.safetensors"))
    wrong = {f"model.layers.9.{name}": value for name, value in weights.items()}
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), wrong)
    with pytest.raises(UsageError, match="does not fit the model"):
        generate.load(str(model), tmp_path)


def test_adapters_of_another_shape_are_refused(model: Path, adapters: Path, tmp_path: Path) -> None:
    shutil.copytree(adapters, tmp_path, dirs_exist_ok=True)
    weights = mx.load(str(adapters / "adapters.safetensors"))
    wrong = {name: mx.concatenate([value, value], axis=0) for name, value in weights.items()}
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), wrong)
    with pytest.raises(UsageError, match=r"does not fit the model: no place for .*lora_"):
        generate.load(str(model), tmp_path)


@pytest.mark.parametrize(
    ("parameters", "weights", "message"),
    [
        ({"scale": "nan"}, {}, "nan is not a finite number"),
        ({"scale": float("inf")}, {}, "inf is not a finite number"),
        ({}, None, "holds no weights"),
        ({}, {"nan": True}, "not finite numbers"),
    ],
)
def test_adapters_that_are_no_numbers_are_refused(
    model: Path, adapters: Path, tmp_path: Path, parameters, weights, message
) -> None:
    shutil.copytree(adapters, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "adapter_config.json"
    row = json.loads(file.read_text())
    row["lora_parameters"] |= parameters
    file.write_text(json.dumps(row))
    arrays = mx.load(str(adapters / "adapters.safetensors"))
    if weights is None:
        arrays = {}
    elif weights:
        arrays = {name: value * float("nan") for name, value in arrays.items()}
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), arrays)
    with pytest.raises(UsageError, match=message):
        generate.load(str(model), tmp_path)


def test_numbers_of_adapters_that_are_written_as_text(
    model: Path, adapters: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapters, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "adapter_config.json"
    row = json.loads(file.read_text())
    row["lora_parameters"]["scale"] = str(row["lora_parameters"]["scale"])
    file.write_text(json.dumps(row))
    generate.load(str(model), tmp_path)


def test_a_models_own_code_is_not_run(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "own.py"}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelError, match="comes with its own code"):
        generate.load(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_snapshot_holds_what_mlx_lm_downloads() -> None:
    from mlx_lm import utils

    theirs = getattr(utils, "DEFAULT_ALLOW_PATTERNS", None)
    if theirs is None:
        pytest.skip("mlx-lm before 0.32 does not name its patterns")
    assert sorted(hub.DOWNLOADED) == sorted(theirs)


class Chat:
    """A tokenizer that shows what it was asked."""

    chat_template = "x"

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1] * add_special_tokens + [ord(c) for c in text]

    def apply_chat_template(self, turns: list[dict[str, str]], **options: Any) -> str:
        assert options["add_generation_prompt"] and not options["tokenize"]
        end = "" if options["enable_thinking"] else "</think>"
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns) + end


def test_a_prompt_is_a_users_turn_unless_it_is_raw() -> None:
    def asked(prompt: str, **options: Any) -> Prompt:
        found = generate.asked_for(Chat(), prompt, **options)
        starts = not found.chat  # a template has written the start token, if there is one
        assert found.token_ids == tuple(Chat().encode(found.text, add_special_tokens=starts))
        return found

    assert (asked("hi").text, asked("hi").chat) == ("<user>hi</think>", True)
    assert asked("hi", system="be").text == "<system>be<user>hi</think>"
    assert asked("hi", thinking=True).text == "<user>hi"
    assert (asked("hi", raw=True).text, asked("hi", raw=True).chat) == ("hi", False)
    with pytest.raises(UsageError, match="--system: needs a chat template"):
        asked("hi", raw=True, system="be")
    with pytest.raises(UsageError, match="--thinking: needs a chat template"):
        asked("hi", raw=True, thinking=True)
    no_tokens = Chat()
    no_tokens.encode = lambda text, add_special_tokens=True: []  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="--prompt"):
        generate.asked_for(no_tokens, "", raw=True)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("prompt", "text", "thought", "answer"),
    [
        ("<user>", "<think>a <answer></think>\n\nb <c", "<think>a <answer></think>", "b <c"),
        ("<think>\n", "a</think>b", "a</think>", "b"),
        ("<think>\n", "a, and no end", "a, and no end", ""),
        ("<user>", " <b> no thought", "", " <b> no thought"),
        ("<user>", "<thi", "", "<thi"),
    ],
)
def test_thought_and_answer_are_told_apart_while_they_come(
    size: int, prompt: str, text: str, thought: str, answer: str
) -> None:
    thoughts: list[str] = []
    answers: list[str] = []
    parts = generate._Parts(Prompt(prompt, (1,), chat=True), thoughts.append, answers.append)
    for at in range(0, len(text), size):
        parts.add(text[at : at + size])
    assert parts.end() == (thought, answer)
    assert ("".join(thoughts), "".join(answers)) == (thought, answer)


DRAFT = "```python\ndef add(a, b):\n    return 0\n```\n"
PROGRAM = "```python\ndef add(a, b):\n    return a + b\n```"


@pytest.fixture
def thinker(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model that thinks where its prompt lets it; the list gets its prompts."""
    import mlx_lm

    tokenizer, asked = chats.tokenizer_of("deepseek_r1_distill"), list[str]()

    def stream(model: Any, tokenizer: Any, tokens: list[int], max_tokens: int, **_: Any) -> Any:
        asked.append(tokenizer.decode(tokens))
        thought = f"{DRAFT}</think>\n\n" if asked[-1].endswith("<think>\n") else ""
        for token in tokenizer.encode(thought + PROGRAM, add_special_tokens=False):
            yield SimpleNamespace(token=token, finish_reason=None)
        ended = {"prompt_tokens": 1, "generation_tokens": 1, "prompt_tps": 1.0}
        ended |= {"generation_tps": 1.0, "peak_memory": 0.1}
        yield SimpleNamespace(token=tokenizer.eos_token_id, finish_reason="stop", **ended)

    monkeypatch.setattr(generate, "check_template", lambda *model: None)
    monkeypatch.setattr(generate, "load", lambda *_: (None, tokenizer))
    monkeypatch.setattr(mlx_lm, "stream_generate", stream)
    return asked


GIVEN = ["generate", "--model", "m", "-p", "Add."]
ON = ["--thinking", "--max-tokens", "2048"]


def test_a_thought_goes_to_stderr_and_the_answer_to_stdout(
    thinker: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*GIVEN, *ON]) == 0
    out, err = capsys.readouterr()
    assert out == PROGRAM + "\n" and err.startswith(DRAFT + "</think>\n")
    assert cli.main([*GIVEN, *ON, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["text"], found["thought"].strip()) == (PROGRAM, f"{DRAFT}</think>")
    assert cli.main(GIVEN) == 0
    out, err = capsys.readouterr()
    assert out == PROGRAM + "\n" and "return 0" not in err
    assert [one.endswith("<think>\n") for one in thinker] == [True, True, False]


def test_a_program_in_a_thought_is_not_put_to_the_tests(
    thinker: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tests = tmp_path / "tests.py"
    tests.write_text("assert add(1, 2) == 3")
    assert cli.main([*GIVEN, *ON, "--tests", str(tests)]) == 0
    assert "return a + b" in capsys.readouterr().out
    tests.write_text("assert add(1, 2) == 0")
    assert cli.main([*GIVEN, *ON, "--tests", str(tests)]) == 3


def test_a_thought_needs_room(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*GIVEN, "--thinking"]) == 2
    assert "--thinking: a thought takes thousands of tokens" in capsys.readouterr().err


def test_adapters_of_a_run_get_the_base_that_they_were_trained_on(
    model: Path, adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, commits = [], []

    def resolve(model_id: str, *, quantization: Quantization, revision: str | None) -> Any:
        asked.append(quantization)
        commits.append(revision)
        return located(model_id, quantization=quantization)

    located = generate.resolve
    monkeypatch.setattr(generate, "resolve", resolve)
    run = tmp_path / "run"
    shutil.copytree(adapters, run / "adapters")
    (run / "config.yaml").write_text("quantization: {bits: 3, group_size: 32}\n")
    (run / "run.json").write_text("{}")
    generate.load(str(model), run / "adapters")
    (run / "run.json").write_text(json.dumps({"starts": [{"backend": "torch (asked for)"}]}))
    generate.load(str(model), run / "adapters")
    generate.load(str(model), adapters)
    file = run / "adapters" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model": str(model)}))
    start = {"model": {"source": f"hub:{model}", "revision": "0123abcd"}}
    (run / "run.json").write_text(json.dumps({"starts": [start]}))
    generate.load(str(model), run / "adapters")
    assert commits == [None, None, None, "0123abcd"]
    assert asked.pop() == Quantization(3, 32)
    assert asked == [Quantization(3, 32), Quantization(0), Quantization(0)]


def test_the_speed_leaves_out_the_first_token(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is the prompt's: with it, one token alone came at thousands a second."""
    import mlx_lm

    def two(*given: Any, **options: Any) -> Any:
        for count, reason in ((1, None), (2, "length")):
            yield SimpleNamespace(
                token=65,
                finish_reason=reason,
                prompt_tokens=1,
                prompt_tps=1.0,
                generation_tokens=count,
                generation_tps=count / 0.5,  # so mlx-lm has it: the second token took 0.5 s
                peak_memory=0.1,
            )

    monkeypatch.setattr(mlx_lm, "stream_generate", two)
    done = generate.Generator(str(model)).complete("x", Sampling(2, 0.0, 1.0), raw=True)
    assert done.tokens == 2 and done.tokens_per_s == pytest.approx(1 / 0.5)
