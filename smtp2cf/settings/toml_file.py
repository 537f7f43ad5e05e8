"""The TOML file: settings by their names in lower case, and on which line each of them stands.

A value means what the same text means in the environment: numbers and yes/no may be written without quotes,
lists as arrays. Knows the settings by name and kind; whether a value is right is said by who reads the text.
pydantic-settings' own source for TOML is not used, because it can't say where a value came from.
"""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from smtp2cf.listen import files
from smtp2cf.settings.fields import PREFIX, Settings, SettingsError
from smtp2cf.settings.secret_files import KINDS

VARIABLE = f"{PREFIX}CONFIG"
DEFAULT = Path("/etc/smtp2cf/smtp2cf.toml")
"""The file that is read where VARIABLE names none, if it is there."""
_NUMBERS = (int, float)


class TomlFile(NamedTuple):
    """What was in the file.

    texts: what is set, by setting (`api_token_file` too), as it would be written in the environment.
    places: the file, the line and the key, by setting.
    unknown: a line for each key that is no setting, with the nearest that is.
    """

    texts: Mapping[str, str]
    places: Mapping[str, str]
    unknown: tuple[str, ...]


NO_FILE = TomlFile({}, {}, ())


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
    places = {key: f"{path}, line {lines[key]}: {key}" for key in found}
    known = {key: value for key, value in found.items() if key in names()}
    if wrong := list(_wrong(found, places)):
        raise SettingsError(*wrong)
    unknown = tuple(f"{places[key]} is not a setting{_nearest(key)}" for key in found if key not in known)
    texts = {key: _as_text(value) for key, value in known.items()}
    return TomlFile({key: value for key, value in texts.items() if value}, places, unknown)


def names() -> list[str]:
    """Every key that the file may have."""
    return [*Settings.model_fields, *(f"{name}_file" for name in KINDS)]


def lines_of(text: str) -> dict[str, int]:
    """The line on which each key of the document itself first stands. text: valid TOML.

    A statement is complete, and not within a multi-line text or array, as soon as it is TOML by itself.
    """
    lines: dict[str, int] = {}
    statement, start, in_table = "", 0, False
    for number, line in enumerate(text.split("\n"), start=1):
        statement, start = f"{statement}{line}\n", start or number
        try:
            found = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        is_header = statement.lstrip().startswith("[")
        if is_header or not in_table:
            lines = {**dict.fromkeys(found, start), **lines}
        in_table = in_table or is_header
        statement, start = "", 0
    return lines


def _wrong(found: Mapping[str, Any], places: Mapping[str, str]) -> Iterator[str]:
    for key, value in found.items():
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(x, dict) for x in value)):
            yield f"{places[key]} is not a table of this version: settings stand above any [table]"
        elif why := _unfit(value, Settings.model_fields.get(key)) if key in names() else "":
            was = "its value" if key in KINDS else json.dumps(value, default=str, ensure_ascii=False)
            yield f"{places[key]}: {was} is wrong: {why}"


def _unfit(value: object, field: FieldInfo | None) -> str:
    """What the kind of a value must be instead, "" if it is right. field: None for the name of a file."""
    kind = field.annotation if field is not None else str
    if isinstance(value, str):
        return ""
    if isinstance(value, list) and getattr(kind, "__origin__", None) is tuple:
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


def _as_text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).strip()


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key.lower().removeprefix(PREFIX.lower()), names(), n=1, cutoff=0.65)
    return f": did you mean {near[0]}?" if near else ""
