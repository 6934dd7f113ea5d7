"""What belongs to this machine and its user: paths, the user's name, tokens. It is taken out of
texts that are published."""

from __future__ import annotations

import getpass
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

REMOVED = "[removed]"
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "GITHUB_TOKEN")

_NAME_ENDS = r"(?![\w.-])"
# Where home folders and scratch folders of users are, on any machine: a run may have been made on
# another one.
_HOME = re.compile(
    r"(?:/private)?(?:/var)?/(?:home|Users)/[^/\s\"'`<>|:;,()\[\]{}\\&]+"
    rf"|(?:/private)?/var/folders/\w+/\w+|/root{_NAME_ENDS}"
)
# The forms that the keys of well-known services have.
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|wandb_v\d_\w{20,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}"
    r"|sk-[A-Za-z0-9_-]{20,}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|A(?:KIA|SIA)[A-Z0-9]{16}\b|AIza[\w-]{35}|ya29\.[\w-]{20,}"
    r"|xox[abeoprs]-[\w-]{10,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{50,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[^-]*-----END [A-Z ]*PRIVATE KEY-----)?"
)
_KIND = re.compile(r"^(?:gguf|folder):(?=[/~.])")  # how a model's source begins
_WHOLE = re.compile(r"(?:~|\.\.)?/|~$|\.\.$")  # how a value begins that is a path and no more
# Between brackets or quotes a path may have blanks in it.
_ENCLOSED = re.compile(r"(?<=[(\[{'\"])/[^()\[\]{}'\",;]+(?=[)\]}'\",;])")
_INSIDE = re.compile(r"(?<![\w.:/~-])(?:~|\.\.)?(?:/[^/\s,;:=()\[\]{}'\"]+)+/?")


def hide(text: str) -> str:
    """Any text without tokens, and with home folders and this folder as ``~`` and ``.``."""
    for own, sign in _own_folders():
        text = re.sub(re.escape(own) + _NAME_ENDS, sign, text)
    text = _HOME.sub("~", text)
    for token in own_tokens():
        text = text.replace(token, REMOVED)
    return _TOKEN.sub(REMOVED, text)


def short(value: str) -> str:
    """A value of a configuration, or a word of a command line: as ``hide`` makes it, and of a path
    that leads out of this folder the last name only."""
    value = _ENCLOSED.sub(lambda found: _last(found[0]), value)
    value = _KIND.sub("", hide(value))
    if _WHOLE.match(value):
        return _last(value)
    return _INSIDE.sub(lambda found: _last(found[0]), value)


def shortened(value: Any) -> Any:
    """A JSON value whose texts are ``short``, but for the keys."""
    if isinstance(value, str):
        return short(value)
    if isinstance(value, dict):
        return {key: shortened(one) for key, one in value.items()}
    return [shortened(one) for one in value] if isinstance(value, list) else value


def betrayal(text: str) -> str:
    """What of this machine a text holds that ``hide`` would take out, "" if nothing. Home folders
    of others may be part of anybody's program."""
    if _TOKEN.search(text) or any(token in text for token in own_tokens()):
        return "a token"
    for own, sign in _own_folders():
        if sign == "~" and re.search(re.escape(own) + _NAME_ENDS, text):
            return own
    return ""


def own_tokens() -> Iterator[str]:
    """The tokens in the environment."""
    found = (os.environ.get(name, "").strip() for name in TOKENS)
    yield from (token for token in found if len(token) >= 8)


def _own_folders() -> Iterator[tuple[str, str]]:
    """(folder, what stands for it), the longest first."""
    home, here = os.path.expanduser("~"), os.getcwd()
    found = {os.path.realpath(home): "~", home: "~"}
    found = {here: ".", os.environ.get("PWD", here): ".", **found}
    found |= {json.dumps(path)[1:-1]: sign for path, sign in found.items()}  # as JSON writes it
    kept = [(path, sign) for path, sign in found.items() if path.count("/") > 1 or path == "/root"]
    yield from sorted(kept, key=lambda one: -len(one[0]))


def _last(path: str) -> str:
    """The last name of a path; ``~`` if that is the user's."""
    names = [name for name in path.split("/") if name not in ("", "~", ".", "..")]
    return names[-1] if names and names[-1] != _user() else "~"


@cache
def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without an entry
        return ""
