"""The configuration: frozen dataclasses <- defaults <- a YAML file <- KEY=VALUE overrides.

The top-level names are those of the first Absolute Zero Reasoner project, so that its users find
theirs. Every mistake is reported at once, each with the key, the value, why, and the nearest name
if a key does not exist. A field's bounds stand in its annotation; what spans several fields
is in ``_CROSS``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml

from azr_mlx.config import schema, shipped
from azr_mlx.config.schema import (
    Between,
    Count,
    Fraction,
    Listed,
    Names,
    Natural,
    NonNegative,
    OneOf,
    OneOfOrFunction,
    Positive,
)
from azr_mlx.errors import UsageError
from azr_mlx.run_folder import OUTPUT_DIR

AUTO = "auto"  # the prompt form that the model's size decides
Reward = Annotated[float, Between(-1000, 1000)]  # the built-in ones lie in [-1, 1]
Difficulty = Annotated[float, Between(0.1, 0.9)]


class Mode(NamedTuple):
    """A way to quantise that MLX has: the group and the bits that are usual, and all it takes."""

    group_size: int
    bits: int
    groups: tuple[int, ...]
    widths: tuple[int, ...]


MODES = {
    "affine": Mode(64, 4, (32, 64, 128), (2, 3, 4, 5, 6, 8)),
    "mxfp4": Mode(32, 4, (32,), (4,)),
    "nvfp4": Mode(16, 4, (16,), (4,)),
    "mxfp8": Mode(32, 8, (32,), (8,)),
}
_GROUPS = sorted({group for mode in MODES.values() for group in mode.groups})
_WIDTHS = sorted({0, *(bits for mode in MODES.values() for bits in mode.widths)})


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a model is quantised when it is converted. ``bits`` 0 keeps it as it is."""

    bits: Annotated[int, OneOf(*_WIDTHS)] = 4
    group_size: Annotated[int, OneOf(*_GROUPS)] = 64
    mode: Annotated[str, OneOf(*MODES)] = "affine"


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    benchmarks: Annotated[
        Names,
        OneOfOrFunction(
            "humaneval", "humaneval-plus", "mbpp", "mbpp-sanitized", "mbpp-plus", "apps",
            "apps-introductory", "apps-interview", "apps-competition", "cruxeval-i", "cruxeval-o",
            "livecodebench",
        ),
    ] = ("humaneval",)  # fmt: skip
    data: str = ""  # the same as --data of eval
    num_samples: Natural = 1
    # half of them select the best checkpoint, the other half reports
    max_tasks_per_benchmark: Annotated[int, Between(2)] = 50


@dataclass(frozen=True, slots=True)
class Lora:
    rank: Natural = 16
    # multiplies the low-rank product, as in mlx-lm (alpha / rank in PEFT's words)
    scale: Positive = 2.0
    dropout: Annotated[float, Between(0, below=1)] = 0.0
    num_layers: Annotated[int, Between(-1)] = -1  # counted from the top; -1: all
    # module names within a layer; empty: every linear layer
    keys: Annotated[tuple[str, ...], Listed(empty=True)] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    form: str = AUTO  # or a prompt form: a file in config/prompts/
    thinking: Annotated[str, OneOf("off", "on")] = "off"  # before the answer, in a chat
    temperature: Positive = 1.0
    top_p: Annotated[float, Between(above=0, high=1)] = 1.0
    # n: solver rollouts per task; they measure learnability and train (the paper's is 8; below 4
    # the estimate of p is coarse)
    group_size: Annotated[int, Between(2)] = 8
    # the longest prompt of a proposal: tasks that it refers to are dropped to fit
    max_prompt_tokens: Natural = 1536
    max_propose_tokens: Natural = 1024
    max_solve_tokens: Natural = 1024
    max_batch: Natural = 20  # rows decoded together
    kv_budget_mb: Count = 0  # memory of their keys and values, in MB of 10^6 bytes; 0: no bound
    reuse_rollouts: bool = True  # rollouts that measure learnability are training data, too
    overlong_mask: bool = False  # truncated completions carry no gradient
    # tokens before the limit over which a soft length penalty grows (0: off)
    overlong_buffer: Count = 0
    overlong_penalty: NonNegative = 0.5
    # extra rounds of tasks when groups have no reward variance (dynamic sampling)
    resample: Count = 0

    @property
    def thinks(self) -> bool:
        """Whether the model is to think before it answers."""
        return self.thinking == "on"


