"""What a prompt form is worth to a model: how much of what it writes is valid, is read, is right.

    python benchmarks/forms.py --config qwen2.5-coder-0.5b --model FILE.gguf --forms few_shot chat
    python benchmarks/forms.py --config quickstart --forms compact --rounds 4

One round of self-play a time, as training makes it (the model proposes; its valid tasks, and some
from templates, are solved ``rollout.group_size`` times), with no update. For each form: the share
of well-formed and of valid proposals, of well-formed and of right answers, by kind; the share of
groups that have any contrast, without which there is nothing to learn; lengths; tokens per second.
Prints one JSON object, and one line per form on stderr. ``--texts FILE`` keeps what was written, a
line for each completion.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import side_by_side as sbs


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="qwen2.5-coder-0.5b")
    parser.add_argument("--model", help="instead of the configuration's")
    parser.add_argument("--forms", nargs="+", default=["few_shot", "chat"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--texts", help="write all completions to this .jsonl file")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    from azr_mlx.backends import blas

    blas.enable()
    rows = measured(options)
    print(json.dumps({**sbs.machine(options), "rows": rows}, indent=1))
    return 0


def measured(options: Namespace) -> list[dict[str, Any]]:
    from azr_mlx.commands import train
    from azr_mlx.config import load

    given = [*options.set, *([f"model_id={options.model}"] if options.model else [])]
    backend, rows = None, []
    for form in options.forms:
        config = load(options.config, [*given, f"rollout.form={form}"])
        if backend is None:
            backend = train.backend_for(config)
        with train.open_sandbox(config) as sandbox:
            log, seconds = played(config, backend, sandbox, options.rounds)
        rows.append({"form": form, **rates(config, log, seconds)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        if options.texts:
            with Path(options.texts).open("a") as file:
                file.writelines(f"{json.dumps(text_of(form, e))}\n" for e in log.experiences)
    return rows


def played(config: Any, backend: Any, sandbox: Any, rounds: int) -> tuple[Any, float]:
    """The log of some rounds, and the seconds that they took."""
    from azr_mlx.selfplay.round import Round
    from azr_mlx.selfplay.round_log import RoundLog
    from azr_mlx.training.algorithm import SelfPlay

    selfplay, log = SelfPlay(config, backend, sandbox), RoundLog()
    selfplay.seed()
    began = time.perf_counter()
    for step in range(1, rounds + 1):
        selfplay.play(Round(config.seed, step), log)
    return log, time.perf_counter() - began


def text_of(form: str, e: Any) -> dict[str, str]:
    verdict = {"status": e.verdict.status.value, "detail": e.verdict.detail}
    return {
        "form": form,
        "role": e.role.value,
        "kind": e.kind.value,
        **verdict,
        "text": e.completion.text,
    }


def rates(config: Any, log: Any, seconds: float) -> dict[str, Any]:
    experiences = log.experiences
    tokens = sum(len(e.completion.token_ids) for e in experiences)
    return {
        "propose": {k: proposals(log.validated, k) for k in config.task_types},
        "solve": {k: answers(experiences, k) for k in config.task_types},
        "tokens_per_second": round(tokens / seconds, 1),
        "seconds": round(seconds, 1),
    }


def proposals(validated: Sequence[Any], kind: str) -> dict[str, float]:
    by_model = [one for one in validated if one.by_model]
    own = [one.result for one in by_model if one.proposed.draft.kind.value == kind]
    reasons = [r.reason for r in own if r.reason]
    return {
        "count": len(own),
        "well_formed": share(r.reason != "format" for r in own),
        "valid": share(r.task is not None for r in own),
        "rejected": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
    }


def answers(experiences: Sequence[Any], kind: str) -> dict[str, float]:
    from azr_mlx.types import Role, Status

    own = [e for e in experiences if e.role is Role.SOLVE and e.kind.value == kind]
    groups = {e.group for e in own}
    rewards = [{e.reward.total for e in own if e.group == g} for g in groups]
    return {
        "count": len(own),
        "well_formed": share(e.verdict.status is not Status.FORMAT for e in own),
        "right": share(e.verdict.passed for e in own),
        "groups_with_contrast": share(len(found) > 1 for found in rewards),
        "tokens": round(fmean(len(e.completion.token_ids) for e in own), 1) if own else 0.0,
        "cut": share(e.completion.finish == "length" for e in own),
    }


def share(values: Any) -> float:
    found = [float(v) for v in values]
    return round(fmean(found), 3) if found else 0.0


if __name__ == "__main__":
    sys.exit(main())
