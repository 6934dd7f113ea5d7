"""The errors that a newcomer is likely to meet: each is one line with its fix, the exit code is
right, and nothing is left half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

pytestmark = pytest.mark.e2e

QUICK = [
    *("train", "-c", "quickstart", "max_steps=1", "held_out.tasks=0", "batch_size=6"),
    *("proposer.templates_per_step=3", "rollout.group_size=4"),
]


def azr(*arguments: str, cwd: Path, wrapper: list[str] | None = None, **environment: str):
    """Run azr-mlx as a user does; (exit code, lines of stderr)."""
    given = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "AZR_"))}
    done = subprocess.run(
        [*(wrapper or []), sys.executable, "-m", "azr_mlx.cli", *arguments],
        cwd=cwd,
        env={**given, "HF_HOME": str(cwd / ".hf"), "HF_HUB_DOWNLOAD_TIMEOUT": "2", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr.strip().splitlines()


def the_error(lines: list[str]) -> str:
    errors = [line for line in lines if line.startswith("azr-mlx: error: ")]
    assert len(errors) == 1, lines
    assert "Traceback" not in "\n".join(lines)
    assert len(errors[0]) < 400, errors[0]
    return errors[0]


# -- models ----------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """Answers as huggingface.co does to who may not have what he asks for."""

    ANSWERS = (
        ("gated", 403, "GatedRepo"),
        ("private", 401, "RepoNotFound"),
        ("revision", 404, "RevisionNotFound"),
        ("down", 503, ""),
    )

    def do_GET(self) -> None:
        name = self.path.split("/")[4] if self.path.startswith("/api/models/") else "down"
        code, error = next((c, e) for n, c, e in self.ANSWERS if n == name)
        body = json.dumps({"error": "no"}).encode()
        self.send_response(code)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    ("model", "code", "what", "fix"),
    [
        ("some/gated", 1, "is gated on the hub", "ask for access at"),
        ("some/private", 2, "neither a local path nor a model of the hub", "hf auth login"),
        ("some/revision", 2, "no such revision", "take one that"),
        ("some/down", 1, "answers with 503", "try again later, or name a local folder"),
    ],
)
def test_what_the_hub_refuses(hub, tmp_path, model, code, what, fix):
    got, lines = azr("generate", "--model", model, "-p", "x", cwd=tmp_path, HF_ENDPOINT=hub)
    said = the_error(lines)
    assert got == code and f"'{model}'" in said and what in said and fix in said, said


def test_no_network(tmp_path):
    nowhere = "http://127.0.0.1:9"
    got, lines = azr("train", "--model", "some/one", cwd=tmp_path, HF_ENDPOINT=nowhere)
    said = the_error(lines)
    assert got == 1 and "the hub is unreachable; go online once, or name a local folder" in said
    got, lines = azr("train", "--model", "some/one", cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert got == 1 and "HF_HUB_OFFLINE is set; unset it once" in the_error(lines)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("files", "model", "what"),
    [
        ({}, "./none", "no such file or folder; give a folder with config.json"),
        ({"m/weights.bin": "x"}, "m", "has no config.json"),
        ({"m/config.json": "{}"}, "m", "has no model*.safetensors; save it with save_pretrained"),
        ({"m/config.json": "{", "m/model.safetensors": "x", "m/tokenizer.json": "{}"}, "m",
         "config.json cannot be read"),
        ({"m.gguf": "nothing of the kind"}, "m.gguf", "is not a GGUF file"),
        ({"m.gguf": "GGUF"}, "m.gguf", "its header is cut off or damaged; fetch it again"),
        ({"m.txt": "x"}, "m.txt", "is a file, but not a .gguf file; name its folder instead"),
    ],
)  # fmt: skip
def test_what_is_no_model(tmp_path, files, model, what):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    got, lines = azr("generate", "--model", model, "-p", "x", cwd=tmp_path)
    assert got in (1, 2) and what in the_error(lines), lines


def test_an_existing_target_is_left_alone(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    given = ("convert", "--hf-path", "package:azr_mlx/nano/model", "--mlx-path", "there")
    got, lines = azr(*given, cwd=tmp_path)
    assert got == 2 and "--mlx-path 'there' exists; name another folder" in the_error(lines)
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["mine"]


# -- the machine -----------------------------------------------------------------------------------


def test_too_little_memory_names_what_fits(tmp_path):
    got, lines = azr("train", "-c", "azr_config", "memory_limit_gb=4", cwd=tmp_path)
    said = the_error(lines)
    assert got == 2 and said.startswith("azr-mlx: error: memory: the ") and "fits" in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    target = tmp_path / "mine"
    target.write_text("a file")
    got, lines = azr(*QUICK, f"output_dir={target}", cwd=tmp_path)
    said = the_error(lines)
    assert got == 1 and f"output_dir: {target}" in said and "choose a folder that can be" in said
    if os.geteuid() == 0:
        return  # root may write anywhere
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    got, lines = azr(*QUICK, f"output_dir={locked}", cwd=tmp_path)
    assert got == 1 and "Permission denied; choose a folder that can be" in the_error(lines)


def small_disk(folder: Path) -> list[str] | None:
    """A wrapper that runs a command with 3 MB of room in ./small, tried in ``folder``; None if
    this user may not mount."""
    if shutil.which("unshare") is None:
        return None
    mount = 'mount -t tmpfs -o size=3m none small && exec "$@"'
    wrapper = ["unshare", "-Urm", "sh", "-c", mount, "sh"]
    probe = "mount -t tmpfs -o size=3m none small"
    tried = subprocess.run(["unshare", "-Urm", "sh", "-c", probe], cwd=folder, capture_output=True)
    return wrapper if tried.returncode == 0 else None


def test_a_full_disk(tmp_path):
    (tmp_path / "small").mkdir()
    wrapper = small_disk(tmp_path)
    if wrapper is None:
        pytest.skip("needs leave to mount in a namespace of its own")
    given = [*QUICK, "max_steps=50", "checkpoint_interval=1", "keep_checkpoints=0"]
    limits = ["sandbox.isolation=auto", "output_dir=small", "run_name=r"]
    got, lines = azr(*given, *limits, cwd=tmp_path, wrapper=wrapper)
    said = the_error(lines)
    assert (
        got == 1
        and "No space left on device" in said
        and ("make room" in said or "check disk space" in said)
    ), said


# -- what was typed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [\n", "not YAML"),
        ("learning_rate: fast\n", "learning_rate: fast: not a number"),
        ("learning_rat: 1e-5\n", "no such key; did you mean learning_rate?"),
        ("\tlora:\n", "not YAML"),
        ("- 1\n", "not a mapping"),
    ],
)
def test_bad_yaml(tmp_path, text, what):
    (tmp_path / "my.yaml").write_text(text)
    got, lines = azr("train", "-c", "my.yaml", cwd=tmp_path)
    assert got == 2 and what in the_error(lines)
    assert "my.yaml" in the_error(lines) or "learning_rat" in text
    assert [p.name for p in tmp_path.iterdir()] == ["my.yaml"]


@pytest.mark.parametrize(
    ("given", "code", "what"),
    [
        (["frobnicate"], 2, "No such command 'frobnicate'; see azr-mlx --help"),
        (["train", "-c", "quickstrat"], 2, "did you mean quickstart?"),
        (["quickstart"], 2, "did you mean train -c quickstart?"),
        (["train", "quickstart"], 2, "a configuration, and not KEY=VALUE; give -c quickstart"),
        (["train", "--max-steps", "5"], 2, "write max_steps=VALUE"),
        (["train", "--model", "./none", "--dry-run"], 2, "no such file or folder"),
        (["train", "--resume"], 2, "/runs; train first"),
        (["report"], 2, "no run with metrics in runs/"),
        (["export", "--adapter-path", "x", "--out", "y"], 2, "no adapters there; give runs/NAME"),
        (["generate", "-p", "x"], 2, "--model: missing"),
        (["eval", "--benchmark", "humanevil", "--model", "m"], 2, "did you mean humaneval?"),
    ],
)
def test_what_was_mistyped(tmp_path, given, code, what):
    got, lines = azr(*given, cwd=tmp_path)
    assert got == code and what in the_error(lines)
    assert list(tmp_path.iterdir()) == []


def test_a_form_that_the_model_does_not_know_leaves_nothing_to_resume(tmp_path):
    given = ["train", "--model", "package:azr_mlx/nano/model", "output_dir=runs"]
    given.append("rollout.form=chat")
    got, lines = azr(*given, cwd=tmp_path)
    said = the_error(lines)
    assert got == 2 and "rollout.form: chat: this model has no chat template" in said
    got, lines = azr("train", "--resume", cwd=tmp_path)
    assert got == 2 and "no run with a checkpoint" in the_error(lines)


def test_ctrl_c_before_the_first_step_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "azr_mlx.cli", *QUICK, "held_out.tasks=12", "run_name=first"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # In the background of a script it would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("held-out tasks before"):
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    said = process.stderr.read()
    assert said.startswith("azr-mlx: interrupted: the measurement begins again; to continue: "), (
        said
    )
    assert said.endswith(" train --resume runs/first\n") and said.count("\n") == 1


def test_a_missing_extra_names_the_command(tmp_path):
    """Without torch on the path, as in a plain installation."""
    block = "import sys\nfor name in ('torch', 'peft'):\n    sys.modules[name] = None\n"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(block)
    path = os.pathsep.join([str(tmp_path / "site"), *sys.path])
    got, lines = azr(*QUICK, "--backend", "torch", cwd=tmp_path, PYTHONPATH=path)
    assert got in (1, 2) and 'pip install "azr-mlx[torch]"' in the_error(lines).replace("'", '"')
    assert not (tmp_path / "runs").exists()
