"""The torch backend on an NVIDIA GPU (or, smaller, on a CPU): speed against TRL, kernels, learning.

    python benchmarks/gpu.py step --model Qwen/Qwen2.5-Coder-0.5B-Instruct --bits 4 0
    python benchmarks/gpu.py kernels
    python benchmarks/gpu.py selfplay --config qwen2.5-coder-0.5b --steps 100 --data FOLDER
    python benchmarks/gpu.py step --model FOLDER --prompts 2 --group 4 --new-tokens 16 --rounds 1

"step" times whole GRPO steps of azr-mlx and of TRL's GRPOTrainer (pip install --target FOLDER
--no-deps trl, then --peers FOLDER; without it azr-mlx alone) in turn: the same model, prompts,
group, lengths, reward, rank and precision; every completion runs to its last token. Each library
has a process of its own. "kernels" compares the Triton and CUDA kernels with their oracles.
"selfplay" trains, and evaluates before and after on CRUXEval-O and HumanEval. Prints one JSON
object.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from itertools import pairwise
from pathlib import Path
from typing import Any

import side_by_side as sbs

LIBRARIES = ("azr-mlx", "trl")
LR, RANK, SCALE = 1e-5, 16, 2.0


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("step", "kernels", "selfplay"))
    parser.add_argument("--model", default="Qwen/Qwen2.5-Coder-0.5B-Instruct")
    parser.add_argument("--bits", type=int, nargs="+", default=[0], help="0: bfloat16 (CUDA)")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3, help="timed, after one to warm up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="")
    parser.add_argument("--config", default="qwen2.5-coder-0.5b")
    parser.add_argument("--data", default="")
    parser.add_argument("--one", help=SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(MEASURES[options.one](options)))
        return 0
    found = {"step": steps, "kernels": kernels, "selfplay": selfplay}[options.part](options)
    print(json.dumps({**sbs.machine(options), **found}, indent=1))
    return 0


# -- a step, against TRL ---------------------------------------------------------------------------


def steps(options: Namespace) -> dict[str, Any]:
    libraries = LIBRARIES if options.peers else LIBRARIES[:1]
    rows: list[dict[str, Any]] = []
    for bits in options.bits:
        for _ in range(options.rounds):
            for name in libraries:
                rows.append({"library": name, "bits": bits, **child(options, name, bits)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"rows": rows, "summary": [summary(rows, n, b) for b in options.bits for n in libraries]}


def child(options: Namespace, name: str, bits: int) -> dict[str, Any]:
    given = ["--model", options.model, "--bits", bits, "--prompts", options.prompts]
    given += ["--group", options.group, "--prompt-tokens", options.prompt_tokens]
    given += ["--new-tokens", options.new_tokens, "--steps", options.steps, "--one", name]
    given += ["--peers", options.peers] if options.peers else []
    command = [sys.executable, __file__, "step", *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise sbs.BenchmarkError(f"{name}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(rows: list[dict[str, Any]], name: str, bits: int) -> dict[str, Any]:
    own = [r for r in rows if r["library"] == name and r["bits"] == bits]
    numbers = [k for k, v in own[0].items() if isinstance(v, float)]
    return {
        "library": name,
        "bits": bits,
        **{k: round(statistics.median(r[k] for r in own), 3) for k in numbers},
    }


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


def peak() -> float:
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    import resource

    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def ours(options: Namespace) -> dict[str, Any]:
    import numpy as np
    import torch

    from azr_mlx import rng
    from azr_mlx.backends.base import Hyper, Sampling
    from azr_mlx.backends.torch import TorchBackend, model
    from azr_mlx.config import Lora, Quantization
    from azr_mlx.training.advantage import estimate
    from azr_mlx.training.batch import collate_supervised, token_weights
    from azr_mlx.types import Prompt

    device = model.choose_device()
    bits = Quantization(bits=options.bits[0])
    lm, tokenizer, _ = model.load(Path(options.model), bits, device)
    rows = options.prompts * options.group
    lora = Lora(rank=RANK, scale=SCALE)
    backend = TorchBackend(lm, tokenizer, lora, max_rows=rows, micro_batch_tokens=8192, eos=())
    prompts = [
        Prompt(text, tuple(tokenizer(text)["input_ids"]))
        for text in texts(tokenizer, options)
        for _ in range(options.group)
    ]
    spent = {"rollout": [], "update": []}
    for step in range(options.steps + 1):
        began = time.perf_counter()
        keys = [rng.key(0, "gpu", step, i) for i in range(rows)]
        done = backend.generate(prompts, [Sampling(options.new_tokens)] * rows, keys)
        middle = time.perf_counter()
        batch = collate_supervised(
            [(p.token_ids, c.token_ids) for p, c in zip(prompts, done, strict=True)]
        )
        scores = np.array([reward(c.text) for c in done])
        result = estimate(
            "grpo",
            rewards=np.zeros_like(batch.mask),
            scores=scores,
            groups=np.repeat(np.arange(options.prompts), options.group),
            cells=["solve"] * rows,
            mask=batch.mask,
        )
        batch = batch.with_(
            advantages=result.advantages, weights=token_weights(batch.mask, "token_mean")
        )
        backend.update(batch, Hyper(lr=LR, micro_batch_tokens=8192))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if step:
            spent["rollout"].append(middle - began)
            spent["update"].append(time.perf_counter() - middle)
    rollout, update = (statistics.median(spent[k]) for k in ("rollout", "update"))
    tokens = rows * options.new_tokens
    return {
        "step_s": rollout + update,
        "rollout_tok_s": tokens / rollout,
        "update_tok_s": tokens / update,
        "peak_gb": peak() / 1e9,
        "device": str(device),
    }


def trl(options: Namespace) -> dict[str, Any]:
    """GRPOTrainer with its own generation (no server), one update for each generation."""
    sys.path.insert(0, options.peers)
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from azr_mlx.backends.torch.model import _quantized

    cuda = torch.cuda.is_available()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    given: dict[str, Any] = {"dtype": torch.bfloat16 if cuda else torch.float32}
    if cuda:
        given |= _quantized(options.bits[0])
    model = AutoModelForCausalLM.from_pretrained(options.model, **given)
    rows = options.prompts * options.group
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *unused: Any, **also: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            marks.append(time.perf_counter())

    model.generation_config.eos_token_id = None
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=rows,
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
        )
        trainer = GRPOTrainer(
            model=model,
            args=config,
            processing_class=tokenizer,
            reward_funcs=lambda completions, **unused: [reward(c) for c in completions],
            train_dataset=Dataset.from_dict({"prompt": texts(tokenizer, options)}),
            peft_config=LoraConfig(
                r=RANK, lora_alpha=RANK * SCALE, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[Clock()],
        )
        trainer.train()
    between = [b - a for a, b in pairwise(marks)]
    return {"step_s": statistics.median(between), "peak_gb": peak() / 1e9}


MEASURES = {"azr-mlx": ours, "trl": trl}


# -- kernels, and self-play ------------------------------------------------------------------------


def kernels(options: Namespace) -> dict[str, Any]:
    tests = str(sbs.ROOT / "tests" / "backend" / "test_kernels.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", tests], capture_output=True, text=True
    )
    return {"passed": done.returncode == 0, "said": done.stdout.strip().splitlines()[-3:]}


def selfplay(options: Namespace) -> dict[str, Any]:
    """``azr-mlx train`` and ``azr-mlx eval``, as a user runs them."""
    azr = [sys.executable, "-m", "azr_mlx.cli"]
    with tempfile.TemporaryDirectory() as folder:
        train = ["train", "-c", options.config, "--backend", "torch", f"model_id={options.model}"]
        train += [f"max_steps={options.steps}", "run_name=r", f"output_dir={folder}"]
        began = time.perf_counter()
        subprocess.run([*azr, *train], check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - began
        measure = ["eval", "--model", options.model, "--adapter-path", f"{folder}/r"]
        measure += ["--benchmark", "humaneval,cruxeval-o", "--backend", "torch"]
        measure += ["--compare", "base", "--json", "--out", f"{folder}/e"]
        measure += ["--data", options.data] if options.data else []
        done = subprocess.run([*azr, *measure], check=True, capture_output=True, text=True)
        rows = Path(folder, "r", "metrics.jsonl").read_text().splitlines()
    return {
        "seconds": round(seconds, 1),
        "evaluation": json.loads(done.stdout),
        "metrics": [json.loads(rows[i]) for i in sorted({0, len(rows) // 2, len(rows) - 1})],
    }


if __name__ == "__main__":
    sys.exit(main())
