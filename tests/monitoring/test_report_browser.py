"""The report in a real browser: the samples are filtered, nothing is fetched, nothing complains."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("websockets", reason="websockets is not installed")

from azr_mlx.monitoring import report
from tests import browser
from tests.monitoring.test_report import write_run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(browser.find() is None, reason="no Chromium on this machine"),
]

SHOWN = "[...document.querySelectorAll('.samples tbody tr')].filter(r => !r.hidden).length"
SET = (
    "(() => {{ const e = document.forms.filter.elements.{name}; e.value = {value!r};"
    " e.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
)
WIDER = "document.documentElement.scrollWidth - innerWidth"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return report.write(report.read(write_run(tmp_path_factory.mktemp("browser") / "run", 40)))


@pytest.fixture
def opened(page, tmp_path):
    executable = browser.find()
    assert executable is not None
    with browser.Browser(executable, tmp_path / "profile") as one:
        yield one


def test_samples_are_filtered_and_nothing_is_fetched(opened, page):
    opened.open(page)
    whole = opened.run(SHOWN)
    assert whole == 24
    opened.run(SET.format(name="role", value="solve"))
    assert opened.run(SHOWN) == 12
    opened.run(SET.format(name="verdict", value="pass"))
    assert opened.run(SHOWN) == 6
    assert opened.run("document.querySelector('#filter output').textContent") == "6 of 24"
    opened.run(SET.format(name="text", value="no such words"))
    assert opened.run(SHOWN) == 0
    opened.run(SET.format(name="text", value="COMPLETION"))
    assert opened.run(SHOWN) == 6
    assert opened.told("Runtime.exceptionThrown") == opened.told("Log.entryAdded") == []
    urls = [sent["request"]["url"] for sent in opened.told("Network.requestWillBeSent")]
    assert urls == [page.resolve().as_uri()]


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_as_wide_as_a_phone_and_follows_its_colours(opened, page, dark):
    opened.resize(390, 800, dark=dark, phone=True)
    opened.open(page)
    assert opened.run(WIDER) <= 0
    colours = opened.run("getComputedStyle(document.body).backgroundColor")
    first = int(colours.partition("(")[2].split(",")[0])
    assert (first < 100) == dark


def test_without_scripts_only_the_filter_is_missing(opened, page):
    opened.call("Emulation.setScriptExecutionDisabled", value=True)
    opened.open(page)
    opened.call("Emulation.setScriptExecutionDisabled", value=False)
    assert opened.run("document.getElementById('filter').hidden") is True
    assert opened.run(SHOWN) == 24
