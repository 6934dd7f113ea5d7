"""Loading a transformers model for training, on the right device and in the right number format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging

from azr_mlx.config import Quantization
from azr_mlx.errors import UsageError, first_line, install
from azr_mlx.models.folder import NO_CODE, loading, read_config


def choose_device() -> torch.device:
    """CUDA if it is available, otherwise Apple's GPU, otherwise the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def numbers(quantization: Quantization, device: torch.device) -> str:
    """The number format of the base weights."""
    if device.type != "cuda":
        return "float32"
    return {4: "NF4", 8: "int8"}.get(quantization.bits, "bfloat16")


def load(
    folder: Path, quantization: Quantization, device: torch.device
) -> tuple[Any, Any, set[int]]:
    """(model, tokenizer, tokens that end a completion) of a Hugging Face folder.

    On CUDA, ``quantization.bits`` 4 means NF4 and 8 means int8, both by bitsandbytes and with
    bfloat16 for the rest; any other number means bfloat16. On other devices weights are float32.

    Raises:
        UsageError: the folder is quantised for MLX, or bitsandbytes is not installed or does not
            work here.
    """
    _refuse_mlx(folder)
    if device.type == "cpu":
        # Otherwise several threads add up the gradients of rows that share a prompt, in any order,
        # and a resumed run would differ from one without a break.
        torch.use_deterministic_algorithms(True)
        deterministic: Any = torch.utils.deterministic
        deterministic.fill_uninitialized_memory = False  # takes time and is not needed here
    options: dict[str, Any] = {"dtype": torch.float32, **NO_CODE}
    if device.type == "cuda":
        options |= {"dtype": torch.bfloat16, **quantized(quantization.bits)}
    quiet: Any = logging.disable_progress_bar  # transformers does not type it
    quiet()
    tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    made: Any = AutoModelForCausalLM  # transformers does not type it
    with _quantising(quantization.bits):
        model = with_attention(
            lambda kind: made.from_pretrained(folder, attn_implementation=kind, **options)
        )
    if "quantization_config" not in options:
        model = model.to(device)
    without_dropout(model)
    return model, tokenizer, _eos_ids(model, tokenizer)


def check_loads(folder: Path) -> Any:
    """The tokenizer of the model in ``folder``, after its model has been built without memory for
    the weights, which are not looked at. Raises ModelError if transformers cannot load it, and
    UsageError if it is quantised for MLX."""
    _refuse_mlx(folder)
    made: Any = AutoModelForCausalLM
    with loading(folder), torch.device("meta"):
        made.from_config(AutoConfig.from_pretrained(folder, **NO_CODE), **NO_CODE)
        return AutoTokenizer.from_pretrained(folder, **NO_CODE)


def _refuse_mlx(folder: Path) -> None:
    if "quantization" in read_config(folder):
        raise UsageError(
            f"model_id: {folder}: its weights are quantised for MLX, which torch cannot read; "
            "name the model that it was made from"
        )


def with_attention(make: Callable[[str], Any]) -> Any:
    """What ``make`` returns for the name of PyTorch's attention. If the model cannot use that (it
    has sinks, or scores are capped), for its own."""
    try:
        return make("sdpa")
    except ValueError as e:
        if "scaled_dot_product_attention" not in str(e):
            raise
        return make("eager")


@contextmanager
def _quantising(bits: int) -> Iterator[None]:
    """If bitsandbytes fails in the block, raises UsageError: its code for the GPU may be missing or
    made for another CUDA, which says nothing about the model."""
    try:
        yield
    except (ImportError, RuntimeError) as e:
        if "bitsandbytes" not in str(e).lower():
            raise
        raise UsageError(
            f"quantization.bits: {bits}: bitsandbytes does not work here ({first_line(e)[:240]}); "
            f"{install('-U', 'bitsandbytes')}, or set quantization.bits=0"
        ) from e


def quantized(bits: int) -> dict[str, Any]:
    if bits not in (4, 8):
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as e:
        raise UsageError(
            f"quantization.bits: {bits}: bitsandbytes does not import ({e}); "
            f"{install('azr-mlx[torch]')}, or set quantization.bits=0"
        ) from e
    made: Any = BitsAndBytesConfig  # transformers does not type it
    if bits == 8:
        return {"quantization_config": made(load_in_8bit=True)}
    four = made(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    return {"quantization_config": four}


def _eos_ids(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a completion. As in mlx-lm, they come from the generation configuration,
    or else from the model's configuration, and from the tokenizer."""
    found = model.generation_config.eos_token_id
    found = model.config.eos_token_id if found is None else found
    several = found if isinstance(found, list) else [found]
    return {*several, tokenizer.eos_token_id} - {None}


def trunk_of(model: Any) -> Any:
    """The part of a model whose output are the hidden states that its head reads."""
    found = model.get_decoder()
    return model.model if found is model else found  # Llama 4 says that it is its own decoder


def without_dropout(model: Any) -> None:
    """Switch off the dropout that the model had in pre-training. With it, old and new
    log-probabilities in an update would come from different models."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
