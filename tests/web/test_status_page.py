"""The status page's template and style sheet: files that are part of what is installed."""

import base64
import hashlib
import re
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

from smtp2cf.journal.readiness import Readiness
from smtp2cf.web.status_page import PAGES, STYLE_SOURCE, render

ROOT = Path(__file__).parents[2]


def test_every_value_is_escaped() -> None:
    page = render(Readiness(False, "<i>why"), {"<b>": "&amp", "recent": []})
    assert "not ready: &lt;i&gt;why" in page
    assert '<th scope="row">&lt;b&gt;</th><td>&amp;amp</td>' in page
    assert "None since the start." in page


def test_the_policy_names_the_style_sheet_that_is_in_the_page() -> None:
    (style,) = re.findall("<style>(.*?)</style>", render(Readiness(True, ""), {"recent": []}), re.DOTALL)
    assert "color-scheme: light dark" in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" == STYLE_SOURCE


def test_the_pages_are_in_the_wheel() -> None:
    packed = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    pages = {str(path.relative_to(ROOT)) for path in PAGES.iterdir()}
    assert pages
    assert pages <= packed
