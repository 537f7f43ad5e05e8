"""The TOML file: settings by their names in lower case, and on which line each of them stands.

A value means what the same text means in the environment: numbers and yes/no may be written without quotes,
lists as arrays. Knows the settings by name and kind; whether a value is right is said by who reads the text,
and what is in a table by toml_tables.py. pydantic-settings' own source for TOML is not used, because it can't
say where a value came from.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from smtp2cf.listen import files
from smtp2cf.settings.fields import PREFIX, Plain, SettingsError
from smtp2cf.settings.fields.tables import TABLES, header_of
from smtp2cf.settings.secret_files import KINDS
from smtp2cf.settings.toml_lines import TomlPath, lines_of

VARIABLE = f"{PREFIX}CONFIG"
DEFAULT = Path("/etc/smtp2cf/smtp2cf.toml")
"""The file that is read where VARIABLE names none, if it is there."""
_NUMBERS = (int, float)
_BARE = re.compile(r"[A-Za-z0-9_-]+")
"""A key that TOML needs no quotes for."""


class Tables(NamedTuple):
    """The tables as they were written. lines: where each key stands.

    Of a table of which there may be several, what is here is a list of them.
    """

    path: Path
    found: Mapping[str, Any]
    lines: Mapping[TomlPath, int]

    def place(self, *keys: str | int) -> str:
        """The file, the line, the table and the key. keys: the way there."""
        table, *inside = keys
        name = [_shown(key) for key in inside if isinstance(key, str)]
        return f"{self.path}, line {self.lines[keys]}: {' '.join([header_of(str(table)), *name])}"


class TomlFile(NamedTuple):
    """What was in the file.

    texts: what is set, by setting (`api_token_file` too), as it would be written in the environment.
    places: the file, the line and the key, by setting.
    unknown: a line for each key that is no setting, with the nearest that is.
    """

    texts: Mapping[str, str]
    places: Mapping[str, str]
    unknown: tuple[str, ...]
    tables: Tables


NO_TABLES = Tables(DEFAULT, {}, {})
NO_FILE = TomlFile({}, {}, (), NO_TABLES)


def path_of(given: Mapping[str, str]) -> Path | None:
    """The file to read, None for none. given: the variables that are set."""
    if named := given.get(VARIABLE, "").strip():
        return Path(named)
    try:
        DEFAULT.stat()
    except OSError:
        return None
    return DEFAULT


def read(path: Path) -> TomlFile:
    """What is in a file. Blocks. Raises SettingsError with a line for each value of a wrong kind."""
    try:
        text = files.read_text(path)
    except files.FileError as error:
        raise SettingsError(f"{VARIABLE}: {error}") from None
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits too
        raise SettingsError(f"{VARIABLE}: {path} is not valid TOML: {error}") from None
    lines = lines_of(text)
    places = {key: f"{path}, line {lines[key,]}: {_shown(key)}" for key in found}
    if wrong := list(_wrong(found, places)):
        raise SettingsError(*wrong)
    tables = Tables(path, {key: value for key, value in found.items() if key in TABLES}, lines)
    texts = {key: as_text(value) for key, value in found.items() if key in plain_names()}
    unknown = (*_unknown(found, places), *_unknown_in(tables))
    return TomlFile({key: value for key, value in texts.items() if value}, places, unknown, tables)


def plain_names() -> list[str]:
    """Every key that stands above the tables."""
    return [*Plain.model_fields, *(f"{name}_file" for name in KINDS)]


def names() -> list[str]:
    """Every key that the file may have."""
    return [*plain_names(), *TABLES]


def _shown(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def _wrong(found: Mapping[str, Any], places: Mapping[str, str]) -> Iterator[str]:
    for key, value in found.items():
        if key in TABLES:
            if not _is_shaped(key, value):
                yield f"{places[key]} is not a value: write {header_of(key)} on a line of its own"
        elif _has_tables(value) and key in plain_names():
            yield f"{places[key]} is not a table: write {key} = … above any [table]"
        elif why := unfit(value, Plain.model_fields.get(key)) if key in plain_names() else "":
            yield f"{places[key]}: {written(value, secret=key in KINDS)} is wrong: {why}"


def _has_tables(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(x, dict) for x in value))


def _is_shaped(table: str, value: object) -> bool:
    """It is one table, or a list of them, as it has to be."""
    if TABLES[table].row is None:
        return isinstance(value, dict)
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _unknown(found: Mapping[str, Any], places: Mapping[str, str]) -> Iterator[str]:
    known = names()
    for key, value in found.items():
        if key in known:
            continue
        if _has_tables(value):
            near = _close(key.lower(), TABLES)
            yield f"{places[key]} is not a table{f': did you mean {header_of(near)}?' if near else ''}"
        else:
            yield f"{places[key]} is not a setting{_nearest(key, plain_names())}"


def _unknown_in(tables: Tables) -> Iterator[str]:
    for table, value in tables.found.items():
        if (row := TABLES[table].row) is None:
            continue
        for number, key in ((number, key) for number, one in enumerate(value) for key in one):
            if key in row.model_fields:
                continue
            above = ": it stands above any [table]" if key in plain_names() else ""
            near = above or _nearest(key, row.model_fields)
            yield f"{tables.place(table, number, key)} is not a setting of it{near}"


def has_secrets(file: TomlFile) -> bool:
    """A secret stands in the file itself."""
    accounts = file.tables.found.get("account", ())
    return bool(file.texts.keys() & KINDS) or any(account.get("api_token") for account in accounts)


def unfit(value: object, field: FieldInfo | None) -> str:
    """What the kind of a value must be instead, "" if it is right. field: None for the name of a file."""
    kind = field.annotation if field is not None else str
    if isinstance(value, str):
        return ""
    if isinstance(value, list) and "tuple" in str(kind):
        if not value:
            return 'leave the line out for the default, or write "none" or "any"'
        return "" if all(isinstance(item, str) for item in value) else "each item must be in quotes"
    if isinstance(value, list):
        return "it must be one value, not a list"
    if isinstance(value, bool):
        return "" if kind is bool else "it can't be yes or no"
    if isinstance(value, _NUMBERS) and kind in _NUMBERS:
        return ""
    return "it must be true or false" if kind is bool else "it must be in quotes"


def written(value: object, *, secret: bool = False) -> str:
    """A value as it stands in the file, for a message; secrets aren't shown."""
    return "its value" if secret else json.dumps(value, default=str, ensure_ascii=False)


def as_text(value: object) -> str:
    """A value of the right kind, as it would be written in the environment."""
    if isinstance(value, list):
        return ",".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).strip()


def _nearest(key: str, known: Iterable[str]) -> str:
    near = _close(key.lower().removeprefix(PREFIX.lower()), known)
    return f": did you mean {near}?" if near else ""


def _close(key: str, known: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(key, known, n=1, cutoff=0.65)), "")
