"""The status page: one HTML page without scripts, for a person who wonders whether mail goes out."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, Template

if TYPE_CHECKING:
    from smtp2cf.journal.readiness import Readiness

_STYLE = """
  :root { color-scheme: light dark; }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
  .ready { color: #15803d; } .not-ready { color: #b91c1c; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; padding: .25rem .75rem .25rem 0; vertical-align: top; overflow-wrap: anywhere; }
  tr + tr > * { border-top: 1px solid color-mix(in srgb, currentColor 15%, transparent); }
  th { font-weight: 600; white-space: nowrap; }
  .sent, .queued { color: #15803d; } .deferred { color: #b45309; } .bounced { color: #b91c1c; }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="10">
<title>smtp2cf{{ '' if readiness.ready else ': not ready' }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<h1>smtp2cf <span class="{{ 'ready' if readiness.ready else 'not-ready' }}">
{{- 'ready' if readiness.ready else 'not ready: ' ~ readiness.reason }}</span></h1>
<table>
{%- for name, value in status.items() if name != 'recent' %}
<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{%- endfor %}
</table>
<h2>Latest mail</h2>
{%- if status.recent %}
<table>
<tr><th>time</th><th>queue id</th><th>from</th><th>to</th><th>status</th><th>answer</th></tr>
{%- for mail in status.recent %}
<tr><td>{{ mail.time }}</td><td>{{ mail.queue_id }}</td><td>{{ mail.sender or '&lt;&gt;' | safe }}</td>
<td>{{ mail.recipients }}</td><td class="{{ mail.status }}">{{ mail.status }}</td>
<td>{{ mail.reply }}</td></tr>
{%- endfor %}
</table>
{%- else %}
<p>None since the start.</p>
{%- endif %}
</body>
</html>
"""

STYLE_SOURCE = f"'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
"""What a Content-Security-Policy calls the page's style sheet: this one and no other."""


@cache
def _template() -> Template:
    return Environment(autoescape=True).from_string(_PAGE)


def render(readiness: "Readiness", status: Mapping[str, object]) -> str:
    """The page as HTML; every value is escaped."""
    return _template().render(readiness=readiness, status=status, style=_STYLE)
