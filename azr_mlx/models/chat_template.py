"""Whether a model can be asked in conversations, before it is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from azr_mlx.files import Unreadable, read_json
from azr_mlx.models.hub import hub_snapshot
from azr_mlx.models.locate import check_hub_name, locate

_FILES = ("config.json", "tokenizer_config.json", "chat_template.*")


def has_chat_template(model_id: str) -> bool:
    """Whether the model comes with a chat template. Of a hub repository only small files are
    downloaded. Raises ModelError."""
    if model_id.startswith("package:") or os.path.exists(os.path.expanduser(model_id)):
        path = locate(model_id).path
    else:
        check_hub_name(model_id)
        path = hub_snapshot(model_id, patterns=_FILES)
    return _in_gguf(path) if path.is_file() else _in_folder(path)


def _in_gguf(path: Path) -> bool:
    from azr_mlx.models.gguf.reader import read

    return bool(read(path).metadata.get("tokenizer.chat_template"))


def _in_folder(folder: Path) -> bool:
    if any(folder.glob("chat_template.*")):
        return True
    try:
        config = read_json(folder / "tokenizer_config.json")
    except (OSError, Unreadable):
        return False  # what is wrong with the file is said when the model is loaded
    return isinstance(config, dict) and bool(config.get("chat_template"))
