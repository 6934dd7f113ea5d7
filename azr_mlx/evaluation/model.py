"""The model that is evaluated: loads it with its adapters, and identifies it by hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from azr_mlx.config import Lora, Quantization
from azr_mlx.evaluation.protocol import Subject
from azr_mlx.models.adapters import read_lora
from azr_mlx.models.folder import read_config
from azr_mlx.run_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from azr_mlx.backends.base import Backend

# How many answers are decoded at once, and of how many tokens they keep keys and values at least:
# 3.6 GB for Qwen3-4B in 16 bits. Short answers go many at once, which is faster; long ones fit.
ROWS, KV_TOKENS = 128, 24_576

# The files of a model's folder on which its answers depend.
DECISIVE = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*", "*.jinja")
_BLOCKS, _BLOCK = 16, 1 << 16  # what is hashed of a weights file: blocks, and bytes of each


def open_model(
    model: str,
    adapter_path: Path | None,
    quantization: Quantization,
    backend_name: str = "auto",
    room: Callable[[Path, str], int] = lambda folder, backend: 0,
) -> tuple[Backend, Subject]:
    """The backend with the adapters loaded, and what it is: source, revision, quantisation, hashes.
    ``room`` says of how many tokens keys and values have room beside the model in a folder.

    Raises:
        UsageError: there is no such model, or the adapters are missing or belong to another model.
    """
    from azr_mlx.backends.select import choose, load_adapters, open_backend, resolve_model

    lora = None if adapter_path is None else read_lora(adapter_path)
    engine, _ = choose(backend_name)
    found = resolve_model(engine, model, quantization, adapter_path)
    backend = open_backend(
        engine,
        found.path,
        lora or Lora(rank=1),
        quantization,
        max_rows=ROWS,
        kv_tokens=max(KV_TOKENS, room(found.path, engine)),
    )
    adapter = adapter_sha256 = ""
    if adapter_path is not None:
        load_adapters(backend, adapter_path, "--adapter-path")
        adapter, adapter_sha256 = str(adapter_path), adapters_fingerprint(adapter_path)
    stored = read_config(found.path).get("quantization") or {}
    bits = f", {stored['bits']}-bit in groups of {stored['group_size']}" if "bits" in stored else ""
    if engine == "torch":
        bits = f", {backend.numbers} in torch"
    name = found.source + (f"@{found.revision}" if found.revision else "") + bits
    files = sorted(file for way in DECISIVE for file in found.path.glob(way))
    numbers = backend.numbers if engine == "torch" else ""
    return backend, Subject(name, fingerprint(*files, also=numbers), adapter, adapter_sha256)


def adapters_fingerprint(folder: Path) -> str:
    """The hash of adapters: of their weights, and of what these are multiplied with."""
    return fingerprint(folder / ADAPTER_WEIGHTS, folder / ADAPTER_CONFIG)


def fingerprint(*files: Path, also: str = "") -> str:
    """A hash that identifies weights and what belongs to them: of each file's name, size and 16
    blocks spread over it.

    Training moves every weight, so the blocks are as good as the whole file, and take milliseconds.
    """
    digest = hashlib.sha256(also.encode())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as f:
            for block in range(_BLOCKS):
                f.seek(block * max(size - _BLOCK, 0) // (_BLOCKS - 1))
                digest.update(f.read(_BLOCK))
    return digest.hexdigest()
