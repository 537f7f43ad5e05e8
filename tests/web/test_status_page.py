"""The status page's template and style sheet: files that are part of what is installed."""

import base64
import hashlib
import re
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from smtp2cf.journal.readiness import Readiness
from smtp2cf.web.status_page import PAGES, STYLE_SOURCE, render

ROOT = Path(__file__).parents[2]


WELL = Readiness(True, "")
NO_MAIL, NOT_OUT = "smtp2cf: not ready", "smtp2cf: takes mail, but can&#39;t send"
DOWN = Readiness(False, "<i>why")


def test_every_value_is_escaped() -> None:
    page = render(DOWN, DOWN, {"<b>": "&amp", "recent": []})
    assert "not ready: &lt;i&gt;why" in page
    assert '<th scope="row">&lt;b&gt;</th><td>&amp;amp</td>' in page
    assert "None since the start." in page


@pytest.mark.parametrize(
    ("takes", "sends", "title", "shown"),
    [
        (WELL, WELL, "smtp2cf", "ready<"),
        (
            WELL,
            DOWN,
            "smtp2cf: takes mail, but can&#39;t send",
            "can&#39;t send: &lt;i&gt;why<",
        ),
        (DOWN, WELL, NO_MAIL, "not ready: &lt;i&gt;why<"),
        (DOWN, DOWN, NO_MAIL, "not ready: &lt;i&gt;why<"),
        (Readiness(True, "warning: old"), WELL, "smtp2cf", "ready: warning: old<"),
    ],
)
def test_it_says_what_the_probes_say(takes: Readiness, sends: Readiness, title: str, shown: str) -> None:
    """`not ready` exactly where /readyz is 503."""
    page = render(takes, sends, {"recent": []})
    assert f"<title>{title}</title>" in page
    assert f"{shown}/span></h1>" in page


def test_the_policy_names_the_style_sheet_that_is_in_the_page() -> None:
    (style,) = re.findall("<style>(.*?)</style>", render(WELL, WELL, {"recent": []}), re.DOTALL)
    assert "color-scheme: light dark" in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" == STYLE_SOURCE


def test_the_pages_are_in_the_wheel() -> None:
    packed = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    pages = {str(path.relative_to(ROOT)) for path in PAGES.iterdir()}
    assert pages
    assert pages <= packed
