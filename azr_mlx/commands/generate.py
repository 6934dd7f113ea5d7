"""``azr-mlx generate``: local inference. Prompts are completed one after another, and the text is
shown as it is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from azr_mlx.backends.base import Sampling
from azr_mlx.backends.detokenize import TextStream
from azr_mlx.config import Quantization
from azr_mlx.errors import UsageError
from azr_mlx.models.adapters import base_of, quantization_of
from azr_mlx.models.locate import resolve
from azr_mlx.models.mlx_model import open_model
from azr_mlx.run_folder import ADAPTER_CONFIG, adapter_folder


@dataclass(frozen=True, slots=True)
class Generation:
    """A completion and its cost. ``finish`` is "stop" or "length"; rates are tokens per second."""

    text: str
    finish: str
    prompt_tokens: int
    tokens: int
    prompt_tokens_per_s: float
    tokens_per_s: float
    peak_gb: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Generator:
    """A model, with its adapters, that completes prompts one at a time."""

    def __init__(self, model_id: str | None, adapter_path: Path | None = None) -> None:
        """``model_id`` may be None if the adapters' folder names its model.

        Raises ``UsageError`` if the adapters are not available, ``ModelError`` if the model is not.
        """
        if adapter_path is not None:
            adapter_path = adapter_folder(adapter_path)
            model_id = model_id or base_of(adapter_path)
        if adapter_path is not None and not os.path.isfile(adapter_path / ADAPTER_CONFIG):
            raise UsageError(
                f"--adapter-path: {adapter_path}: no {ADAPTER_CONFIG} in it; give a folder that "
                "train or mlx_lm.lora has written, for example runs/NAME/adapters"
            )
        if model_id is None:
            raise UsageError("--model: missing; name a model, or adapters that name their model")
        self.model, self.tokenizer = load(model_id, adapter_path)

    @property
    def has_template(self) -> bool:
        return self.tokenizer.chat_template is not None

    def complete(
        self,
        prompt: str,
        sampling: Sampling,
        *,
        raw: bool = False,
        system: str = "",
        on_text: Callable[[str], None] = lambda text: None,
    ) -> Generation:
        """Complete ``prompt``. The model's chat template is used, if it has one and not ``raw``.

        ``on_text`` is called with each piece of text as soon as it is there.
        """
        from mlx_lm import stream_generate
        from mlx_lm.sample_utils import make_sampler

        tokens = encode(self.tokenizer, prompt, raw=raw, system=system)
        # A chat's answer is a text of its own; otherwise the text goes on.
        text = TextStream(self.tokenizer, [] if self.has_template and not raw else tokens)
        sampler = make_sampler(temp=sampling.temperature, top_p=sampling.top_p)
        pieces = []
        for response in stream_generate(
            self.model, self.tokenizer, tokens, max_tokens=sampling.max_tokens, sampler=sampler
        ):
            piece = "" if response.finish_reason == "stop" else text.add(response.token)
            piece += text.rest() if response.finish_reason else ""
            pieces.append(piece)
            on_text(piece)
        return Generation(
            "".join(pieces),
            str(response.finish_reason),
            response.prompt_tokens,
            response.generation_tokens,
            response.prompt_tps,
            response.generation_tps,
            response.peak_memory,
        )


def seed_sampler(seed: int | None) -> None:
    """Seed MLX's sampler (None: do not), so that the same prompt gives the same text."""
    if seed is not None:
        import mlx.core as mx

        mx.random.seed(seed)


def load(model_id: str, adapter_path: Path | None = None) -> tuple[Any, Any]:
    """The model, with the adapters, and its tokenizer. Weights are float32 on a CPU."""
    folder = _folder(model_id, None if adapter_path is None else quantization_of(adapter_path))
    opened = open_model(folder, adapter_path, name=model_id)
    return opened.model, opened.tokenizer


def encode(tokenizer: Any, prompt: str, *, raw: bool = False, system: str = "") -> list[int]:
    """``prompt`` as token ids: as a user's message in a chat, or as it is if ``raw``.

    Raises ``UsageError`` if there is nothing to complete, or no chat template for ``system``.
    """
    chat = tokenizer.chat_template is not None and not raw
    if system and not chat:
        raise UsageError("--system: needs a chat template; remove --raw, or use a chat model")
    if chat:
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": prompt})
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
    else:
        ids = tokenizer.encode(prompt)
    if not ids:
        raise UsageError("--prompt: is empty; give some text")
    return list(ids)


def _folder(model_id: str, of_run: Quantization | None) -> Path:
    """The folder of the model: as the run had it that made the adapters, or else as it is. A GGUF
    file is imported, and its blocks are kept if MLX has such a format."""
    bits = 8 if model_id.endswith(".gguf") else 0
    quantization = of_run or Quantization(bits=bits, group_size=32 if bits else 64)
    return resolve(model_id, quantization=quantization).path
