"""Train nano from nothing: its tokenizer and its weights, from lessons alone.

    python -m azr_mlx.nano.pretrain OUT

Two parts: correct lessons, and then lessons of which a quarter are answered with a slip
(``lessons``), so that the model knows better than it answers. Needs torch (the dev extra); on two
CPU cores 9,000 to 18,000 tokens are read a second: half an hour to an hour. Writes a Hugging Face
folder that ``transformers`` and ``mlx_lm`` load, with ``training.json``: versions, loss over time.
The first part alone is left in OUT-first, and ``--begin`` goes on from it. If it is cut off, the
same command goes on from the last of the states that it keeps beside OUT, and makes the same
weights.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_arrays
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from azr_mlx.nano.lessons import Lesson, lessons
from azr_mlx.tasks.prompts import load_form

EOS = "<eos>"
SIZES: dict[str, Any] = dict(
    hidden_size=128,
    num_hidden_layers=4,
    intermediate_size=384,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
)
VOCABULARY = 512
ROPE = 10_000.0  # the base of the rotary positions
LONGEST = 256  # tokens; what is longer is left out
BATCH = 4096  # tokens
POOL = 4096  # lessons that are sorted by length before they are batched
PROMPT_WEIGHT = 0.1  # weight of a prompt's token in the loss; a token of an answer counts 1
MUON_RATE, ADAM_RATE, WARMUP = 0.02, 3e-3, 100
KEEP = 250  # batches after which the state is written

DONE = "training.json"  # the last file of a complete folder

Optimizers = list[tuple[Any, float]]  # each with its rate
WeightedTokens = tuple[list[int], list[float]]  # tokens and their weights in the loss


class Stretch(NamedTuple):
    """``stream`` of lessons, tokens to read, share of slips."""

    stream: int
    tokens: float
    slips: float


FIRST, SECOND = Stretch(0, 22e6, 0.0), Stretch(2, 12e6, 0.36)


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--begin", type=Path, help="folder of the first part")
    options = parser.parse_args()
    if (options.out / DONE).exists():
        parser.error(f"{options.out} is complete; choose another folder")
    torch.manual_seed(options.seed)
    first = options.begin or beside(options.out, "-first")
    kept = f".state-{options.seed}"  # what another seed has begun is left alone
    if not (first / DONE).exists():
        if options.begin:
            parser.error(f"--begin {first}: not a complete first part: it has no {DONE}")
        tokenizer = make_tokenizer(options.seed)
        model = make_model(tokenizer)
        log = train(model, tokenizer, FIRST, options.seed, beside(first, kept))
        save(first, model, tokenizer, log)
    elif not options.begin:
        sys.stderr.write(f"{first} is complete: going on from it, whatever its seed was\n")
    # From the file, whose weights are rounded: so it is the same with --begin and without.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(first)
    model = Qwen3ForCausalLM.from_pretrained(first, dtype=torch.float32)
    log = train(model, tokenizer, SECOND, options.seed, beside(options.out, kept))
    before = json.loads((first / DONE).read_text())["log"]
    save(options.out, model, tokenizer, [*before, *log])
    return 0


def beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Words of programs and messages, indents and signs are tokens; digits, and the letters of
    strings, stand alone, so that the model can separate them."""
    texts = ["".join(text for text, _ in one) + "\n" for one in sample(seed, 20_000)]
    outside = [re.sub(r"'[^'\n]*'", "''", text) for text in texts]
    words = Counter(word for text in outside for word in re.findall(r"[A-Za-z_]\w+", text))
    known = "|".join(sorted((w for w, n in words.items() if n >= 50), key=lambda w: (-len(w), w)))
    word = rf" ?(?<!['\w])(?:{known})(?!['\w]) ?"
    # A sign takes the blanks next to it: a digit or a letter is one token wherever it stands.
    piece = rf"{word}|\n *|[0-9]|[A-Za-z_]| ?[^\sA-Za-z0-9_]{{1,3}} ?|\s"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(piece), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    made: Any = PreTrainedTokenizerFast  # untyped
    return cast(
        PreTrainedTokenizerFast, made(tokenizer_object=tokenizer, eos_token=EOS, pad_token=EOS)
    )


