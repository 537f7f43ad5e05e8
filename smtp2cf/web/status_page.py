"""The status page: one HTML page without scripts, for a person who wonders whether mail goes out.

What it looks like is in pages/: jinja2's template and the style sheet, which is sent inside the page.
"""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from smtp2cf.journal.readiness import Readiness

PAGES = Path(__file__).with_name("pages")

_STYLE = (PAGES / "status.css").read_text()

STYLE_SOURCE = f"'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
"""What a Content-Security-Policy calls the page's style sheet: this one and no other."""


@cache
def _template() -> Template:
    environment = Environment(loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("status.html")


def render(takes: Readiness, sends: Readiness, status: Mapping[str, object]) -> str:
    """The page as HTML; every value is escaped. takes: mail can be taken; sends: and sent (/readyz)."""
    state = "not ready" if not takes.ready else "ready" if sends.ready else "takes mail, but can't send"
    reason = takes.reason if not takes.ready else sends.reason or takes.reason
    title = "" if state == "ready" else f": {state}"
    return _template().render(
        state=state, reason=reason, title=title, well=sends.ready, status=status, style=_STYLE
    )
