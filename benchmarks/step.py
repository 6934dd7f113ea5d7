"""One whole GRPO training step, rollouts, reward and update, by this and by other MLX trainers.

    python benchmarks/step.py --peers FOLDER --model tiny medium smollm2
    python benchmarks/step.py --libraries azr-mlx azr-mlx:compiled --rounds 1 --steps 1  # no peers

An unknown FOLDER is answered with the command that makes it. AReno also needs pydantic here.

First equal work, of the tiny model and of every model that is timed: weights, adapters, their types
and prompts are the same in every library; and on the same frozen completions and advantages its
loss and gradient are the first library's (on the tiny model for each normalisation that it has, and
its greedy completions, too). If anything is not equal, nothing is timed. Then seconds a step, for
beta 0 and 0.04 (the k3 penalty towards the model without adapters), with the share of each phase; a
step in which not every completion has the length that was forced is an error. Prints one JSON
object. ``--rehearse`` does all of it on the smallest work there is: its times say nothing.

Normalisations are named as in azr_mlx.training.batch.token_weights: token_mean (mlx-lm-lora's bnpo,
mlxrl's DAPO, unsloth-zoo's dapo, AReno's only one), sequence_mean (grpo of mlx-lm-lora and
unsloth-zoo), constant (dr_grpo of mlxrl, mlx-lm-lora and unsloth-zoo). Steps are timed with
token_mean, which all have. AReno's GRPO has no reference: it has no rows with a beta.

Phases: rollout, reward (advantages too), score (log-probabilities of the old and the reference
policy, if a library takes them apart from the update), update. The loops of mlx-lm-lora and
unsloth-zoo are one function: their update is the wall time less the other two, so their phases add
up by construction.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import peers
import side_by_side as sbs

NORMALISATIONS = ("token_mean", "sequence_mean", "constant")
BETAS = (0.0, 0.04)
LOSS_TOLERANCE = 1e-4  # absolute; advantages are of order 1
GRADIENT_TOLERANCE = 1e-3  # of the gradient's own norm
REHEARSAL = dict(rounds=1, steps=1, prompts=1, group=2, max_tokens=4, prompt_tokens=16)


def measure(work: sbs.Work) -> dict[str, Any]:
    """One process: warm-up, timed steps, one more to count forward passes."""
    clock = sbs.Clock(work.warmup, work.steps)
    clock.forwards.watch()
    peers.adapter(work).train(clock)
    return clock.report()


# --- equal work ---


def frozen(work: sbs.Work) -> tuple[list[list[int]], list[float]]:
    """(completions of different lengths, advantages), drawn without any library or model."""
    import numpy as np

    draw = np.random.default_rng(7)
    lengths = draw.integers(work.max_tokens // 4, work.max_tokens + 1, work.rows)
    completions = [draw.integers(1, 500, n).tolist() for n in lengths]
    return completions, draw.normal(size=work.rows).tolist()


def cases(work: sbs.Work) -> list[tuple[str, float]]:
    """(normalisation, beta) to compare on this model: all of them on the tiny one."""
    if work.model == "tiny":
        return [(how, beta) for how in NORMALISATIONS for beta in BETAS]
    return [("token_mean", beta) for beta in sorted({0.0, work.beta})]


def equal(work: sbs.Work) -> dict[str, Any]:
    """Losses by case, and the gradients as the optimizer gets them, into a file; what is worked on.

    The optimizer is kept from applying them, so that every case sees the same adapters.
    """
    import mlx.optimizers as optim
    import numpy as np
    from mlx.utils import tree_flatten

    library = peers.adapter(work)
    given: list[dict[str, Any]] = []

    def record(self: Any, model: Any, gradients: Any) -> None:
        leaves = {k.removeprefix("lm."): np.array(v) for k, v in tree_flatten(gradients)}
        given.append({k: v for k, v in leaves.items() if "lora_" in k})

    optim.Optimizer.update = record
    loss, losses, gradients = library.losses(*frozen(work)), {}, {}
    for how, beta in cases(work):
        given.clear()
        try:
            losses[f"{how} {beta}"] = loss(how, beta)
        except KeyError:
            continue  # the library has no such normalisation, or no reference
        merged = {k: v for one in given for k, v in one.items()}
        gradients |= {f"{how} {beta}/{k}": v for k, v in merged.items()}
    np.savez(work.out, **gradients)
    facts = library.work_facts()
    if work.model == "tiny":  # in float32 nothing but a mistake makes an arg max differ so early
        facts["greedy completions"] = library.rollout(0, temperature=0.0)
    return {"losses": losses, "facts": facts, "version": library.version()}


def compare_work(options: Namespace, model: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Every library's losses and gradients on this model beside the first one's; versions.

    Raises BenchmarkError if the work is not equal.
    """
    found: dict[str, Any] = {}
    names = options.libraries
    with tempfile.TemporaryDirectory() as folder:
        for library in names:
            file = str(Path(folder, f"{library}.npz"))
            work = replace(
                sbs.first_work(options, model),
                library=library,
                group=3,
                prompts=2,
                max_tokens=24,
                prompt_tokens=24,
                beta=BETAS[-1] if model == "tiny" else max(options.beta),
                micro_batch=3 if options.micro_batch else 0,
                out=file,
            )
            found[library] = sbs.in_child(__file__, "equal", work, options.threads)
            _require_same_facts(found[names[0]], found[library], library)
            print(f"{model}: {library} compared", file=sys.stderr)
        apart = {
            name: _apart(found[names[0]], found[name], Path(folder, f"{names[0]}.npz"), file)
            for name in names
            for file in [Path(folder, f"{name}.npz")]
        }
    _require_close(apart)
    first = found[names[0]]
    shown = {"losses": first["losses"], "facts": first["facts"], "apart_from_first": apart}
    return shown, {name: one["version"] for name, one in found.items() if ":" not in name}


