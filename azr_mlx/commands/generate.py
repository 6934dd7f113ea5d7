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
from azr_mlx.errors import UsageError
from azr_mlx.models.adapters import as_it_is, base_of, place_of_base, quantization_of
from azr_mlx.models.locate import resolve
from azr_mlx.models.mlx_model import check_tokens, open_model, rows_of
from azr_mlx.models.template import check_template
from azr_mlx.run_folder import ADAPTER_CONFIG, adapter_folder
from azr_mlx.tasks import chat
from azr_mlx.tasks.thinking import Thoughts
from azr_mlx.types import Prompt


@dataclass(frozen=True, slots=True)
class Generation:
    """A completion and its cost. ``finish`` is "stop" or "length"; rates are tokens per second,
    that of ``tokens`` after the first, which comes with the prompt.
    ``thought`` is what a chat model thought before ``text``, its answer."""

    text: str
    finish: str
    prompt_tokens: int
    tokens: int
    prompt_tokens_per_s: float
    tokens_per_s: float
    peak_gb: float
    thought: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Generator:
    """A model, with its adapters, that completes prompts one at a time."""

    def __init__(
        self,
        model_id: str | None,
        adapter_path: Path | None = None,
        *,
        raw: bool = False,
        thinking: bool = False,
        on_thought: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``model_id`` may be None if the adapters' folder names its model. With ``thinking`` a
        chat model thinks before it answers. ``on_thought`` is called with each piece of a thought
        as soon as it is there. A model for ``raw`` text may have a chat template that fails.

        Raises ``UsageError`` if the adapters are not available, or the model does not think as it
        should; ``ModelError`` if the model is not available.
        """
        if adapter_path is not None:
            adapter_path = adapter_folder(adapter_path)
            model_id = model_id or base_of(adapter_path)
        if adapter_path is not None and not os.path.isfile(adapter_path / ADAPTER_CONFIG):
            there = os.path.isdir(adapter_path)
            why = f"no {ADAPTER_CONFIG} in it" if there else "no such folder"
            raise UsageError(
                f"--adapter-path: {adapter_path}: {why}; give a folder that "
                "train or mlx_lm.lora has written, for example runs/NAME"
            )
        if model_id is None:
            raise UsageError("--model: missing; name a model, or adapters that name their model")
        if not raw:
            check_template(*place_of_base(adapter_path, model_id))
        self.model, self.tokenizer = load(model_id, adapter_path)
        self.thinking, self.on_thought = thinking, on_thought
        if thinking:
            chat.check_thinking(self.tokenizer, "--thinking", "leave --thinking out")

    @property
    def has_template(self) -> bool:
        return chat.has_template(self.tokenizer)

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

        ``on_text`` is called with each piece of the answer as soon as it is there. Raises
        ``TemplateError`` if the template fails, ``ModelError`` if the model lacks a token.
        """
        from mlx_lm import stream_generate
        from mlx_lm.sample_utils import make_sampler

        asked = asked_for(self.tokenizer, prompt, raw=raw, system=system, thinking=self.thinking)
        check_tokens(self.tokenizer, rows_of(self.model), asked.token_ids)
        # A chat's answer is a text of its own; otherwise the text goes on.
        text = TextStream(self.tokenizer, [] if asked.chat else asked.token_ids)
        parts = _Parts(asked, self.on_thought, on_text)
        sampler = make_sampler(temp=sampling.temperature, top_p=sampling.top_p)
        for response in stream_generate(
            self.model,
            self.tokenizer,
            list(asked.token_ids),
            max_tokens=sampling.max_tokens,
            sampler=sampler,
        ):
            piece = "" if response.finish_reason == "stop" else text.add(response.token)
            piece += text.rest() if response.finish_reason else ""
            parts.add(piece)
        thought, answer = parts.end()
        return Generation(
            answer,
            str(response.finish_reason),
            response.prompt_tokens,
            response.generation_tokens,
            response.prompt_tps,
            # mlx-lm counts the first token, too, whose time is the prompt's.
            response.generation_tps * (1 - 1 / response.generation_tokens),
            response.peak_memory,
            thought,
        )


class _Parts:
    """A completion's thought and answer, passed on once it is clear which is which."""

    def __init__(
        self, asked: Prompt, on_thought: Callable[[str], None], on_text: Callable[[str], None]
    ) -> None:
        self._thoughts = Thoughts(asked.text) if asked.chat else None
        self._on_thought, self._on_text = on_thought, on_text
        self._text, self._told = "", ("", "")

    def add(self, piece: str) -> None:
        self._text += piece
        thought, answer = self._split()
        if self._thoughts is None or not self._thoughts.may_begin(answer):
            self._tell(thought, answer)
        else:
            self._tell(thought, self._told[1])

    def end(self) -> tuple[str, str]:
        """The whole thought, and the whole answer."""
        self._tell(*self._split())
        return self._told

    def _split(self) -> tuple[str, str]:
        if self._thoughts is None:
            return "", self._text
        thought, answer = self._thoughts.split(self._text)
        return thought, answer.lstrip() if thought else answer

    def _tell(self, thought: str, answer: str) -> None:
        before, self._told = self._told, (thought, answer)
        self._on_thought(thought[len(before[0]) :])
        self._on_text(answer[len(before[1]) :])


def seed_sampler(seed: int | None) -> None:
    """Seed MLX's sampler (None: do not), so that the same prompt gives the same text."""
    if seed is not None:
        import mlx.core as mx

        mx.random.seed(seed)


def load(model_id: str, adapter_path: Path | None = None) -> tuple[Any, Any]:
    """The model, with the adapters, and its tokenizer. Weights are float32 on a CPU."""
    folder = _folder(model_id, adapter_path)
    opened = open_model(folder, adapter_path, name=model_id)
    return opened.model, opened.tokenizer


def asked_for(
    tokenizer: Any, prompt: str, *, raw: bool = False, system: str = "", thinking: bool = False
) -> Prompt:
    """``prompt`` in tokens: as a user's message in a chat, or as it is if ``raw``.

    Raises ``UsageError`` if there is nothing to complete, or no chat template for ``system`` or
    ``thinking``; ``TemplateError`` if the template fails.
    """
    in_chat = chat.has_template(tokenizer) and not raw
    for option, given in (("--system", system), ("--thinking", thinking)):
        if given and not in_chat:
            raise UsageError(f"{option}: needs a chat template; remove --raw, or use a chat model")
    text = prompt
    if in_chat:
        turns = chat.conversation(prompt, system)
        text = chat.written(tokenizer, turns, thinking=thinking)
    ids = tokenizer.encode(text, add_special_tokens=not in_chat)
    if not ids:
        raise UsageError("--prompt: is empty; give some text")
    return Prompt(text, tuple(ids), chat=in_chat)


def _folder(model_id: str, adapters: Path | None) -> Path:
    """The folder of the model: as the run had it that made the adapters, or else as it is. A GGUF
    file is imported, and its blocks are kept if MLX has such a format."""
    place, commit = place_of_base(adapters, model_id)
    of_run = None if adapters is None else quantization_of(adapters)
    return resolve(place, quantization=of_run or as_it_is(model_id), revision=commit).path
