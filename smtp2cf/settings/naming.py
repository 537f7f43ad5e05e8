"""Naming: what is said of settings, in the words of the file where they were set.

Messages name a setting by its variable, which is right for the environment. For one that the TOML file has
set, they name the file, the line and the key instead. Knows only how places are written (toml_file.py).
"""

import re
from collections.abc import Mapping

from smtp2cf.settings.fields import PREFIX
from smtp2cf.settings.toml_file import Tables

_VARIABLE = re.compile(rf"({PREFIX}[A-Z0-9_]*[A-Z0-9])(=[^\s,;]*[^\s,;:.])?")
_TABLE = re.compile(r"(?:\w+ of )?\[\[(\w+)\]\] ([\w-]+)")


def named(line: str, places: Mapping[str, str], tables: Tables) -> str:
    """A message with the places of what it is about.

    places: the file, the line and the key of what the TOML file has set, by variable.
    """
    if (table := _TABLE.match(line)) is not None and (at := _line_of(table, tables)):
        line = f"{tables.path}, line {at}: {line}"

    def placed(found: re.Match[str]) -> str:
        variable, value = found[1], found[2] or ""
        if (place := places.get(variable)) is None:
            return found[0]
        if found.start() == 0:
            return f"{place}{value}"
        where, _, key = place.rpartition(": ")
        return f"{key}{value} ({where})"

    return _VARIABLE.sub(placed, line)


def _line_of(found: re.Match[str], tables: Tables) -> int:
    """Where the table begins that a message names; 0 if that is not known."""
    rows = tables.found.get(found[1], ())
    numbers = (number for number, row in enumerate(rows) if row.get("name") == found[2])
    return tables.lines.get((found[1], next(numbers, -1)), 0)
