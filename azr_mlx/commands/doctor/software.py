"""The software: versions, torch, the hub."""

from __future__ import annotations

import importlib.util
import platform
import threading
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from azr_mlx.commands.doctor.finding import OK, WARN, Finding
from azr_mlx.errors import install

NEEDED = ("mlx", "mlx-lm", "transformers")
OPTIONAL = ("torch", "peft")
EXTRAS = ("", "cpu", "cuda", "torch", "track")
ANSWER_S = 2.0


def versions() -> Finding:
    """What is installed, and which packages are outside the version ranges that this package
    requires."""
    from azr_mlx import __version__

    found = {"azr-mlx": __version__, "python": platform.python_version()}
    found |= {name: _version(name) for name in (*NEEDED, *OPTIONAL)}
    here = {k: v for k, v in found.items() if v or k in NEEDED}
    what = ", ".join(f"{name} {value or 'not installed'}" for name, value in here.items())
    if wrong := _out_of_range():
        fix = install("--upgrade", *wrong)
        return Finding(WARN, f"{what}: not the versions that azr-mlx requires", fix, found)
    return Finding(OK, what, facts=found)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _out_of_range() -> list[str]:
    """The requirements of this package that the installed versions do not meet."""
    from packaging.requirements import Requirement

    try:
        stated = [Requirement(text) for text in requires("azr-mlx") or []]
    except PackageNotFoundError:  # azr-mlx is not installed, but imported from a checkout
        return []
    asked = [
        one
        for one in stated
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in EXTRAS)
    ]
    installed = [(one, have) for one in asked if (have := _version(one.name))]
    return [
        f"{one.name}{one.specifier}"
        for one, have in installed
        if not one.specifier.contains(have, prereleases=True)
    ]


def torch() -> Finding:
    """The second backend: whether it is installed, and what it would compute on."""
    if importlib.util.find_spec("torch") is None:
        return Finding(OK, "not installed; only --backend torch needs it (the extra [torch])")
    fix = f"{install('azr-mlx[torch]')}, or do not use --backend torch"
    try:
        import torch as library
    except Exception as error:  # its libraries may raise anything if they do not fit together
        first = (str(error).splitlines() or [repr(error)])[0]
        return Finding(WARN, f"torch cannot be imported ({first})", fix)
    cuda, mps = library.cuda.is_available(), library.backends.mps.is_available()
    facts = {"cuda": cuda, "mps": mps}
    where = library.cuda.get_device_name(0) if cuda else "Metal (MPS)" if mps else "the CPU"
    what = f"torch {library.__version__} computes on {where}"
    if importlib.util.find_spec("peft") is None:
        return Finding(WARN, f"{what}, but peft is not installed", fix, facts)
    return Finding(OK, what, facts=facts)


def hub() -> Finding:
    """Where downloads are kept, how many models there are, and whether more can be downloaded."""
    from huggingface_hub import constants, get_token

    cache = Path(constants.HF_HUB_CACHE)
    models = sum(path.is_dir() for path in cache.glob("models--*"))
    facts = {
        "cache": str(cache),
        "models": models,
        "offline": constants.HF_HUB_OFFLINE,
        "token": get_token() is not None,
        "endpoint": constants.ENDPOINT,
    }
    token = "a token" if facts["token"] else "no token (public models need none)"
    what = f"{models} models in {cache}, {token}"
    if constants.HF_HUB_OFFLINE:
        return Finding(OK, f"{what}, offline (HF_HUB_OFFLINE): only these can be used", facts=facts)
    facts["answers"] = answers = _answers(constants.ENDPOINT)
    if answers:
        return Finding(OK, f"{what}, {constants.ENDPOINT} answers", facts=facts)
    fix = "fix the network or the proxy (HTTPS_PROXY); quickstart and local models work without"
    return Finding(WARN, f"{what}, {constants.ENDPOINT} does not answer", fix, facts)


def _answers(endpoint: str) -> bool:
    """Whether the hub answers in time. It runs in a thread, since a DNS lookup has no time limit of
    its own."""
    from azr_mlx.evaluation.benchmarks.source import hub_answers

    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(hub_answers(endpoint)), daemon=True)
    asking.start()
    asking.join(ANSWER_S)
    return answers == [True]
