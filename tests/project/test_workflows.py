"""The workflows of GitHub Actions: they only run what exists, with pinned actions, few permissions
and a limit of time."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from azr_mlx.cli import app
from azr_mlx.config import load

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.name: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.yml"))}
# Programs that a runner has, or that a step before has installed.
PROGRAMS = {"test", "sudo", "python"}
MODULES = {"pip", "build", "twine", "venv"}
PINNED = re.compile(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
each = pytest.mark.parametrize("name", WORKFLOWS)


def jobs(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(WORKFLOWS[name])["jobs"]
    return found


def steps(name: str) -> list[tuple[str, dict[str, Any]]]:
    return [(job, step) for job, body in jobs(name).items() for step in body["steps"]]


def commands(name: str) -> list[list[str]]:
    return [
        shlex.split(line)
        for _, step in steps(name)
        for line in step.get("run", "").splitlines()
        if line.strip()
    ]


def test_the_workflows_are_those_that_the_docs_name() -> None:
    assert set(WORKFLOWS) == {"test.yml", "release.yml"}


@each
def test_actions_are_pinned_to_commits_with_their_version(name: str) -> None:
    uses = [line.strip(" -") for line in WORKFLOWS[name].splitlines() if "uses:" in line]
    assert uses and [line for line in uses if not PINNED.fullmatch(line)] == []


def test_an_action_has_one_version_in_all_workflows() -> None:
    found = {line.strip(" -") for text in WORKFLOWS.values() for line in text.splitlines()}
    pins = [line.partition("@")[0] for line in found if line.startswith("uses:")]
    assert len(pins) == len(set(pins))


@each
def test_permissions_are_the_least(name: str) -> None:
    text = yaml.safe_load(WORKFLOWS[name])
    assert text["permissions"] == {"contents": "read"}
    more = {job: body["permissions"] for job, body in jobs(name).items() if "permissions" in body}
    assert more == ({"publish": {"id-token": "write"}} if name == "release.yml" else {})
    for _, step in steps(name):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@each
def test_every_job_has_a_limit_of_time_and_a_named_system(name: str) -> None:
    for body in jobs(name).values():
        assert 1 <= body["timeout-minutes"] <= 180
        assert "latest" not in str(body["runs-on"])


@each
def test_tests_cache_pip_and_releases_take_nothing_from_a_cache(name: str) -> None:
    for body in jobs(name).values():
        used = {step.get("uses", "").partition("@")[0]: step for step in body["steps"]}
        given = used.get("actions/setup-python", {}).get("with", {})
        if name == "release.yml":
            assert "cache" not in given, "a poisoned entry would be published"
        elif "actions/checkout" in used:
            assert given["cache"] == "pip" and (ROOT / given["cache-dependency-path"]).is_file()


@each
def test_what_is_run_exists(name: str) -> None:
    for command in commands(name):
        program, *arguments = command
        if program == "./run.sh":
            _check_run_sh(arguments)
        elif program.endswith("/bin/azr-mlx"):
            _check_azr(arguments)
        elif not program.endswith(("/bin/python", "/bin/pip")):
            assert program in PROGRAMS, command
        if program == "python":
            assert arguments[0] == "-m" and arguments[1] in MODULES, command


def _check_run_sh(arguments: list[str]) -> None:
    assert (ROOT / "run.sh").is_file()
    if arguments[:1] != ["test"]:
        return _check_azr(arguments)
    for option, value in zip(arguments[1::2], arguments[2::2], strict=True):
        assert option == "-m", f"./run.sh test {option}"
        assert f'"{value}: ' in (ROOT / "pyproject.toml").read_text("utf-8"), "no such marker"
        chosen = f"pytest.mark.{value}"
        assert any(chosen in path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))


def _check_azr(arguments: list[str]) -> None:
    command, *rest = arguments
    known = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    assert command == "--version" or command in known
    if "-c" in rest:
        load(rest[rest.index("-c") + 1], [word for word in rest if "=" in word])


def test_both_systems_are_tested_with_one_set_up() -> None:
    bodies = jobs("test.yml").values()
    found = {body["runs-on"]: [step.get("run") for step in body["steps"]] for body in bodies}
    assert set(found) == {"ubuntu-24.04", "macos-15"}
    assert all("./run.sh test" in run for run in found.values())
    assert "./run.sh test -m gpu" in found["macos-15"]


def test_only_what_was_tried_is_published() -> None:
    order = {job: body.get("needs") for job, body in jobs("release.yml").items()}
    assert order == {"build": None, "try": "build", "publish": "try"}
    publish = jobs("release.yml")["publish"]
    assert publish["environment"] == "pypi" and len(publish["steps"]) == 2
    assert not re.search(r"secrets\.|password", WORKFLOWS["release.yml"]), "publishing is trusted"
    assert ["python", "-m", "twine", "check", "--strict", "dist/*"] in commands("release.yml")


def test_the_badge_is_that_of_the_tests() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    (badge,) = re.findall(r"actions/workflows/([\w.-]+)/badge\.svg", text)
    assert badge == "test.yml" and badge in WORKFLOWS
