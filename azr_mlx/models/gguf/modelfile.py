"""Ollama's Modelfile for a GGUF file (https://docs.ollama.com/modelfile)."""

from __future__ import annotations

from typing import Any

from azr_mlx.models.gguf.turn_texts import TurnTexts, turn_texts
from azr_mlx.models.gguf.turns import ENDS
from azr_mlx.tasks.chat import has_template

_NONE = "# The model has no chat template: it continues texts.\n"
_OWN = "# The chat template has no form as a TEMPLATE. Ollama takes the file's if it knows it.\n"


def modelfile(file: str, tokenizer: Any) -> str:
    """The text of a Modelfile beside ``file``: how a conversation is written, since Ollama
    recognises only some of the templates in files, and what ends an answer."""
    texts = turn_texts(tokenizer)
    template = _template(texts, tokenizer) if texts else None
    if template is not None:
        said = f'TEMPLATE """{template}"""\n'
    else:
        said = _OWN if has_template(tokenizer) else _NONE
    return f"FROM ./{file}\n{said}" + "".join(
        f'PARAMETER stop "{end}"\n' for end in _ends(tokenizer, texts)
    )


def _template(texts: TurnTexts, tokenizer: Any) -> str | None:
    """The template in Go's language; None if the texts cannot be in one."""
    if texts.system is None:
        return None
    bos = _bos(tokenizer)
    system = texts.system[0].removeprefix(bos), texts.system[1]
    roles = {"system": system, "user": texts.user, "assistant": texts.answer}
    pieces = [piece for around in roles.values() for piece in around]
    if any(mark in piece for piece in (*pieces, texts.first, texts.asks) for mark in ("{{", '"""')):
        return None
    turns = "{{ else ".join(
        f'if eq .Role "{role}" }}}}' + "{{ .Content }}".join(around)
        for role, around in roles.items()
    )
    first = texts.first.removeprefix(bos)
    begins = "{{ if not .System }}" + first + "{{ end }}" if first else ""
    return begins + "{{ range .Messages }}{{ " + turns + "{{ end }}{{ end }}" + texts.asks


def _bos(tokenizer: Any) -> str:
    """The token that llama.cpp puts before each text by itself; empty if there is none."""
    begins = tokenizer.bos_token_id is not None and (
        tokenizer.encode("a")[0] == tokenizer.bos_token_id
    )
    return str(tokenizer.bos_token) if begins else ""


def _ends(tokenizer: Any, texts: TurnTexts | None) -> list[str]:
    """The texts that end an answer: what follows a turn, the eos token, and those of the model's
    further ends that llama.cpp does not know by their names."""
    named = tokenizer.convert_ids_to_tokens(sorted(getattr(tokenizer, "eos_token_ids", ())))
    after = texts.answer[1].strip() if texts else ""
    ends = [
        *([after] if after in tokenizer.get_added_vocab() else []),
        str(tokenizer.eos_token),
        *(name for name in named if name and name not in ENDS),
    ]
    return [name for name in dict.fromkeys(ends) if '"' not in name and "\n" not in name]