@dataclass(frozen=True, slots=True)
class Ppo:
    advantage: Annotated[str, OneOf("gae", "rloo", "grpo", "dr_grpo", "trr++", "ema")] = "rloo"
    epochs: Natural = 1
    minibatches: Natural = 1
    clip_low: Annotated[float, Between(above=0, high=1)] = 0.2
    clip_high: Positive = 0.2
    dual_clip: Annotated[float, Between(above=1, or_zero=True)] = 0.0
    gamma: Fraction = 1.0
    gae_lambda: Fraction = 0.95
    value_coef: NonNegative = 0.5
    value_clip: NonNegative = 0.2  # 0: off
    value_learning_rate: Positive = 1e-3
    entropy_coef: NonNegative = 0.0
    entropy_floor: NonNegative = 0.0  # nats per token, below which the bonus grows; 0: off
    # beta, the initial one if it adapts; a smaller one changes nothing that is worth measuring
    kl_coef: Annotated[float, Between(1e-4, or_zero=True)] = 0.01
    adaptive_kl: bool = True
    kl_stop: Positive = 0.02  # early stop: an update's epochs end past 1.5 x this KL(pi_old || pi)
    max_grad_norm: Positive = 1.0
    whiten: bool = True  # the advantages of gae, per (kind, role)
    loss_aggregation: Annotated[str, OneOf("token_mean", "sequence_mean", "constant")] = (
        "token_mean"
    )
    # truncated importance sampling between sampler and trainer; 0: off
    tis_cap: Annotated[float, Between(1, or_zero=True)] = 2.0
    ema_decay: Annotated[float, Between(0, below=1)] = 0.9
    micro_batch_tokens: Natural = 2048  # tokens in one forward and backward pass
    # auto: only if the update would not fit without (see azr_mlx.training.memory)
    grad_checkpoint: Annotated[str, OneOf("auto", "true", "false")] = "auto"
    compile: bool = False

    @property
    def by_group(self) -> bool:
        """Whether a reward is compared with those of its group, or else with all of its kind."""
        return self.advantage in ("rloo", "grpo", "dr_grpo")


@dataclass(frozen=True, slots=True)
class Proposer:
    references: Count = 6  # K
    # near which they are drawn: difficulty (1 - solve rate near the level), or the solve rate that
    # is aimed at; or any of them (the paper's)
    reference_choice: Annotated[str, OneOf("difficulty", "solve_rate", "uniform")] = "difficulty"
    # share of the model's programs that go on from a known one, drawn as a reference is
    extended: Fraction = 0.0
    # N; half are shown to the solver, and the hidden half needs two outputs that differ
    induction_inputs: Annotated[int, Between(4, 64)] = 10
    # template tasks that join the model's proposals, to bootstrap and to top up
    templates_per_step: Count = 4
    hardest_template: Difficulty = 0.9  # whatever the level of the model's own proposals
    # asked: the level of a task is what was asked for; measured: what its program's length says
    levels: Annotated[str, OneOf("asked", "measured")] = "asked"
    train: bool = True
    # how a proposal's advantage is found: as ppo.advantage says, or by running baselines
    advantage: Annotated[str, OneOf("same", "ema")] = "ema"
    # of the loss's weight, whatever the number of their tokens; 0: by that number
    loss_share: Annotated[float, Between(0, below=1)] = 0.3
    # one_minus is the paper's; frontier is 4p(1-p)
    reward: Annotated[str, OneOfOrFunction("one_minus", "frontier")] = "frontier"
    # the reward at p = 0 and p = 1: zero (the paper's Eq. 4) or minus_half (its code)
    extremes: Annotated[str, OneOf("zero", "minus_half")] = "zero"
    # corrected: what a guess among a program's few outputs solves does not count as solved
    guessing: Annotated[str, OneOf("corrected", "counted")] = "corrected"
    invalid_reward: Reward = -0.5
    # the part of invalid_reward that a valid program earns which is known already
    duplicate_cost: Fraction = 1.0
    malformed_reward: Reward = -1.0
    # programs, or chains of simple operations, which a tiny model can do
    template_set: Annotated[str, OneOfOrFunction("programs", "chains")] = "programs"
    # templates, identity (the paper's `def f(a): return a`), or a path: see selfplay/own_seeds.py
    seed_tasks: str = "templates"
    max_program_chars: Natural = 2000
    max_value_chars: Natural = 400
    # the adaptive schedule holds the measured rate near it
    target_solve_rate: Annotated[float, Between(above=0, below=1)] = 0.5


