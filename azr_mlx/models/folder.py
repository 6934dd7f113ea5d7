"""Checking what a model's folder holds, and making a folder that mlx-lm reads correctly."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from math import prod
from pathlib import Path
from typing import Any

from azr_mlx.config import MODES, Quantization
from azr_mlx.errors import (
    WRONG_VALUES,
    AzrError,
    ModelError,
    ModelUsageError,
    first_line,
    no_room,
    pass_on,
)
from azr_mlx.files import Unreadable, has_mark, read_json, whole_folder
from azr_mlx.models.cache import VARIABLE
from azr_mlx.models.config_keys import missing_keys
from azr_mlx.run_folder import ADAPTER_CONFIG, CHECKPOINTS

MOST_LAYERS = 10_000
INDEX = "model.safetensors.index.json"
MISTRALS = "consolidated.safetensors"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_LARGEST_POINTER = 1024  # bytes
_BLOCK = 1 << 14  # bytes
DTYPES = ("float16", "bfloat16", "float32")
KINDS = "give a folder with config.json and model*.safetensors, a .gguf file or a hub repository"
# The methods of other programs whose weights mlx-lm reads.
_METHODS = (
    *("awq", "bitnet", "compressed-tensors", "fp8", "gptq", "modelopt", "mxfp4", "mxfp8"),
    *("affine", "nvfp4"),
)
# How the names of tokenizers' files begin.
_TOKENIZERS = ("tokenizer.", "vocab.", "merges.", "spiece.", "sentencepiece.", "tekken.", "qwen.")


def check_folder(folder: Path) -> None:
    """Raise ModelError if ``folder`` does not hold a model. The message says what is wrong."""
    names = sorted(path.name for path in folder.iterdir())
    ggufs = [name for name in names if name.endswith(".gguf")]
    where = f"model folder {str(folder)!r}"
    if ADAPTER_CONFIG in names and "config.json" not in names:
        raise ModelError(
            f"{where} holds LoRA adapters", "name the base model, and pass it as --adapter-path"
        )
    if CHECKPOINTS in names and "config.json" not in names:
        raise ModelError(
            f"{where} is a training run, not a model", f"pass it as --adapter-path {folder}"
        )
    if ggufs and "config.json" not in names:
        raise ModelError(
            f"{where} has a GGUF file but no config.json", f"name {folder / _main_gguf(ggufs)}"
        )
    if "config.json" not in names:
        raise ModelUsageError(f"{where} has no config.json", _nearest_inside(folder))
    _check_weights(folder, names)
    if not any(name.startswith(_TOKENIZERS) or name.endswith(".tiktoken") for name in names):
        raise ModelError(
            f"{where} has no tokenizer (for example tokenizer.json)", "copy that of its base model"
        )
    config = read_config(folder)
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{folder / 'config.json'} has no model_type", "fetch it again")
    if config.get("model_file") is not None:
        # mlx-lm before 0.32 runs this code without asking.
        raise ModelError(
            f"{where} comes with its own code ('model_file' in config.json), which is never run",
            "name a model whose architecture mlx-lm supports",
        )
    _check_tokenizer(folder / "tokenizer_config.json")


def _check_weights(folder: Path, names: list[str]) -> None:
    """Raise ModelError if weights are missing, or if git has fetched only a note about a file."""
    where = f"model folder {str(folder)!r}"
    for name in names:
        if _is_pointer(folder / name):
            raise ModelError(
                f"{folder / name} is only git-lfs's pointer to the file",
                "run `git lfs pull` in its folder, or fetch it with `hf download`",
            )
    lost, all_parts = _lost_parts(folder)
    if lost:
        raise ModelError(
            f"{where} lacks {len(lost)} of its {all_parts} files of weights ({lost[0]})",
            "fetch them: `hf download` goes on where it stopped",
        )
    if any(name.startswith("model") and name.endswith(".safetensors") for name in names):
        return
    if (folder / MISTRALS).exists():
        raise ModelError(
            f"{where} has no model*.safetensors, only {MISTRALS}, which is Mistral's own format",
            "fetch the repository's files for transformers",
        )
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        raise ModelError(
            f"{where} has no model*.safetensors, but a GGUF file",
            f"name {folder / _main_gguf(ggufs)}",
        )
    others = (".bin", ".pt", ".pth", ".safetensors")
    held = next((name for name in names if name.endswith(others)), None)
    raise ModelError(
        f"{where} has no model*.safetensors{f', only {held}' if held else ''}",
        "save it with save_pretrained(..., safe_serialization=True)",
    )


def _main_gguf(names: list[str]) -> str:
    """Of the GGUF files of a folder the first that is not the part of a model that sees."""
    return next((name for name in names if not name.startswith("mmproj")), names[0])


def _is_pointer(file: Path) -> bool:
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST_POINTER:
            return False
        return file.read_bytes().startswith(b"version https://git-lfs")
    except OSError:
        return False


def _lost_parts(folder: Path) -> tuple[list[str], int]:
    """The files with weights that the index names, but no file holds; and how many it names. An
    index of more files than there are may have stayed from before they were made one."""
    try:
        parts = read_json(folder / INDEX)["weight_map"]
        named = {str(file) for file in parts.values()}
        away = {file for file in named if not (folder / file).is_file()}
        if not away:
            return [], len(named)
        held = {name for path in weight_files(folder) for name in tensor_names(path)}
    except (OSError, ModelError, *WRONG_VALUES):
        return [], 0  # no index, or what is wrong is said when it is loaded
    return sorted({str(f) for n, f in parts.items() if f in away and n not in held}), len(named)


def _check_tokenizer(file: Path) -> None:
    """What transformers takes and then fails on. Other faults it tells itself."""
    try:
        row = read_json(file)
    except (OSError, Unreadable):
        return
    longest = row.get("model_max_length") if isinstance(row, dict) else None
    if isinstance(longest, str):
        raise ModelError(
            f"{file}: model_max_length: {longest!r}: is a text, not a number",
            "write the number without quotation marks",
        )


def is_mlx_folder(folder: Path) -> bool:
    """Whether the folder is in MLX's format: quantised by MLX, or marked in the metadata of its
    safetensors files."""
    if "quantization" in read_config(folder):
        return True
    return any(_metadata(path).get("format") == "mlx" for path in weight_files(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of config.json. Raises ModelError if it is not a JSON object."""
    try:
        config = read_json(folder / "config.json")
    except (OSError, Unreadable) as error:
        raise ModelError(
            f"{folder / 'config.json'} cannot be read: {first_line(error)}", "fetch it again"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is not a JSON object", "fetch it again")
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MOST_LAYERS:  # all of them would be made first
        raise ModelError(
            f"{folder / 'config.json'}: num_hidden_layers: {layers}: is more than {MOST_LAYERS}",
            "fetch it again",
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def tensor_names(path: Path) -> frozenset[str]:
    """The names of the tensors in a safetensors file. Raises ModelError if it is damaged."""
    with _header(path) as header:
        return frozenset(header.keys())


def tensor_sizes(path: Path) -> list[tuple[str, int]]:
    """(type, number of elements) of each tensor in a safetensors file. Raises ModelError if it is
    damaged."""
    with _header(path) as header:
        slices = [header.get_slice(name) for name in header.keys()]  # noqa: SIM118
        return [(one.get_dtype(), prod(one.get_shape())) for one in slices]


def _metadata(path: Path) -> dict[str, str]:
    with _header(path) as header:
        return dict(header.metadata() or {})


@contextmanager
def _header(path: Path) -> Iterator[Any]:
    """The header of a safetensors file, which is held against the file's size."""
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file: {first_line(error)}", "fetch it again"
        ) from error
    with opened as header:
        yield header


# What the tokenizers of downloaded models are loaded with; by default transformers would ask.
NO_CODE = {"trust_remote_code": False}


# What mlx-lm says of a format that it does not have, or of the tensors that such a format adds.
_QUANTISED = re.compile(
    r"not in model:.*(_scale|\.scales|absmax|qweight|qzeros|\.SCB)|compressed-tensors format"
    r"|quant_algo|'quant_method'|g_idx",
    re.DOTALL,
)


def check_for_mlx(folder: Path | str) -> None:
    """Raise ModelError if mlx-lm would load the model, but compute another one. What cannot be read
    is left to the loading."""
    try:
        config = read_config(Path(folder))
    except ModelError:
        return
    how = config.get("quantization_config")
    method = how.get("quant_method") if isinstance(how, dict) else None
    if "quantization" not in config and isinstance(method, str) and method not in _METHODS:
        raise ModelError(
            f"model {str(folder)!r}: its weights are quantised by {method}, which MLX does not "
            "read",
            "take the model that it was made from",
        )
    rope = config.get("rope_parameters")
    share = config.get("partial_rotary_factor") or (
        rope.get("partial_rotary_factor") if isinstance(rope, dict) else None
    )
    if config.get("model_type") == "glm" and share not in (None, 1, 1.0):
        raise ModelError(
            f"model {str(folder)!r}: mlx-lm ignores its partial_rotary_factor, {share}",
            "train it with --backend torch, or take a glm4",
        )


@contextmanager
def loading(folder: Path | str) -> Iterator[None]:
    """Within the block, turn what a library raises if it cannot load a model into a ModelError of
    one line."""
    try:
        yield
    except AzrError:
        raise
    except SystemExit as error:  # of a module of mlx-lm that lacks a package
        raise ModelError(
            f"model {str(folder)!r} cannot be loaded: its architecture needs another package",
            "install what is named above, or take a model of another architecture",
        ) from error
    except Exception as error:  # a damaged file raises anything, also classes of its own
        pass_on(error)
        if no_room(error):
            raise
        fix = "fetch or convert it again"
        if _QUANTISED.search(str(error)):
            error = ValueError("its weights are quantised in a way that MLX does not read")
            fix = "take the model that it was made from"
        if "not supported" in str(error):
            fix = "take a model of another architecture"
        if "trust_remote_code" in str(error):
            error = ValueError("it comes with code of its own, which is never run")
            fix = "take a model without such code"
        raise ModelError(f"model {str(folder)!r} cannot be loaded: {_flat(error)}", fix) from error


def _flat(error: BaseException) -> str:
    """The error's message in one short line, with its type if the message alone says little."""
    text = " ".join(str(error).split()).rstrip(".")[:240]
    plain = isinstance(error, OSError | RuntimeError | ValueError) and text
    return text if plain else f"{type(error).__name__}: {text}"


def completed_config(folder: Path) -> tuple[dict[str, Any], bool]:
    """config.json with the keys that mlx-lm needs, and whether it has to be written again: a key
    was added, or the file has a byte order mark, which mlx-lm does not read."""
    config = read_config(folder)
    files = {name: path for path in weight_files(folder) for name in tensor_names(path)}
    missing = missing_keys(config, set(files))
    if config.get("tie_word_embeddings") and _has_own_head(files):
        missing["tie_word_embeddings"] = False
    return {**config, **missing}, bool(missing) or has_mark(folder / "config.json")


def _has_own_head(files: Mapping[str, Path]) -> bool:
    """Whether there is a head beside the embedding, and it is another matrix. transformers 5 takes
    it then, whatever the flag says; mlx-lm would drop it. ``files`` are those of all tensors."""
    if HEAD not in files or EMBEDDING not in files:
        return False
    one, other = (_parts_of(files[name], name) for name in (HEAD, EMBEDDING))
    return one[0] == other[0] and one != other  # quantised, they may have different types


def _parts_of(file: Path, name: str) -> list[bytes]:
    """The type and the shape of a tensor, and 16 blocks spread over its bytes: training moves all
    of them."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        entry = json.loads(opened.read(length))[name]
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        found = [json.dumps([entry["dtype"], entry["shape"]]).encode()]
        for block in range(16):
            opened.seek(start + block * max(end - start - _BLOCK, 0) // 15)
            found.append(opened.read(min(_BLOCK, end - start)))
    return found


def link_folder(folder: Path, target: Path) -> None:
    """Fill ``target`` with links to the files of ``folder``, and with a config.json complete for
    mlx-lm."""
    config, _ = completed_config(folder)
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file() and path.name != "config.json":
            (target / path.name).symlink_to(path.resolve())
    (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


@contextmanager
def filling(target: Path) -> Iterator[Path]:
    """As ``whole_folder``, for a model. Raises ModelError, too, if the disk is full."""
    with whole_folder(target) as work:
        try:
            yield work
        except (OSError, RuntimeError) as error:
            if not no_room(error):
                raise
            raise ModelError(
                f"the model cannot be written to {target.parent}: {first_line(error)}",
                f"make room, or choose another folder ({VARIABLE} names that of the cache)",
            ) from error


def convert_folder(
    folder: Path, target: Path, quantization: Quantization, dtype: str | None
) -> None:
    """Convert a Hugging Face folder into the MLX folder ``target``, which must not exist yet.

    mlx-lm converts, and what it prints goes to stderr. ``bits`` 0 means no quantisation. Raises
    ModelError, and then leaves no incomplete folder.
    """
    from mlx_lm.convert import convert

    with filling(target) as work, tempfile.TemporaryDirectory() as staging:
        link_folder(folder, Path(staging))
        with loading(folder), redirect_stdout(sys.stderr):
            check_for_mlx(folder)
            convert(
                staging,
                mlx_path=str(work),
                quantize=quantization.bits > 0,
                q_group_size=quantization.group_size,
                q_bits=quantization.bits,
                q_mode=quantization.mode,
                dtype=dtype,
            )


def check_quantization(quantization: Quantization, dtype: str | None = None) -> None:
    """Raise ModelError if MLX does not have this quantisation or this type."""
    mode, bits, group = quantization.mode, quantization.bits, quantization.group_size
    if dtype is not None and dtype not in DTYPES:
        raise ModelUsageError(f"dtype {dtype!r} is not known", f"take one of {', '.join(DTYPES)}")
    if mode not in MODES:
        raise ModelUsageError(
            f"quantization.mode {mode!r} is not known", f"take one of {', '.join(MODES)}"
        )
    known = MODES[mode]
    if bits == 0 or (bits in known.widths and group in known.groups):
        return
    if mode != "affine":
        raise ModelUsageError(
            f"quantization.mode {mode} is {known.bits} bits in groups of {known.group_size}",
            f"not {bits} in {group}",
        )
    raise ModelUsageError(
        f"MLX has no quantization of {bits} bits in groups of {group}",
        "take 2, 3, 4, 5, 6 or 8 bits (0: none) in groups of 32, 64 or 128",
    )


def _nearest_inside(folder: Path) -> str:
    ways = ("*/config.json", "snapshots/*/config.json")  # the second is the hub's cache
    found = [path for way in ways for path in sorted(folder.glob(way))]
    inside = next((path.parent for path in found), None)
    return f"did you mean {inside}?" if inside else KINDS
