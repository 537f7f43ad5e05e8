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


def said_of_to() -> Iterator[tuple[str, ast.expr]]:
    """What the code puts into the field `to`: of log calls, and of fields that are gathered before."""
    for path in CODE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "structlog" not in text and "Event(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                words = node.keywords if node.func.attr in LEVELS else []
                found = [word.value for word in words if word.arg == "to"]
            elif isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                found = [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "to"]
            else:
                continue
            yield from ((f"{path.name}:{value.lineno}", value) for value in found)


def is_list(value: ast.expr) -> bool:
    if isinstance(value, ast.Subscript):
        return isinstance(value.slice, ast.Slice) and is_list(value.value)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id in ("list", "first_few")
    return isinstance(value, ast.List | ast.ListComp)


def test_to_is_always_a_list_and_the_sender_is_always_from() -> None:
    said = list(said_of_to())
    assert len(said) >= 8
    assert [where for where, value in said if not is_list(value)] == []
    other_names = {
        "reverse_path",
        "forward_paths",
        "mail_from",
        "rcpt_to",
        "sender",
        "recipient",
        "recipients",
    }
    assert {name: fields & other_names for name, fields in logged() if fields & other_names} == {}


def test_no_event_of_the_page_has_gone() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in CODE.rglob("*.py"))
    gone = {name for name in listed() if f'"{name}"' not in code and name not in MADE}
    assert gone == set()
    assert listed().keys() >= MADE
