"""The peak memory of rollout, score and update, from config.json and the configuration alone.

Each phase is planned for the largest case that the configuration allows: every prompt is as long as
``prompts.py`` says, every completion reaches its limit, every micro-batch fills its budget.
When a phase needs most memory, it is in one of a few situations (in the attention or the MLP of a
layer, in the head, in the optimizer). The memory of a situation is

    resident memory + sum of coefficient x feature

A feature is an exact count of numbers (tokens x hidden size, scores, logits of a chunk, ...), and a
coefficient says how many such arrays are in memory at once. That depends on how MLX evaluates: it
walks the graph breadth-first, runs up to ten tasks ahead, and a buffer lives until the last task
that reads it has run. So the coefficients are measured (``coefficients.py``), not derived;
``benchmarks/memory.py`` checks the predictions, ``benchmarks/memory_derive.py`` measures the
coefficients again.

They were measured for float32 on a CPU, without ``ppo.compile``. For a GPU the same formulas are
used with 16-bit activations, packed weights and the larger chunks of the head; this has not been
measured. Not included are MLX's cache of free buffers, the interpreter, and the processes of the
sandbox.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from azr_mlx.backends.limits import (
    MIN_PREFIX,
    PREFILL_TOKENS,
    ROW_MULTIPLE,
    SLACK,
    TOKEN_MULTIPLE,
    chunk_rows,
)
from azr_mlx.config import Config
from azr_mlx.evaluation.protocol import MAX_TOKENS
from azr_mlx.training.memory.coefficients import COEFFICIENTS
from azr_mlx.training.memory.shape import Shape

FLOAT32, FLOAT16 = 4, 2
BENCHMARK_PROMPT = 768  # tokens; nearly all of HumanEval's, MBPP's and APPS' prompts are shorter
MOMENTS = 2  # AdamW keeps two numbers per weight

Counts = Mapping[str, float]


class PlannedStage(NamedTuple):
    """``rows`` sequences of ``tokens`` tokens, which attend to ``span`` keys, including their
    own."""

    rows: int
    tokens: int
    span: int


class Situation(NamedTuple):
    """The name of an entry of ``COEFFICIENTS``, and the counts that its coefficients multiply."""

    name: str
    features: Counts


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest number of bytes needed, and the parts that it is the sum of."""

    total: int
    parts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Peaks:
    rollout: Peak
    score: Peak
    update: Peak

    def items(self) -> list[tuple[str, Peak]]:
        return [("rollout", self.rollout), ("score", self.score), ("update", self.update)]


