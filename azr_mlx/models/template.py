"""The chat template of a model that has not been loaded, nor even downloaded or converted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from azr_mlx.files import Unreadable, read_json, read_text
from azr_mlx.models.hub import hub_snapshot
from azr_mlx.models.locate import check_hub_name, package_file
from azr_mlx.tasks.chat import try_template

CONFIG, TEMPLATE, MORE = "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates"
_BY_CODE = "chat_template_type"  # names the module of mlx-lm that writes conversations
_KEY = "tokenizer.chat_template"  # in a GGUF file


def has_chat_template(model_id: str) -> bool:
    """Whether the tokenizer of the model will be able to write a conversation, by a template or, in
    mlx-lm, by code.

    Of a model on the hub only the template is fetched. Raises ModelError if there is no such model.
    """
    path = _described(model_id)
    return bool(_template(path) or _by_code(path))


def check_template(model_id: str, revision: str | None = None) -> None:
    """Write one conversation by the model's chat template, if it has one.

    Of a model on the hub only the template is fetched. Raises TemplateError if the template fails,
    ModelError if there is no such model.
    """
    path = _described(model_id, revision)
    template = _template(path)
    if template and not _by_code(path):  # code comes before a template
        try_template(_bare(template))


def _described(model_id: str, revision: str | None = None) -> Path:
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
        from azr_mlx.models.gguf.reader import parts_of

        # Only the first part of a split file has it.
        found = read_header(parts_of(path)[0]).metadata.get(_KEY)
        return found if isinstance(found, str) else None
    if files := _files(path):
        return files["default"] if list(files) == ["default"] else files
    found = _config(path).get("chat_template")
    if isinstance(found, list):  # the older way to have several
        return {str(one.get("name")): one.get("template") for one in found if isinstance(one, dict)}
    return found if isinstance(found, str) else None


def _files(folder: Path) -> dict[str, str]:
    """The templates that have files of their own, which come before those in the configuration.
    transformers gives a tokenizer no others: chat_template.json is for processors of images."""
    paths = {"default": folder / TEMPLATE}
    paths |= {path.stem: path for path in sorted((folder / MORE).glob("*.jinja"))}
    try:
        return {name: read_text(path) for name, path in paths.items() if path.is_file()}
    except (OSError, Unreadable):
        return {}


def _by_code(path: Path) -> bool:
    return bool(_config(path).get(_BY_CODE))


def _config(folder: Path) -> dict[str, Any]:
    """The tokenizer's configuration; empty if it cannot be read."""
    try:
        found = read_json(folder / CONFIG)
    except (OSError, Unreadable):
        return {}
    return found if isinstance(found, dict) else {}


def _bare(template: Any) -> Any:
    """A tokenizer with nothing but the template and the names of special tokens in it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    build: Any = PreTrainedTokenizerFast
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = build(tokenizer_object=Tokenizer(models.BPE()), **special)
    tokenizer.chat_template = template
    return tokenizer
