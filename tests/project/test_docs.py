"""What is generated in docs/ is fresh, and what pages point to is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "kernels").glob("*.md")]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def refresh():
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_help_texts_and_metrics_are_what_the_program_says():
    stale = [p.name for p, text in refresh().pages().items() if p.read_text("utf-8") != text]
    assert stale == [], "run: python docs/refresh.py"


def test_every_command_has_a_page_and_every_page_is_in_the_index():
    from azr_mlx.cli import app

    commands = {c.name or c.callback.__name__ for c in app.registered_commands}
    assert {page.stem for page in (ROOT / "docs" / "commands").glob("*.md")} == commands
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        if page.name != "README.md":
            assert f"]({page.relative_to(ROOT / 'docs')})" in index, page.name


def test_no_page_holds_an_unfinished_merge():
    marks = ("<<<<<<< ", ">>>>>>> ")
    assert not [p.name for p in PAGES if any(m in p.read_text("utf-8") for m in marks)]


COMMAND = re.compile(r"    (?:\./run\.sh|\.venv|azr-mlx|python|pip|uv|mlx|torchrun|ollama|git) ?\S")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_can_be_pasted_into_zsh(page):
    """A Mac's shell takes a comment behind a command as arguments, and ``<this>`` as a file."""
    lines = page.read_text("utf-8").splitlines()
    bad = [one for one in lines if COMMAND.match(one) and re.search(r"\s#|<\w+ ", one)]
    assert bad == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text("utf-8")):
        if target.startswith(("http:", "https:", "../../actions/workflows/")):
            continue  # the last are pages of the host, which has them beside the files
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in headings}
            assert anchor in slugs, target


def test_every_key_and_metric_that_pages_name_exists():
    """Dotted configuration keys, and metrics with a slash, in code spans."""
    from dataclasses import fields, is_dataclass

    from azr_mlx.config import Config
    from azr_mlx.monitoring.metrics import REGISTRY, find

    sections = {f.name: getattr(Config(), f.name) for f in fields(Config)}
    sections = {k: {f.name for f in fields(v)} for k, v in sections.items() if is_dataclass(v)}
    known = {m.name.split("/")[0] for m in REGISTRY if "/" in m.name and "{" not in m.name}
    for page in PAGES:
        for span in re.findall(r"`([^`\n]+)`", page.read_text("utf-8")):
            for section, key in re.findall(r"(?<![\w./-])([a-z_]+)\.([a-z_]+)(?=[ =:`]|$)", span):
                if section in sections and key not in ("yaml", "py", "md", "json", "jsonl"):
                    assert key in sections[section], f"{page.name}: {section}.{key}"
            if re.fullmatch(r"[a-z_]+/[a-z_]+", span) and span.split("/")[0] in known:
                assert find(span) is not None, f"{page.name}: {span}"
