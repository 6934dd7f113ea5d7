"""``rollout.form: auto``: the form, the limits and the strategies for the model of a run."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from azr_mlx.config import AUTO, Config, ConfigError, check, diff
from azr_mlx.config.model_class import class_of, settled
from azr_mlx.config.shipped import model_shapes
from azr_mlx.errors import ModelError
from azr_mlx.models.folder import INDEX, read_config
from azr_mlx.models.parameters import described, stored
from azr_mlx.models.template import has_chat_template
from azr_mlx.training.memory import model_path


def asked_by_size(config: Config, given: Collection[str] = ()) -> tuple[Config, str]:
    """The configuration with ``rollout.form: auto`` replaced by what serves its model, and one line
    that says so; the same configuration and no line if the form is another. The values of ``given``
    keys stay. Raises ConfigError if other settings do not fit it."""
    if config.rollout.form != AUTO:
        return config, ""
    parameters, chats = _parameters(config.model_id), _chats(config.model_id)
    found = settled(config, class_of(parameters, chats), given)
    if wrong := check(found):
        raise ConfigError(wrong)
    size = f"{parameters / 1e9:.2g} billion parameters" if parameters else "unknown size"
    kind = f"a model of {size}" + ("" if chats else " without a chat template")
    others = (f"{key}={_text(new)}" for key, (_, new) in diff(config, found).items())
    return found, f"rollout.form: auto: for {kind}: {' '.join(others)}"


def _text(value: Any) -> str:
    return f"[{','.join(value)}]" if isinstance(value, (list, tuple)) else str(value)


def _parameters(model_id: str) -> int | None:
    """How many parameters a model has; None if that is unknown."""
    if known := model_shapes().get(model_id):
        return described(known)
    try:
        path = model_path(model_id, ("config.json", INDEX))
        return stored(path) or described(read_config(path))
    except ModelError:  # it is reported when the model is resolved
        return None


def _chats(model_id: str) -> bool:
    """Whether the model has a chat template; those of the shipped configurations have one, and one
    that cannot be looked at yet is taken to have one."""
    if model_id in model_shapes():
        return True
    try:
        return has_chat_template(model_id)
    except ModelError:
        return True
