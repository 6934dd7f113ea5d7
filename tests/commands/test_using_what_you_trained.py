"""What docs/using-what-you-trained.md says of mlx-lm's own programs, tried: they take the adapters
as they are, and the adapters act."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")
pytest.importorskip("mlx_lm")

from azr_mlx.models.mlx_model import open_model  # noqa: E402
from azr_mlx.tasks.chat import conversation, written  # noqa: E402
from tests.models import trained  # noqa: E402

pytestmark = pytest.mark.e2e

QUESTION, COUNT = "the hen", 8
BARE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model, and adapters that change all that it says."""
    base = trained.write_kind(tmp_path / "base", monkeypatch, "qwen3", tie_word_embeddings=True)
    return base, trained.train(base, tmp_path / "run", 0.5)


def greedy(base: Path, adapters: Path | None) -> str:
    """The answer as this project computes it, token by token."""
    model, tokenizer, _ = open_model(base, adapters)
    asked = tokenizer.encode(written(tokenizer, conversation(QUESTION)))
    answer: list[int] = []
    for _ in range(COUNT):
        answer.append(int(mx.argmax(model(mx.array([[*asked, *answer]]))[0, -1])))
    return str(tokenizer.decode(answer))


@contextmanager
def serving(base: Path, *more: str) -> Iterator[str]:
    """mlx_lm.server on the loopback; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = ["--host", "127.0.0.1", "--port", port]
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(base), *place, *more]
    with subprocess.Popen(command, env=BARE, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, server)
            yield address
        finally:
            server.terminate()


def _wait_for(address: str, server: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert server.poll() is None, server.communicate()[1][-2000:]
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail("the server does not answer")


def answer_of(address: str) -> str:
    asked: dict[str, Any] = {"messages": conversation(QUESTION), "max_tokens": COUNT}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions",
        json.dumps({**asked, "temperature": 0.0}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def test_the_server_answers_with_the_adapters(folders: tuple[Path, Path]) -> None:
    base, run = folders
    expected = greedy(base, run)
    assert expected != greedy(base, None), "the adapters do nothing"
    with serving(base) as address:
        assert answer_of(address) == greedy(base, None)
    with serving(base, "--adapter-path", str(run)) as address:
        assert answer_of(address) == expected


def test_the_chat_answers_with_the_adapters(folders: tuple[Path, Path]) -> None:
    base, run = folders
    command = [sys.executable, "-m", "mlx_lm", "chat", "--model", str(base), "--temp", "0"]
    done = subprocess.run(
        [*command, "--max-tokens", str(COUNT), "--adapter-path", str(run)],
        input=f"{QUESTION}\nq\n",
        env=BARE,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert greedy(base, run) in done.stdout
