"""Tokens that end a turn or a text, by their names as in llama.cpp (``special_eog_ids`` in
src/llama-vocab.cpp)."""

from __future__ import annotations

from collections.abc import Sequence

ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "[e~[",
    # The ends of a hole that is filled in, of a file and of a repository.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
)
# These are control tokens even if the file says something else. </s> is not: in the vocabulary of a
# model of code it may be a tag of HTML.
CONTROL_NAMES = frozenset(
    (
        *(name for name in ENDS if name != "</s>"),
        *(f"<|fim_{part}|>" for part in ("prefix", "suffix", "middle")),
        *(f"<fim-{part}>" for part in ("prefix", "suffix", "middle")),
        *(f"<fim_{part}>" for part in ("prefix", "suffix", "middle")),
        *(f"<{part}>" for part in ("PRE", "SUF", "MID")),
    )
)
# With all of the first, the second ends a message within a turn.
_WITHIN = (
    (("<|return|>", "<|call|>"), "<|end|>"),
    (("<|calls|>", "<|flush|>"), "<|end|>"),
    (("<|tool_response>",), "</s>"),
)


def turn_ends(tokens: Sequence[str], named: Sequence[int]) -> list[int]:
    """The ids of all tokens that end a turn: ``named``, those of the metadata, first."""
    ids = {token: index for index, token in enumerate(tokens) if token in ENDS}
    inner = {name for all_of, name in _WITHIN if set(all_of) <= ids.keys()}
    by_name = [ids[name] for name in ENDS if name in ids]
    within = {ids[name] for name in inner if name in ids}
    return [end for end in dict.fromkeys((*named, *by_name)) if end not in within]
