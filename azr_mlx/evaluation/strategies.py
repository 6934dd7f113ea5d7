"""The four ways to ask for an answer, and the order in which they are tried.

A strategy is an instruction after a question that is a whole by itself: it says how to get to the
answer and leaves the answer's form alone, so that one extraction rule reads them all.
"""

from __future__ import annotations

from azr_mlx.errors import UsageError

AUTO = "auto"
_ONCE = "Give the final answer once, at the end, in the form that was asked for."

INSTRUCTIONS: dict[str, str] = {
    "direct": "",
    "step_by_step": "Work it out step by step before you answer: split the problem into small "
    f"steps, number them, and do one after the other. {_ONCE}",
    "test_driven": "Before you answer, write down a few small examples with their results, edge "
    "cases among them. Draft an answer, go through it by hand on every example, and mend it until "
    f"all agree. {_ONCE}",
    "chain_of_thought": "Before you answer, say in words what is asked for, which idea solves it, "
    f"and what could go wrong. {_ONCE}",
}

STRATEGIES = tuple(INSTRUCTIONS)


def ask(question: str, strategy: str) -> str:
    """The question with the strategy's instruction after it; ``direct`` adds nothing.

    Raises:
        KeyError: there is no such strategy.
    """
    instruction = INSTRUCTIONS[strategy]
    return f"{question}\n\n{instruction}" if instruction else question


def sequence(strategy: str) -> tuple[str, ...]:
    """What is tried, in turn: the one strategy, or all of them for ``auto``.

    Raises:
        UsageError: there is no such strategy.
    """
    if strategy == AUTO:
        return STRATEGIES
    if strategy not in INSTRUCTIONS:
        raise UsageError(f"--strategy {strategy}: take {', '.join(STRATEGIES)} or {AUTO}")
    return (strategy,)
