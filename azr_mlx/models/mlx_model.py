"""An mlx-lm model in memory: loading it, dequantising it, and adding adapters."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from azr_mlx.errors import WRONG_VALUES, ModelError, UsageError, pass_on
from azr_mlx.models import adapters as adapter_files
from azr_mlx.models.folder import (
    NO_CODE,
    check_for_mlx,
    link_folder,
    loading,
    read_config,
    tensor_names,
)
from azr_mlx.run_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS


class Opened(NamedTuple):
    """A model ready for inference, its tokenizer, and its config.json."""

    model: Any
    tokenizer: Any
    config: dict[str, Any]


def open_model(
    folder: Path, adapters: Path | None = None, *, name: str = "", dense: bool | None = None
) -> Opened:
    """The model in ``folder``, with the adapters in the folder ``adapters``.

    With ``dense``, weights are dequantised to float32. None does so if MLX computes on a CPU, where
    decoding with quantised or half-precision weights is several times slower. Messages call the
    model ``name``. What mlx-lm prints goes to stderr.

    Raises:
        ModelError: the model cannot be loaded.
        UsageError: the adapters do not fit it.
    """
    import mlx.core as mx
    from mlx_lm.utils import load

    if dense is None:
        dense = mx.default_device() != mx.gpu
    check_for_mlx(folder)
    with loading(name or folder), redirect_stdout(sys.stderr):
        opened = Opened(*load(str(folder), NO_CODE, return_config=True, lazy=dense))
    if dense:
        opened = opened._replace(model=to_float32(opened.model))
    if adapters is not None:
        attach(opened.model, adapters)
    opened.model.eval()
    return opened


def check_loads(folder: Path) -> Any:
    """The tokenizer of the model in ``folder``, after its model has been built as it will be when
    it is loaded or converted. Of the weights only names and shapes are looked at: MLX reads an
    array when it is first used. Raises ModelError if mlx-lm cannot load the model."""
    from mlx_lm.utils import load

    with tempfile.TemporaryDirectory() as made:
        link_folder(folder, Path(made))
        check_for_mlx(folder)
        with loading(folder), redirect_stdout(sys.stderr):
            return load(made, NO_CODE, lazy=True)[1]


def check_architecture(folder: Path, name: str) -> None:
    """Raise ModelError if mlx-lm does not have the architecture that config.json in ``folder``
    names. Nothing else need be there. Messages call the model ``name``."""
    from mlx_lm.utils import load_model

    config = read_config(folder)
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"model {name!r}: config.json has no model_type", "fetch it again")
    try:
        with loading(name), redirect_stdout(sys.stderr):
            load_model(folder, lazy=True, strict=False)
    except ModelError as error:
        # Without weights an architecture that is known may fail, too.
        if "not supported" in str(error):
            raise


def to_float32(model: Any) -> Any:
    """Dequantise the model in place, without rounding: scales are made float32 before they
    multiply."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import dequantize_model

    def widen(array: mx.array) -> mx.array:
        return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array

    model.update(tree_map(widen, model.parameters()))
    return dequantize_model(model)


def rows_of(model: Any) -> int:
    """How many tokens the model has an embedding for; 0 if it has no embedding, as anything else
    that writes text."""
    import mlx.nn

    nn: Any = mlx.nn  # which does not type its layers
    kinds = (nn.Embedding, nn.QuantizedEmbedding)
    modules: Any = getattr(model, "named_modules", list)()
    found = [one.weight.shape[0] for _, one in modules if isinstance(one, kinds)]
    return max(found, default=0)


def check_tokens(tokenizer: Any, rows: int, *texts: Sequence[int]) -> None:
    """Raise ModelError if a text has a token for which the model has no row: MLX would read what
    lies behind its embedding. A tokenizer to which tokens were added has such."""
    largest = max((max(ids) for ids in texts if ids), default=0)
    if rows and largest >= rows:
        raise ModelError(
            f"the tokenizer writes token {largest} ({tokenizer.decode([largest])!r}), and the "
            f"model has {rows} rows",
            "take the tokenizer that came with these weights",
        )


def attach(model: Any, path: Path) -> None:
    """Add adapters to the model. mlx-lm's ``load_adapters`` is not used, because before 0.32 it
    silently ignores what does not fit.

    Raises UsageError if the adapters in the folder ``path`` are damaged or do not fit.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    try:
        config = adapter_files.read(path)
        kind = config.fine_tune_type
        if kind != "full":
            linear_to_lora_layers(
                model, config.num_layers, config.parameters, use_dora=kind == "dora"
            )
        new = read_arrays(path / ADAPTER_WEIGHTS)
        if not new:
            raise ValueError("it holds no weights")
        if unfit := [name for name, array in new.items() if not mx.isfinite(array).all().item()]:
            raise ValueError(f"{unfit[0]} has weights that are not finite numbers")
        leaves: Any = tree_flatten(model.parameters())
        own = dict(leaves) if kind == "full" else adapter_weights(model)
        wrong = [k for k, v in new.items() if k not in own or v.shape != own[k].shape]
        if wrong:
            raise ValueError(
                f"no place for {wrong[0]} ({len(wrong)} of {len(new)} tensors do not fit)"
            )
        model.load_weights(list(new.items()), strict=False)
    except ModelError as error:
        raise UsageError(f"--adapter-path: {error}") from error
    except (OSError, RuntimeError, *WRONG_VALUES) as error:
        pass_on(error)
        lacks = f"{ADAPTER_CONFIG} has no {error}" if isinstance(error, KeyError) else ""
        why = lacks or " ".join(str(error).split())[:300]
        raise UsageError(
            f"--adapter-path: {path}: does not fit the model: {why}; "
            "give adapters that were trained on this model"
        ) from error


def read_arrays(file: Path) -> dict[str, Any]:
    """The arrays in a safetensors file, in memory. Raises ModelError if the file is damaged.

    MLX believes the header and reads the arrays when they are first used. So the header is checked
    before, and the file may change afterwards.
    """
    import mlx.core as mx

    tensor_names(file)
    arrays: Any = mx.load(str(file), format="safetensors")
    mx.eval(arrays)
    return dict(arrays)


def adapter_weights(model: Any) -> dict[str, Any]:
    """The model's adapter arrays, which mlx-lm names lora_a, lora_b and m."""
    from mlx.utils import tree_flatten

    leaves: Any = tree_flatten(model.parameters())
    return {k: v for k, v in leaves if k.rsplit(".", 1)[-1] in ("lora_a", "lora_b", "m")}
