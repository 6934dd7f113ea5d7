"""Writes docs/models.md: what works with each architecture of the installed mlx-lm, and with some
of transformers.

python docs/survey.py                   # takes 40 minutes on two slow cores; tests/survey.py and
                                        # tests/torch_survey.py say what is tried
python docs/survey.py phi3 torch:llama  # prints these architectures only
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
METAL_ONLY = "No Metal back-end"
TORCH = "torch:"
ROWS = {
    "shared": "yes",
    "batched": "yes, without shared prompts",
    "alike": "yes, one prompt at a time",
    "single": "yes, one completion at a time",
}
INTRODUCTION = """\
# Models

`python docs/survey.py` wrote this page with mlx-lm {version} on {date}. For each architecture (the
`model_type` in a model's `config.json`) it made a tiny random model and tried: rollouts that equal
token by token decoding with the model's own cache, log-probabilities that equal those of the plain
forward pass (to 1e-4 in float32), finite gradients on all adapters that agree with the slope of the
loss, two updates, saving, loading in mlx-lm, and fusing. **{works} of {all} architectures can be
trained.** None is looked up by name: when a model is loaded, it is tried on a few tokens, and it
takes the fastest way that gives the results of its own forward pass.

- **yes**: prompts are read once for all completions, in updates too, and all completions are
  decoded together.
- **without shared prompts**: all completions are decoded together with the model's own caches
  (recurrent states). In an update each completion is read with its prompt.
- **one prompt at a time**: mlx-lm cannot merge this model's caches for texts of different lengths,
  so the completions of one prompt are decoded after those of the other.

Layers have no adapters if they are not linear layers of MLX, if the model reads their weights
without calling them, or if they get no gradient because they only choose what is looked at. A run
lists its own in `run.json`. "No recomputing" means that `ppo.grad_checkpoint=true` is refused,
since the layers depend on each other.

The gated delta rule (Qwen3.5, Qwen3-Next, Kimi Linear, OLMo Hybrid) has no gradient in mlx-lm's
Metal kernel, and mlx-lm's plain operations take one step for each token. Updates, and prompts on a
CPU, compute it in chunks of 64 tokens, with the same results; rollouts on a Mac use the kernel.

This was tried on a CPU. On a Mac, models whose layers are Metal kernels without a gradient (RWKV-7,
BitNet) are refused. `olmo` is not in the list: mlx-lm's module for it needs the package ai2-olmo.
PLaMo 3's cache in mlx-lm is one token shorter than its window, so its own cache is used, and the
sampler and the update differ slightly once the window is full.

| architecture | trained | layers without adapters | remarks |
|---|---|---|---|
"""
TORCH_INTRODUCTION = """
## On torch

With transformers {version} the same was tried on a CPU, but for loading and fusing by other
programs: {works} of {all} architectures can be trained. Models with windows, chunks or recurrent
layers use their own caches, so the completions of one prompt are decoded after those of the other.
On CUDA this has not been run. Other architectures are tried when they are loaded, too.

| architecture | trained | layers without adapters | remarks |
|---|---|---|---|
"""


def main(chosen: list[str]) -> None:
    if chosen:
        sys.stdout.write(rows({name: tried(name) for name in chosen}))
        return
    from tests.architectures import names
    from tests.torch_survey import SPECIAL

    date = subprocess.run(["date", "+%Y-%m-%d"], capture_output=True, text=True, check=True).stdout
    mlx, torch = all_of(names()), all_of(SPECIAL, TORCH)
    page = [
        INTRODUCTION.format(version=version("mlx-lm"), date=date.strip(), **counts(mlx)),
        rows(mlx),
        TORCH_INTRODUCTION.format(version=version("transformers"), **counts(torch)),
        rows(torch),
    ]
    (DOCS / "models.md").write_text("".join(page), "utf-8")


def counts(found: dict[str, dict[str, object]]) -> dict[str, int]:
    return {"works": sum("error" not in one for one in found.values()), "all": len(found)}


def rows(found: dict[str, dict[str, object]]) -> str:
    return "".join(f"| {name} | {' | '.join(cells(one))} |\n" for name, one in found.items())


def all_of(names: Iterable[str], prefix: str = "") -> dict[str, dict[str, object]]:
    """The results for these architectures, as many at a time as there are cores."""
    asked = list(names)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(asked, pool.map(tried, (prefix + name for name in asked)), strict=True))


def tried(name: str) -> dict[str, object]:
    """The result for one architecture, in a process of its own."""
    sys.stderr.write(f"{name}\n")
    code = f"import survey; survey.one({name!r})"
    given = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(DOCS)])}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(given, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"error": f"the process ended with {done.returncode}"}
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def one(name: str) -> None:
    """Print the result for one architecture as JSON."""
    from dataclasses import asdict

    from azr_mlx.backends import blas

    blas.enable()
    from azr_mlx.errors import AzrError
    from tests import survey

    with tempfile.TemporaryDirectory() as folder:
        try:
            if name.startswith(TORCH):
                from tests import torch_survey

                result = asdict(torch_survey.survey(name.removeprefix(TORCH)))
            else:
                result = asdict(survey.survey(name, Path(folder)))
        except (AzrError, AssertionError, RuntimeError) as error:
            result = {"error": " ".join(str(error).split())}
    sys.stdout.write(json.dumps(result) + "\n")


def cells(result: dict[str, object]) -> list[str]:
    if "error" in result:
        error = str(result["error"])
        if METAL_ONLY in error:
            return ["not tried", "", "needs a Mac: mlx-lm has it as a Metal kernel only"]
        _, _, why = error.partition("cannot be used: ")
        return ["**no**", "", (why or error).partition("; it cannot be trained")[0]]
    left_out = ", ".join(f"`{key}`" for key in result["left_out"])  # type: ignore[attr-defined]
    return [ROWS[str(result["path"])], left_out, "" if result["recomputed"] else "no recomputing"]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1:])
