"""The data that flows through a run: tasks, prompts, completions, verdicts, experiences, batches.

Everything here is immutable and needs only numpy. Everything except arrays converts to and from
plain JSON, so that a rollouts file, a report or a bug report can be read without a model.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from azr_mlx.text import parsed

FloatArray = NDArray[np.float32]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int32]


class TaskKind(str, Enum):
    """The three modes of reasoning about a program p, an input i and an output o = p(i)."""

    DEDUCTION = "deduction"
    ABDUCTION = "abduction"
    INDUCTION = "induction"


class Role(str, Enum):
    """The two roles. The same model plays both."""

    PROPOSE = "propose"
    SOLVE = "solve"


class Status(str, Enum):
    """The judge's decision on a piece of model output. ``OK`` means that there is a value, but
    nothing to compare it with."""

    PASS = "pass"
    FAIL = "fail"
    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    KILLED = "killed"
    NONDETERMINISTIC = "nondeterministic"
    INVALID = "invalid"
    FORMAT = "format"


def canonical_source(program: str) -> str:
    """The program without comments and layout; the text itself if it does not parse."""
    tree = parsed(program)
    try:
        return program if tree is None else ast.unparse(tree)
    except (ValueError, RecursionError):  # an integer with too many digits, or very deep nesting
        return program


@dataclass(frozen=True, slots=True)
class Task:
    """One verified reasoning task.

    ``inputs`` hold Python literal tuples of arguments and ``outputs`` Python literals, both as
    source text: one pair for deduction and abduction, N pairs for induction. ``hidden`` lists the
    indices of the pairs that the solver is not shown (induction only). ``difficulty`` lies in [0,
    1]; ``parents`` are the ids of the references that the proposer was shown.
    """

    id: str
    kind: TaskKind
    program: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    message: str = ""
    hidden: tuple[int, ...] = ()
    difficulty: float = 0.5
    origin_step: int = 0
    parents: tuple[str, ...] = ()
    source: str = "model"

    @classmethod
    def create(
        cls,
        kind: TaskKind,
        program: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        **rest: Any,
    ) -> Task:
        """A task whose id is the hash of its normalised content: duplicates get the same id."""
        content = json.dumps([kind.value, canonical_source(program), list(inputs)])
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return cls(digest, kind, program, inputs, outputs, **rest)

    def to_json(self) -> dict[str, Any]:
        return {**_plain(self), "kind": self.kind.value}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Task:
        """Raises one of ``WRONG_VALUES`` if the row is not one that ``to_json`` has made."""
        task = cls(**{**_tuples(row), "kind": TaskKind(row["kind"])})
        texts = (task.id, task.program, task.message, task.source)
        listed = (*task.inputs, *task.outputs, *task.parents)
        numbers = (task.origin_step, *task.hidden)
        if not (
            all(isinstance(text, str) for text in (*texts, *listed))
            and all(isinstance(number, int) for number in numbers)
            and isinstance(task.difficulty, (int, float))
        ):
            raise TypeError("a task with a value of another type")
        return task


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as text and as the token ids the model reads.

    ``form`` names the prompt form, ``strategy`` the solving strategy ("" for proposers), ``stop``
    the strings that end a completion, and ``prefix`` how many leading characters of ``text`` every
    prompt of this form, kind and role shares in this step (0 if none). ``chat`` says that a chat
    template wrote it, so that its completion may begin with a thought.
    """

    text: str
    token_ids: tuple[int, ...]
    form: str = ""
    strategy: str = ""
    stop: tuple[str, ...] = ()
    prefix: int = 0
    chat: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """A sampled completion.

    ``token_ids`` include the token that ended it. ``logprobs`` are the sampler's log-probabilities,
    one per token. They are kept to measure (and correct) the mismatch between sampler and trainer,
    and are not pi_old. ``finish`` is "stop" or "length"; ``key`` is the random key that the
    completion was drawn with. ``thought`` is what the model thought, with its marks, and ``text``
    what follows, cut before the stop string: empty if the thought has not ended.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str
    key: int
    text: str = ""
    thought: str = ""

    @property
    def cut_before_answer(self) -> bool:
        """Whether the limit came within the thought."""
        return self.finish == "length" and bool(self.thought) and not self.text


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judge's decision: a status, one line of detail, the value (as literal text) and the
    time that the run took."""

    status: Status
    detail: str = ""
    value: str | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status is Status.PASS


