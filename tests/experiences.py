"""An experience of which a test says only what it is about."""

from __future__ import annotations

from collections.abc import Sequence

from azr_mlx.types import Completion, Experience, Prompt, Reward, Role, Status, TaskKind, Verdict


def experience(
    *,
    prompt: Prompt | None = None,
    tokens: Sequence[int] = (2,),
    logprobs: Sequence[float] | None = None,
    finish: str = "stop",
    text: str = "",
    status: Status = Status.PASS,
    detail: str = "",
    reward: float = 1.0,
    role: Role = Role.SOLVE,
    kind: TaskKind = TaskKind.DEDUCTION,
    group: int = 0,
    step: int = 1,
) -> Experience:
    """Whatever is not given is short, right and rewarded; each token has a log-probability of its
    own: -0.1, -0.2, ..."""
    drawn = [-0.1 * (i + 1) for i in range(len(tokens))] if logprobs is None else logprobs
    return Experience(
        prompt or Prompt("p", (1,)),
        Completion(tuple(tokens), tuple(drawn), finish, 7, text),
        Verdict(status, detail, None, 0.1),
        Reward(reward),
        role,
        kind,
        group,
        step,
    )
