"""What a dry run looks for in a model: whether a run could load it, and ask it by its form.

Of weights only the names and shapes are looked at, which are in the headers of the files. Of a
model on the hub config.json alone is fetched.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from azr_mlx.config import Config
from azr_mlx.config.shipped import model_shapes
from azr_mlx.errors import ModelError
from azr_mlx.models.folder import read_config
from azr_mlx.models.locate import locate
from azr_mlx.tasks.prompts import form_for_training
from azr_mlx.training import memory
from azr_mlx.training.memory.shape import KNOWN


def check_model(config: Config, backend: str) -> None:
    """Raise what a run on this backend ("" if none is installed) would end with when it loads its
    model: ModelError, or UsageError if its form does not suit the model.

    A model whose files are elsewhere, on a hub that does not answer, is left to the run.
    """
    if config.model_id in model_shapes():  # shipped configurations are tried with theirs
        return
    if not _is_local(config.model_id):
        _check_architecture(config.model_id, backend)
        return
    path = locate(config.model_id).path
    if path.is_file():
        from azr_mlx.models.gguf import check_gguf

        check_gguf(path)
    elif backend:
        form_for_training(config, _tokenizer(path, backend))


def _is_local(model_id: str) -> bool:
    return model_id.startswith("package:") or os.path.exists(os.path.expanduser(model_id))


def _check_architecture(repo: str, backend: str) -> None:
    """Raises ModelError if MLX is to run a model of the hub, and mlx-lm does not have its
    architecture."""
    try:
        folder = memory.model_path(repo, ("config.json",))
        if backend != "mlx" or read_config(folder).get("model_type") in KNOWN:
            return
    except ModelError:  # the plan of memory says it
        return
    from azr_mlx.models.mlx_model import check_architecture

    check_architecture(folder, repo)


def _tokenizer(folder: Path, backend: str) -> Any:
    if backend == "mlx":
        from azr_mlx.models.mlx_model import check_loads

        return check_loads(folder)
    from azr_mlx.backends.torch.model import check_loads as check_loads_on_torch

    return check_loads_on_torch(folder)