def sample(seed: int, count: int) -> list[Lesson]:
    """Lessons for the tokenizer, from a stream that training does not read."""
    return list(islice(lessons(load_form("compact"), seed, 1), count))


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    eos = tokenizer.eos_token_id
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE},
        eos_token_id=eos,
        pad_token_id=eos,
        bos_token_id=None,
        use_cache=True,
        **SIZES,
    )
    return Qwen3ForCausalLM(config)


# -- training --------------------------------------------------------------------------------------


@dataclass
class Progress:
    """How far a part is: batches, their tokens, the losses of the last hundred, and the log."""

    number: int = 0
    read: int = 0
    losses: list[float] = field(default_factory=list)
    log: list[dict[str, float]] = field(default_factory=list)

    def add(self, rows: list[WeightedTokens], loss: float, slips: float) -> None:
        self.number += 1
        self.read += sum(len(tokens) for tokens, _ in rows)
        self.losses = [*self.losses[-99:], loss]
        if self.number % 100 == 0:
            mean = round(float(np.mean(self.losses)), 4)
            self.log.append({"slips": slips, "tokens": self.read, "loss": mean})


def train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    phase: Stretch,
    seed: int,
    state: Path,
) -> list[dict[str, float]]:
    """A warm-up, and a cosine to a twentieth. Returns the loss over time. The file ``state`` is
    there until the part is complete, and if it is there at the start, the part goes on from it."""
    optimizers = make_optimizers(model)
    at = restored(state, model, optimizers)
    began, before = time.monotonic(), at.read
    for rows in islice(batches(tokenizer, phase, seed), at.number, None):
        done = at.read / phase.tokens
        if done >= 1:
            break
        factor = min(1.0, (at.number + 1) / WARMUP) * (
            0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2
        )
        at.add(rows, step(model, optimizers, rows, factor), phase.slips)
        if at.number % 100 == 0:
            speed = (at.read - before) / (time.monotonic() - began)
            loss = at.log[-1]["loss"]
            sys.stderr.write(f"{at.read / 1e6:.1f} M tokens, loss {loss:.4f}, {speed:.0f} tok/s\n")
        if at.number % KEEP == 0:
            keep(state, model, optimizers, at)
    state.unlink(missing_ok=True)
    return at.log


def step(
    model: Qwen3ForCausalLM, optimizers: Optimizers, rows: list[WeightedTokens], factor: float
) -> float:
    """One step of the optimizers at ``factor`` times their rates; the mean loss of the answers."""
    for optimizer, rate in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
    loss, answer_loss = loss_of(model, rows)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, _ in optimizers:
        with Unrounded():
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return answer_loss


class Unrounded(TorchFunctionMode):
    """While it is in force, what asks for bfloat16 gets float32: torch's Muon asks for it, and CPUs
    without instructions for it take two thirds longer for a step."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        if func is torch.Tensor.bfloat16:
            func = torch.Tensor.clone  # a new tensor, too: Muon changes it
        return cast(torch.Tensor, func(*args, **kwargs or {}))


def keep(state: Path, model: Qwen3ForCausalLM, optimizers: Optimizers, at: Progress) -> None:
    of_optimizers = [optimizer.state_dict() for optimizer, _ in optimizers]
    made = beside(state, ".new")
    torch.save(
        {"model": model.state_dict(), "optimizers": of_optimizers, "progress": asdict(at)}, made
    )
    made.replace(state)


def restored(state: Path, model: Qwen3ForCausalLM, optimizers: Optimizers) -> Progress:
    """How far a part had come, with the weights and the optimizers as they were then."""
    if not state.exists():
        return Progress()
    found = torch.load(state, weights_only=True)
    model.load_state_dict(found["model"])
    for (optimizer, _), held in zip(optimizers, found["optimizers"], strict=True):
        optimizer.load_state_dict(held)
    return Progress(**found["progress"])


def make_optimizers(model: Qwen3ForCausalLM) -> Optimizers:
    """Muon for the layers' matrices, which halves the tokens that Adam needs here; Adam for the
    rest."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        (torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.0), MUON_RATE),
        (torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0), ADAM_RATE),
    ]


