"""``azr-mlx export``: write a trained model for other programs. Either a whole model with the
adapters fused into it, for transformers (``hf``), mlx-lm (``mlx``) or llama.cpp (``gguf``), or only
the adapters in PEFT's layout (``peft``).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from azr_mlx import run_folder
from azr_mlx.config import Quantization
from azr_mlx.errors import WRONG_VALUES, AzrError, ModelError, UsageError, first_line
from azr_mlx.files import read_rows, whole_folder
from azr_mlx.models import adapters as adapter_files
from azr_mlx.models.adapters import as_it_is, base_of, place_of_base, quantization_of
from azr_mlx.models.folder import NO_CODE, check_quantization, read_config
from azr_mlx.models.hub import hub_snapshot
from azr_mlx.models.locate import ResolvedModel, check_hub_name, package_file, resolve
from azr_mlx.models.measure import Text, float_dtype, logprobs
from azr_mlx.models.mlx_model import open_model, read_arrays
from azr_mlx.run_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_folder, run_of

MEASURED_ROLLOUTS = 32

PEFT_WEIGHTS = "adapter_model.safetensors"
_WRAPPED = "language_model."  # how mlx-lm's names begin in a model that can also see
_NAMES = {"lora_a": "lora_A", "lora_b": "lora_B"}


@dataclass(frozen=True, slots=True)
class Fused:
    """A model with its adapters fused: the folder or file, its base as ``kind:identity``, the type
    of its weights, mlx-lm's quantisation (None: none) and the files' size. ``logp_change_*`` say
    what fusing, and writing the weights in that type, changed: |log-probability after - before| in
    nats per token, over the ``measured_tokens`` tokens of ``measured_on``.
    """

    path: Path
    model: str
    dtype: str
    quantization: dict[str, Any] | None
    bytes: int
    logp_change_mean: float
    logp_change_max: float
    measured_tokens: int
    measured_on: str


class Rearranged(ValueError):
    """A model whose weights transformers could not read."""


def to_model(
    adapters: Path,
    out: Path,
    *,
    to: str = "hf",
    model: str | None = None,
    dtype: str | None = None,
    asked: str = "--to",
) -> Fused:
    """Fuse adapters into the model that they were trained on, in the folder ``out``.

    With ``to`` "hf" the weights are dense, float32 if no ``dtype`` is given, and have the names
    that transformers uses. With "mlx" they are quantised as the base is; rounding the sum again
    loses some of what was learned. ``model`` is needed if the adapters do not name their base.
    ``asked`` is the option by which ``to`` was chosen.

    Raises:
        UsageError: there are no such adapters, ``out`` exists, or the model has no such export.
        ModelError: the base is not available, or the folder cannot be written.
    """
    check_quantization(Quantization(bits=0), dtype)
    source, base = _sources(adapters, out, model)
    texts, measured_on = _measured(source)
    before = logprobs(base.path, texts, adapters=source)
    with whole_folder(out) as work:
        try:
            with _writing(out):
                config, written = _write(base, source, work, to, dtype)
        except Rearranged as error:
            raise UsageError(f"{asked} hf: {error}; use {asked} mlx") from error
        changes = np.abs(logprobs(work, texts) - before)
        size = _size(work)
    quantization = config.get("quantization")
    return _fused(out, base, written, quantization, size, changes, measured_on)


def to_gguf(adapters: Path, out: Path, *, kind: str = "f16", model: str | None = None) -> Fused:
    """Fuse adapters into the model that they were trained on, as one GGUF file with matrices of
    type ``kind`` ("f16", "q8_0" or "q4_0") in the folder ``out``, and a Modelfile for Ollama.

    The file is read back: it has to describe the same model and the same tokenizer, and what is
    measured is the model that it holds. ``model`` is needed if the adapters do not name their base.

    Raises:
        UsageError: there are no such adapters, ``out`` exists, or there is no such type.
        ModelUsageError: llama.cpp has no such model or tokenizer.
        ModelError: the base is not available, or the folder cannot be written.
    """
    from azr_mlx.models.gguf.writer import TYPES

    if kind not in TYPES:
        raise UsageError(f"--outtype {kind}: unknown; take one of {', '.join(TYPES)}")
    if out.suffix == ".gguf":
        raise UsageError(
            f"--out {out}: is the folder for the file and its Modelfile; leave .gguf out"
        )
    source, base = _sources(adapters, out, model)
    texts, measured_on = _measured(source)
    name = f"{out.name}-{kind.upper()}.gguf"
    with whole_folder(out) as work:
        with _writing(out):
            _write_gguf(base, source, work / name, kind, out.name)
        size = _size(work)
        before = logprobs(base.path, texts, adapters=source)
        changes = np.abs(_logprobs_of_file(work / name, texts) - before)
    return _fused(out / name, base, kind, None, size, changes, measured_on)


def _sources(adapters: Path, out: Path, model: str | None) -> tuple[Path, ResolvedModel]:
    """The folder of the adapters, and their base. Raises UsageError and ModelError."""
    source, name = adapter_folder(adapters), model or base_of(adapters)
    if not os.path.isfile(source / ADAPTER_CONFIG):
        raise UsageError(f"--adapter-path {adapters}: no adapters there; give runs/NAME")
    if os.path.lexists(out):
        raise UsageError(f"--out {out}: already exists; name another folder or remove it")
    if name is None:
        raise UsageError("--model: missing, and the adapters do not name their base model; name it")
    place, commit = place_of_base(source, name)
    quantization = quantization_of(source) or as_it_is(name)
    return source, resolve(place, quantization=quantization, revision=commit)


def _fused(
    path: Path,
    base: ResolvedModel,
    dtype: str,
    quantization: dict[str, Any] | None,
    size: int,
    changes: np.ndarray,
    measured_on: str,
) -> Fused:
    change = float(changes.mean()), float(changes.max())
    return Fused(path, base.source, dtype, quantization, size, *change, len(changes), measured_on)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _measured(adapters: Path) -> tuple[list[Text] | None, str]:
    """The texts to measure on (the last rollouts of the run, or None for the fixed text), and a
    description of them."""
    run = run_of(adapters)
    files = [] if run is None else run_folder.rollouts(run)
    if not files:
        return None, "a fixed text"
    try:
        texts = [_tokens(row) for row in islice(read_rows(files[-1]), MEASURED_ROLLOUTS)]
    except (OSError, *WRONG_VALUES) as error:
        raise AzrError(
            f"{files[-1]}: has a row that is not a rollout ({first_line(error)}); remove the file"
        ) from error
    return texts or None, f"{len(texts)} rollouts of {files[-1].stem}" if texts else "a fixed text"


def _tokens(row: Any) -> Text:
    """The tokens of a rollout's prompt and completion. Raises KeyError, TypeError or ValueError."""
    prompt, completion = row["prompt"]["token_ids"], row["completion"]["token_ids"]
    if not prompt or not all(type(token) is int and token >= 0 for token in prompt + completion):
        raise ValueError("not tokens")
    return prompt, completion


