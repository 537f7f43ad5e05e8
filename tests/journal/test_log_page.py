"""docs/log.md against the code: every event of level info and above is there, with the fields it names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import smtp2cf
from smtp2cf.settings.secret_files import KINDS

CODE = Path(smtp2cf.__file__).parent
PAGE = CODE.parent / "docs" / "log.md"
LEVELS = ("info", "warning", "error", "exception")
NAME = re.compile(r"[a-z_]+\.[a-z_]+")
MADE = {
    *("api.unreachable", "api.throttled", "api.token_refused"),
    *(f"{name}.{how}" for name, _ in KINDS.values() for how in ("reloaded", "reload_failed")),
}
"""Names that the code puts together."""
NO_FIELDS = {"exc_info", "about_message"}


def logged() -> Iterator[tuple[str, set[str]]]:
    """Every event that the code names, and its fields."""
    for path in CODE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            name, function = node.args[0].value, node.func
            is_log = isinstance(function, ast.Attribute) and function.attr in LEVELS
            is_event = isinstance(function, ast.Name) and function.id in ("Event", "level")
            if isinstance(name, str) and NAME.fullmatch(name) and (is_log or is_event):
                yield name, {keyword.arg for keyword in node.keywords if keyword.arg}


def listed() -> dict[str, set[str]]:
    """The events of the page, and their fields."""
    rows = re.findall(r"^\| (`.+?`) \| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        name: {field.strip().rstrip("?") for field in fields.split(",")}
        for names, fields in rows
        for name in NAME.findall(names)
    }


def test_every_event_is_on_the_page_with_its_fields() -> None:
    page = listed()
    events = dict[str, set[str]]()
    for name, fields in logged():
        events.setdefault(name, set()).update(fields)
    assert events.keys() - page.keys() == set()
    together = {name for name in page if name.startswith("drop.") and page[name] == {"file"}}
    missing = {
        name: fields - page[name] - NO_FIELDS for name, fields in events.items() if name not in together
    }
    assert {name: fields for name, fields in missing.items() if fields} == {}


def test_no_event_of_the_page_has_gone() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in CODE.rglob("*.py"))
    gone = {name for name in listed() if f'"{name}"' not in code and name not in MADE}
    assert gone == set()
    assert listed().keys() >= MADE