def loss_of(model: Qwen3ForCausalLM, rows: list[WeightedTokens]) -> tuple[torch.Tensor, float]:
    """(weighted loss, mean loss of the answers' tokens)."""
    width = max(len(tokens) for tokens, _ in rows)
    ids = np.zeros((len(rows), width), np.int64)
    weights = np.zeros((len(rows), width), np.float32)
    for i, (tokens, of_tokens) in enumerate(rows):
        ids[i, : len(tokens)] = tokens
        weights[i, : len(tokens)] = of_tokens
    x, w = torch.from_numpy(ids), torch.from_numpy(weights[:, 1:])
    # Rows are padded on the right, where causal attention does not look: no mask is needed.
    logits = model(input_ids=x[:, :-1]).logits
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), x[:, 1:], reduction="none")
    answers = w == 1.0
    return (each * w).sum() / w.sum(), float(each.detach()[answers].mean())


def batches(
    tokenizer: PreTrainedTokenizerFast, phase: Stretch, seed: int
) -> Iterator[list[WeightedTokens]]:
    """Rows of about the same length, ``BATCH`` tokens of them, in random order."""
    draw = np.random.default_rng(seed)
    source = lessons(load_form("compact"), seed, phase.stream, phase.slips)
    while True:
        pool = [row for row in encoded(tokenizer, islice(source, POOL)) if len(row[0]) <= LONGEST]
        pool.sort(key=lambda row: len(row[0]))
        made, batch = list[list[WeightedTokens]](), list[WeightedTokens]()
        for row in pool:
            batch.append(row)
            if len(batch) * len(row[0]) >= BATCH:
                made.append(batch)
                batch = []
        for i in draw.permutation(len(made)):
            yield made[i]


def encoded(tokenizer: PreTrainedTokenizerFast, found: Iterator[Lesson]) -> list[WeightedTokens]:
    """Each part by itself, as prompts and completions are, and the end."""
    chosen = list(found)
    texts = [text for lesson in chosen for text, _ in lesson]
    parts = iter(tokenizer.backend_tokenizer.encode_batch(texts))
    rows = list[WeightedTokens]()
    for lesson in chosen:
        tokens, weights = list[int](), list[float]()
        for (_, answer), part in zip(lesson, parts, strict=False):
            tokens += part.ids
            weights += [1.0 if answer else PROMPT_WEIGHT] * len(part.ids)
        rows.append(([*tokens, tokenizer.eos_token_id], [*weights, 1.0]))
    return rows


def save(
    path: Path,
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    log: list[dict[str, float]],
) -> None:
    """In float16, marked as MLX's: the folder is loaded as it is, with no conversion."""
    copied: Any = deepcopy(model)
    copied.half().save_pretrained(path)
    (path / "generation_config.json").unlink(missing_ok=True)
    weights = path / "model.safetensors"
    data = save_arrays(load_file(weights), metadata={"format": "mlx"})
    weights.unlink()  # only its owner may read it; and a file that exists keeps its mode
    weights.write_bytes(data)
    tokenizer.save_pretrained(path)
    # transformers writes rope_theta under rope_parameters alone, where mlx-lm may not look.
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "rope_theta": ROPE}, indent=1))
    made = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    count = sum(p.numel() for p in model.parameters())
    row = {"versions": made, "parameters": count, "threads": torch.get_num_threads(), "log": log}
    (path / DONE).write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
