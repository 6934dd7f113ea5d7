"""Loading a transformers model for training, on the right device and in the right number format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging

from azr_mlx.backends.model_backend import unsupported
from azr_mlx.config import Quantization
from azr_mlx.errors import AzrError, UsageError
from azr_mlx.models.folder import read_config

PROBE = [[1, 2, 3]]


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
        UsageError: the folder is quantised for MLX, or bitsandbytes is not installed.
        AzrError: the model cannot be trained here.
    """
    if "quantization" in read_config(folder):
        raise UsageError(
            f"model_id: {folder}: its weights are quantised for MLX, which torch cannot read; "
            "name the model that it was made from"
        )
    if device.type == "cpu":
        # Otherwise several threads add up the gradients of rows that share a prompt, in any order,
        # and a resumed run would differ from one without a break.
        torch.use_deterministic_algorithms(True)
        deterministic: Any = torch.utils.deterministic
        deterministic.fill_uninitialized_memory = False  # takes time and is not needed here
    options: dict[str, Any] = {"dtype": torch.float32}
    if device.type == "cuda":
        options = {"dtype": torch.bfloat16, **quantized(quantization.bits)}
    quiet: Any = logging.disable_progress_bar  # transformers does not type it
    quiet()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", **options)
    if "quantization_config" not in options:
        model = model.to(device)
    check(model)
    without_dropout(model)
    return model, tokenizer, _eos_ids(model, tokenizer)


def quantized(bits: int) -> dict[str, Any]:
    if bits not in (4, 8):
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as e:
        raise UsageError(
            f"quantization.bits: {bits}: bitsandbytes does not import ({e}); "
            "pip install 'azr-mlx[torch]', or set quantization.bits=0"
        ) from e
    made: Any = BitsAndBytesConfig  # transformers does not type it
    if bits == 8:
        return {"quantization_config": made(load_in_8bit=True)}
    four = made(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    return {"quantization_config": four}


def _eos_ids(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a completion. As in mlx-lm, they come from the generation configuration,
    or else from the model's configuration, or else from the tokenizer."""
    found = model.generation_config.eos_token_id
    found = model.config.eos_token_id if found is None else found
    found = tokenizer.eos_token_id if found is None else found
    return set(found) if isinstance(found, list) else {found}


def without_dropout(model: Any) -> None:
    """Switch off the dropout that the model had in pre-training. With it, old and new
    log-probabilities in an update would come from different models."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def check(model: Any) -> None:
    """Raise AzrError if the head is more than a matrix, or if a layer does not keep plain keys and
    values of all tokens."""
    window = getattr(model.config, "sliding_window", None)
    if window and getattr(model.config, "use_sliding_window", True):
        raise _unsupported(model, f"has a sliding window of {window} tokens")
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise _unsupported(model, f"has layers of type {', '.join(sorted(kinds))}")
    probe = torch.tensor(PROBE, device=model.device)
    with torch.no_grad():
        whole = model(input_ids=probe).logits
        hidden = model.get_decoder()(input_ids=probe).last_hidden_state
        parts = hidden @ model.get_output_embeddings().weight.T
    if not torch.allclose(whole, parts, rtol=1e-3, atol=1e-3):
        raise _unsupported(model, "has a head that is more than a matrix")


def _unsupported(model: Any, why: str) -> AzrError:
    return unsupported(model.config.model_type, why)