def _require_same_facts(first: dict, other: dict, name: str) -> None:
    for fact, value in other["facts"].items():
        if value != first["facts"][fact]:
            raise sbs.BenchmarkError(
                f"{name} does not do equal work: {fact} {value}, not {first['facts'][fact]}"[:400]
            )


def _require_close(apart: dict[str, dict[str, Any]]) -> None:
    for name, found in apart.items():
        if not found:
            raise sbs.BenchmarkError(f"{name}: no loss that could be compared")
        for case, one in found.items():
            if not (one["loss"] <= LOSS_TOLERANCE and one["gradient"] <= GRADIENT_TOLERANCE):
                raise sbs.BenchmarkError(f"{name} does not do equal work, {case}: {one}")


def _apart(first: dict, other: dict, first_file: Path, file: Path) -> dict[str, Any]:
    """By case: |difference| of the losses, and of the gradients over the first one's norm."""
    import numpy as np

    found: dict[str, Any] = {}
    with np.load(first_file) as ours, np.load(file) as theirs:
        for case in sorted(first["losses"].keys() & other["losses"].keys()):
            keys = [key for key in ours.files if key.startswith(f"{case}/")]
            missing = [key for key in keys if key not in theirs.files]
            if missing or not keys:
                raise sbs.BenchmarkError(f"no gradient of {missing or case} in {file.stem}")
            norm = sum(float((ours[key] ** 2).sum()) for key in keys) ** 0.5
            gap = sum(float(((ours[key] - theirs[key]) ** 2).sum()) for key in keys) ** 0.5
            found[case] = {
                "loss": abs(first["losses"][case] - other["losses"][case]),
                "gradient": gap / norm,
            }
    return found


# --- timing ---


def cells(options: Namespace, facts: dict[str, dict]) -> list[list[sbs.Work]]:
    made = []
    for model in options.model:
        first = replace(
            sbs.first_work(options, model), prompts=options.prompts, micro_batch=options.micro_batch
        )
        for workload in options.workload:
            ends = tuple(facts[model]["ends"]) if workload == "natural" else ()
            for beta in options.beta:
                cell = replace(first, workload=workload, ends=ends, beta=beta)
                names = [n for n in options.libraries if not (beta and without_reference(n))]
                made.append([replace(cell, library=name) for name in names])
    return made


def without_reference(library: str) -> bool:
    return library.partition(":")[0] in peers.WITHOUT_REFERENCE


def rehearse(options: Namespace) -> None:
    """The smallest work: one round of one step, two completions of four tokens to one prompt."""
    for name, value in REHEARSAL.items():
        setattr(options, name, value)


def child(kind: str) -> None:
    with sbs.child_work() as (work, answer):
        answer({"measure": measure, "equal": equal, "describe": sbs.describe}[kind](work))


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    sbs.add_arguments(parser, peers.STEPS)
    parser.add_argument("--prompts", type=int, default=4, help="distinct, each with a group")
    parser.add_argument("--beta", nargs="+", type=float, default=list(BETAS))
    parser.add_argument(
        "--micro-batch",
        type=int,
        default=0,
        help="rows per backward pass; 0: all (mlx-lm-lora has no such setting, and AReno's is the "
        "same loss only for completions of the same length, so that it is refused)",
    )
    parser.add_argument("--rehearse", action="store_true", help="do it all, small: no timing")
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return 0
    try:
        if options.rehearse:
            rehearse(options)
        sbs.check_arguments(options, peers.NEEDED)
        report = sbs.machine(options)
        same, versions = {}, {}
        for model in dict.fromkeys(("tiny", *options.model)):
            same[model], versions = compare_work(options, model)
        facts = sbs.facts_of(__file__, options)
        rows = sbs.table(sbs.interleaved(__file__, cells(options, facts), options), facts)
    except sbs.BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    models = {name: sbs.brief(one) for name, one in facts.items()}
    report |= {"versions": versions, "models": models, "equal_work": same}
    print(json.dumps({**report, "rows": rows, "ratios": sbs.ratios(rows)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
