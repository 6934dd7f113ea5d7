"""What ``gpu.py`` measures, each part in a process of its own.

A part prints a JSON object whenever it knows more; the last one counts. So a part that runs out of
time still says what it has found.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import side_by_side as sbs

LR, RANK, SCALE = 1e-5, 16, 2.0
ALIKE = 16  # tokens of each row that two ways of decoding are compared on
MARK = "found: "  # before each object, since libraries print, too
Found = dict[str, Any]


def tell(found: Found) -> None:
    print(MARK + json.dumps(found), flush=True)


def finished() -> None:
    """Wait for the GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result) of a call, with everything that it queued."""
    finished()
    began = time.perf_counter()
    result = call()
    finished()
    return time.perf_counter() - began, result


def peak_gb(reset: bool = False) -> float:
    """The most memory in use so far: of the GPU, or without one of the process."""
    import torch

    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return peak / 1e9
    from azr_mlx.backends.process_memory import peak_bytes

    return peak_bytes() / 1e9


# -- the model -------------------------------------------------------------------------------------


def model(options: Namespace) -> None:
    """The folder that everything else loads: a hub name is downloaded, a GGUF file is converted."""
    from azr_mlx.backends.select import resolve_model
    from azr_mlx.config import Quantization

    found = resolve_model("torch", options.model, Quantization(bits=0))
    tell({"folder": str(found.path)})


def machine(options: Namespace) -> None:
    """What everything is measured on."""
    import torch

    from azr_mlx.backends.torch.model import choose_device

    device = choose_device()
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else str(device)
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if cuda else 0.0
    tell({"device": name, "memory_gb": memory, **sbs.machine(options)})


# -- kernels ---------------------------------------------------------------------------------------


def kernels(options: Namespace) -> None:
    """Both row kernels against plain torch in float64 (log-probabilities, entropy, gradient) and
    plain torch in float32 (tokens), and how long they take."""
    import torch

    from azr_mlx.backends.torch import kernels as own
    from azr_mlx.backends.torch.model import choose_device

    device = choose_device()
    generator = torch.Generator().manual_seed(0)
    found: Found = {"path": ""}
    for dtype in (torch.float32, torch.bfloat16):
        z = 4 * torch.randn(options.kernel_rows, options.vocabulary, generator=generator)
        logits = z.to(device, dtype)
        targets = torch.randint(options.vocabulary, (len(z),), generator=generator).to(device)
        words = torch.randint(-(2**31), 2**31, (len(z), 2), generator=generator)
        keys, heat = words.to(device, torch.int32), torch.ones(len(z), device=device)
        name = str(dtype).removeprefix("torch.")
        found |= {f"{name}_{k}": v for k, v in _logprob(own, logits, targets).items()}
        found |= {f"{name}_{k}": v for k, v in _sample(own, logits, heat, keys).items()}
        found["path"] = own.path(logits)  # afterwards: "torch" if Triton could build nothing
        tell(found)


def _logprob(own: Any, logits: Any, targets: Any) -> Found:
    def ours() -> Any:
        return own.row_logprob(logits, targets, 1.0, True, False)

    def plain() -> Any:
        return own.row_logprob_torch(logits, targets, 1.0, True, False)

    logp, entropy, delta, _ = ours()
    logs = logits.double().log_softmax(-1)
    p = logs.exp()
    exact = logs.gather(-1, targets[:, None])[:, 0]
    gradient = p.scatter_add(-1, targets[:, None], -p.new_ones(len(p), 1))
    return {
        "logp_error": float((logp - exact).abs().max()),
        "entropy_error": float((entropy + (p * logs).sum(-1)).abs().max()),
        "gradient_error": float((delta.double() - gradient).abs().max()),
        "logprob_speedup": _ratio(plain, ours),
    }


def _sample(own: Any, logits: Any, heat: Any, keys: Any) -> Found:
    def ours() -> Any:
        return own.sample_rows(logits, heat, keys)

    def plain() -> Any:
        return own.sample_rows_torch(logits, heat, keys)

    (tokens, logp), (same, other) = ours(), plain()
    equal = tokens == same
    return {
        "tokens_equal": float(equal.float().mean()),
        "token_logp_error": float((logp - other)[equal].abs().max()),
        "sample_speedup": _ratio(plain, ours),
    }


def _ratio(slow: Callable[[], Any], fast: Callable[[], Any]) -> float:
    """How many times as fast the second one is; the two run in turn."""
    pairs = [(timed(slow)[0], timed(fast)[0]) for _ in range(6)][1:]
    return statistics.median(a / b for a, b in pairs)


# -- a step ----------------------------------------------------------------------------------------


def texts(tokenizer: Any, options: Namespace) -> list[str]:
    """Prompts of about the wanted length, all different."""
    words = sbs.TEXT.split()
    out = []
    for number in range(options.prompts):
        chosen = [f"{number}:"]
        while len(tokenizer(" ".join(chosen))["input_ids"]) < options.prompt_tokens:
            chosen.append(words[(7 * number + len(chosen)) % len(words)])
        out.append(" ".join(chosen))
    return out


def reward(text: str) -> float:
    return text.count("e") / max(len(text), 1)


class Own:
    """azr-mlx on the work that all libraries get: rollouts that run to their last token, and one
    GRPO update from them."""

    def __init__(self, options: Namespace):
        from azr_mlx.backends.torch import TorchBackend, model
        from azr_mlx.config import Lora, Quantization
        from azr_mlx.types import Prompt

        self.options = options
        device = model.choose_device()
        lm, tokenizer, _ = model.load(Path(options.model), Quantization(bits=options.bits), device)
        self.rows = options.prompts * options.group
        self.backend = TorchBackend(
            lm, tokenizer, Lora(rank=RANK, scale=SCALE), max_rows=self.rows, eos=()
        )
        self.prompts = [
            Prompt(text, tuple(tokenizer(text)["input_ids"]))
            for text in texts(tokenizer, options)
            for _ in range(options.group)
        ]

    def rollouts(self, step: int) -> Any:
        from azr_mlx import rng
        from azr_mlx.backends.base import Sampling

        keys = [rng.key(0, "gpu", step, i) for i in range(self.rows)]
        sampling = [Sampling(self.options.new_tokens)] * self.rows
        return self.backend.generate(self.prompts, sampling, keys)

    def update(self, done: Any) -> None:
        import numpy as np

        from azr_mlx.backends.base import Hyper
        from azr_mlx.training.advantage import estimate
        from azr_mlx.training.batch import collate_supervised, token_weights

        pairs = zip(self.prompts, done, strict=True)
        batch = collate_supervised([(p.token_ids, c.token_ids) for p, c in pairs])
        result = estimate(
            "grpo",
            rewards=np.zeros_like(batch.mask),
            scores=np.array([reward(c.text) for c in done]),
            groups=np.repeat(np.arange(self.options.prompts), self.options.group),
            cells=["solve"] * self.rows,
            mask=batch.mask,
        )
        weights = token_weights(batch.mask, "token_mean")
        batch = batch.with_(advantages=result.advantages, weights=weights)
        self.backend.update(batch, Hyper(lr=LR, micro_batch_tokens=self.options.micro_batch_tokens))


def beginnings(done: Any) -> list[list[int]]:
    return [list(c.token_ids[:ALIKE]) for c in done]


def plain(options: Namespace) -> None:
    """Rollouts alone; ``gpu.py`` turns CUDA graphs off for this part."""
    own = Own(options)
    first, seconds = beginnings(own.rollouts(0)), list[float]()
    for step in range(1, options.steps + 1):
        seconds.append(timed(lambda step=step: own.rollouts(step))[0])
        tokens = own.rows * options.new_tokens
        tell({"rollout_tok_s": tokens / statistics.median(seconds), "beginnings": first})


def step(options: Namespace) -> None:
    """Whole steps of azr-mlx."""
    own, tokens = Own(options), options.prompts * options.group * options.new_tokens
    first, rollout, update = None, list[float](), list[float]()
    for number in range(options.steps + 1):
        peak_gb(reset=True)
        one, done = timed(lambda number=number: own.rollouts(number))
        rollout_gb = peak_gb(reset=True)
        first = first or beginnings(done)
        two, _ = timed(lambda done=done: own.update(done))
        if number:
            rollout.append(one)
            update.append(two)
            tell(rates(tokens, rollout, update) | {
                "rollout_gb": rollout_gb, "peak_gb": max(rollout_gb, peak_gb()), "beginnings": first
            })  # fmt: skip


def rates(tokens: int, rollout: list[float], update: list[float]) -> Found:
    both = [a + b for a, b in zip(rollout, update, strict=True)]
    return {
        "rollout_tok_s": tokens / statistics.median(rollout),
        "update_tok_s": tokens / statistics.median(update),
        "step_s": statistics.median(both),
    }


def trl(options: Namespace) -> None:
    """TRL's GRPOTrainer with its own generation (no server), one update for each generation."""
    if options.peers:
        sys.path.insert(0, options.peers)
    from trl import GRPOTrainer

    tokens = options.prompts * options.group * options.new_tokens
    rollout, step_s = list[float](), list[float]()

    class Timed(GRPOTrainer):
        def _generate_and_score_completions(self, *given: Any, **also: Any) -> Any:
            seconds, found = timed(
                lambda: super(Timed, self)._generate_and_score_completions(*given, **also)
            )
            rollout.append(seconds)
            return found

        def training_step(self, *given: Any, **also: Any) -> Any:
            seconds, found = timed(lambda: super(Timed, self).training_step(*given, **also))
            step_s.append(seconds)
            if len(step_s) > 1:  # the first one warms up
                pairs = zip(rollout[1:], step_s[1:], strict=True)
                update = [whole - part for part, whole in pairs]
                tell(rates(tokens, rollout[1:], update) | {"peak_gb": peak_gb()})
            return found

    with tempfile.TemporaryDirectory() as folder:
        _trainer(Timed, options, folder).train()


