"""Lines: on which line of a TOML file each key stands, in tables too. Knows no settings."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

TomlPath = tuple[str | int, ...]
"""The way to a value: keys, and the number of a table among several of one name, from 0."""


_CLOSING = re.compile(r"""[\]}]|\"{3}|'{3}""")
"""What is in the last line of a statement of several lines."""


def lines_of(text: str) -> dict[TomlPath, int]:
    """The line on which each key first stands. text: valid TOML.

    A statement is complete, and not within a multi-line text or array, as soon as it is TOML by itself.
    What is inside an inline table or an array counts as standing where its statement begins.
    """
    lines: dict[TomlPath, int] = {}
    counted: dict[TomlPath, int] = {}
    table: TomlPath = ()
    statement, start = "", 0
    for number, line in enumerate(text.split("\n"), start=1):
        within, statement, start = bool(statement), f"{statement}{line}\n", start or number
        if within and not _CLOSING.search(line):
            continue
        try:
            found = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            table = _table(found, counted)
            paths = [table[:length] for length in range(1, len(table) + 1)]
        else:
            paths = [(*table, *path) for path in _paths(found)]
        for path in paths:
            lines.setdefault(path, start)
        statement, start = "", 0
    return lines


def _table(header: dict[str, Any], counted: dict[TomlPath, int]) -> TomlPath:
    """The way to the table that a header begins. counted: tables of each name so far; it is brought up to
    date.
    """
    path: TomlPath = ()
    found: Any = header
    while found:
        ((key, found),) = found.items()
        path = (*path, key)
        if isinstance(found, list):
            counted[path] = counted.get(path, 0) + 1
            found = found[0]
        if path in counted:
            path = (*path, counted[path] - 1)
    return path


def _paths(value: object, at: TomlPath = ()) -> Iterator[TomlPath]:
    """The way to everything within a value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*at, key)
            yield from _paths(inner, (*at, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield (*at, number)
            yield from _paths(inner, (*at, number))