def _write(
    base: ResolvedModel, adapters: Path, work: Path, to: str, dtype: str | None
) -> tuple[dict[str, Any], str]:
    """Write the fused model. Returns its config.json and the type of its weights."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import save_config, save_model

    model, tokenizer, config = open_model(base.path, adapters, dense=to == "hf")
    if to == "hf":
        if _rearranged(model, config):
            raise Rearranged(
                f"not possible for model type {config.get('model_type')!r}, whose weights MLX "
                "keeps in another order than transformers"
            )
        config = {k: v for k, v in config.items() if not k.startswith("quantization")}
    _fuse(model)
    if dtype is not None:
        kind = getattr(mx, dtype)
        floating = lambda a: a.astype(kind) if mx.issubdtype(a.dtype, mx.floating) else a  # noqa: E731
        model.update(tree_map(floating, model.parameters()))
    written = float_dtype(model)
    config = {k: v for k, v in config.items() if k != "torch_dtype"} | {"dtype": written}
    save_model(work, model)
    save_config(config, work / "config.json")
    tokenizer.save_pretrained(work)
    for extra in base.path.glob("generation_config.json"):
        shutil.copy(extra, work)
    return read_config(work), written


def _write_gguf(base: ResolvedModel, adapters: Path, file: Path, kind: str, name: str) -> None:
    """Write the fused model and its Modelfile. Weights are read, fused and written one by one.
    Raises ModelUsageError, and OSError if the folder cannot be written."""
    from mlx.utils import tree_flatten

    from azr_mlx.models.gguf.modelfile import modelfile
    from azr_mlx.models.gguf.writer import Model, write_gguf

    model, tokenizer, _ = open_model(base.path, adapters, dense=True)
    _fuse(model)
    model = getattr(model, "language_model", model)
    leaves: Any = tree_flatten(model.parameters())
    source = Model(model.args, dict(leaves), tokenizer)
    del model, leaves
    file.parent.mkdir()
    write_gguf(source, file, kind, name)
    (file.parent / "Modelfile").write_text(modelfile(file.name, tokenizer), "utf-8")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """A block that writes the model. Raises AzrError if that fails; MLX then raises a RuntimeError
    of its own."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "[write]" not in str(error):
            raise
        raise AzrError(
            f"--out {out}: cannot be written: {first_line(error)}; make room, or choose another "
            "folder"
        ) from error


