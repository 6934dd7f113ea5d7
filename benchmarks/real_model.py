"""A real model before and after self-play, on items that it was not trained on.

    python benchmarks/real_model.py OUT --model FILE.gguf --data FOLDER
    python benchmarks/real_model.py OUT --model FILE.gguf --data FOLDER --arm shuffled max_steps=30
    python benchmarks/real_model.py OUT --model FILE.gguf --data FOLDER --against shuffled
    python benchmarks/real_model.py OUT --model FILE.gguf --data FOLDER --code
    python benchmarks/real_model.py OUT --model FILE.gguf --data FOLDER --ship results/NAME
    python benchmarks/real_model.py OUT --model FILE.gguf --data FOLDER --adapters results/NAME

Trains, solves CRUXEval as self-play asks it with the adapters and without (deduction from -O,
abduction from -I: eight drawn answers, a greedy one, and the probability of the right one), and
prints the paired differences as JSON; a table goes to stderr. All of it takes hours on a CPU: the
same command again goes on where the last one stopped, exactly. ``FOLDER`` holds cruxeval.jsonl.

Arms: "main"; the controls "shuffled" (the rewards of a step go to other rollouts of the same role)
and "templates" (tasks from templates alone, as many as "main" has of both). Arms share the base's
answers. ``--against`` compares the sampled answers with those of another run in OUT, by item: give
both as many steps. With ``--code`` HumanEval and MBPP (sanitized), greedy, whole, are compared as
well; without the hub FOLDER has to have HumanEval.jsonl.gz and sanitized-mbpp.json. ``--adapters``
measures a folder that was shipped, without a run. ``--ship`` with such a folder, or of a control
with the folder of "main", adds what was measured to it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter, defaultdict
from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "qwen2.5-coder-0.5b"
FORM = "few_shot"  # that of the configuration, and of the protocol "training"
BENCHMARKS = ("cruxeval-o", "cruxeval-i")
MBPP = "sanitized-mbpp.json"
ARMS = {
    "main": (),
    "shuffled": (),
    "templates": ("batch_size=0", "proposer.templates_per_step=12"),
}
# CRUXEval has longer answers than the run's own tasks: of the first 400 two do not fit 48 tokens.
ASKED = ("--protocol", "training", "-m", "48")
WAYS = {
    "sampled": ("--num-samples", "8", "--temp", "1.0", "--k", "1,8"),
    "greedy": (),
}
NEW_ABILITY = 1 / 64, 1 / 2  # from a probability below the first to one above the second


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path, help="the folder with cruxeval.jsonl")
    parser.add_argument("--arm", default="main", choices=ARMS)
    parser.add_argument("--name", default="", help="of the run; default: the arm's")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--limit", default="400", help="the first items of each benchmark")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--against", default="", metavar="NAME", help="a run that was measured")
    parser.add_argument("--code", action="store_true", help="also HumanEval and MBPP")
    parser.add_argument("--adapters", type=Path, help="measure these and train nothing")
    parser.add_argument("--ship", type=Path, help="a new folder for what is worth keeping of it")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    options.out = options.out.resolve()
    options.name = options.name or options.arm
    known = options.adapters and options.adapters.resolve()
    options.adapters = known or run_of(options)
    new = not known and options.arm == "main"
    if options.ship and (options.train_only or (new and options.ship.exists())):
        parser.error(
            f"--ship {options.ship}: needs measurements, and a folder that is not there yet"
        )
    if options.against and not _kept_of(options.against, options).is_file():
        parser.error(f"--against {options.against}: no sampled answers of it in {options.out}")
    if not known and (code := train(options)):
        return code
    if options.train_only:
        return 0
    found = {way: measured(options, way, WAYS[way]) for way in WAYS}
    row = {
        "arm": options.arm,
        "run": options.name,
        **{way: gains(report, options.out) for way, report in found.items()},
        "right answer": probabilities(options),
    }
    for way, report in found.items():
        row[f"{way}, by repeating"] = by_repeating(options, report)
    if options.against:
        row[f"less {options.against}"] = against(options, found["sampled"])
    if options.code:
        row["code"] = gains(code_benchmarks(options), options.out)
    print(json.dumps(row, indent=1))
    for line in table(row):
        print(line, file=sys.stderr)
    return ship(options, row) if options.ship else 0


# -- training --------------------------------------------------------------------------------------


def train(options: Namespace) -> int:
    """Start the run, or go on with it; the exit code of the command."""
    from azr_mlx.run_folder import checkpoints

    given = [*ARMS[options.arm], *options.settings]
    if run_of(options).is_dir() and not checkpoints(run_of(options)):
        shutil.rmtree(run_of(options))  # it was cut off before it began
    if run_of(options).is_dir():
        longer = [word for word in given if word.startswith("max_steps=")]
        words = ["--resume", str(run_of(options)), *longer]
    else:
        words = ["-c", CONFIG, f"model_id={options.model}", *given]
        words += [f"backend={options.backend}", f"run_name={options.name}"]
        words += [f"output_dir={options.out / 'runs'}"]
    program = [__file__, "--shuffled"] if options.arm == "shuffled" else ["-m", "azr_mlx"]
    return run(options, [*program, "train", *words]).returncode


def run_of(options: Namespace) -> Path:
    return options.out / "runs" / options.name


def shuffled(words: list[str]) -> int:
    """The program itself, with a learner that gets each step's rewards in another order."""
    from learning import shuffled as mixed

    from azr_mlx.cli import main as program
    from azr_mlx.training.learner import Learner

    learn = Learner.learn

    def learn_mixed(self: Learner, r: Any, experiences: Any, *rest: Any) -> Any:
        return learn(self, r, mixed(experiences, r.step, self.config.seed), *rest)

    Learner.learn = learn_mixed  # type: ignore[method-assign]
    return program(words)


