"""What llama.cpp makes of a GGUF file, by its Python binding xllamacpp, whose wheels are built. It
may be in another environment: AZR_MLX_TEST_LLAMA_CPP names that one's Python.

    python llama_cpp.py FILE.gguf < ASKED.json

prints the tokens of the texts, the greedy tokens after the prompt with the log-probabilities of the
likeliest ones at each, and the conversations as the file's chat template writes them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

PYTHON = os.environ.get("AZR_MLX_TEST_LLAMA_CPP", sys.executable)
TOP = 5


def ask(
    file: Path,
    texts: list[str],
    prompt: list[int],
    count: int,
    chats: Iterable[Any] = (),
    without: Iterable[int] = (),
) -> Any:
    """The answers of llama.cpp, without some tokens: it says nothing of bytes that are no whole
    character. Skips the test if its binding is not installed."""
    import pytest  # which the other environment may not have

    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if subprocess.run([PYTHON, "-c", "import xllamacpp"], env=bare, capture_output=True).returncode:
        pytest.skip("needs xllamacpp here, or in the environment of AZR_MLX_TEST_LLAMA_CPP=PYTHON")
    asked = {"texts": texts, "prompt": prompt, "count": count, "chats": list(chats)}
    asked["without"] = list(without)
    done = subprocess.run(
        [PYTHON, __file__, str(file)],
        input=json.dumps(asked),
        env=bare,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def difference(found: Any, logits: np.ndarray, without: Iterable[int] = ()) -> float:
    """The largest difference of a log-probability of llama.cpp's to these logits [steps,
    vocabulary], or by how much a greedy token is less likely here than the likeliest."""
    shifted = logits - logits.max(-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    assert len(found["answer"]) == len(logp)
    apart = [
        abs(step_logp[int(token)] - value)
        for step_logp, likeliest in zip(logp, found["likeliest"], strict=True)
        for token, value in likeliest.items()
    ]
    logp[:, list(without)] = -np.inf
    worse = [step.max() - step[token] for step, token in zip(logp, found["answer"], strict=True)]
    return float(max(*apart, *worse))


def _main(file: str) -> None:
    import xllamacpp

    asked = json.load(sys.stdin)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 512, 1, False
    parameters.cpuparams.n_threads = 1
    parameters.port = 0
    server = xllamacpp.Server(parameters)

    def post(place: str, value: Any) -> Any:
        request = urllib.request.Request(
            server.listening_address + place,
            json.dumps(value).encode(),
            {"Content-Type": "application/json"},
        )
        return json.load(urllib.request.urlopen(request))

    options = {"temperature": 0.0, "n_probs": TOP, "ignore_eos": True, "return_tokens": True}
    answer = post(
        "/completion",
        {
            "prompt": asked["prompt"],
            "n_predict": asked["count"],
            "logit_bias": [[token, False] for token in asked["without"]],
            **options,
        },
    )
    found = {
        "tokens": [
            post("/tokenize", {"content": text, "add_special": True, "parse_special": True})[
                "tokens"
            ]
            for text in asked["texts"]
        ],
        "answer": answer["tokens"],
        "likeliest": [
            {str(one["id"]): one["logprob"] for one in step["top_logprobs"]}
            for step in answer["completion_probabilities"]
        ],
        "chats": [post("/apply-template", {"messages": chat})["prompt"] for chat in asked["chats"]],
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1])