def _fuse(model: Any) -> None:
    """Put the adapters' products into the weights, in place."""
    from mlx.utils import tree_unflatten

    fused = [(n, m.fuse(dequantize=False)) for n, m in model.named_modules() if hasattr(m, "fuse")]
    model.update_modules(tree_unflatten(fused))


def _logprobs_of_file(file: Path, texts: list[Text] | None) -> np.ndarray:
    """Log-probabilities of the model in a GGUF file, with its weights as they are."""
    from azr_mlx.models.gguf import import_gguf

    read_back = file.with_name("read-back")
    try:
        import_gguf(file, read_back, Quantization(bits=0), keep_blocks=True)
        return logprobs(read_back, texts)
    finally:
        shutil.rmtree(read_back, ignore_errors=True)


def _rearranged(model: Any, config: dict[str, Any]) -> bool:
    """Whether MLX has other names or shapes for the weights than transformers: it unpacks wrappers,
    stacks experts, splits matrices by heads, and turns convolutions round."""
    from mlx.utils import tree_flatten

    leaves: Any = tree_flatten(model.parameters())
    return "text_config" in config or any(array.ndim > 2 for _, array in leaves)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the folder, the model that the adapters belong to, the number of matrices,
    their rank and PEFT's alpha."""

    path: Path
    model: str
    tensors: int
    rank: int
    alpha: float


def to_peft(adapters: Path, out: Path) -> Exported:
    """Write a run's adapters, or those in a folder of mlx-lm, to ``out`` as a PEFT adapter.

    mlx-lm adds ``scale`` x A B, with A [in, r] and B [r, out]. PEFT adds alpha / r x B A, where
    both matrices are transposed.

    Raises:
        UsageError: there are no such adapters, ``out`` exists, or they are not LoRA adapters.
        AzrError: the folder cannot be written.
    """
    source = adapter_folder(adapters)
    if os.path.lexists(out):
        raise UsageError(f"--out {out}: already exists; name another folder or remove it")
    try:
        config = adapter_files.read(source)
        arrays = _arrays(source / ADAPTER_WEIGHTS)
        rank, scale, dropout = config.rank, config.scale, config.dropout
    except (OSError, SafetensorError, *WRONG_VALUES) as e:
        why = "no such file" if isinstance(e, FileNotFoundError) else e
        raise UsageError(
            f"--adapter-path {adapters}: no LoRA adapters there ({ADAPTER_CONFIG}, "
            f"{ADAPTER_WEIGHTS}: {why}); give a run, for example runs/NAME"
        ) from e
    stacked = [k for k, a in arrays.items() if a.ndim > 2]
    if stacked:
        raise UsageError(
            f"--adapter-path {adapters}: {stacked[0]}: PEFT has no adapters for stacked experts; "
            "use --to mlx"
        )
    odd = [k for k, a in arrays.items() if k.rpartition(".")[2] not in _NAMES or a.ndim != 2]
    kind = config.fine_tune_type
    if kind != "lora" or odd:
        raise UsageError(
            f"--adapter-path {adapters}: {odd[0] if odd else kind}: not a LoRA adapter"
        )
    wrong = [k for k, a in arrays.items() if a.shape[int(k.endswith("lora_a"))] != rank]
    if wrong:
        raise UsageError(
            f"--adapter-path {adapters}: {wrong[0]} is not of rank {rank}, which {ADAPTER_CONFIG} "
            "says; take both files from one checkpoint"
        )
    alpha, model = rank * scale, config.model or ""
    if any(name.startswith(_WRAPPED) for name in arrays):
        arrays = _unwrapped(arrays, adapters, source, model)
    made = {_peft_name(k): np.ascontiguousarray(a.T) for k, a in arrays.items()}
    described = _peft_config(model, rank, alpha, dropout, list(arrays))
    try:
        with whole_folder(out) as work:
            work.mkdir()
            (work / PEFT_WEIGHTS).write_bytes(save(made, metadata={"format": "pt"}))
            (work / ADAPTER_CONFIG).write_text(json.dumps(described, indent=2) + "\n", "utf-8")
    except OSError as e:
        raise AzrError(f"--out {out}: {e}; choose a folder that can be written") from e
    return Exported(out, model, len(made), rank, alpha)


