"""How models of a size are asked, if ``rollout.form`` is ``auto``. The table rests on what is
measured in benchmarks/RESULTS.md, "Prompt forms"."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from math import inf

from azr_mlx.config.settings import AUTO, Config


@dataclass(frozen=True, slots=True)
class ModelClass:
    """Models of fewer than ``below`` parameters: their prompt form, the limits of their completions
    in tokens, and the strategies by which they solve."""

    below: float
    form: str
    max_propose_tokens: int
    max_solve_tokens: int
    strategies: tuple[str, ...]


_DEFAULT = Config()
# In the order of their sizes. The last one is the defaults of the configuration.
CLASSES = (
    ModelClass(1e9, "few_shot", 192, 64, ("direct",)),
    ModelClass(3e9, "chat", 256, 192, ("direct",)),
    ModelClass(
        inf,
        "chat",
        _DEFAULT.rollout.max_propose_tokens,
        _DEFAULT.rollout.max_solve_tokens,
        _DEFAULT.solver.strategies,
    ),
)


def class_of(parameters: float | None, chats: bool) -> ModelClass:
    """The class of a model with so many parameters (None: unknown, taken for a large model). A
    model without a chat template is asked as the smallest are."""
    if not chats:
        return CLASSES[0]
    return next((one for one in CLASSES if (parameters or inf) < one.below), CLASSES[-1])


def settled(config: Config, chosen: ModelClass, given: Collection[str] = ()) -> Config:
    """The configuration with the form of a class, or with chat if the model is to think; with its
    limits and strategies, too, if the configuration has the defaults and they are not among the
    keys that a user has given. Nothing changes unless the form is ``auto``."""
    rollout, default = config.rollout, _DEFAULT.rollout
    if rollout.form != AUTO:
        return config
    limits = {
        name: getattr(chosen, name)
        for name in ("max_propose_tokens", "max_solve_tokens")
        if getattr(rollout, name) == getattr(default, name) and f"rollout.{name}" not in given
    }
    same = config.solver.strategies == _DEFAULT.solver.strategies
    same = same and "solver.strategies" not in given
    strategies = chosen.strategies if same else config.solver.strategies
    return replace(
        config,
        rollout=replace(rollout, form="chat" if rollout.thinks else chosen.form, **limits),
        solver=replace(config.solver, strategies=strategies),
    )
