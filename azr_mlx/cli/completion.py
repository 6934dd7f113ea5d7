"""What a shell offers for a value that is being typed. Each function gets its beginning."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

EXPORTS = ("hf", "mlx", "gguf", "peft")  # what export --to takes


def configurations(begun: str) -> list[str]:
    from azr_mlx.config.shipped import shipped_configs

    return _matching(shipped_configs(), begun)


def runs(begun: str) -> list[str]:
    from azr_mlx.run_folder import LATEST, OUTPUT_DIR, checkpoints

    found = [str(run) for run in Path(OUTPUT_DIR).glob("*") if checkpoints(run)]
    return _matching([LATEST, *sorted(found)], begun)


def backends(begun: str) -> list[str]:
    return _matching(["auto", "mlx", "torch"], begun)


def benchmarks(begun: str) -> list[str]:
    """The last of a list with commas."""
    from azr_mlx.evaluation.benchmarks import known_names

    before, comma, last = begun.rpartition(",")
    return [f"{before}{comma}{name}" for name in _matching(known_names(), last)]


def exports(begun: str) -> list[str]:
    return _matching(EXPORTS, begun)


def _matching(words: Iterable[str], begun: str) -> list[str]:
    return [word for word in words if word.startswith(begun)]
