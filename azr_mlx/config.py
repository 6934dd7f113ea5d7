"""The configuration: frozen dataclasses, filled from defaults, then a YAML file, then KEY=VALUE overrides.

The top-level names are those of the first Absolute Zero Reasoner project, so that its users find theirs. Every
mistake is reported at once, each with the key, the value, why, and the nearest name where a key does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a model is quantised when it is converted. ``bits`` 0 keeps it as it is."""

    bits: int = 4
    group_size: int = 64
    mode: str = "affine"  # affine | mxfp4 | nvfp4 | mxfp8


@dataclass(frozen=True, slots=True)
class Evaluation:
    benchmarks: tuple[str, ...] = ("humaneval",)
    num_samples: int = 1
    max_tasks_per_benchmark: int = 50


@dataclass(frozen=True, slots=True)
class Lora:
    rank: int = 16
    scale: float = 2.0  # multiplies the low-rank product, as in mlx-lm (alpha / rank in PEFT's words)
    dropout: float = 0.0
    num_layers: int = -1  # counted from the top; -1: all
    keys: tuple[str, ...] = ()  # module names within a layer; empty: every linear layer


@dataclass(frozen=True, slots=True)
class Rollout:
    form: str = "chat"  # a prompt form: a file in config/prompts/
    temperature: float = 1.0
    top_p: float = 1.0
    group_size: int = 8  # n: solver rollouts per task; they measure learnability and train
    max_propose_tokens: int = 512
    max_solve_tokens: int = 512
    max_batch: int = 32  # rows decoded together
    reuse_rollouts: bool = True  # the rollouts that measure learnability are training data too
    overlong_mask: bool = False  # truncated completions carry no gradient
    overlong_buffer: int = 0  # tokens before the limit over which a soft length penalty grows (0: off)
    overlong_penalty: float = 0.5
    resample: int = 0  # extra rounds of tasks when groups have no reward variance (dynamic sampling)


@dataclass(frozen=True, slots=True)
class Ppo:
    advantage: str = "gae"  # gae | rloo | grpo | dr_grpo | trr++ | ema
    epochs: int = 1
    minibatches: int = 1
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    gamma: float = 1.0
    gae_lambda: float = 0.95
    value_coef: float = 0.5
    value_clip: float = 0.2
    value_learning_rate: float = 1e-3
    entropy_coef: float = 0.0
    kl_coef: float = 0.01  # beta, the initial one where it adapts
    adaptive_kl: bool = True
    kl_stop: float = 0.02  # early stop: an update's epochs end past 1.5 x this KL(pi_old || pi)
    max_grad_norm: float = 1.0
    whiten: bool = True  # advantages, per (kind, role)
    loss_aggregation: str = "token_mean"  # token_mean | sequence_mean | constant
    tis_cap: float = 2.0  # truncated importance sampling between sampler and trainer; 0: off
    ema_decay: float = 0.9
    micro_batch: int = 4  # rows per forward and backward
    grad_checkpoint: bool = False
    compile: bool = False


@dataclass(frozen=True, slots=True)
class Proposer:
    references: int = 6  # K
    induction_inputs: int = 10  # N; half are shown to the solver
    templates_per_step: int = 4  # template tasks that join the model's proposals, to bootstrap and to top up
    train: bool = True
    reward: str = "one_minus"  # one_minus (the paper's) | frontier, 4p(1-p)
    extremes: str = "zero"  # reward at p = 0 and p = 1: zero (the paper's Eq. 4) | minus_half (its code)
    invalid_reward: float = -1.0
    malformed_reward: float = -1.0
    seed_tasks: str = "templates"  # templates | identity (the paper's `def f(a): return a`)
    max_program_chars: int = 2000
    max_value_chars: int = 400
    target_solve_rate: float = 0.5  # the adaptive schedule holds the measured rate near it


@dataclass(frozen=True, slots=True)
class Solver:
    strategies: tuple[str, ...] = ("direct", "step_by_step", "test_driven", "chain_of_thought")
    strategy_floor: float = 0.05  # every strategy keeps at least this probability
    binary_reward: bool = False  # 0/1 instead of 1 / wrong / malformed
    wrong_reward: float = -0.5
    malformed_reward: float = -1.0
    buffer_tasks_per_step: int = 0  # tasks from the buffer, solved again beside the new ones


@dataclass(frozen=True, slots=True)
class Distill:
    coef: float = 0.0  # weight of the supervised term on own verified solutions; 0: off
    batch_size: int = 4
    buffer_size: int = 512
    max_age: int = 200  # steps after which a solution is evicted


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    isolation: str = "auto"  # auto | strong | limits-only
    workers: int = 0  # 0: one per core
    wall_s: float = 5.0
    cpu_s: float = 4.0
    memory_mb: int = 512
    output_kb: int = 64
    allowed_imports: tuple[str, ...] = (
        "math", "cmath", "itertools", "functools", "collections", "string", "re", "operator", "bisect",
        "heapq", "statistics", "fractions", "decimal", "copy", "typing", "dataclasses", "enum", "abc",
        "numbers", "textwrap", "unicodedata", "datetime", "json",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tracking:
    report_to: tuple[str, ...] = ()  # wandb | tensorboard | trackio; the file is always written
    save_rollouts: bool = True


@dataclass(frozen=True, slots=True)
class Config:
    """A whole training configuration. Fields that name steps or tokens are counts; rates are fractions."""

    model_id: str = "Qwen/Qwen3-4B"
    backend: str = "auto"  # auto | mlx | torch
    quantization: Quantization = field(default_factory=Quantization)
    output_dir: str = "runs"
    run_name: str = ""
    learning_rate: float = 1e-5
    max_steps: int = 1000
    batch_size: int = 8  # proposals per step, over all kinds
    gradient_accumulation_steps: int = 1  # self-play rounds whose experiences one update is made of
    checkpoint_interval: int = 50
    keep_checkpoints: int = 3
    evaluation_interval: int = 0  # 0: never
    early_stopping: bool = True
    target_kl: float = 0.05  # of the policy from the reference, per token, where beta adapts
    kl_penalty: str = "kl"  # kl (k1, in the reward) | k3 (in the loss) | none
    weight_decay: float = 0.0
    warmup_steps: int = 10
    task_buffer_size: int = 1024
    task_types: tuple[str, ...] = ("deduction", "abduction", "induction")
    initial_difficulty: float = 0.3
    final_difficulty: float = 0.9
    difficulty_schedule: str = "adaptive"  # linear | exponential | step | adaptive
    evaluation: Evaluation = field(default_factory=Evaluation)
    wandb_project: str = ""
    wandb_entity: str = ""
    log_level: str = "info"
    seed: int = 0
    lora: Lora = field(default_factory=Lora)
    rollout: Rollout = field(default_factory=Rollout)
    ppo: Ppo = field(default_factory=Ppo)
    proposer: Proposer = field(default_factory=Proposer)
    solver: Solver = field(default_factory=Solver)
    distill: Distill = field(default_factory=Distill)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    tracking: Tracking = field(default_factory=Tracking)