# -- measuring -------------------------------------------------------------------------------------


def measured(options: Namespace, way: str, how: tuple[str, ...]) -> dict[str, Any]:
    """The report of ``azr-mlx eval --compare base`` on CRUXEval."""
    asked = ["--benchmark", ",".join(BENCHMARKS), "--data", str(options.data.resolve())]
    return evaluated(options, [*asked, *ASKED, "--limit", options.limit, *how], way)


def code_benchmarks(options: Namespace) -> dict[str, Any]:
    """The same on HumanEval and MBPP, by the chat protocol, greedy; from the folder if
    it has them."""
    asked = ["--benchmark", "humaneval,mbpp-sanitized", "-m", "512"]
    if (options.data / MBPP).exists():
        asked += ["--data", str(options.data.resolve())]
    return evaluated(options, asked, "code")


def evaluated(options: Namespace, words: list[str], name: str) -> dict[str, Any]:
    model = ["--model", options.model, "--adapter-path", str(options.adapters)]
    how = ["--compare", "base", "--json", "--backend", options.backend]
    done = run(options, ["-m", "azr_mlx", "eval", *words, *model, *how], capture=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    kept(options, name).write_text(done.stdout)
    return json.loads(done.stdout)


def kept(options: Namespace, name: str) -> Path:
    return options.out / f"{options.name}-{name}.json"


def run(
    options: Namespace, words: list[str], capture: bool = False
) -> subprocess.CompletedProcess[str]:
    """A program of its own in the output folder, where the samples of all arms are kept."""
    options.out.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *words],
        cwd=options.out,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE if capture else None,
        text=True,
    )


def gains(report: dict[str, Any], out: Path) -> dict[str, Any]:
    """Of each figure: before, after, and the paired difference with its interval; "mean" is that of
    the benchmarks, whose intervals are independent. "unread" is the share of answers that could not
    be read, "right if read" the share of the others that are right, "alike" the share of pairs of
    an item's answers that are the same text: how sure the model is. ``out`` has the answers."""
    found: dict[str, Any] = {}
    for one, after in zip(report["comparisons"], report["results"], strict=True):
        before, name = one["base"], one["benchmark"]
        for figure, gap in one["differences"].items():
            k = figure.removeprefix("pass@")
            found[f"{name} {figure}"] = {
                "before": before["pass_at"][k]["value"],
                "after": after["pass_at"][k]["value"],
                **gap,
            }
        both = {"before": before["statuses"], "after": after["statuses"]}
        for when, of in both.items():
            total, unread = sum(of.values()), of.get("format", 0)
            right = of.get("pass", 0) / max(total - unread, 1)
            found.setdefault(f"{name} unread", {})[when] = unread / total
            found.setdefault(f"{name} right if read", {})[when] = right
        texts = {"before": alike(out / before["folder"]), "after": alike(out / after["folder"])}
        if None not in texts.values():
            found[f"{name} alike"] = texts
        if one["p_value"] is not None:
            counts = {"gained": len(one["gained"]), "lost": len(one["lost"])}
            found[f"{name} McNemar"] = {**counts, "p_value": one["p_value"]}
    for figure in report["comparisons"][0]["differences"]:
        found[f"mean {figure}"] = mean([v for k, v in found.items() if k.endswith(f" {figure}")])
    return found


