"""Finds the data that ships with the package: GPU kernel sources and configurations.

A wheel carries them as ``azr_mlx/_kernels`` and ``azr_mlx/_config``; a checkout (an editable
install too) keeps them beside the package as ``kernels/`` and ``config/``.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_TABLES = frozenset({"baselines"})  # figures of other models: YAML, but no configuration of a run


def config_dir() -> Path:
    """The folder with the shipped YAML. Raises ``FileNotFoundError`` if there is none."""
    return _find("config")


def kernels_dir() -> Path:
    """The folder with the kernel sources. Raises ``FileNotFoundError`` if there is none."""
    return _find("kernels")


def shipped_configs() -> dict[str, Path]:
    """The shipped training configurations by their stem, sorted."""
    found = sorted(config_dir().glob("*.yaml"))
    return {path.stem: path for path in found if path.stem not in _TABLES}


def prompt_forms() -> tuple[str, ...]:
    """The names of the shipped prompt forms, sorted."""
    return tuple(sorted(path.stem for path in (config_dir() / "prompts").glob("*.yaml")))


def _find(name: str) -> Path:
    candidates = (_PACKAGE / f"_{name}", _PACKAGE.parent / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    places = " nor ".join(map(str, candidates))
    raise FileNotFoundError(f"{name}: found neither in {places}; install azr-mlx again")
