"""Reads the config.yaml of a run, which an earlier version may have written.

A run writes every setting that its version has. What its file lacks came later, and a run that is
resumed goes on as it began: the defaults of today are for new runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from azr_mlx.config import schema
from azr_mlx.config.settings import Config, ConfigError, checked, overridden

# What settings meant before they existed. A setting that is not here has a default that changes
# nothing, but for ``rollout.max_prompt_tokens``: it bounds prompts that had no bound, and memory
# cannot be planned without one.
BEFORE = {
    "proposer.advantage": "same",  # every advantage was found as ppo.advantage says
    "proposer.loss_share": "0",  # a token of a proposal weighed as much as one of an answer
    "proposer.guessing": "counted",  # what a guess solves was solved
    "proposer.reference_choice": "difficulty",
    "proposer.extended": "0.0",
    "proposer.hardest_template": "0.9",
    "proposer.levels": "asked",
    "proposer.duplicate_cost": "1.0",  # of what an invalid one cost
    # The chat template decided; "on" needs limits of tokens that those runs do not have.
    "rollout.thinking": "off",
    "held_out.hardest": "0.0",
    "held_out.draws": "4",
    "solver.reward": "verdict",
    "solver.buffer_choice": "uniform",
    "solver.repeats": "wrong",
}
GONE = ("ppo", "micro_batch")  # it decided how an update is packed, and not what it does

# Of 2 or 3 inputs an induction task hides one, and hidden inputs need two outputs.
INPUTS, FEWEST_INPUTS = "proposer.induction_inputs", "4"


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Config, str]:
    """The configuration of a run, from its own file and ``KEY=VALUE``; and, if an earlier version
    wrote the file, one line on what stays as it was and what cannot.

    Raises ``ConfigError`` with all mistakes at once.
    """
    errors: list[str] = []
    tree = schema.read(Path(path), errors)
    if not tree and not errors:
        raise ConfigError([f"{path}: is empty; copy that of the run from a backup, or begin anew"])
    section, name = GONE
    if isinstance(tree.get(section), dict):
        tree[section].pop(name, None)
    earlier = {key: value for key, value in BEFORE.items() if _value(tree, key) is None}
    inputs = _value(tree, INPUTS)
    if inputs in ("2", "3"):
        earlier[INPUTS] = FEWEST_INPUTS
    config = overridden(tree, [*(f"{k}={v}" for k, v in earlier.items()), *overrides], errors)
    if not earlier:
        return config, ""
    given = {text.partition("=")[0] for text in overrides}
    taken = {key: value for key, value in earlier.items() if key not in given}
    return config, "; ".join(_said(path, taken, inputs))


def load_keys(path: str | Path, *keys: str) -> Config:
    """The configuration with only these keys (or sections) of a run's file. The others have their
    defaults, whatever the file says. Raises ``ConfigError``."""
    errors: list[str] = []
    return checked(_only(schema.read(Path(path), errors), keys), errors)


def is_of_run(path: str | Path) -> bool:
    """Whether a file has every setting but some that came later, as the files of runs do."""
    tree = schema.read(Path(path), [])
    return all(_value(tree, key) is not None or key in BEFORE for key in schema.leaves(Config))


def _said(path: str | Path, taken: dict[str, str], inputs: Any) -> Iterator[str]:
    """What is said of values that are ``taken`` for those of an earlier version."""
    yield f"config: {path} is of an earlier version"
    least, new = taken.pop(INPUTS, ""), dict(schema.flat(Config()))
    kept = [f"{key}={value}" for key, value in taken.items() if value != str(new[key])]
    if kept:
        yield f"as it was then: {' '.join(kept)}"
    if least:
        yield f"{INPUTS} is {least} and not {inputs}, as hidden inputs need two outputs"
    yield "the prompts and the judging of answers are those of this version"


def _value(tree: Any, key: str) -> Any:
    """What a file says of a dotted key; None if nothing."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def _only(tree: Mapping[str, Any], keys: Collection[str], path: str = "") -> dict[str, Any]:
    """The part of a file that has these keys or sections."""
    kept: dict[str, Any] = {}
    for name, value in tree.items():
        dotted = f"{path}{name}"
        inside = any(key.startswith(f"{dotted}.") for key in keys)
        if dotted in keys or (inside and not isinstance(value, Mapping)):
            kept[name] = value
        elif inside:
            kept[name] = _only(value, keys, f"{dotted}.")
    return kept