@dataclass(frozen=True, slots=True)
class Planner:
    """Computes the peaks of one model on one device, "cpu" or "gpu". ``prompt_tokens`` are those of
    the longest prompt for a solution, ``proposal_tokens`` those for a proposal that refers to
    nothing."""

    shape: Shape
    device: str
    prompt_tokens: int
    proposal_tokens: int

    def peaks(self, c: Config) -> Peaks:
        return Peaks(self.rollout(c), self.score(c), self.update(c))

    def rollout(self, c: Config) -> Peak:
        found: list[Situation] = []
        for rows, prompt, answer in self.generated(c):
            for start in {0, shared_tokens(prompt)}:
                found += self.rollout_of(c, rows, prompt, answer, start)
        return self._peak(c, found, {"merged weights": self.merged(c)})

    def prompts(self, c: Config) -> tuple[int, int]:
        """The most tokens of the prompts of each of ``calls``. Tasks that a prompt refers to may be
        as long as a model writes them: ``rollout.max_prompt_tokens`` alone bounds them."""
        shown = c.proposer.references or c.proposer.extended
        most = c.rollout.max_prompt_tokens if shown else 0
        return max(most, self.proposal_tokens), self.prompt_tokens

    def generated(self, c: Config) -> list[tuple[int, int, int]]:
        """(rows, longest prompt, longest completion) of what is generated together: proposals,
        solutions, and what is measured before, during and after training; none for what a run does
        not have."""
        both = zip(calls(c), self.prompts(c), strict=True)
        found = [(rows, prompt, answer) for (rows, answer), prompt in both]
        return [one for one in (*found, *measured(c, self.prompt_tokens)) if one[0]]

    def rollout_of(
        self, c: Config, rows: int, prompt: int, answer: int, start: int
    ) -> list[Situation]:
        """Situations while ``rows`` are decoded together; the first ``start`` tokens of their
        prompts are shared."""
        places, buffer = self.buffer(c, rows, prompt + answer - 1)
        kept = beginnings(c) * start
        return rollout_situations(
            self.shape, c.lora.rank, prompt, rows, places, buffer, start, kept
        )

    def score_of(self, c: Config, stages: tuple[PlannedStage, ...]) -> list[Situation]:
        return score_situations(self.shape, c.lora.rank, stages, self._head(c, stages))

    def update_of(self, c: Config, stages: tuple[PlannedStage, ...]) -> list[Situation]:
        again = c.ppo.grad_checkpoint == "true"
        return update_situations(self.shape, c.lora.rank, stages, self._head(c, stages), again)

    def score(self, c: Config) -> Peak:
        layouts = self.layouts(c, rollouts(c))
        found = [one for stages in layouts for one in self.score_of(c, stages)]
        return self._peak(c, found, {"waiting to be freed": WAITING})

    def update(self, c: Config) -> Peak:
        layouts = self.layouts(c, -(-rollouts(c) // c.ppo.minibatches))
        found = [one for stages in layouts for one in self.update_of(c, stages)]
        lora = self.shape.lora_parameters(c.lora)
        # Gradients of the micro-batches before this one, and of the batches of ``distill``.
        kept = lora * FLOAT32 * (1 + (c.distill.coef > 0))
        found.append(Situation("optimizer", {"adapters": lora}))
        norms = max(self.norms(c, stages) for stages in layouts)
        return self._peak(c, found, {"gradients kept": kept, "inputs of norms": norms})

    def norms(self, c: Config, stages: tuple[PlannedStage, ...]) -> int:
        """Bytes of queries and keys that are kept for the backward pass, if a model normalises
        them."""
        if not self.shape.normed or c.ppo.grad_checkpoint == "true":
            return 0
        tokens = sum(one.rows * one.tokens for one in stages)
        return self.width * self.shape.layers * tokens * (self.shape.query + self.shape.key)

    # -- the most that a configuration allows ------------------------------------------------------

    def buffer(self, c: Config, rows: int, longest: int) -> tuple[int, int]:
        """(places, tokens per place) of the buffer that the engine makes for the keys and values of
        rows of at most ``longest`` tokens."""
        count = min(c.rollout.max_batch, rows)
        if budget := kv_tokens(c, self.shape, self.device):
            count = min(count, budget // (longest + SLACK))
        count = max(count, 1)
        return count, longest + SLACK * (count < rows)

    def layouts(self, c: Config, rows: int) -> list[tuple[PlannedStage, ...]]:
        """Micro-batches that fill the budget: of rows that each have their own prompt, proposals
        and solutions, and of solutions that share a prompt."""
        budget, answer = c.ppo.micro_batch_tokens, answer_tokens(c)
        found = [
            separate(budget, rows, self.prompt_tokens, answer),
            sharing(budget, rows, self.prompt_tokens, answer),
        ]
        prompt, _ = self.prompts(c)
        if c.batch_size and prompt != self.prompt_tokens:
            proposals = min(rows, c.gradient_accumulation_steps * c.batch_size)
            found.append(separate(budget, proposals, prompt, c.rollout.max_propose_tokens))
        return found

    def _head(self, c: Config, stages: tuple[PlannedStage, ...]) -> Counts:
        """The counts for the head: rows per chunk, target tokens, and 1 if the entropy is
        needed."""
        chunk = chunk_rows(self.shape.vocabulary, self.device)
        targets = up(stages[-1].rows * min(answer_tokens(c), stages[-1].tokens), TOKEN_MULTIPLE)
        return {
            "chunk": chunk,
            "targets": targets,
            "entropy": float(c.ppo.entropy_coef + c.ppo.entropy_floor != 0),
        }

    # -- bytes -------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Bytes per activation."""
        return FLOAT32 if self.device == "cpu" else FLOAT16

    def weights(self, c: Config) -> int:
        s = self.shape
        if self.device == "cpu":  # weights are dequantised when they are loaded
            return FLOAT32 * (s.matrices() + s.vectors())
        q = c.quantization
        bits, group = s.quantized or (q.bits, q.group_size)
        each = bits / 8 + 2 * FLOAT16 / group if bits else FLOAT16
        return int(s.matrices() * each) + FLOAT16 * s.vectors()

    def adapters(self, c: Config) -> int:
        """Bytes of the adapters, the value head, and the optimizer's moments of both."""
        trained = self.shape.lora_parameters(c.lora) + self.shape.hidden + 1
        return trained * FLOAT32 * (1 + MOMENTS)

    def merged(self, c: Config) -> int:
        """Bytes of the merged weights for rollouts: on a CPU, adapters are added to a copy of the
        weights."""
        return FLOAT32 * self.shape.adapted(c.lora) if self.device == "cpu" else 0

    def _peak(
        self, c: Config, situations: Iterable[Situation], kept: Mapping[str, int] | None = None
    ) -> Peak:
        resident = {
            "weights": self.weights(c),
            "adapters and optimizer": self.adapters(c),
            **(kept or {}),
        }
        parts = max((self._cost(one) for one in situations), key=lambda cost: sum(cost.values()))
        merged = {name: n for name, n in {**resident, **parts}.items() if n}
        return Peak(sum(merged.values()), merged)

    def _cost(self, situation: Situation) -> dict[str, int]:
        """Bytes that a situation adds, by part."""
        parts: dict[str, float] = {}
        coefficients = COEFFICIENTS[situation.name]
        margin = MARGINS.get(situation.name.partition(" ")[0], 1.0)
        for name, count in situation.features.items():
            part = PARTS[name]
            wide = (
                FLOAT32
                if name in ("logits", "entropy_logits", "step_logits", "adapters")
                else self.width
            )
            parts[part] = parts.get(part, 0.0) + margin * wide * coefficients.get(name, 0.0) * count
        return {part: int(n) for part, n in parts.items()}


# The part of a peak that each feature is shown in.
PARTS = {
    "cache": "keys and values",
    "cache_layer": "keys and values",
    "reading": "prompts being read",
    "past": "shared prompts",
    "past_before": "shared prompts",
    "adapters": "optimizer step",
    "logits": "head",
    "entropy_logits": "head",
    "step_logits": "head",
    "targets": "head",
    "states": "head",
    **{f"kept_{name}": "activations kept" for name in ("hidden", "query", "key", "mlp", "rank")},
    "kept_scores": "attention kept",
    "kept_joined": "attention kept",
    **{name: "layer at work" for name in ("hidden", "query", "key", "mlp", "rank")},
    "scores": "attention at work",
    "joined": "attention at work",
}


# -- situations ------------------------------------------------------------------------------------


def stage_features(s: Shape, rank: int, stage: PlannedStage) -> dict[str, float]:
    """Counts for one layer that computes a stage: one array of each kind."""
    n, t, span = stage
    return {
        "hidden": n * t * s.hidden,
        "query": n * t * s.query,
        "key": n * t * s.key,
        "mlp": n * t * s.intermediate,
        "scores": n * t * span * s.heads,
        "joined": n * span * s.key,  # keys (or values) appended to those of the stage before
        "rank": n * t * rank,
    }


def kept_features(s: Shape, rank: int, stages: tuple[PlannedStage, ...]) -> dict[str, float]:
    """Counts for all layers: one array of each kind per layer. In every stage except the last, the
    last layer computes only keys and values, which are not counted."""
    total: dict[str, float] = {}
    for number, stage in enumerate(stages):
        last = number == len(stages) - 1
        for name, count in stage_features(s, rank, stage).items():
            if name == "joined":
                count = count if number else 0
                depth = s.layers
            else:
                depth = s.layers if last else s.layers - 1
            total[f"kept_{name}"] = total.get(f"kept_{name}", 0) + depth * count
    return total


def together(s: Shape, rank: int, stages: tuple[PlannedStage, ...]) -> dict[str, float]:
    """Counts for layers of all stages at once, as evaluation walks the graph breadth-first."""
    each = [stage_features(s, rank, stage) for stage in stages]
    return {name: sum(one[name] for one in each) for name in each[0]}


def past(s: Shape, stages: tuple[PlannedStage, ...]) -> float:
    """Count of the keys (or values) of some stages, in all layers."""
    return s.layers * sum(one.rows * one.span * s.key for one in stages)


def head_logits(s: Shape, head: Counts, chunks: float) -> float:
    """Count of the logits in memory at once: evaluation runs ahead by ``chunks`` chunks."""
    return min(head["targets"], chunks * head["chunk"]) * s.vocabulary


def kind_of(stages: tuple[PlannedStage, ...]) -> str:
    return "separate" if len(stages) == 1 else "sharing"


def in_a_layer(name: str, features: Counts) -> list[Situation]:
    """The situations within a layer that ``COEFFICIENTS`` has for a phase."""
    points = (f"{name} attention", f"{name} mlp")
    return [Situation(point, features) for point in points if point in COEFFICIENTS]


def score_situations(
    s: Shape, rank: int, stages: tuple[PlannedStage, ...], head: Counts
) -> list[Situation]:
    kind, found, layer = kind_of(stages), [], {}
    for number, stage in enumerate(stages):
        if s.layers == 1 and number < len(stages) - 1:
            continue
        layer = stage_features(s, rank, stage) | {
            "past_before": past(s, stages[:number]),
            "past": past(s, stages[:-1]),
        }
        found += in_a_layer(f"score {kind}", layer)
    tokens = sum(one.rows * one.tokens for one in stages)
    counts = {
        "logits": head_logits(s, head, HEAD_AHEAD["score"]),
        "targets": head["targets"] * s.hidden,
        "states": tokens * s.hidden,
        **{name: layer[name] for name in ("query", "mlp", "scores", "joined", "rank")},
    }
    return [*found, Situation(f"score {kind} head", counts)]


def update_situations(
    s: Shape, rank: int, stages: tuple[PlannedStage, ...], head: Counts, again: bool
) -> list[Situation]:
    """With ``again``, layers are recomputed in the backward pass, and keep only their input."""
    name = f"{'recompute' if again else 'update'} {kind_of(stages)}"
    tokens = sum(one.rows * one.tokens for one in stages)
    if again:
        kept = {"kept_hidden": s.layers * tokens * s.hidden, "kept_key": past(s, stages[:-1])}
    else:
        kept = kept_features(s, rank, stages)
    kept["targets"] = head["targets"] * s.hidden
    found = []
    for number, stage in enumerate(stages):
        if not again and s.layers == 1 and number < len(stages) - 1:
            continue
        found += in_a_layer(name, kept | stage_features(s, rank, stage))
    if again and len(stages) > 1:
        found.append(Situation(f"{name} layers", kept | together(s, rank, stages)))
    if head["entropy"]:
        logits = {"entropy_logits": head_logits(s, head, HEAD_AHEAD["entropy"])}
    else:
        logits = {"logits": head_logits(s, head, HEAD_AHEAD["update"])}
    if again:
        last = stage_features(s, rank, stages[-1])
        logits |= {name: last[name] for name in ("hidden", "mlp", "scores", "joined")}
    return [*found, Situation(f"{name} head", kept | logits)]


def reading_situations(
    s: Shape, rank: int, rows: int, read: int, start: int, kept: int, cache: Counts, held: bool
) -> list[Situation]:
    """``rows`` prompts of ``read`` tokens are read and copied into their places, as many at a time
    as ``PREFILL_TOKENS`` allow. Their first ``start`` tokens have been read before; ``kept`` tokens
    of such beginnings are in memory. ``held`` says that the places have been allocated already."""
    own = max(read - start, 1)
    most = max(1, PREFILL_TOKENS // own)
    found = []
    for count, there in ((min(rows, most), held), (min(max(rows - most, 0), most), True)):
        if not count:
            continue
        layer: dict[str, float] = {}
        if s.layers > 1:  # the last layer only computes keys and values
            layer = stage_features(
                s, rank, PlannedStage(count, min(own, PREFILL_TOKENS), max(read, 1))
            )
        layer["reading"] = 2 * s.layers * s.key * (count * read + kept)
        taken = {"cache": cache["cache"]} if there else {}
        found.append(Situation("read", {**taken, **layer}))
        found.append(Situation("place", {**cache, "reading": layer["reading"]}))
    return found


def decoding_situation(
    s: Shape, rank: int, places: int, buffer: int, kept: int, cache: Counts
) -> Situation:
    step = stage_features(s, rank, PlannedStage(places, 1, buffer))
    step["step_logits"] = places * s.vocabulary
    step["reading"] = 2 * s.layers * s.key * kept
    return Situation("decode", {**step, "cache": cache["cache"]})


def cache_features(s: Shape, places: int, buffer: int) -> dict[str, float]:
    return {
        "cache": 2 * s.layers * s.key * places * buffer,
        "cache_layer": places * buffer * s.key,
    }


def rollout_situations(
    s: Shape, rank: int, prompt: int, rows: int, places: int, buffer: int, start: int, kept: int
) -> list[Situation]:
    """The situations of a rollout: prompts are read (at the start, and when places become free),
    they are copied into their places, and rows are decoded. Prompts share their first ``start``
    tokens with others; ``kept`` tokens of such beginnings are kept in memory."""
    cache, read = cache_features(s, places, buffer), prompt - 1
    found = []
    if start:
        found += reading_situations(s, rank, 1, start, 0, kept, cache, False)[:-1]
    found += reading_situations(s, rank, places, read, start, kept, cache, False)
    if rows > places:
        again = min(places, rows - places)
        found += reading_situations(s, rank, again, read, start, kept, cache, True)
    return [*found, decoding_situation(s, rank, places, buffer, kept, cache)]


def shared_tokens(prompt: int) -> int:
    """The largest number of tokens that different prompts can share: all except the last
    ``MIN_PREFIX``. It is 0 if that is too little to be shared."""
    start = prompt - 1 - MIN_PREFIX
    return start if start >= MIN_PREFIX else 0


# The peaks of backward passes of one configuration differ by up to a tenth: how many buffers have
# been freed at a given point of the evaluation depends on timing.
MARGINS = {"update": 1.065, "recompute": 1.03}

# Bytes of small buffers that wait to be freed during a pass; the model's size does not matter.
WAITING = 600_000

# Evaluation runs ahead by this many chunks of logits: the memory of the head stops growing there.
HEAD_AHEAD = {"score": 2.85, "update": 2.6, "entropy": 2.5}


# -- counts ----------------------------------------------------------------------------------------


def rollouts(c: Config) -> int:
    """The largest number of rollouts of an update: proposals and solutions of all rounds."""
    proposals, solutions = round_rollouts(c)
    return c.gradient_accumulation_steps * (proposals + solutions)


def round_rollouts(c: Config) -> tuple[int, int]:
    """The largest numbers of (proposals, solutions) in a round."""
    new, replayed = c.batch_size + c.proposer.templates_per_step, c.solver.buffer_tasks_per_step
    solved = new * c.rollout.group_size
    if c.rollout.reuse_rollouts:
        solved += (replayed + c.rollout.resample * c.tasks_per_round) * c.rollout.group_size
    else:
        solved += new + max(replayed, c.tasks_per_round)
    return c.batch_size, solved


def calls(c: Config) -> list[tuple[int, int]]:
    """(rows, longest completion) of the rollouts that are generated together: first for the
    proposals, then for the solutions."""
    r = c.rollout
    proposals, solutions = round_rollouts(replace(c, rollout=replace(r, resample=0)))
    return [(proposals, r.max_propose_tokens), (solutions, r.max_solve_tokens)]


def measured(c: Config, prompt_tokens: int) -> list[tuple[int, int, int]]:
    """(rows, longest prompt, longest completion) of the answers to held-out tasks, whose prompts
    are those of other tasks, and to the benchmarks that are evaluated during training."""
    own, answer = c.held_out, c.rollout.max_solve_tokens
    groups = len(c.task_types) * (3 if own.hardest else 2)
    benchmarks = -(-c.evaluation.max_tasks_per_benchmark // 2) * c.evaluation.num_samples
    return [
        (groups * own.tasks * own.draws, prompt_tokens, answer),
        (benchmarks * (c.evaluation_interval > 0), BENCHMARK_PROMPT, max(answer, MAX_TOKENS)),
    ]


def answer_tokens(c: Config) -> int:
    """The longest completion."""
    return max(answer for rows, answer in calls(c) if rows)


def beginnings(c: Config) -> int:
    """How many beginnings of prompts are kept during the rollouts of a step: for each kind, one for
    the proposer and one for each strategy of the solver."""
    return len(c.task_types) * ((c.batch_size > 0) + len(c.solver.strategies))


def kv_tokens(c: Config, s: Shape, device: str) -> int:
    """``rollout.kv_budget_mb`` as places x tokens; 0 means no limit."""
    budget = c.rollout.kv_budget_mb * 10**6
    return max(1, budget // kv_bytes(s, device)) if budget else 0


def kv_bytes(s: Shape, device: str) -> int:
    """Bytes of the keys and values of one token."""
    return 2 * s.layers * s.kv_heads * s.head_dim * (FLOAT32 if device == "cpu" else FLOAT16)


def separate(budget: int, rows: int, prompt: int, answer: int) -> tuple[PlannedStage, ...]:
    width = up(prompt - 1 + answer, ROW_MULTIPLE)
    count = max(1, min(rows, budget // width))
    return (PlannedStage(count, width, width),)


def sharing(budget: int, rows: int, prompt: int, answer: int) -> tuple[PlannedStage, ...]:
    """Rows that share one prompt. If only one row would fit, the same as ``separate``."""
    first, own = prompt - 1, up(answer, ROW_MULTIPLE)
    count = min(rows, (budget - first) // own)
    if count < 2 or prompt < 2:
        return separate(budget, rows, prompt, answer)
    return (PlannedStage(1, first, first), PlannedStage(count, own, first + own))


def up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