@dataclass(frozen=True, slots=True)
class Solver:
    strategies: Annotated[
        Names, OneOf("direct", "step_by_step", "test_driven", "chain_of_thought")
    ] = ("direct", "step_by_step")
    strategy_floor: Fraction = 0.05  # every strategy keeps at least this probability
    reward: Annotated[str, OneOfOrFunction("verdict")] = "verdict"  # by the keys below
    binary_reward: bool = False  # 0/1 instead of 1 / wrong / malformed
    wrong_reward: Reward = -0.5
    malformed_reward: Reward = -1.0
    # what a wrong answer is that only repeats the output, or an argument, of its prompt
    repeats: Annotated[str, OneOf("wrong", "malformed")] = "wrong"
    buffer_tasks_per_step: Count = 0  # tasks from the buffer that are solved again
    # which: any, or those from which there is most to learn by their solve rate p, p(1 - p)
    buffer_choice: Annotated[str, OneOf("uniform", "learnable")] = "uniform"


@dataclass(frozen=True, slots=True)
class Distill:
    coef: NonNegative = 0.0  # weight of the supervised term on own verified solutions; 0: off
    batch_size: Natural = 4
    buffer_size: Natural = 512
    max_age: Natural = 200  # steps after which a solution is evicted


@dataclass(frozen=True, slots=True)
class HeldOutConfig:
    tasks: Count = 0  # per kind and distribution, solved before and after training; 0: none
    in_range: Fraction = 0.2  # the highest difficulty in range
    harder: Fraction = 0.3  # the difficulty one step harder
    hardest: Fraction = 0.0  # the difficulty two steps harder; 0: no such tasks
    draws: Natural = 4  # answers per task that are sampled, besides the greedy one


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    isolation: Annotated[str, OneOf("auto", "strong", "limits-only")] = "auto"
    workers: Count = 0  # 0: one per core
    wall_s: Annotated[float, Between(above=0, high=86_400)] = 5.0
    cpu_s: Annotated[float, Between(above=0, high=86_400)] = 4.0
    memory_mb: Annotated[int, Between(32, 1 << 20)] = 512
    output_kb: Annotated[int, Between(1, 1 << 14)] = 64
    allowed_imports: Annotated[tuple[str, ...], Listed(empty=True)] = (
        "math", "cmath", "itertools", "functools", "collections", "string", "re", "operator",
        "bisect", "heapq", "statistics", "fractions", "decimal", "copy", "typing", "dataclasses",
        "enum", "abc", "numbers", "textwrap", "unicodedata", "datetime", "json",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tracking:
    # the file is always written
    report_to: Annotated[
        tuple[str, ...], Listed(empty=True), OneOf("wandb", "tensorboard", "trackio")
    ] = ()
    save_rollouts: bool = True


@dataclass(frozen=True, slots=True)
class Power:
    min_battery: Annotated[int, Between(0, 100)] = 0  # percent, below which a run pauses; 0: off


@dataclass(frozen=True, slots=True)
class Config:
    """A whole training configuration. Steps and tokens are counts; rates are fractions."""

    model_id: str = "mlx-community/Qwen3-4B-Instruct-2507-4bit"
    backend: Annotated[str, OneOf("auto", "mlx", "torch")] = "auto"
    quantization: Quantization = field(default_factory=Quantization)
    output_dir: str = OUTPUT_DIR
    run_name: str = ""
    learning_rate: Positive = 1e-5
    max_steps: Natural = 1000
    batch_size: Count = 8  # proposals per step, over all kinds; 0: tasks are from templates alone
    gradient_accumulation_steps: Natural = 1  # self-play rounds that one update is made of
    checkpoint_interval: Natural = 50
    keep_checkpoints: Count = 3  # 0: all
    evaluation_interval: Count = 0  # 0: never
    early_stopping: bool = True
    target_kl: Positive = 0.05  # KL of policy from reference per token that beta adapts to
    # kl: k1, in the reward; k3: in the loss
    kl_penalty: Annotated[str, OneOf("kl", "k3", "none")] = "none"
    weight_decay: NonNegative = 0.0
    warmup_steps: Count = 10
    # after the warm-up: constant, or falling towards 0 at max_steps
    lr_scheduler_type: Annotated[str, OneOf("constant", "linear", "cosine")] = "constant"
    task_buffer_size: Natural = 1024
    task_types: Annotated[Names, OneOf("deduction", "abduction", "induction")] = (
        "deduction",
        "abduction",
        "induction",
    )
    initial_difficulty: Difficulty = 0.3
    final_difficulty: Difficulty = 0.9
    difficulty_schedule: Annotated[str, OneOf("linear", "exponential", "step", "adaptive")] = (
        "adaptive"
    )
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    wandb_project: str = ""
    wandb_entity: str = ""
    # what a run may take, in GB of 10^9 bytes; 0: what the machine has
    memory_limit_gb: NonNegative = 0.0
    log_level: Annotated[str, OneOf("debug", "info", "warning", "error")] = "info"
    seed: int = 0
    lora: Lora = field(default_factory=Lora)
    rollout: Rollout = field(default_factory=Rollout)
    ppo: Ppo = field(default_factory=Ppo)
    proposer: Proposer = field(default_factory=Proposer)
    solver: Solver = field(default_factory=Solver)
    distill: Distill = field(default_factory=Distill)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    tracking: Tracking = field(default_factory=Tracking)
    power: Power = field(default_factory=Power)

    @property
    def tasks_per_round(self) -> int:
        """The tasks that a round of self-play is made for: as many as the model proposes, or as
        come from templates if it proposes none. Replayed tasks are counted by it."""
        return self.batch_size or self.proposer.templates_per_step


class ConfigError(UsageError):
    """Every mistake of a configuration, one per line: ``dotted.key: value: why; fix``."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


def load(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Defaults < the YAML of ``source`` (a shipped config's stem, or a path) < ``KEY=VALUE``.

    Raises ``ConfigError`` with all mistakes at once.
    """
    errors: list[str] = []
    path = None if source is None else _locate(source, errors)
    tree = {} if path is None else schema.read(path, errors)
    return overridden(tree, overrides, errors)


def chosen_keys(source: str | Path | None = None, overrides: Sequence[str] = ()) -> frozenset[str]:
    """The dotted keys that a user has given to ``load``: in overrides, and in a file that does not
    ship, whose keys are all there to be seen. Raises ``ConfigError`` if the file cannot be read."""
    keys = {text.partition("=")[0] for text in overrides}
    errors: list[str] = []
    path = None if source is None else _locate(source, errors)
    ships = {one.resolve() for one in shipped.shipped_configs().values()}
    if path is not None and path.resolve() not in ships:
        keys |= set(schema.dotted_keys(schema.read(path, errors)))
    if errors:
        raise ConfigError(errors)
    return frozenset(keys)


def from_dict(tree: Mapping[str, Any]) -> Config:
    """The configuration of a nested mapping (see ``to_dict``). Raises ``ConfigError``."""
    return checked(tree, [])


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dicts, lists and scalars, in the order of the fields."""
    return schema.to_dict(config)


def to_yaml(config: Config) -> str:
    """YAML that ``load`` reads back to an equal configuration."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def diff(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two configurations differ, with both values."""
    left, right = dict(schema.flat(a)), dict(schema.flat(b))
    return {key: (left[key], right[key]) for key in left if left[key] != right[key]}


def check(config: Config) -> list[str]:
    """One line per value that is out of its bounds or at odds with another; empty if none is."""
    values, wrong = dict(schema.flat(config)), schema.complaints(config)
    if why := _form_complaint(config.rollout.form):
        wrong["rollout.form"] = why
    lines = [f"{key}: {schema.show(values[key])}: {why}" for key, why in wrong.items()]
    for names, holds, why in _CROSS:
        if wrong.keys().isdisjoint(names) and not holds(config):
            first, *others = [f"{name}: {schema.show(values[name])}" for name in names]
            lines.append(f"{first}: {why}" + (f" (with {', '.join(others)})" if others else ""))
    return lines


_Check = tuple[tuple[str, ...], Callable[[Config], bool], str]
_GROUPED = ("rloo", "grpo", "dr_grpo")
THOUGHT_TOKENS = 2048  # the least limit of a completion that has a thought in it
_CROSS: tuple[_Check, ...] = (
    (
        ("rollout.reuse_rollouts", "ppo.advantage"),
        lambda c: c.rollout.reuse_rollouts or c.ppo.advantage not in _GROUPED,
        "solvers would train in groups of one, which have no baseline; use gae, trr++ or ema",
    ),
    (
        ("batch_size", "task_types", "ppo.advantage", "proposer.train", "proposer.advantage"),
        lambda c: (
            not c.proposer.train
            or c.proposer.advantage == "ema"
            or c.ppo.advantage not in _GROUPED
            or c.batch_size >= 2 * len(c.task_types)
            or c.batch_size == 0
        ),
        "a kind's only proposal has no baseline; give two per kind, or proposer.advantage=ema",
    ),
    (
        ("batch_size", "proposer.templates_per_step"),
        lambda c: c.tasks_per_round > 0,
        "a step would have no task; give a number above 0",
    ),
    (
        ("rollout.resample", "rollout.reuse_rollouts"),
        lambda c: c.rollout.reuse_rollouts or not c.rollout.resample,
        "without reuse there are no groups that could have contrast; use 0",
    ),
    (
        ("quantization.group_size", "quantization.mode"),
        lambda c: c.quantization.group_size in MODES[c.quantization.mode].groups,
        "this mode has no such group; affine takes 32, 64 or 128, nvfp4 16, mxfp4 and mxfp8 32",
    ),
    (
        ("quantization.bits", "quantization.mode"),
        lambda c: c.quantization.bits in (0, *MODES[c.quantization.mode].widths),
        "this mode has its own width; mxfp4 and nvfp4 take 4 bits, mxfp8 takes 8",
    ),
    (
        ("lora.num_layers",),
        lambda c: c.lora.num_layers != 0,
        "no layer would be trained; give -1 (all) or a number above 0",
    ),
    (
        ("final_difficulty", "initial_difficulty"),
        lambda c: c.initial_difficulty <= c.final_difficulty,
        "tasks would get easier; give at least initial_difficulty",
    ),
    (
        ("ppo.minibatches", "batch_size", "proposer.templates_per_step", "rollout.group_size"),
        lambda c: c.ppo.minibatches <= max(1, c.tasks_per_round) * c.rollout.group_size,
        "more minibatches than rollouts; give at most batch_size x rollout.group_size, or if "
        "batch_size is 0, proposer.templates_per_step x rollout.group_size",
    ),
    (
        ("ppo.value_coef", "ppo.advantage"),
        lambda c: c.ppo.advantage != "gae" or c.ppo.value_coef > 0,
        "gae needs a value head that is trained; give a number > 0, or another ppo.advantage",
    ),
    (
        ("solver.strategy_floor", "solver.strategies"),
        lambda c: c.solver.strategy_floor * len(c.solver.strategies) <= 1,
        "the floors add up to more than 1; give at most 1 / the number of strategies",
    ),
    (
        ("rollout.overlong_buffer", "rollout.max_solve_tokens", "rollout.max_propose_tokens"),
        lambda c: (
            c.rollout.overlong_buffer
            <= min(c.rollout.max_solve_tokens, c.rollout.max_propose_tokens)
        ),
        "longer than a whole completion; give less than the smaller of the two limits",
    ),
    (
        ("rollout.thinking", "rollout.max_solve_tokens", "rollout.max_propose_tokens"),
        lambda c: (
            not c.rollout.thinks
            or min(c.rollout.max_solve_tokens, c.rollout.max_propose_tokens) >= THOUGHT_TOKENS
        ),
        f"a thought takes thousands of tokens; give both limits at least {THOUGHT_TOKENS}, "
        "or rollout.thinking=off",
    ),
)


def _form_complaint(form: str) -> str:
    known = (AUTO, *shipped.prompt_forms())
    if form in known or (Path(form).suffix in (".yaml", ".yml") and os.path.isfile(form)):
        return ""
    near = get_close_matches(form, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"no such prompt form; {hint}take {', '.join(known)}, or the path of a .yaml file"


def _locate(source: str | Path, errors: list[str]) -> Path | None:
    """The file of a shipped config's stem or of a path; a stem wins over a file of that name."""
    known = shipped.shipped_configs()
    if str(source) in known:
        return known[str(source)]
    if os.path.isfile(source):
        return Path(source)
    near = get_close_matches(str(source), known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    names = ", ".join(known)
    why = "a folder; name a .yaml file" if os.path.isdir(source) else "no such file"
    errors.append(f"config: {source}: {why}; {hint}the shipped ones are {names}")
    return None


def overridden(tree: dict[str, Any], overrides: Sequence[str], errors: list[str]) -> Config:
    """The configuration of a nested mapping, which ``KEY=VALUE`` is put into. Raises
    ``ConfigError`` with ``errors`` and all other mistakes."""
    for text in overrides:
        if text in shipped.shipped_configs():
            errors.append(f"{text}: a configuration, and not KEY=VALUE; give -c {text}")
        else:
            schema.override(Config, tree, text, errors)
    return checked(tree, errors)


def checked(tree: Mapping[str, Any], errors: list[str]) -> Config:
    """The configuration of a nested mapping. Raises ``ConfigError`` with ``errors`` and all other
    mistakes."""
    config: Config = schema.build(Config, tree, errors)
    reported = {line.partition(":")[0] for line in errors}
    errors += [line for line in check(config) if line.partition(":")[0] not in reported]
    if errors:
        raise ConfigError(errors)
    return config
