"""Rollouts alone: tokens produced per second, by this and by other MLX libraries.

    python benchmarks/rollout.py --peers FOLDER --model tiny medium smollm2
    python benchmarks/rollout.py --libraries azr-mlx mlx-lm --rounds 1 --steps 1   # no peers

G completions of each of P prompts, sampled at temperature 1 from the whole distribution, by a model
with LoRA adapters in float32. Prints one JSON object: a row per library and cell (medians over
fresh processes that take turns), our speed over each other library's, and whether all of them give
the same greedy completions: one that does not has measured something else.

tok_s        tokens that came out, end tokens included, prompts not, over wall time.
forwards     of one rollout: passes through the model, their rows and positions summed.
flops_share  2 x parameters x tok_s (prompts left out) over the speed of a 1024^3 product here.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace

import peers
import side_by_side as sbs


def measure(work: sbs.Work) -> dict[str, object]:
    """One process: warm-up, timed rollouts, one more to count forward passes."""
    clock = sbs.Clock(work.warmup, work.steps)
    clock.forwards.watch()
    library = peers.adapter(work)
    for _ in range(clock.total):
        seed = clock.begin()
        clock.end(library.rollout(work.seed + seed))
    return clock.report()


def greedy(work: sbs.Work) -> dict[str, object]:
    library = peers.adapter(work)
    return {"completions": library.rollout(0, temperature=0.0), "version": library.version()}


def child(kind: str) -> None:
    with sbs.child_work() as (work, answer):
        answer({"measure": measure, "greedy": greedy, "describe": sbs.describe}[kind](work))


def compare_greedy(options: Namespace) -> tuple[dict[str, bool], dict[str, str]]:
    """By library: whether its greedy completions of the tiny model are the first one's; versions.

    float32 on one machine: nothing but a mistake makes an arg max differ so early.
    """
    found = {}
    for library in options.libraries:
        work = replace(sbs.first_work(options, "tiny"), library=library, group=2, max_tokens=24)
        found[library] = sbs.in_child(__file__, "greedy", work, options.threads)
    first = found[options.libraries[0]]["completions"]
    same = {name: one["completions"] == first for name, one in found.items()}
    for name in (name for name, agrees in same.items() if not agrees):
        print(f"warning: {name}: other greedy completions than the first", file=sys.stderr)
    return same, {name: one["version"] for name, one in found.items() if ":" not in name}


def cells(options: Namespace, facts: dict[str, dict]) -> list[list[sbs.Work]]:
    made = []
    for model in options.model:
        first = sbs.first_work(options, model)
        for workload in options.workload:
            ends = tuple(facts[model]["ends"]) if workload == "natural" else ()
            for count in options.prompts:
                cell = replace(first, workload=workload, ends=ends, prompts=count)
                made.append([replace(cell, library=name) for name in options.libraries])
    return made


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    sbs.add_arguments(parser, peers.ROLLOUTS)
    parser.add_argument("--prompts", nargs="+", type=int, default=[1, 4, 8], help="distinct")
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return 0
    try:
        sbs.check_arguments(options, peers.NEEDED)
        report = sbs.machine(options)
        facts = sbs.facts_of(__file__, options)
        same, versions = compare_greedy(options)
        rows = sbs.table(sbs.interleaved(__file__, cells(options, facts), options), facts)
    except sbs.BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    models = {name: sbs.brief(one) for name, one in facts.items()}
    report |= {"versions": versions, "models": models, "greedy_agrees": same}
    print(json.dumps({**report, "rows": rows, "ratios": sbs.ratios(rows)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