def _trainer(kind: Any, options: Namespace, folder: str) -> Any:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig

    from azr_mlx.backends.torch.model import quantized

    cuda = torch.cuda.is_available()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    given: Found = {"dtype": torch.bfloat16 if cuda else torch.float32}
    if cuda:
        given |= quantized(options.bits)
    model = AutoModelForCausalLM.from_pretrained(options.model, **given)
    model.generation_config.eos_token_id = None
    lora = {"r": RANK, "lora_alpha": RANK * SCALE, "target_modules": "all-linear"}
    return kind(
        model=model,
        args=GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=options.prompts * options.group,
            num_generations=options.group,
            max_completion_length=options.new_tokens,
            max_steps=options.steps + 1,
            learning_rate=LR,
            beta=0.0,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            bf16=cuda,
            use_cpu=not cuda,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            generation_kwargs={"min_new_tokens": options.new_tokens},
        ),
        processing_class=tokenizer,
        reward_funcs=lambda completions, **unused: [reward(c) for c in completions],
        train_dataset=Dataset.from_dict({"prompt": texts(tokenizer, options)}),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **lora),
    )


# -- self-play -------------------------------------------------------------------------------------


def selfplay(options: Namespace) -> None:
    """``azr-mlx train`` as a user runs it; ``gpu.py`` reads the run's folder."""
    from azr_mlx.cli import main

    given = ["train", "-c", options.config, "--backend", "torch", f"model_id={options.model}"]
    given += [f"output_dir={options.runs}", "run_name=gpu", f"max_steps={options.selfplay_steps}"]
    given += [f"held_out.tasks={options.held_out}", "evaluation_interval=0", *options.set]
    sys.argv = ["azr-mlx", *given]
    sys.exit(main())


def of_run(folder: Path) -> Found:
    """The figures of a run, finished or not."""
    from azr_mlx.evaluation.held_out import Record, compare

    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if not rows:
        return {}
    found: Found = {"steps": len(rows), "step_s": _mean(rows[1:] or rows, "time/step")}
    for name in ("solve_rate/deduction", "solve_rate/abduction", "propose/valid", "tok_s/rollout"):
        third = max(1, len(rows) // 3)
        found[name] = [_mean(rows[:third], name), _mean(rows[-third:], name)]
    found["peak_gb"] = max(row.get("mem/peak_gb", 0.0) for row in rows)
    record = Record.read(folder)
    if record is not None and record.after:
        for way in ("sampled", "greedy"):
            lines = compare(record.tasks, record.before, record.after, way)
            gain = lines["in_range"][-1].gain
            found[f"{way}_gain"] = [gain.value, gain.low, gain.high]
    return found


def _mean(rows: list[Found], name: str) -> float | None:
    values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
    return statistics.mean(values) if values else None


PARTS: dict[str, Callable[[Namespace], None]] = {
    "machine": machine,
    "model": model,
    "kernels": kernels,
    "plain": plain,
    "step": step,
    "trl": trl,
    "selfplay": selfplay,
}