def by_repeating(options: Namespace, report: dict[str, Any]) -> dict[str, Any]:
    """The gains apart for the items that a repetition solves (the output given as an argument, or
    an argument as the output) and for the others, which need more; how many there are, and, under
    "repeating", the share of answers to them that repeat."""
    found: dict[str, Any] = {}
    for one, after in zip(report["comparisons"], report["results"], strict=True):
        name, before = after["benchmark"], one["base"]
        tasks = tasks_of(options, name)
        solved = solved_by_repeating(tasks)
        do = [repeating(options.out / run["folder"], tasks) for run in (before, after)]
        found[f"{name} repeating"] = means(do, list(after["tasks"]))
        for label, items in apart(solved, after).items():
            shares = (right(run, items) for run in (before, after))
            found[f"{name} {label}"] = {"items": len(items), **paired(*shares)}
            found[f"{name} {label}, repeating"] = means(do, items)
    return found


def apart(solved: dict[str, bool], run: dict[str, Any]) -> dict[str, list[str]]:
    """The items of a run that a repetition solves, and the others."""
    kinds = {"repeated": True, "others": False}
    return {label: [i for i in run["tasks"] if solved[i] is kind] for label, kind in kinds.items()}


def tasks_of(options: Namespace, benchmark: str) -> dict[str, Any]:
    """The tasks of a benchmark that has any, by their item."""
    from azr_mlx.evaluation import benchmarks

    problems = benchmarks.load(benchmark, options.data).problems
    return {problem.id: problem.task for problem in problems if problem.task is not None}


def solved_by_repeating(tasks: dict[str, Any]) -> dict[str, bool]:
    from azr_mlx.sandbox import Sandbox
    from azr_mlx.tasks import repeats

    with Sandbox() as sandbox:
        solved = repeats.solved_by_repeating(list(tasks.values()), sandbox)
    return dict(zip(tasks, solved, strict=True))


