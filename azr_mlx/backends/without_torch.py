"""Keeps transformers from importing torch, which takes more than half of the time that a command
takes to start, and which nothing on MLX uses."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

LIBRARY, LEFT_OUT = "transformers", "torch"


def leave_torch_out() -> None:
    """Let transformers, once it is imported, find no torch. All else can still import torch.

    Nothing changes if one of them has been imported already: transformers has seen torch then, and
    would fail without it.
    """
    found = any(isinstance(one, _Finder) for one in sys.meta_path)
    if not found and not {LIBRARY, LEFT_OUT} & sys.modules.keys():
        # transformers says at its first import if there is no torch. mlx-lm sets this, too.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == LIBRARY else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        """Import transformers, which remembers whether there is torch. In ``sys.modules`` None
        stands for a package that is missing; it must not stay there, as some packages (datasets)
        take what is there for imported."""
        hidden = LEFT_OUT not in sys.modules
        if hidden:
            sys.modules[LEFT_OUT] = None  # type: ignore[assignment]
        try:
            super().exec_module(module)
            importlib.import_module(f"{LIBRARY}.utils").is_torch_available()
        finally:
            if hidden:
                del sys.modules[LEFT_OUT]
