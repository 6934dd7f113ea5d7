r"""What self-play learns, and what of it helps: variants of a configuration over several seeds.

    python benchmarks/learning.py                                   # all, 5 seeds
    python benchmarks/learning.py --variants base shuffled frozen --seeds 10
    python benchmarks/learning.py --variants base rloo --seconds 90 # equal wall time

Each run is a process of its own, one thread for arithmetic and one sandbox worker, on one core; as
many run at once as ``--parallel`` says. A run solves held-out tasks before and after training:
greedy, and sampled as in training. Variants are paired by seed with "base", or with the one that
``--against`` names. Intervals are 95 % over
seeds (Student's t). The proposer is measured by p(1 - p) of its tasks, p their solve rate: the mean
over its run, to be compared with that of "frozen". Prints one JSON object; progress and a table go
to stderr. With ``--keep FILE`` a run that has ended is not made again by the same command.

A variant is one of a list or overrides with commas, or both, such as
"frozen,proposer.reference_choice=solve_rate,proposer.invalid_reward=0".

Controls: "shuffled" permutes the rewards of a step's solvers, and of its proposers; "frozen" does
not train the proposer; "fixed" trains on a set of template tasks that nobody adds to.

What self-play adds to templates that fall short of what is measured: they have one operation, and
chains of two, three and four are measured. (There are some 60 such shapes of each kind. With a
buffer of 16 tasks "fresh" may draw one again, with other numbers.)

    python benchmarks/learning.py --variants base frozen fresh,task_buffer_size=16 oracle \
        --seeds 8 --seconds 300 --rungs 0.2 0.3 0.4 \
        --set proposer.hardest_template=0.1 final_difficulty=0.5

At equal answers of the solver, which is apart from what proposing costs: ``--answers 20000`` for
``--seconds 300``.

With ``model_id=OUT-first``, nano before its slips (``python -m azr_mlx.nano.pretrain OUT``), a gain
would be ability.

Whether a proposer's tasks are better than templates, apart from what proposing costs and from what
it does to the weights: a run writes the tasks of its last third with ``--pools FOLDER``, and a
fresh solver trains on such a file and nothing else:

    python benchmarks/learning.py --variants base frozen fresh --pools FOLDER ...
    python benchmarks/learning.py --variants fixed,proposer.seed_tasks=FOLDER/base-{seed}.jsonl ...
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import Any

import side_by_side as sbs
from learning_toy import interval

# Overrides on the configuration; what is no override is done in ``one``.
VARIANTS: dict[str, tuple[str, ...]] = {
    "base": (),
    # controls
    "shuffled": (),
    "fixed": (),
    "frozen": ("proposer.train=false",),
    # estimators
    "gae": ("ppo.advantage=gae",),
    "rloo": ("ppo.advantage=rloo",),
    "grpo": ("ppo.advantage=grpo",),
    "dr_grpo": ("ppo.advantage=dr_grpo",),
    "trr++": ("ppo.advantage=trr++",),
    "ema": ("ppo.advantage=ema",),
    # features
    "no_curriculum": ("difficulty_schedule=linear", "final_difficulty=0.2"),
    "linear": ("difficulty_schedule=linear",),
    "bandit": ("solver.strategies=direct,step_by_step",),
    "no_bandit": ("solver.strategies=direct,step_by_step", "solver.strategy_floor=0.5"),
    "distill": ("distill.coef=0.05", "distill.batch_size=32"),
    # groups of one have no baseline of their own: to be held against "ema"
    "no_reuse": ("rollout.reuse_rollouts=false", "ppo.advantage=ema"),
    # how the proposer is paid and trained by default: one thing at a time, and all of them (the
    # quickstart has the paper's)
    "frontier": ("proposer.reward=frontier",),
    "invalid_half": ("proposer.invalid_reward=-0.5",),
    "running": ("proposer.advantage=ema",),
    "share": ("proposer.loss_share=0.3",),
    "corrected": ("proposer.guessing=corrected",),
    "default_proposer": (
        "proposer.reward=frontier", "proposer.invalid_reward=-0.5", "proposer.advantage=ema",
        "proposer.loss_share=0.3", "proposer.guessing=corrected",
    ),
    "minus_half": ("proposer.extremes=minus_half",),
    "binary": ("solver.binary_reward=true",),
    "entropy_floor": ("ppo.entropy_floor=0.3",),
    "two_epochs": ("ppo.epochs=2", "ppo.minibatches=2"),
    "no_templates": ("proposer.templates_per_step=0",),
    "kl": ("kl_penalty=kl", "ppo.kl_coef=0.01"),
    # tasks from templates alone, new ones in every step, as many as "base" has of both
    "fresh": ("batch_size=0", "proposer.templates_per_step=48"),
    # the same, and the templates become as hard as the curriculum asks
    "oracle": (
        "batch_size=0", "proposer.templates_per_step=48", "proposer.hardest_template=0.9",
    ),
}  # fmt: skip
CURVES = (
    "solve_rate/", "propose/valid_rate/", "propose/variance/", "reward/propose/", "difficulty/",
    "program/", "entropy", "health/",
)  # fmt: skip
STRETCHES = 5  # of a run, in which curves are averaged
POOL = 144  # tasks of each kind that "fixed" trains on, and that a run leaves to others
PACE = 5  # steps after which it is known how many there may be in the budget


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=5)
    length = parser.add_mutually_exclusive_group()  # without either a run has max_steps
    length.add_argument("--seconds", type=float, default=0, help="of training a run")
    length.add_argument("--answers", type=int, default=0, help="of the solver in a run")
    parser.add_argument("--parallel", type=int, default=len(cores_here()))
    parser.add_argument(
        "--rungs",
        nargs="*",
        type=float,
        default=[],
        metavar="DIFFICULTY",
        help="measure tasks of these difficulties and not those of the configuration",
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="for all variants"
    )
    parser.add_argument("--against", default="base", help="the variant that others are paired with")
    parser.add_argument("--pools", default="", help="a folder for the tasks of the runs")
    parser.add_argument("--keep", default="", help="a .jsonl file for what has been computed")
    parser.add_argument("--one", action="store_true", help=SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(json.load(sys.stdin))))
        return 0
    if unknown := [
        part for name in options.variants for part in parts(name) if not is_variant(part)
    ]:
        parser.error(
            f"--variants: unknown: {', '.join(unknown)}; choose from {', '.join(VARIANTS)}"
        )
    from azr_mlx.config import load

    for name in options.variants:  # what cannot be run is reported before anything is
        load(options.config, [*options.set, *overrides(name)])
    found = every(options)
    runs = [run for run in found if "failed" not in run]
    rows = [
        summary(name, runs, options.against)
        for name in options.variants
        if any(run["variant"] == name for run in runs)
    ]
    for row in rows:
        print(shown(row), file=sys.stderr)
    print(json.dumps({**sbs.machine(options), "rows": rows, "runs": found}, indent=1))
    return int(len(runs) < len(found))


def parts(variant: str) -> list[str]:
    return variant.split(",")


def is_variant(part: str) -> bool:
    return "=" in part or part in VARIANTS


def overrides(variant: str, seed: int = 0) -> list[str]:
    words = [word for part in parts(variant) for word in VARIANTS.get(part, (part,))]
    return [word.replace("{seed}", str(seed)) for word in words]


def tasks_of(variant: str, seed: int) -> dict[str, str]:
    """The hash of the file of tasks that a variant begins with, so that another is another run."""
    for word in overrides(variant, seed):
        key, _, path = word.partition("=")
        if key == "proposer.seed_tasks" and Path(path).is_file():
            return {"tasks": hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]}
    return {}


def cores_here() -> list[int]:
    """The cores that this process may use."""
    here = getattr(os, "sched_getaffinity", lambda pid: range(os.cpu_count() or 1))
    return sorted(here(0))


def every(options: Namespace) -> list[dict[str, Any]]:
    """All runs, seed by seed, so that a slow minute hits all variants alike."""
    shared = {"config": options.config, "set": options.set, "seconds": options.seconds}
    shared |= {key: value for key in ("rungs", "answers") if (value := getattr(options, key))}
    # The tasks and the untrained model's answers are the same for all.
    start = {**shared, "variant": "base", "seed": 0, "known": None}
    known = kept(options.keep, start, cores_here()[0])
    shared |= {"pools": options.pools} if options.pools else {}
    asked = [
        {**shared, "variant": name, "seed": seed, "known": known, **tasks_of(name, seed)}
        for seed in range(options.seeds)
        for name in options.variants
    ]
    cores: Queue[int] = Queue()
    here = cores_here()
    for number in range(options.parallel):
        cores.put(here[number % len(here)])

    def run(row: dict[str, Any]) -> dict[str, Any]:
        core = cores.get()
        try:
            found = kept(options.keep, row, core)
        except sbs.BenchmarkError as error:  # told, and the others go on
            print(f"seed {row['seed']} {error}", file=sys.stderr, flush=True)
            return {"variant": row["variant"], "seed": row["seed"], "failed": str(error)}
        finally:
            cores.put(core)
        gains = " ".join(f"{k} {v['mean']['gain']:+.3f}" for k, v in found["greedy"].items())
        sampled = " ".join(f"{k} {v['mean']['gain']:+.3f}" for k, v in found["sampled"].items())
        told = found["proposer"] and f"p(1 - p) {found['proposer']['valid']:.3f}; "
        print(
            f"seed {row['seed']} {row['variant']}: greedy {gains}; sampled {sampled}; "
            f"{told or ''}{found['steps']} steps, {found['seconds']:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        return found

    with ThreadPoolExecutor(options.parallel) as pool:
        return list(pool.map(run, asked))


def kept(name: str, row: dict[str, Any], core: int) -> dict[str, Any]:
    """What ``child`` says of a row, from the file if it is there."""
    if not name:
        return child(row, core)
    file = Path(name)
    # The untrained model's answers, which are long, are the same for all rows with them.
    asked = json.dumps({**row, "known": row["known"] is not None}, sort_keys=True)
    if file.exists():
        for line in file.read_text().splitlines():
            made = json.loads(line)
            if made["row"] == asked:
                return made["found"]
    found = child(row, core)
    with file.open("a") as out:
        out.write(json.dumps({"row": asked, "found": found}) + "\n")
    return found


def child(row: dict[str, Any], core: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one"]
    if sys.platform == "linux":
        command = ["taskset", "-c", str(core), *command]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, input=json.dumps(row), capture_output=True, text=True)
    if done.returncode:
        raise sbs.BenchmarkError(f"{row['variant']}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# -- one run ---------------------------------------------------------------------------------------


def one(row: dict[str, Any]) -> dict[str, Any]:
    from azr_mlx.backends import blas

    blas.enable()
    from azr_mlx.commands import train
    from azr_mlx.config import load
    from azr_mlx.evaluation.held_out import HeldOut, compare, draw
    from azr_mlx.monitoring.terminal import Display
    from azr_mlx.tasks.task_files import rows_of
    from azr_mlx.training.run import Trainer
    from azr_mlx.types import Task

    given = [*row["set"], *overrides(row["variant"], row["seed"]), f"seed={row['seed']}"]
    budget = row.get("answers") or row["seconds"]
    if budget:
        given.append("max_steps=100000")
    quiet = ["sandbox.workers=1", "tracking.save_rollouts=false", "checkpoint_interval=1000000"]
    config = load(row["config"], [*quiet, *given])
    backend = train.backend_for(config)
    with tempfile.TemporaryDirectory() as folder, train.open_sandbox(config) as sandbox:
        display = Display(config.max_steps, quiet=True)
        trainer = Trainer(config, Path(folder), backend, sandbox, display=display)
        if row["known"] is None:
            rungs = {f"{at:g}": draw(config, at, at, sandbox) for at in row.get("rungs", [])}
            held = HeldOut(config, backend, sandbox, trainer.selfplay.solver.form, rungs or None)
            tasks = {name: [t.to_json() for t in group] for name, group in held.tasks.items()}
            return {"tasks": tasks, "before": held.measure()}
        tasks = {
            name: [Task.from_json(t) for t in group]
            for name, group in row["known"]["tasks"].items()
        }
        held = HeldOut(config, backend, sandbox, trainer.selfplay.solver.form, tasks)
        before = row["known"]["before"]
        memory = trainer.selfplay.memory
        trainer.start()
        for part in parts(row["variant"]):
            changed(trainer, part)
        seen: dict[str, dict[str, Any]] = {}  # tasks by id
        began = time.perf_counter()
        while trainer.step < config.max_steps:
            trainer._train_step(Uninterrupted())
            seconds = time.perf_counter() - began
            rows = metrics(Path(folder))
            spent = answers(rows) if row.get("answers") else seconds
            if row.get("pools"):  # now, since a small buffer forgets
                seen |= {task["id"]: task for task in rows_of(memory.tasks.to_json())}
            if budget and trainer.step >= PACE:
                steps = steps_in(budget, trainer.step, spent)
                trainer.selfplay.learner.config = replace(config, max_steps=steps)
            if budget and spent >= budget:
                break
        after = held.measure()
        if row.get("pools"):
            file = Path(row["pools"]) / pool_name(row["variant"], row["seed"])
            write_last_tasks(seen.values(), trainer.step, row["seed"], file)
    return {
        "variant": row["variant"],
        "seed": row["seed"],
        "steps": trainer.step,
        "seconds": round(seconds, 1),
        "answers": answers(rows),
        **{way: gains(compare(held.tasks, before, after, way)) for way in ("greedy", "sampled")},
        "proposer": proposer(rows),
        "curves": curves(rows),
    }


class Uninterrupted:
    """Stands in for the trainer's handling of Ctrl-C, which is the user's here."""

    asked = False

    def allowed(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def changed(trainer: Any, variant: str) -> None:
    """The controls that no key of the configuration asks for."""
    selfplay = trainer.selfplay
    if variant == "shuffled":
        learn = selfplay.learner.learn
        selfplay.learner.learn = lambda r, experiences, *rest: learn(
            r, shuffled(experiences, r.step, trainer.config.seed), *rest
        )
    if variant == "fixed":
        if trainer.config.proposer.seed_tasks == "templates":
            fill(selfplay, POOL)
        elif others := [t.id for t in all_tasks(selfplay) if t.source != "file"]:
            raise ValueError(f"{len(others)} tasks are not of the file: it lacks a kind")
        selfplay.play = partial(play_fixed, selfplay)


def all_tasks(selfplay: Any) -> list[Any]:
    return [task for kind in selfplay.memory.kinds for task in selfplay.memory.tasks.tasks(kind)]


def fill(selfplay: Any, wanted: int) -> None:
    """``wanted`` template tasks of each kind in the buffer, or as many as there are shapes."""
    from azr_mlx.selfplay.round import Round

    memory, proposer = selfplay.memory, selfplay.proposer
    found, more = 0, True
    for number in range(1, 100):
        short = [k for k in memory.kinds if memory.tasks.count(k) < wanted]
        if not short or not more:
            return
        r, levels = Round(selfplay.config.seed, 0, -number), memory.levels(0)
        proposer.gate.admit(proposer.templates(r, [(kind, levels[kind]) for kind in short * 64]))
        before, found = found, sum(map(memory.tasks.count, memory.kinds))
        more = found > before


def play_fixed(selfplay: Any, r: Any, log: Any) -> None:
    """A round on tasks of the buffer, without proposals."""
    from azr_mlx.selfplay import rewards

    tasks = selfplay.memory.replay(r, selfplay.config.batch_size)
    solutions = selfplay.solver.solve_batch(r, tasks, selfplay.memory)
    log.add([], solutions, rewards.pay(r, [], solutions, selfplay.config))


def steps_in(budget: float, made: int, spent: float) -> int:
    """How many steps there are in the budget, by what the steps made so far have spent of it: the
    learning rate falls to 0 within them. To be asked after every step: steps cost less once the
    templates have run out, and a rate that goes by the first ones would reach 0 too early."""
    return round(made * budget / spent)


def pool_name(variant: str, seed: int) -> str:
    """A name that can be a part of a variant: without commas."""
    return f"{variant}-{seed}.jsonl".replace("/", "_").replace(",", "+")


def write_last_tasks(tasks: Iterable[dict[str, Any]], step: int, seed: int, file: Path) -> None:
    """Write the tasks of a run's last third, at most ``POOL`` of each kind, those of the model if
    it proposed any; nothing if there are none."""
    from azr_mlx import rng

    last = [row for row in tasks if 3 * row["step"] > 2 * step]
    own = [row for row in last if row["origin"] == "model"] or last
    draw = rng.generator(seed, "pool", 0)
    chosen = [own[int(i)] for i in draw.permutation(len(own))]
    if not chosen:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as out:
        for kind in sorted({row["kind"] for row in chosen}):
            for row in [row for row in chosen if row["kind"] == kind][:POOL]:
                out.write(json.dumps(row) + "\n")


def shuffled(experiences: Sequence[Any], step: int, seed: int) -> list[Any]:
    """The same rewards, given to others of the same role."""
    from azr_mlx import rng
    from azr_mlx.types import Role

    out = list(experiences)
    draw = rng.generator(seed, "shuffled", step)
    for role in Role:
        own = [i for i, e in enumerate(out) if e.role is role]
        rewards = [out[i].reward for i in own]
        for i, j in zip(own, draw.permutation(len(own)), strict=True):
            out[i] = replace(out[i], reward=rewards[int(j)])
    return out


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def answers(rows: list[dict[str, float]]) -> int:
    """How many answers the solver has written: all rollouts but the proposals."""
    return int(sum(row["rollouts"] - row.get("propose/count", 0) for row in rows))


def gains(compared: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            line.name: {
                "before": round(line.before.value, 4),
                "after": round(line.after.value, 4),
                "gain": round(line.gain.value, 4),
            }
            for line in lines
        }
        for name, lines in compared.items()
    }


def proposer(rows: list[dict[str, float]]) -> dict[str, float] | None:
    """How much the proposer's tasks tell of the solver: p(1 - p), a mean over steps and kinds, of
    the valid ones and of all proposals (one that is not valid counts as 0). None if the model
    proposed nothing that was valid."""
    valid, every = list[float](), list[float]()
    for row in rows:
        for name in (n for n in row if n.startswith("propose/valid_rate/")):
            variance = row.get(name.replace("valid_rate", "variance"))
            valid += [] if variance is None else [variance]
            every.append(row[name] * (variance or 0.0))
    if not valid:
        return None
    return {"valid": round(statistics.fmean(valid), 4), "all": round(statistics.fmean(every), 4)}


def curves(rows: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """Means of the watched metrics over equal stretches of a run."""
    count = min(STRETCHES, len(rows))
    ends = [len(rows) * i // count for i in range(count + 1)]
    names = sorted({name for row in rows for name in row if name.startswith(CURVES)})
    return {
        name: [
            round(statistics.fmean(values), 4)
            if (values := [row[name] for row in rows[a:b] if name in row])
            else None
            for a, b in pairwise(ends)
        ]
        for name in names
    }


# -- over seeds ------------------------------------------------------------------------------------


def summary(name: str, runs: Sequence[dict[str, Any]], against: str = "base") -> dict[str, Any]:
    own = {run["seed"]: run for run in runs if run["variant"] == name}
    other = {run["seed"]: run for run in runs if run["variant"] == against != name}
    row: dict[str, Any] = {
        "variant": name,
        "steps": statistics.median(run["steps"] for run in own.values()),
        "seconds": statistics.median(run["seconds"] for run in own.values()),
    }

    def put(key: str, gain: dict[int, float], its: dict[int, float]) -> None:
        row[key] = interval(list(gain.values()))
        if apart := [gain[seed] - its[seed] for seed in gain if seed in its]:
            row[f"{key}/against_{against}"] = interval(apart)

    for way in ("greedy", "sampled"):
        for where in [*own[min(own)][way], "all"]:
            gain, its = (
                {seed: gained(run[way], where) for seed, run in some.items()}
                for some in (own, other)
            )
            put(f"{way}/{where}", gain, its)
    for which in ("valid", "all"):
        found, its = (
            {seed: run["proposer"][which] for seed, run in some.items() if run["proposer"]}
            for some in (own, other)
        )
        if found:
            put(f"p(1-p) of {which} proposals", found, its)
    return row


def gained(found: dict[str, Any], where: str) -> float:
    """The gain, in the mean of the kinds; with "all" in the mean of the distributions, too."""
    names = found if where == "all" else [where]
    return statistics.fmean(found[name]["mean"]["gain"] for name in names)


def shown(row: dict[str, Any]) -> str:
    cells = [
        f"{key} {100 * v['mean']:+.1f} ({100 * v.get('low', v['mean']):+.1f} to "
        f"{100 * v.get('high', v['mean']):+.1f})"
        for key, v in row.items()
        if isinstance(v, dict)
    ]
    return (
        f"{row['variant']:<14} {row['steps']:>5} steps {row['seconds']:>4.0f} s  {'; '.join(cells)}"
    )


if __name__ == "__main__":
    sys.exit(main())