def repeating(folder: Path, tasks: dict[str, Any]) -> dict[str, float]:
    """Of each item, the share of its answers that repeat."""
    from azr_mlx.tasks.parse import parse_answer
    from azr_mlx.tasks.prompts import load_form
    from azr_mlx.tasks.repeats import repeats

    form, answers = load_form(FORM), defaultdict[str, list[bool]](list)
    for line in (folder / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        task = tasks[row["task_id"]]
        answer = parse_answer(row["completion"], task.kind, form, task.program, task.inputs)
        answers[row["task_id"]].append(repeats(answer, task))
    return {item: sum(found) / len(found) for item, found in answers.items()}


def means(before_and_after: Sequence[dict[str, float]], items: Sequence[str]) -> dict[str, float]:
    before, after = (sum(of[item] for item in items) / len(items) for of in before_and_after)
    return {"before": before, "after": after}


def right(run: dict[str, Any], items: Sequence[str]) -> list[float]:
    """Of each item, the share of a run's answers that are right."""
    return [run["tasks"][item].count("pass") / len(run["tasks"][item]) for item in items]


def against(options: Namespace, report: dict[str, Any]) -> dict[str, Any]:
    """Of each benchmark, and their mean, the share of right answers of the other run, "before", and
    of this one, "after", and the difference, paired by item; also apart for the items that a
    repetition solves and for the others."""
    others = json.loads(_kept_of(options.against, options).read_text())["results"]
    pairs = zip(others, report["results"], strict=True)
    whole, parts = {}, {}
    for theirs, ours in pairs:
        name = ours["benchmark"]
        whole[name] = paired(*(right(run, list(ours["tasks"])) for run in (theirs, ours)))
        solved = solved_by_repeating(tasks_of(options, name))
        for label, items in apart(solved, ours).items():
            parts[f"{name} {label}"] = paired(*(right(run, items) for run in (theirs, ours)))
    return {**whole, **parts, "mean": mean(list(whole.values()))}


def _kept_of(name: str, options: Namespace) -> Path:
    return kept(Namespace(out=options.out, name=name), "sampled")


def paired(before: list[float], after: list[float]) -> dict[str, float]:
    """Means by item, and their difference with its interval."""
    from azr_mlx import rng
    from azr_mlx.evaluation import statistics

    gap = statistics.difference(before, after, rng.generator(0, "bootstrap", 0))
    means = {"before": sum(before) / len(before), "after": sum(after) / len(after)}
    return {**means, "value": gap.value, "low": gap.low, "high": gap.high}


def alike(folder: Path) -> float | None:
    """None if each item has one answer."""
    answers = defaultdict[str, Counter[str]](Counter)
    for line in (folder / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        answers[row["task_id"]][row["completion"]] += 1
    pairs = sum(comb(of.total(), 2) for of in answers.values())
    same = sum(comb(n, 2) for of in answers.values() for n in of.values())
    return same / pairs if pairs else None


def mean(parts: list[dict[str, float]]) -> dict[str, float]:
    """The mean of independent estimates: half-widths add in quadrature."""
    n = len(parts)
    out = {name: sum(p[name] for p in parts) / n for name in ("before", "after", "value")}
    low = sum((p["value"] - p["low"]) ** 2 for p in parts) ** 0.5 / n
    high = sum((p["high"] - p["value"]) ** 2 for p in parts) ** 0.5 / n
    return {**out, "low": out["value"] - low, "high": out["value"] + high}


def probabilities(options: Namespace) -> dict[str, Any]:
    """The probability of the right answer to CRUXEval-O, before and after."""
    from azr_mlx.backends import blas
    from azr_mlx.backends.select import choose
    from azr_mlx.commands.evaluate import quantization_for
    from azr_mlx.evaluation.likelihood import right_answers
    from azr_mlx.evaluation.model import open_model
    from azr_mlx.run_folder import ADAPTER_WEIGHTS, adapter_folder, sha256
    from azr_mlx.tasks.prompts import load_form

    adapters = adapter_folder(options.adapters)
    file = kept(options, f"probability-{sha256(adapters / ADAPTER_WEIGHTS)[:12]}")
    if not file.exists():
        blas.enable()
        engine, _ = choose(options.backend)
        backend, _ = open_model(
            options.model, adapters, quantization_for(options.model, adapters, engine), engine
        )
        tasks = list(tasks_of(options, "cruxeval-o").values())[: int(options.limit)]
        found = {
            policy: right_answers(backend, load_form(FORM), tasks, policy=policy)
            for policy in ("reference", "current")
        }
        file.write_text(json.dumps(found))
    found = json.loads(file.read_text())
    before, after = found["reference"], found["current"]
    low, high = NEW_ABILITY
    pairs = list(zip(before, after, strict=True))
    unlikely = [b for a, b in pairs if a < low]
    return {
        **paired(before, after),
        "tasks": len(before),
        "under 1/64 before": len(unlikely),
        "the largest of these after": max(unlikely, default=0.0),
        "from under 1/64 to over 1/2": sum(a < low and b > high for a, b in pairs),
        "from over 1/2 to under 1/64": sum(b < low and a > high for a, b in pairs),
    }


def ship(options: Namespace, row: dict[str, Any]) -> int:
    """The adapters with their card, configuration, metrics and report, and what was measured of
    them, in a folder that ``azr-mlx eval --adapter-path`` takes; the exit code of ``push``."""
    from azr_mlx.private import shortened

    folder = options.ship.resolve()
    if not folder.exists():
        given = ["--to", f"azr-mlx/{folder.name}", "--dry-run", "--out", str(folder)]
        words = ["-m", "azr_mlx", "push", str(run_of(options)), *given]
        if code := run(options, words, capture=True).returncode:  # stdout is the row's
            return code
    ways = [*WAYS, *(["code"] if options.code else [])]
    measured = {name: json.loads(kept(options, name).read_text()) for name in ways}
    arm = "" if options.arm == "main" else f"{options.arm}-"
    for name, found in {**measured, "gains": row}.items():
        (folder / f"{arm}{name}.json").write_text(json.dumps(shortened(found), indent=1) + "\n")
    return 0


def table(row: dict[str, Any]) -> list[str]:
    lines = []
    for way, found in row.items():
        if not isinstance(found, dict):
            continue
        for name, v in {"": found}.items() if "value" in found else found.items():
            if "p_value" in v:
                text = f"{v['gained']} gained, {v['lost']} lost, p = {v['p_value']:.2g}"
            else:
                text = f"{100 * v['before']:5.1f} -> {100 * v['after']:5.1f}"
            if "value" in v:
                bounds = f"({100 * v['low']:+.1f} to {100 * v['high']:+.1f})"
                text += f"  {100 * v['value']:+.1f} {bounds}"
            lines.append(f"{way:<12} {name:<24} {text}")
    return lines


if __name__ == "__main__":
    if sys.argv[1:2] == ["--shuffled"]:
        sys.exit(shuffled(sys.argv[2:]))
    sys.exit(main())
