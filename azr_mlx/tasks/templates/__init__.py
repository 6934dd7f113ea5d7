"""Structured program templates: tasks from nothing, to bootstrap the buffers and to top them up.

A family (arithmetic, lists, text, loops, tables, digits, state machines, recursion, closures,
classes, grids, stack machines, composed helpers) fixes a program's frame; a typed grammar of
expressions fills it. Difficulty sets which families are open, how deep expressions go, how many
statements there are and how large the inputs get. By construction every program ends, stays within
small numbers, and is a function of its arguments alone; it passes the same gate as a model's
proposal anyway. About one in two hundred is constant on its inputs; induction refuses it.

``chains`` are another set, for a model of a million parameters (see there). A function of the
user's own is a third (``TemplateSet``).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from azr_mlx.config import plugins, schema
from azr_mlx.tasks.parse import Proposal, clean_source
from azr_mlx.tasks.templates.chains import draw_chain
from azr_mlx.tasks.templates.families import FAMILIES, Sketch
from azr_mlx.tasks.templates.grammar import Pen
from azr_mlx.tasks.templates.inputs import draw_inputs
from azr_mlx.text import is_text
from azr_mlx.types import TaskKind


class TemplateSet(Protocol):
    """The plug-in ``proposer.template_set``: a proposal of a kind.

    ``difficulty`` lies in [0, 1], from easy to hard. ``rng`` is the only source of chance: the same
    state of it must give the same proposal. ``n_inputs`` is how many distinct inputs are wanted: 1,
    or ``proposer.induction_inputs`` for induction, which also wants a message. Inputs are the
    source texts of literal tuples of arguments, such as "(3, 'a')", and the program defines ``f``.

    The proposal passes the gate like a model's. Whatever it raises ends the run, which can be
    resumed. It is also called before the run, to see how long prompts are.
    """

    def __call__(
        self, kind: TaskKind, difficulty: float, rng: np.random.Generator, n_inputs: int
    ) -> Proposal: ...


_WORDS_OF = {
    "max(": "a maximum",
    "min(": "a minimum",
    "abs(": "an absolute value",
    "sorted(": "sorting",
    " % ": "remainders",
    " // ": "whole division",
    "[::-1]": "reversing",
    "sum(": "a sum",
    ".upper(": "upper case",
    ".replace(": "replacing",
    ".join(": "joining",
    "zip(": "pairing",
    "enumerate(": "positions",
    " if ": "a condition",
    ".count(": "counting",
}


def _message(sketch: Sketch, source: str) -> str:
    """The message of an induction task: its subject, and the operations that show."""
    used = [words for mark, words in _WORDS_OF.items() if mark in source]
    return f"{sketch.about}, with {', '.join(used[:3])}" if used else sketch.about


def draw(
    kind: TaskKind,
    difficulty: float,
    rng: np.random.Generator,
    n_inputs: int = 10,
    which: str = "programs",
) -> Proposal:
    """A proposal from a random template; ``which`` set of them: "programs", "chains" or a plug-in's
    name.

    ``difficulty`` in [0, 1]; one input for deduction and abduction, ``n_inputs`` distinct ones
    and a message for induction. Inputs are literal tuples. The same generator state gives the
    same proposal. Raises what ``plugins.resolve`` does, and PlugInError.
    """
    if schema.is_function(which):
        return _own(kind, difficulty, rng, n_inputs, which)
    if which == "chains":
        return _chain(kind, difficulty, rng, n_inputs)
    reach = min(max(difficulty, 0.0), 1.0) + 0.05
    open_families = [(low, family) for low, family in FAMILIES if low <= reach]
    weights = np.array([1.0 + 3.0 * low for low, _ in open_families])
    weights /= weights.sum()
    count = n_inputs if kind is TaskKind.INDUCTION else 1
    inputs: tuple[str, ...] = ()
    while len(inputs) < count:  # a family with too few inputs is replaced
        pen = Pen(rng, difficulty)
        sketch = open_families[int(rng.choice(len(weights), p=weights))][1](pen)
        inputs = draw_inputs(pen, sketch.params, count)
    source = clean_source("\n".join(sketch.lines))
    message = _message(sketch, source) if kind is TaskKind.INDUCTION else ""
    return Proposal(source, inputs, message)


def _own(
    kind: TaskKind, difficulty: float, rng: np.random.Generator, n_inputs: int, name: str
) -> Proposal:
    """A plug-in's proposal, its program in the form that the gate keeps."""
    plug_in = plugins.resolve("proposer.template_set", name, TemplateSet)
    count = n_inputs if kind is TaskKind.INDUCTION else 1
    found = plug_in.call(kind, difficulty, rng, count)
    if not isinstance(found, Proposal):
        raise plugins.PlugInError(plug_in, f"returned {plugins.kind_of(found)}, and not a Proposal")
    texts = [found.program, found.message]
    texts += found.inputs if isinstance(found.inputs, tuple) else [None]
    if not all(isinstance(text, str) and is_text(text) for text in texts):
        why = "returned a Proposal whose program, message or tuple of inputs is not text"
        raise plugins.PlugInError(plug_in, why)
    if not found.inputs:
        raise plugins.PlugInError(plug_in, f"returned a Proposal without inputs, and not {count}")
    return Proposal(clean_source(found.program), found.inputs, found.message)


def _chain(kind: TaskKind, difficulty: float, rng: np.random.Generator, n_inputs: int) -> Proposal:
    count = n_inputs if kind is TaskKind.INDUCTION else 1
    chain = draw_chain(difficulty, rng, count)
    while len(chain.inputs) < count:
        chain = draw_chain(difficulty, rng, count)
    message = chain.about if kind is TaskKind.INDUCTION else ""
    return Proposal(clean_source(chain.source), chain.inputs, message)
