"""The chat template of a model that has not been loaded, nor even downloaded or converted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from azr_mlx.files import Unreadable, read_json, read_text
from azr_mlx.models.hub import hub_snapshot
from azr_mlx.models.locate import check_hub_name, package_file
from azr_mlx.tasks.chat import try_template

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_KEY = "tokenizer.chat_template"  # in a GGUF file


def check_template(model_id: str, revision: str | None = None) -> None:
    """Write one conversation by the model's chat template, if it has one.

    Of a model on the hub only the template is fetched. Raises TemplateError if the template fails,
    ModelError if there is no such model.
    """
    template = _template(_described(model_id, revision))
    if template:
        try_template(_bare(template))


def _described(model_id: str, revision: str | None) -> Path:
    """The folder or file that has the template."""
    if model_id.startswith("package:"):
        return package_file(model_id)
    path = Path(os.path.expanduser(model_id))
    if os.path.exists(path):
        return path
    check_hub_name(model_id)
    return hub_snapshot(model_id, revision, (CONFIG, "*.jinja"))


def _template(path: Path) -> Any:
    """The template, or several by their names; None if there is none that can be read here: what is
    wrong with the file is said when the model is loaded."""
    if path.suffix.lower() == ".gguf" and path.is_file():
        from azr_mlx.models.gguf.header import read_header

        found = read_header(path).metadata.get(_KEY)
        return found if isinstance(found, str) else None
    try:
        if (path / TEMPLATE).is_file():
            return read_text(path / TEMPLATE)
        found = read_json(path / CONFIG)
    except (OSError, Unreadable):
        return None
    found = found.get("chat_template") if isinstance(found, dict) else None
    if isinstance(found, list):  # the older way to have several
        return {str(one.get("name")): one.get("template") for one in found if isinstance(one, dict)}
    return found if isinstance(found, str) else None


def _bare(template: Any) -> Any:
    """A tokenizer with nothing but the template and the names of special tokens in it."""
    # As mlx-lm does: where torch is left out, transformers would say so at the first import.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    build: Any = PreTrainedTokenizerFast
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = build(tokenizer_object=Tokenizer(models.BPE()), **special)
    tokenizer.chat_template = template
    return tokenizer
