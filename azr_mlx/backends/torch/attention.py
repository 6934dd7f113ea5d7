"""Attention whose heads share keys and values, without a copy of these for each head.

PyTorch's ``enable_gqa`` does that on CUDA if there is no mask, and transformers uses it then. With
a mask PyTorch would fall back to a kernel that writes all scores to memory, and transformers copies
keys and values instead. Here the queries of heads that share are laid out as if they were further
tokens of one head; the mask is repeated for them once for all layers.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from azr_mlx.backends.torch.model import trunk_of

Tensor = torch.Tensor
NAME = "azr_mlx_grouped"


def use_grouped(model: Any) -> None:
    """Let a model's layers compute their attention here, if their heads share keys and values and
    scores are not capped."""
    config = trunk_of(model).config
    shared = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if shared == config.num_attention_heads or getattr(config, "attn_logit_softcapping", None):
        return
    AttentionInterface.register(NAME, grouped)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME


def heads_together(config: Any) -> int:
    """How many heads share keys and values, and with them the rows of a mask; 1 if the model does
    not compute its attention here."""
    if config._attn_implementation != NAME:
        return 1
    return int(config.num_attention_heads) // int(config.num_key_value_heads)


def added(mask: Tensor, config: Any, dtype: torch.dtype) -> Tensor:
    """A mask [n, 1, T, S] as numbers to be added to the scores, for all heads that share,
    [n, 1, heads x T, S]. Given as it is, PyTorch's attention would make these numbers anew in each
    layer. In a step of one token they are the same for all heads already.

    Attention of a model's own gets the mask as it is.
    """
    if config._attn_implementation not in (NAME, "sdpa"):
        return mask
    numbers = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
    heads = heads_together(config)
    return numbers if heads == 1 or mask.shape[2] == 1 else numbers.repeat(1, 1, heads, 1)


def grouped(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of ``query`` [n, H, T, D] on ``key`` and ``value`` [n, G, S, D], with a mask of
    ``added``. Returns ([n, T, H, D], None), as transformers expects."""
    rows, heads, tokens, width = query.shape
    if attention_mask is None:
        whole: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return whole
    found = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], -1, width),
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=options.get("dropout", 0.0),
        scale=options.get("scaling"),
    )
    return found.reshape(rows, heads, tokens, -1).transpose(1, 2).contiguous(), None
