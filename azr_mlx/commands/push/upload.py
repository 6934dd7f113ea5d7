"""Sending a folder to the Hugging Face hub, in one commit. Every error is one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from azr_mlx import __version__
from azr_mlx.commands.push.folder import RECORDS, TASKS, Filled, Wanted
from azr_mlx.errors import WRONG_VALUES, AzrError, UsageError, first_line
from azr_mlx.models.hub import hub_errors
from azr_mlx.text import one_line

LOGIN = "`hf auth login`, or set HF_TOKEN, with a token that may write"
WITHOUT = "--dry-run writes the folder without the hub"
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".npz")


def check_name(to: str) -> None:
    """Raises UsageError if the hub has no such names."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    kind, _, rest = to.partition("/")
    if kind in ("datasets", "models", "spaces") and "/" in rest:
        raise UsageError(f"--to {to}: give {rest}; --what decides on the type of the repository")
    try:
        validate_repo_id(to)
    except HFValidationError as error:
        raise UsageError(f"--to {to}: {_rule(error)}; give USER/NAME") from error
    if "/" not in to:
        raise UsageError(f"--to {to}: has no user or organization; give USER/{to}")


def _rule(error: Exception) -> str:
    """What the name breaks, in the hub's words but for the name itself at their end."""
    return first_line(error).partition(": '")[0].rstrip(".")


def check_login(to: str) -> None:
    """Raises UsageError if there is no token, or no network is wanted."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UsageError(f"push: HF_HUB_OFFLINE is set; unset it, or {WITHOUT}")
    if get_token() is None:
        raise UsageError(f"--to {to}: no token for the hub here; {LOGIN}")


def upload(wanted: Wanted, folder: Path, filled: Filled) -> str:
    """Create the repository if it is not there, and commit the folder; returns the repository's
    address.

    Raises:
        UsageError: the repository is not as was asked, and nothing was written there.
        AzrError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi(library_name="azr-mlx", library_version=__version__)
    with _in_one_line(wanted):
        url = api.create_repo(
            wanted.to, repo_type=wanted.kind, private=wanted.private or None, exist_ok=True
        )
        stale = _check_repository(api, wanted, folder)
        # Not upload_folder, which may commit some files before the others have arrived.
        files: list[Any] = [
            *(CommitOperationAdd(file.name, file) for file in sorted(folder.iterdir())),
            *(CommitOperationDelete(name) for name in stale),
        ]
        message = f"{filled.title}, with azr-mlx {__version__}"
        api.create_commit(wanted.to, files, commit_message=message, repo_type=wanted.kind)
    return str(url)


def _check_repository(api: Any, wanted: Wanted, folder: Path) -> list[str]:
    """The files there that an earlier push of a run wrote and that this run does not have. Raises
    UsageError if the repository is public and should not be, is of another type, or holds weights
    that would be taken for these."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        there = api.repo_info(wanted.to, repo_type=wanted.kind)
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"--to {wanted.to}: is there, but not as a {wanted.kind} repository; name another"
        ) from error
    if wanted.private and there.private is False:
        raise UsageError(
            f"--private: {wanted.to} is there already, and public; make it private in its "
            "settings on the hub, or name another"
        )
    own = {file.name for file in folder.iterdir()}
    names = [file.rfilename for file in there.siblings or ()]
    others = [name for name in names if name.endswith(_WEIGHTS) and name not in own]
    if others and wanted.what != TASKS:
        raise UsageError(
            f"--to {wanted.to}: holds other weights already ({others[0]}); remove them there, or "
            "name another repository"
        )
    return [name for name in names if name in RECORDS and name not in own]


@contextmanager
def _in_one_line(wanted: Wanted) -> Iterator[None]:
    # RuntimeError: a file was not taken; wrong values: a card or an answer that makes no sense.
    expected: tuple[type[Exception], ...] = (*hub_errors(), RuntimeError, *WRONG_VALUES)
    try:
        yield
    except AzrError:
        raise
    except expected as error:
        raise _explained(wanted, error) from error


def _explained(wanted: Wanted, error: Exception) -> AzrError:
    from huggingface_hub import constants

    to, owner = wanted.to, wanted.to.partition("/")[0]
    status, message = _answer(error)
    if status == 401:
        return AzrError(f"--to {to}: the hub does not accept the token (401); {LOGIN}")
    if status == 403:
        return AzrError(
            f"--to {to}: the token may not write there (403); take one with write access to "
            f"{owner}, or another name"
        )
    if status == 404:
        return AzrError(f"--to {to}: the hub does not find it (404); check the name {owner}")
    if status in (409, 412):
        return AzrError(f"--to {to}: it was changed meanwhile ({status}); push again")
    if status == 429 or status >= 500:
        return AzrError(f"--to {to}: the hub answers with {status}; try again later")
    if status:
        return AzrError(f"--to {to}: the hub refuses it ({status}: {message}); {WITHOUT}")
    if isinstance(error, hub_errors()):
        return AzrError(
            f"--to {to}: {constants.ENDPOINT} cannot be reached ({first_line(error)}); go online "
            f"and try again; {WITHOUT}"
        )
    return AzrError(
        f"--to {to}: sending failed ({first_line(error)}); push again: the hub keeps what it has"
    )


def _answer(error: BaseException) -> tuple[int, str]:
    """The status and the words with which the hub has said no, in this error or in what caused it;
    0 if it has not."""
    from huggingface_hub.errors import HfHubHTTPError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError):
            said = cause.server_message or str(error)
            return int(cause.response.status_code), one_line(said)
        cause = cause.__cause__
    return 0, ""
