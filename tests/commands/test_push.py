"""``azr-mlx push``: what arrives at the hub, and that nothing of this machine does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save_file

from azr_mlx import run_folder
from azr_mlx.cli import main
from azr_mlx.commands import cards
from azr_mlx.commands.cards import Base
from azr_mlx.commands.push import licence
from azr_mlx.config import Config, EvaluationConfig, HeldOutConfig, Proposer, Rollout, to_yaml
from azr_mlx.evaluation.held_out import Record, settings
from azr_mlx.evaluation.model import fingerprint
from azr_mlx.files import json_lines, point, read_json, write_json
from azr_mlx.models.adapters import base_of, place_of_base, quantization_of, read_lora
from azr_mlx.private import REMOVED, betrayal, hide, short
from azr_mlx.training import checkpoint
from azr_mlx.types import Prompt, Task, TaskKind
from tests.conftest import ROOT
from tests.experiences import experience
from tests.hub import TOKEN, Hub, serving
from tests.models import tiny_gguf

pure, e2e = pytest.mark.pure, pytest.mark.e2e

HOME = "/home/alice"
SECRET = "hf_" + "s" * 34
STEPS = 20
CONFIG = Config(
    model_id="org/base",
    output_dir=f"{HOME}/runs",
    wandb_entity="alice-at-work",
    max_steps=STEPS,
    seed=3,
    rollout=Rollout(form="compact"),
    held_out=HeldOutConfig(tasks=2, draws=16),
    evaluation=EvaluationConfig(data=f"{HOME}/data"),
)
START = {
    "time": "2026-11-20T10:00:00+0000",
    "resumed_from": None,
    "backend": "mlx (auto: MLX imports)",
    "isolation": "strong",
    "blas": {"path": f"{HOME}/.cache/openblas.so"},
    "model": {"source": "hub:org/base", "revision": "abc123", "path": f"{HOME}/.cache/hub"},
    "argv": [
        f"{HOME}/bin/azr-mlx", "train", "-c", f"{HOME}/My Files/a`b.yaml", "seed=3",
        f"output_dir={HOME}/runs", "wandb_entity=alice-at-work", f"evaluation.data={HOME}/data",
        f"run_name={SECRET}",
    ],
    "platform": "macOS-26.1-arm64",
    "cores": 10,
    "versions": {"azr-mlx": "0.1.0", "mlx": "0.32.4", "torch": "not installed"},
}  # fmt: skip


class Adapters:
    """Saves what a backend saves of its adapters."""

    def __init__(self, base: str, value: float) -> None:
        self.base, self.value = base, value

    def save(self, path: Path) -> None:
        arrays = {"layers.0.lora_a": np.full((4, 2), self.value, np.float32)}
        save_file(arrays, path / run_folder.ADAPTER_WEIGHTS)
        parameters = {"rank": 2, "scale": 2.0, "dropout": 0.0}
        config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters}
        write_json(path / run_folder.ADAPTER_CONFIG, {**config, "model": self.base})
        (path / "optimizer.safetensors").write_bytes(b"private to the run")


def task(kind: TaskKind, number: int, source: str = "template") -> Task:
    program = f"def f(x):\n    return x + {number}\n"
    made = Task.create(kind, program, ("(1,)",), (str(1 + number),), origin_step=number)
    return Task.from_json({**made.to_json(), "source": source})


def make_run(run: Path, config: Config = CONFIG, **start: Any) -> Path:
    """A run of 20 steps with two checkpoints, of which the last is the newest."""
    run.mkdir(parents=True)
    rows = [
        {"task": task(kind, number).to_json(), "attempts": 4, "successes": 1}
        for number, kind in enumerate(TaskKind)
    ]
    for step in (10, STEPS):
        checkpoint.save(run, step, Adapters(config.model_id, step), {}, rows)
    (run / run_folder.CONFIG_FILE).write_text(to_yaml(config))
    write_json(run / run_folder.RUN_FILE, {"starts": [{**START, **start}]})
    metrics = [{"step": step, "solve_rate/deduction": step / 40} for step in range(1, STEPS + 1)]
    metrics[-1] |= {"eval/mbpp_pass_at_1": 0.25, "eval/mbpp_selection_pass_at_1": 0.5}
    (run / run_folder.METRICS_FILE).write_text(json_lines(metrics))
    (run / run_folder.ROLLOUTS).mkdir()
    seen = experience(prompt=Prompt(f"read {HOME}/notes", (1,)), text=f"open('{HOME}/x') {SECRET}")
    run_folder.rollouts_of(run, 1).write_text(json_lines([seen.to_json()]))
    return run


def held_out(run: Path, config: Config = CONFIG, after_step: int | None = STEPS) -> None:
    """A record in which a quarter was solved before and all after."""
    tasks = {
        name: [task(kind, at + number) for kind in TaskKind for number in range(2)]
        for name, at in (("in_range", 10), ("harder", 20))
    }
    ids = [one.id for group in tasks.values() for one in group]
    before = {"greedy": {i: [0.0] for i in ids}, "sampled": {i: [1.0, 0, 0, 0] * 4 for i in ids}}
    after = {"greedy": {i: [1.0] for i in ids}, "sampled": {i: [1.0] * 16 for i in ids}}
    asked = {**settings(config), "rollout.form": f"{HOME}/forms/mine.yaml"}
    Record(asked, tasks, before, after, after_step=after_step).write(run)


def evaluated(folder: Path, adapters: Path | None, value: float, **asked: Any) -> None:
    """What ``azr-mlx eval`` leaves in a folder."""
    sha = "" if adapters is None else fingerprint(adapters / run_folder.ADAPTER_WEIGHTS)
    protocol = {
        "benchmark": "humaneval", "prompt": "base", "shots": 0, "strategy": "direct",
        "extraction": "as it is", "temperature": 0.0, "top_p": 1.0, "max_tokens": 512, "seed": 0,
        "subset": "all", "tasks": 164, "samples_per_task": 1, "data_sha256": "12", "version": "0",
        "model": f"gguf:{HOME}/m.gguf", "adapter": str(adapters), "adapter_sha256": sha,
    }  # fmt: skip
    protocol |= asked
    folder.mkdir(parents=True)
    figure = {"value": value, "low": value - 0.05, "high": value + 0.05}
    write_json(folder / "result.json", {"protocol": protocol, "pass_at": {"1": figure}})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return make_run(Path("runs/mine"))


def written(*arguments: str) -> Path:
    assert main(["push", *arguments, "--to", "me/my-model", "--dry-run"]) == 0
    return Path("my-model")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def require_nothing_private(files: dict[str, bytes]) -> None:
    here = os.getcwd()
    for name, content in files.items():
        for word in ("alice", SECRET, TOKEN, here, os.path.expanduser("~") + "/"):
            assert word.encode() not in content, f"{word} in {name}"


# -- what is published -----------------------------------------------------------------------------


@pure
@pytest.mark.parametrize("where", ["runs/mine", "latest", "runs/mine/adapters"])
def test_adapters_go_up_with_what_is_needed_to_use_them(where: str, run: Path, capsys) -> None:
    held_out(run)
    folder = written(where)
    files = contents(folder)
    assert list(files) == [
        "README.md", "adapter_config.json", "adapters.safetensors", "config.yaml", "held_out.json",
        "metrics.jsonl", "report.html", "run.json",
    ]  # fmt: skip
    require_nothing_private(files)
    source = run_folder.checkpoint_of(run, STEPS) / "adapters.safetensors"
    assert files["adapters.safetensors"] == source.read_bytes()
    assert read_lora(folder).rank == 2 and quantization_of(folder) == CONFIG.quantization
    assert place_of_base(folder, str(base_of(folder))) == ("org/base", "abc123"), "the very base"
    assert b"read ~/notes" in files["report.html"] and REMOVED.encode() in files["report.html"]
    out, err = capsys.readouterr()
    assert out == "my-model\n" and "adapters of mine after step 20" in err
    assert not list(run.glob("*.tmp")) and sorted(Path().iterdir()) == [folder, Path("runs")]


@pure
def test_the_card_has_the_figures_of_the_run_for_the_hub_and_for_people(run: Path) -> None:
    held_out(run)
    evaluated(run / "evals" / "humaneval", run_folder.checkpoint_of(run, STEPS), 0.6)
    evaluated(Path("evals/humaneval-base"), None, 0.4)
    evaluated(Path("evals/of-other-weights"), run_folder.checkpoint_of(run, 10), 0.9)
    card = ModelCard.load(written("runs/mine") / "README.md")
    data = card.data
    assert (data.base_model, data.base_model_relation) == ("org/base", "adapter")
    assert (data.library_name, data.pipeline_tag) == ("mlx", "text-generation")
    assert (
        {"lora", "mlx"} < set(data.tags) and data.license is None and data.model_name == "my-model"
    )
    found = {(r.dataset_config, r.metric_name): r for r in data.eval_results}
    greedy = found["in_range", "pass@1, greedy, mean of the kinds"]
    assert greedy.metric_value == 1.0 and greedy.metric_args["before"] == 0.0
    assert len(greedy.metric_args["gain_interval_95"]) == 2
    assert greedy.metric_args["tasks"] == 6 and greedy.metric_args["answers_per_task"] == 1
    assert greedy.dataset_args["protocol"]["rollout.form"] == "mine.yaml"
    sampled = found["harder", "pass@1, sampled as in training, mean of the kinds"]
    assert sampled.metric_args["before"] == 0.25 and sampled.metric_args["answers_per_task"] == 16
    assert ("in_range", "pass@16, sampled as in training, mean of the kinds") in found
    own = found["humaneval", "pass@1, greedy"]
    assert (own.metric_value, own.metric_args["before"], own.metric_args["tasks"]) == (
        0.6,
        0.4,
        164,
    )
    assert own.dataset_type == "openai/openai_humaneval"
    assert own.metric_args["interval_95"] == [0.55, 0.65]
    assert own.metric_args["protocol"]["max_tokens"] == 512
    during = found["mbpp", "pass@1, greedy"]
    assert during.metric_value == 0.25 and during.metric_args["tasks"] == "at most 25"
    assert "interval_95" not in during.metric_args
    assert "| greedy, deduction | pass@1 | 0.0 %" in card.text
    assert "| 60.0 % (55.0 to 65.0) |" in card.text and "90.0 %" not in card.text
    assert "25.0 % (no interval recorded)" in card.text
    assert "one run with one seed" in card.text and "data: none (self-play" in card.text
    assert "command: `azr-mlx train -c 'a'b.yaml' seed=3 evaluation.data=data" in card.text
    assert "macOS-26.1-arm64, 10 cores" in card.text and "`2026-11-20`" in card.text
    assert "revision `abc123`" in card.text and "affine, 4 bits" in card.text


@pure
def test_texts_from_files_are_no_markup(run: Path) -> None:
    held_out(run)
    hostile = "a|b` <script>\n# heading\n---\n- item: \u202e"
    own = run_folder.checkpoint_of(run, STEPS)
    evaluated(run / "evals", own, 0.6, benchmark=hostile, subset=hostile, prompt=hostile)
    start = {**START, "argv": ["azr-mlx", hostile], "platform": hostile, "backend": hostile}
    write_json(run / run_folder.RUN_FILE, {"starts": [{**start, "versions": {hostile: hostile}}]})
    card = ModelCard.load(written("runs/mine") / "README.md")
    assert any("heading" in result.dataset_name for result in card.data.eval_results)
    lines = card.text.splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# my-model", "## Figures", "## How to use it", "## Files", "## Licence"
    ]  # fmt: skip
    rows = [line.replace("\\|", "") for line in lines if line.startswith("| ")]
    assert len(rows) > 10 and {row.count("|") for row in rows} == {9}
    assert "\u202e" not in card.text
    assert not [line for line in lines if line.count("`") % 2 and not line.startswith("```")]
    assert [line for line in lines if "<script>" in line and "`" not in line] == []


@pure
@pytest.mark.parametrize(
    ("where", "after_step", "theirs"),
    [
        ("runs/mine", STEPS, True),
        ("runs/mine", None, True),  # an earlier version's, which measured after the last step
        ("runs/mine/checkpoints/step_000010", STEPS, False),
        ("runs/mine/best", None, False),
        ("runs/mine", 10, False),  # the run went on, and was not measured again
    ],
)
def test_held_out_figures_are_those_of_these_weights(
    where: str, after_step: int | None, theirs: bool, run: Path
) -> None:
    held_out(run, after_step=after_step)
    point(run / run_folder.BEST, run_folder.checkpoint_of(run, 10))
    card = ModelCard.load(written(where) / "README.md")
    assert ("held-out tasks, in range" in card.text) == theirs
    assert ("have not been measured with these adapters" in card.text) != theirs


@pure
def test_a_run_without_figures_says_so(run: Path, capsys) -> None:
    (run / run_folder.METRICS_FILE).unlink()
    folder = written("runs/mine")
    card = ModelCard.load(folder / "README.md")
    assert not card.data.eval_results and "None were measured with these weights." in card.text
    assert not (folder / "report.html").exists() and "`report.html`" not in card.text
    err = capsys.readouterr().err
    assert "This run has no held-out tasks." in err
    assert "license: left out" in err and "without --dry-run the hub is asked" in err


@pure
@pytest.mark.parametrize(
    ("model", "source", "shown", "licence"),
    [
        (f"{HOME}/my models/Q|`4.gguf", f"gguf:{HOME}/my models/Q|`4.gguf", "`Q|'4.gguf`", None),
        ("package:azr_mlx/nano/model", None, "`package:azr_mlx/nano/model`", "mit"),
        ("base", "folder:HERE/base", "`base`", "apache-2.0"),
    ],
)
def test_a_base_model_that_is_not_on_the_hub(
    model: str, source: str | None, shown: str, licence: str | None, run: Path, capsys
) -> None:
    Path("base").mkdir()
    Path("base/README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    source = (source or model).replace("HERE", os.getcwd())
    other = make_run(Path("runs/other"), Config(model_id=model), model={"source": source})
    folder = written(str(other))
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model is None and f"base model: {shown}" in card.text
    assert "base_model: left out" in capsys.readouterr().err
    assert card.data.license == licence
    assert ("licence is not known" in card.text) == (licence is None)
    require_nothing_private(contents(folder))


@pure
def test_a_licence_is_read_from_the_files_of_the_base_model(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--base" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    on_hub = Base("org/base", "org/base", "org/base")
    assert licence.of(on_hub, online=False) == {}
    card = "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n"
    (snapshot / "README.md").write_text(card)
    known = {"license": "other", "license_name": "own", "license_link": "LICENSE"}
    whole = "https://huggingface.co/org/base/blob/main/LICENSE"
    assert licence.of(on_hub, online=False) == {**known, "license_link": whole}
    del known["license_link"]
    assert licence.of(Base(str(snapshot)), online=False) == known, "it would lead nowhere"
    for wrong in ("", "no front matter", "---\nlicense: [a, b]\n---\n", "---\n- a: [\n---\n", "\0"):
        (snapshot / "README.md").write_text(wrong)
        assert licence.of(on_hub, online=False) == {}
    file = tmp_path / "m.gguf"
    tiny_gguf.tiny(file, tiny_gguf.byte_vocabulary() | {"general.license": "apache-2.0"})
    assert licence.of(Base(str(file)), online=False) == {"license": "apache-2.0"}
    file.write_bytes(b"GGUF")
    assert licence.of(Base(str(file)), online=False) == {}
    assert licence.of(Base("package:no_such_package/x"), online=False) == {}
    monkeypatch.chdir(snapshot)
    (snapshot / "README.md").write_text(card)
    assert licence.of(Base(""), online=False) == {}, "it is the card of this folder"


@pure
def test_files_that_are_damaged_leave_their_part_out(run: Path) -> None:
    for name in (run_folder.CONFIG_FILE, run_folder.RUN_FILE, run_folder.HELD_OUT_FILE):
        (run / name).write_text("\0 [")
    evaluated(run / "evals", None, 0.5)
    for content in ("", "[]", '{"protocol": {"adapter_sha256": 3}, "pass_at": {"x": 1}}'):
        (run / "evals" / "result.json").write_text(content)
        folder = written("runs/mine")
        card = ModelCard.load(folder / "README.md")
        assert "command: `unknown`" in card.text and "cannot be read" in card.text
        assert not (folder / "config.yaml").exists() and not (folder / "run.json").exists()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


@pure
@pytest.mark.parametrize(
    ("seeds", "source", "shown"),
    [
        ("templates", "template", "data: none (self-play; the first tasks come from templates)"),
        (f"{HOME}/lib", "template", "first tasks from `lib`, which is not published"),
        ("templates", "code", "first tasks from `own code`, which is not published"),  # resumed
        ("", "template", "what its first tasks came from is not known"),
    ],
)
def test_own_code_is_not_shown_in_the_report(
    seeds: str, source: str, shown: str, run: Path
) -> None:
    config = Config(model_id="org/base", proposer=Proposer(seed_tasks=seeds))
    other = make_run(Path("runs/other"), config)
    own = {"task": task(TaskKind.DEDUCTION, 3, source).to_json(), "attempts": 1, "successes": 1}
    checkpoint.save(other, 30, Adapters("org/base", 1), {}, [own])
    if not seeds:
        (other / run_folder.CONFIG_FILE).write_text("\0")
    folder = written(str(other))
    page = (folder / "report.html").read_bytes()
    generated = shown.startswith("data: none")
    assert (b"read ~/notes" in page) == (b'id="tasks"' in page) == generated
    assert shown in (folder / "README.md").read_text()


@pure
@pytest.mark.parametrize(
    ("known", "starts", "shown"),
    [
        (["lib", "templates"], 2, "first tasks from `lib`, which is not published"),
        (["templates"], 2, "data: none"),
        (None, 2, "what its first tasks came from is not known"),  # of an earlier version
    ],
)
def test_own_code_that_has_left_a_run_is_still_in_its_samples(
    known: list[str] | None, starts: int, shown: str, run: Path
) -> None:
    """The last start says `templates`, and no task of the code is in the buffer any more."""
    other = make_run(Path("runs/other"), Config(model_id="org/base"))
    record = {"starts": [START] * starts} | ({} if known is None else {"seed_tasks": known})
    write_json(other / run_folder.RUN_FILE, record)
    folder = written(str(other))
    page = (folder / "report.html").read_bytes()
    assert (b"read ~/notes" in page) == (b'id="tasks"' in page) == (shown == "data: none")
    assert shown in (folder / "README.md").read_text()


@pure
def test_tasks_are_a_dataset_with_their_card(run: Path, capsys) -> None:
    folder = written("runs/mine", "--what", "tasks")
    assert list(contents(folder)) == ["README.md", "tasks.jsonl"]
    assert len((folder / "tasks.jsonl").read_text().splitlines()) == 3
    require_nothing_private(contents(folder))
    err = capsys.readouterr().err
    assert "3 tasks after step_000020: 1 deduction" in err and "license: not chosen" in err


@pure
def test_what_cannot_be_cleaned_is_refused(run: Path, capsys, monkeypatch) -> None:
    """A path in a program is part of the task: it cannot be taken out."""
    monkeypatch.setenv("HOME", "/somewhere/else/me")
    program = "def f(x):\n    return '/somewhere/else/me/x' + x\n"
    one = Task.create(TaskKind.DEDUCTION, program, ("('',)",), ("'/somewhere/else/me/x'",))
    rows = [{"task": one.to_json(), "attempts": 0, "successes": 0}]
    checkpoint.save(run, 30, Adapters("org/base", 1), {}, rows)
    given = ["push", "runs/mine", "--to", "me/x", "--what", "tasks", "--dry-run"]
    assert main(given) == 1
    err = capsys.readouterr().err
    assert "tasks.jsonl would hold /somewhere/else/me" in err and err.count("\n") == 1
    assert not Path("x").exists()


# -- privacy ---------------------------------------------------------------------------------------


@pure
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("org/name", "org/name"),
        ("package:azr_mlx/nano/model", "package:azr_mlx/nano/model"),
        ("https://huggingface.co/org/name", "https://huggingface.co/org/name"),
        ("configs/mine.yaml", "configs/mine.yaml"),
        ("/data/models/My Model.gguf", "My Model.gguf"),
        ("gguf:/data/models/a.gguf", "a.gguf"),
        ("~/models/a", "a"),
        ("../../alice/a.yaml", "a.yaml"),
        ("/home/alice", "~"),
        ("/data/home/alice/x", "x"),
        ("loaded /Users/alice/lib/x.so", "loaded x.so"),
        ("[/a/b,/c/d]", "[b,d]"),
        ("mlx (auto: MLX imports)", "mlx (auto: MLX imports)"),
    ],
)
def test_of_a_path_the_last_name_is_shown(value: str, shown: str) -> None:
    assert short(value) == shown


@pure
def test_texts_lose_homes_and_tokens_and_nothing_else(monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "not-of-the-usual-form")
    text = (
        "a /b; x/y; /home/bob/z and /homeless; /Users/eve; /rooted, /root/x, not-of-the-usual-form"
    )
    shown = f"a /b; x/y; ~/z and /homeless; ~; /rooted, ~/x, {REMOVED}"
    assert hide(text) == shown
    assert hide(f"{os.getcwd()}/x {os.getcwd()}-other") == f"./x {os.getcwd()}-other"


# -- mistakes --------------------------------------------------------------------------------------


@pure
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "me"], "--to me: has no user or organization; give USER/me"),
        (["--to", "me/a b"], "--to me/a b: Repo id must use alphanumeric chars"),
        (["--to", "datasets/me/x"], "--to datasets/me/x: give me/x; --what decides"),
        (["--to", "me/x", "--what", "model"], "--what model: unknown; take adapters, fused, tasks"),
        (["--to", "me/x", "--format", "gguf"], "--format gguf: unknown; take hf or mlx"),
        (["--to", "me/x", "--format", "mlx"], "--format: only for --what fused; leave it out"),
        (["--to", "me/x", "--out", "x"], "--out: only --dry-run writes a folder"),
        (["--to", "me/x", "--dry-run", "--out", "runs"], "--out runs: already exists"),
        (["--to", "me/x"], "push: HF_HUB_OFFLINE is set; unset it"),
        ([], "Missing option '--to'"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, run: Path, capsys) -> None:
    assert main(["push", "runs/mine", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1, err
    assert [p.name for p in Path().iterdir()] == ["runs"]


@pure
def test_a_run_that_is_not_there_or_damaged(run: Path, capsys) -> None:
    given = ["--to", "me/x", "--dry-run"]
    assert main(["push", "runs/none", *given]) == 2
    assert "push runs/none: no such folder" in capsys.readouterr().err
    (run_folder.checkpoint_of(run, STEPS) / "adapters.safetensors").write_bytes(b"cut off")
    assert main(["push", "runs/mine", *given]) == 2
    err = capsys.readouterr().err
    assert "adapters.safetensors is damaged" in err and "use push runs/mine/checkpoints/" in err
    checkpoint.save(run, 30, Adapters("org/base", 1), {}, [{"task": 3}])
    assert main(["push", "runs/mine", *given]) == 2
    err = capsys.readouterr().err
    assert "step_000030: cannot be read" in err and err.count("\n") == 1
    assert [p.name for p in Path().iterdir()] == ["runs"]


@pure
def test_a_home_with_letters_that_json_escapes_is_found(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/jürgen")
    for text in ("/home/jürgen/x", json.dumps("open('/home/jürgen/x')")):
        assert betrayal(text) == "/home/jürgen" or "rgen" in betrayal(text)
        assert "rgen" not in hide(text)


@pure
def test_a_path_with_blanks_in_a_text_is_shortened() -> None:
    text = "dlopen(/Volumes/My Disk/proj/lib.so, 6): no image in '/Users/some one/x y'"
    assert short(text) == "dlopen(lib.so, 6): no image in 'x y'"


@pure
def test_a_copy_that_has_followed_the_links_is_of_the_same_run(
    run: Path, tmp_path: Path, monkeypatch
) -> None:
    newest = run_folder.checkpoint_of(run, STEPS).resolve()
    copy = tmp_path / "copied" / "mine"
    shutil.copytree(run, copy)
    for name in (run_folder.NEWEST, run_folder.BEST):
        shutil.copytree(newest, copy / name, dirs_exist_ok=True)
        assert run_folder.find(str(copy / name), tmp_path) == (copy.resolve(), copy / name)
    monkeypatch.chdir(copy / "checkpoints")
    assert run_folder.find(newest.name, tmp_path)[0] == copy.resolve()
    shutil.copytree(newest, tmp_path / "alone")
    with pytest.raises(run_folder.CheckpointError, match="belongs to no run"):
        run_folder.find(str(tmp_path / "alone"), tmp_path)


# -- the hub ---------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


def started(hub: str, run: Path, *arguments: str, token: str = TOKEN) -> subprocess.Popen[str]:
    """azr-mlx push as a user starts it, without the hub's own protocol for large files."""
    given = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "AZR_"))}
    own = {"HF_ENDPOINT": hub, "HF_HOME": str(run.parent / ".hf"), "HF_TOKEN": token}
    return subprocess.Popen(
        [sys.executable, "-m", "azr_mlx.cli", "push", str(run), *arguments],
        env={**given, **own, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it runs in the background with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def pushed(hub: str, run: Path, *arguments: str, token: str = TOKEN) -> tuple[int, str, str]:
    out, err = (process := started(hub, run, *arguments, token=token)).communicate(timeout=120)
    assert "Traceback" not in err and not list(run.glob("*.tmp")), err
    return process.returncode, out, err


@e2e
def test_adapters_arrive_in_one_commit_with_the_licence_that_the_hub_knows(
    hub: Hub, run: Path
) -> None:
    held_out(run)
    hub.licences["org/base"] = "apache-2.0"
    code, out, err = pushed(hub.url, run.resolve(), "--to", "me/my-model")
    assert code == 0, err
    assert out == f"{hub.url}/me/my-model\n"
    there = hub.model("me/my-model")
    assert len(there.commits) == 1 and not there.private
    assert there.commits[0].startswith("adapters of mine after step 20, with azr-mlx ")
    dry = contents(written(str(run)))
    assert there.files.keys() == dry.keys()
    require_nothing_private(there.files)
    same = [name for name in dry if there.files[name] == dry[name]]
    assert set(dry) - set(same) <= {"README.md", "report.html"}, "but for licence and time"
    assert ModelCard(there.files["README.md"].decode()).data.license == "apache-2.0"
    file = run.parent / "arrived.safetensors"
    file.write_bytes(there.files["adapters.safetensors"])
    assert load_file(file)["layers.0.lora_a"].max() == STEPS


@e2e
def test_what_only_an_earlier_run_had_goes(hub: Hub, run: Path) -> None:
    held_out(run)
    assert pushed(hub.url, run, "--to", "me/again")[0] == 0
    there = hub.model("me/again")
    there.files["notes.md"] = b"the owner's"
    assert run_folder.HELD_OUT_FILE in there.files
    (run / run_folder.HELD_OUT_FILE).unlink()
    code, _, err = pushed(hub.url, run, "--to", "me/again")
    assert code == 0, err
    assert run_folder.HELD_OUT_FILE not in there.files and "notes.md" in there.files


@e2e
def test_tasks_arrive_in_a_private_dataset_and_again(hub: Hub, run: Path) -> None:
    for _ in range(2):
        code, out, err = pushed(hub.url, run, "--to", "me/t", "--what", "tasks", "--private")
        assert code == 0, err
    assert out == f"{hub.url}/datasets/me/t\n"
    there = hub.repositories["dataset", "me/t"]
    assert there.private and set(there.files) == {"README.md", "tasks.jsonl"}
    assert yaml.safe_load(there.files["README.md"].decode().split("---")[1])["configs"]


@e2e
@pytest.mark.parametrize(
    ("owner", "code", "said"),
    [
        ("nobody", 1, "the hub does not accept the token (401); `hf auth login`, or set HF_TOKEN"),
        ("forbidden", 1, "the token may not write there (403); take one with write access to"),
        ("missing", 1, "the hub does not find it (404); check the name missing"),
        ("busy", 1, "the hub answers with 503; try again later"),
        ("odd", 1, "the hub refuses it (418: no, says the hub to odd/x)"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, run, owner, code, said) -> None:
    got, out, err = pushed(hub.url, run, "--to", f"{owner}/x")
    (line,) = [line for line in err.splitlines() if line.startswith("azr-mlx: error: ")]
    assert (got, out) == (code, "") and f"--to {owner}/x: " in line and said in line, line
    assert not hub.repositories


@e2e
def test_a_repository_that_is_not_as_asked_is_left_alone(hub: Hub, run: Path) -> None:
    assert pushed(hub.url, run, "--to", "me/x")[0] == 0
    there = hub.model("me/x")
    code, _, err = pushed(hub.url, run, "--to", "me/x", "--private")
    assert code == 2 and "--private: me/x is there already, and public" in err
    code, _, err = pushed(hub.url, run, "--to", "me/x", "--what", "tasks")
    assert code == 2 and "me/x: is there, but not as a dataset repository; name another" in err
    there.files["model.safetensors"] = b"others"
    code, _, err = pushed(hub.url, run, "--to", "me/x")
    assert code == 2 and "holds other weights already (model.safetensors)" in err
    assert len(there.commits) == 1


@e2e
def test_no_token_no_network_and_what_is_not_taken(hub: Hub, run: Path) -> None:
    code, _, err = pushed(hub.url, run, "--to", "me/x", token="")
    assert code == 2 and "--to me/x: no token for the hub here; `hf auth login`" in err
    assert hub.requests == []
    code, _, err = pushed("http://127.0.0.1:9", run, "--to", "me/x")
    assert code == 1 and "http://127.0.0.1:9 cannot be reached" in err and "go online" in err
    hub.strict = True
    code, _, err = pushed(hub.url, run, "--to", "me/x")
    assert code == 1 and "the hub refuses it (400: " in err and "refused" in err
    hub.strict, hub.lost = False, True
    code, _, err = pushed(hub.url, run, "--to", "me/x")
    assert code == 1 and "the hub refuses it (400: lost)" in err
    assert hub.model("me/x").commits == []


@e2e
def test_ctrl_c_leaves_nothing(hub: Hub, run: Path) -> None:
    hub.held = threading.Event()
    process = started(hub.url, run, "--to", "me/x")
    assert hub.waiting.wait(60), process.communicate()
    assert list(run.glob("*.tmp")), "this test interrupts nothing"
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    hub.held.set()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.rstrip().endswith("azr-mlx: interrupted"), err
    assert not list(run.glob("*.tmp")) and hub.model("me/x").commits == []


# -- fused -----------------------------------------------------------------------------------------


@pytest.mark.backend
@pytest.mark.parametrize(("to", "library"), [("hf", "transformers"), ("mlx", "mlx")])
def test_a_fused_model_has_a_card_too(to: str, library: str, run: Path, capsys) -> None:
    pytest.importorskip("mlx.core", reason="mlx is not installed")
    from azr_mlx.backends.mlx import MlxBackend
    from azr_mlx.config import Lora
    from tests.tiny import tiny_folder

    base = Path("base").resolve()
    tiny_folder(base)
    backend = MlxBackend.from_folder(base, Lora(rank=2), base=str(base))
    other = make_run(
        Path("runs/other"), Config(model_id=str(base)), model={"source": f"folder:{base}"}
    )
    checkpoint.save(other, 30, backend, {}, [])
    folder = written(str(other), "--what", "fused", "--format", to)
    assert "fused model of other after step 30" in capsys.readouterr().err
    files = contents(folder)
    require_nothing_private(files)
    assert {"README.md", "report.html", "config.json", "model.safetensors"} <= files.keys()
    assert "adapters.safetensors" not in files and "config.yaml" not in files
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == library and "Fusing changed the log-probabilities" in card.text
    assert read_json(folder / "config.json")["model_type"] and json.loads(files["config.json"])


@pure
@pytest.mark.parametrize(
    "key",
    [
        "hf_" + "a" * 30,
        "github_pat_" + "A1" * 20,
        "ghp_" + "b2" * 18,
        "glpat-" + "x" * 20,
        "sk-proj-" + "y" * 30,
        "sk_live_" + "z" * 24,
        "AKIA" + "ABCDEFGH12345678",
        "AIza" + "S" * 35,
        "xoxb-" + "1" * 12,
        "npm_" + "n" * 36,
        "pypi-" + "p" * 60,
        "eyJhbGciOiJIUzI1" + "." + "eyJzdWIiOiIxMjM0" + "." + "c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_keys_of_services_are_taken_out_and_told(key: str) -> None:
    text = f"def f(n):\n    return '{key}' + n\n"
    assert betrayal(text) == "a token"
    assert hide(text) == f"def f(n):\n    return '{REMOVED}' + n\n"


@pure
def test_programs_that_look_a_little_like_keys_stay() -> None:
    for text in ("risk-averse", "task_live_now", "AKIA", "xoxb", "sk = 1 - sk", "npm_x", "eyJ.a"):
        assert betrayal(text) == "" and hide(text) == text


@pure
def test_a_base_that_the_configuration_does_not_name_is_no_default(run: Path) -> None:
    file = Path("runs/mine") / run_folder.CONFIG_FILE
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("model_id")))
    assert "Qwen3-4B" not in (written("runs/mine") / "README.md").read_text()
    assert cards.origin(Path("runs/mine")).base.hub == "org/base"
    write_json(Path("runs/mine") / run_folder.RUN_FILE, {"starts": []})
    assert cards.origin(Path("runs/mine")).base.shown == "unknown"
