"""Template programs: many shapes, sound by static checks, harder where they are meant to be."""

from __future__ import annotations

import ast
import re

import numpy as np
import pytest

from azr_mlx.config import SandboxConfig
from azr_mlx.tasks.parse import check_program, features, skeleton
from azr_mlx.tasks.templates import draw
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure

ALLOWED = SandboxConfig().allowed_imports


def _bare(source: str) -> str:
    """The tree with every name and constant gone, built-in ones too."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for slot in ("id", "attr", "arg", "name"):
            if isinstance(getattr(node, slot, None), str):
                setattr(node, slot, "_")
        if isinstance(node, ast.Constant):
            node.value = 0
    return ast.dump(tree)


def test_500_draws_have_300_shapes() -> None:
    sources = [
        draw(TaskKind.DEDUCTION, 0.1 + 0.1 * (i % 9), np.random.default_rng(i)).program
        for i in range(500)
    ]
    assert len({skeleton(source) for source in sources}) >= 300
    assert len({_bare(source) for source in sources}) >= 300
    assert all(check_program(source, ALLOWED, 2000) is None for source in sources)


def test_every_kind_of_structure_turns_up() -> None:
    text = "\n".join(
        draw(TaskKind.ABDUCTION, 0.9, np.random.default_rng(i)).program for i in range(120)
    )
    for mark in ("class ", "while ", "for ", "lambda", "def step", "state ==", "zip("):
        assert mark in text, mark
    assert re.search(r"return .*\bf\(", text), "recursion"


def test_difficulty_makes_programs_larger() -> None:
    sizes = []
    for difficulty in (0.1, 0.3, 0.5, 0.7, 0.9):
        drawn = [draw(TaskKind.DEDUCTION, difficulty, np.random.default_rng(i)) for i in range(50)]
        sizes.append(np.mean([features(p.program)["ast_nodes"] for p in drawn]))
    assert sizes == sorted(sizes) and sizes[-1] > 3 * sizes[0]


@pytest.mark.parametrize("kind", list(TaskKind))
def test_inputs_are_distinct_literal_tuples(kind: TaskKind) -> None:
    for i in range(60):
        proposal = draw(kind, 0.1 + 0.013 * i, np.random.default_rng(i), n_inputs=10)
        assert len(set(proposal.inputs)) == (10 if kind is TaskKind.INDUCTION else 1)
        assert bool(proposal.message) is (kind is TaskKind.INDUCTION)
        for text in proposal.inputs:
            assert isinstance(ast.literal_eval(text), tuple) and len(text) < 400


def test_the_same_generator_gives_the_same_proposal() -> None:
    one, two = (draw(TaskKind.INDUCTION, 0.6, np.random.default_rng(11), 10) for _ in range(2))
    assert one == two


def test_chains_grow_by_an_operation_for_each_tenth():
    source, nodes = np.random.default_rng(0), []
    for difficulty in (0.1, 0.2, 0.3, 0.5):
        found = [draw(TaskKind.DEDUCTION, difficulty, source, 1, "chains") for _ in range(200)]
        nodes.append(np.mean([features(p.program)["ast_nodes"] for p in found]))
        assert all(check_program(p.program, (), 2000) is None for p in found)
    assert nodes == sorted(nodes) and nodes[-1] > 2 * nodes[0]


def test_chains_for_induction_have_distinct_inputs_and_tell_their_operations():
    source = np.random.default_rng(1)
    for _ in range(100):
        proposal = draw(TaskKind.INDUCTION, 0.2, source, 6, "chains")
        assert len(set(proposal.inputs)) == 6
        assert len(proposal.message.split(", ")) == 2 and "(" not in proposal.message
