"""The licence of a base model, from its files here or from what the hub says of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from yaml import YAMLError

from azr_mlx.commands.cards import CARD, Base
from azr_mlx.errors import WRONG_VALUES, ModelError
from azr_mlx.models.gguf.header import read_header
from azr_mlx.models.locate import package_file

KEYS = ("license", "license_name", "license_link")
_GGUF = ("general.license", "general.license.name", "general.license.link")
_NAME = re.compile(r"[A-Za-z0-9][\w.+ -]{0,60}")
_TIMEOUT = 10  # seconds, for the hub's answer


def of(base: Base, *, online: bool) -> dict[str, str]:
    """The licence as entries of a card's front matter (``KEYS``); empty if it is not known. With
    ``online`` the hub is asked if the model's files do not say."""
    try:
        found = _of_files(base)
        return _linked(base, found or (_of_hub(base) if online and base.hub is not None else {}))
    except (OSError, ModelError, YAMLError, metadata.PackageNotFoundError, *WRONG_VALUES):
        return {}


def _linked(base: Base, found: dict[str, str]) -> dict[str, str]:
    """The same with a link that leads somewhere from another repository: one to a file beside the
    base's card is made whole, or left out if the base is not on the hub."""
    link = found.get("license_link", "")
    if not link or "://" in link:
        return found
    if base.hub is None:
        return {key: value for key, value in found.items() if key != "license_link"}
    return {**found, "license_link": f"https://huggingface.co/{base.hub}/blob/main/{link}"}


def _of_files(base: Base) -> dict[str, str]:
    if base.hub is not None:
        from huggingface_hub import try_to_load_from_cache

        card = try_to_load_from_cache(base.hub, CARD)
        return _of_card(Path(card)) if isinstance(card, str) else {}
    if not base.place:
        return {}
    path = Path(os.path.expanduser(base.place))
    if base.place.startswith("package:"):
        path = package_file(base.place)
    if path.suffix.lower() == ".gguf":
        held = read_header(path).metadata
        return _entries({key: held.get(name) for key, name in zip(KEYS, _GGUF, strict=True)})
    if (path / CARD).is_file() or not base.place.startswith("package:"):
        return _of_card(path / CARD)
    package = base.place.removeprefix("package:").partition("/")[0]
    said = metadata.metadata(package.replace("_", "-"))["License-Expression"]
    return _entries({"license": str(said).lower()})


def _of_card(file: Path) -> dict[str, str]:
    from huggingface_hub import metadata_load

    return _entries(metadata_load(file) or {})


def _of_hub(base: Base) -> dict[str, str]:
    from huggingface_hub import HfApi

    from azr_mlx.models.hub import hub_errors

    try:
        card = HfApi().model_info(str(base.hub), timeout=_TIMEOUT).card_data
    except hub_errors():
        return {}
    return {} if card is None else _entries({key: card.get(key) for key in KEYS})


def _entries(said: Mapping[str, Any]) -> dict[str, str]:
    """The entries that are texts; none if the licence is not named."""
    found = {key: said[key] for key in KEYS if isinstance(said.get(key), str)}
    return found if _NAME.fullmatch(found.get("license", "")) else {}