def _unwrapped(
    arrays: dict[str, np.ndarray], adapters: Path, source: Path, model: str
) -> dict[str, np.ndarray]:
    """The arrays of adapters in a wrapper of mlx-lm, under the names that transformers has for the
    same parts. Raises UsageError if it has none."""
    try:
        linear, trunk = _linear_layers(_described(source, model))
        found = {}
        for name, array in arrays.items():
            module, _, kind = name.removeprefix(_WRAPPED).rpartition(".")
            own = trunk + module.removeprefix("model") if module.startswith("model.") else module
            if array.shape[0 if kind == "lora_a" else 1] != linear[own][kind == "lora_b"]:
                raise ValueError(f"{own} has another shape there")
            found[f"{own}.{kind}"] = array
    except (ImportError, ModelError, OSError, *WRONG_VALUES) as error:
        why = f"has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise UsageError(
            f"--adapter-path {adapters}: {next(iter(arrays))}: transformers has other names for "
            f"the parts of this model, which cannot be told ({why}); use --to mlx"
        ) from error
    return found


def _described(adapters: Path, model: str) -> Path:
    """The folder with the config.json of the adapters' base; of a repository only that is
    fetched. Raises ModelError."""
    place, commit = place_of_base(adapters, model)
    if place.startswith("package:"):
        return package_file(place)
    path = Path(os.path.expanduser(place))
    if path.is_dir():
        return path
    check_hub_name(place)
    return hub_snapshot(place, commit, ("config.json",))


def _linear_layers(folder: Path) -> tuple[dict[str, tuple[int, int]], str]:
    """(inputs, outputs) of each linear layer of the model as transformers has it, and the name of
    its trunk. No weights are made. Raises ImportError without torch, and what transformers
    raises."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder, **NO_CODE)
    makers: tuple[Any, ...] = AutoModelForCausalLM, AutoModelForImageTextToText
    known = [one for one in makers if type(config) in one._model_mapping]
    if not known:
        raise ValueError(f"it has no model type {config.model_type}")
    with torch.device("meta"):
        model = known[0].from_config(config)
    trunk = model.get_decoder()
    layers = {
        name: (one.in_features, one.out_features)
        for name, one in model.named_modules()
        if isinstance(one, torch.nn.Linear)
    }
    return layers, next(name for name, one in model.named_modules() if one is trunk)


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file; those in bfloat16, which numpy does not have, in float32.
    Raises OSError, SafetensorError and ModelError."""
    try:
        return load_file(file)
    except TypeError:
        import mlx.core as mx

        return {name: np.array(a.astype(mx.float32)) for name, a in read_arrays(file).items()}


def _peft_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    return f"base_model.model.{module}.{_NAMES[kind]}.weight"


def _peft_config(
    model: str, rank: int, alpha: float, dropout: float, names: list[str]
) -> dict[str, Any]:
    modules = sorted({name.rpartition(".")[0] for name in names})
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": modules,
        "bias": "none",
        "inference_mode": True,
    }