@dataclass(frozen=True, slots=True)
class Reward:
    """A scalar reward, and the named parts that add up to it."""

    total: float
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Experience:
    """One rollout with its verdict and reward. The rollouts of one baseline group in one step have
    the same ``group``."""

    prompt: Prompt
    completion: Completion
    verdict: Verdict
    reward: Reward
    role: Role
    kind: TaskKind
    group: int
    step: int
    task_id: str = ""

    def to_json(self) -> dict[str, Any]:
        parts = {name: _plain(getattr(self, name)) for name in ("prompt", "completion", "reward")}
        verdict = {**_plain(self.verdict), "status": self.verdict.status.value}
        names = {"role": self.role.value, "kind": self.kind.value}
        return {**_plain(self), **parts, "verdict": verdict, **names}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Experience:
        verdict = {**row["verdict"], "status": Status(row["verdict"]["status"])}
        return cls(
            prompt=Prompt(**_tuples(row["prompt"])),
            completion=Completion(**_tuples(row["completion"])),
            verdict=Verdict(**verdict),
            reward=Reward(**row["reward"]),
            role=Role(row["role"]),
            kind=TaskKind(row["kind"]),
            group=row["group"],
            step=row["step"],
            task_id=row.get("task_id", ""),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded arrays for scoring and updating, all [B, T] and aligned on the token that was emitted.

    ``tokens`` are i32 and right-padded. ``mask`` is 1 where ``tokens[b, t]`` is a completion token
    that is trained on; column 0 never is. In every other array, ``x[b, t]`` belongs to
    ``tokens[b, t]`` given ``tokens[b, :t]``:

    - ``sampler_logp``, ``old_logp`` and ``ref_logp``: the log-probability under the sampler, under
      pi_old (None: the current policy is pi_old) and under the reference model;
    - ``values``: the value head's estimate *before* the token;
    - ``advantages`` and ``returns``: the results of the advantage estimator;
    - ``weights``: each token's share in the policy loss (see ``batch.token_weights``).
    """

    tokens: IntArray
    mask: FloatArray
    sampler_logp: FloatArray | None = None
    old_logp: FloatArray | None = None
    ref_logp: FloatArray | None = None
    values: FloatArray | None = None
    advantages: FloatArray | None = None
    returns: FloatArray | None = None
    weights: FloatArray | None = None

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def with_(self, **arrays: FloatArray | None) -> Batch:
        """A copy with some arrays replaced."""
        return replace(self, **arrays)  # type: ignore[arg-type]

    def rows(self, index: NDArray[np.int64]) -> Batch:
        """The given rows of every array. Columns that are then all padding are kept."""
        picked: dict[str, Any] = {
            f.name: None if getattr(self, f.name) is None else getattr(self, f.name)[index]
            for f in fields(self)
        }
        return Batch(**picked)


@dataclass(frozen=True, slots=True)
class Scores:
    """float32 [B, T] log-probabilities, entropies and values, aligned as in ``Batch``. They
    are 0 where the mask is 0."""

    logp: FloatArray
    entropy: FloatArray
    values: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """Statistics of one optimizer step. Means are over completion tokens; ``grad_norm`` is the
    norm before clipping. A step that was not ``applied`` has changed nothing."""

    loss: float
    policy_loss: float
    value_loss: float
    entropy: float
    approx_kl: float
    clip_frac: float
    ratio_max: float
    kl_ref: float
    distill_loss: float
    mismatch_mean: float
    mismatch_max: float
    grad_norm: float
    lr: float
    tokens: int
    applied: bool = True


def _plain(obj: Any) -> dict[str, Any]:
    return {f.name: getattr(obj, f.name) for f in fields(obj)}


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its lists turned into tuples, which the frozen types hold."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
