"""Models of the Hugging Face hub, from its cache or downloaded. Errors say why in one line."""

from __future__ import annotations

from pathlib import Path

from azr_mlx.errors import ModelError, ModelUsageError, first_line

# The same files that mlx-lm downloads, so that both can use a snapshot. mlx-lm has a name for them
# only since 0.32.
DOWNLOADED = (
    *("*.json", "model*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "tiktoken.model"),
    *("*.txt", "*.jsonl", "*.jinja"),
)
LOCAL = "name a local folder or .gguf file"


def hub_snapshot(
    repo: str, revision: str | None = None, patterns: tuple[str, ...] = DOWNLOADED
) -> Path:
    """The local snapshot of a hub repository, downloaded as mlx-lm does it. Raises ModelError."""
    from huggingface_hub import snapshot_download

    asked = repo if revision is None else f"{repo}@{revision}"
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except hub_errors() as error:
        raise _explained(asked, repo, error) from error


def hub_errors() -> tuple[type[Exception], ...]:
    """What a call of the hub raises: answers that say no, and a network that does not answer."""
    from huggingface_hub import errors

    # Of the library that the hub's client sends by, which is not the same in all versions.
    http: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    return OSError, http, errors.HFValidationError


def _explained(asked: str, repo: str, error: Exception) -> ModelError:
    """An error of the hub, explained to the user who asked for the model."""
    from huggingface_hub import constants, errors

    where = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"model {asked!r} is gated on the hub",
            f"ask for access at {where}, then `hf auth login` (or set HF_TOKEN)",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelUsageError(
            f"model {asked!r}: neither a local path nor a model of the hub",
            "check the name; a private model needs `hf auth login` (or HF_TOKEN)",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelUsageError(
            f"model {asked!r} has no such revision", f"take one that {where} lists"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _not_cached(asked, error)
    return ModelError(
        f"model {asked!r} is not available from the hub: {first_line(error)}",
        f"try again, or {LOCAL}",
    )


def _not_cached(asked: str, error: Exception) -> ModelError:
    from huggingface_hub import constants, errors

    what = f"model {asked!r} is not a local path, not complete in the hub's cache, and"
    if constants.HF_HUB_OFFLINE:
        return ModelError(f"{what} HF_HUB_OFFLINE is set", f"unset it once, or {LOCAL}")
    cause = error.__cause__
    if isinstance(cause, errors.HfHubHTTPError) and cause.response is not None:
        status = cause.response.status_code
        return ModelError(
            f"{what} {constants.ENDPOINT} answers with {status}", f"try again later, or {LOCAL}"
        )
    return ModelError(f"{what} the hub is unreachable", f"go online once, or {LOCAL}")
