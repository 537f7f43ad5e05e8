"""The tables of the TOML file: their values, each in the form that Settings holds, or what is wrong with it.

Every message names the file, the line, the table and the key. Knows of a pattern or an address only what
checks it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from smtp2cf.settings import secret_files
from smtp2cf.settings.fields.tables import TABLES, AccountTable, ListenerTable, header_of
from smtp2cf.settings.toml_file import Tables, as_text, unfit, written
from smtp2cf.settings.toml_lines import TomlPath
from smtp2cf.settings.values import MailAddress, checked_pattern
from smtp2cf.settings.wrong import why

RESERVED: Mapping[str, Mapping[str, str]] = {
    "account": {"default": "the account that no table describes"},
    "listener": {
        "admin": "SMTP2CF_ADMIN_LISTEN",
        "sandbox": "--sandbox-listen",
        "starttls": "--sandbox-tls-listen",
    },
}
"""Names that are taken, and by what."""

_ADDRESS: TypeAdapter[str] = TypeAdapter(MailAddress)
_Complaints = Iterator[tuple[TomlPath, str]]
"""The way to what is wrong, and what follows its name in the message."""


class Checked(NamedTuple):
    """What the tables say: values by setting, and a line for everything that is wrong."""

    values: Mapping[str, Any]
    wrong: tuple[str, ...]


class Shown(NamedTuple):
    """A key of a table: its name, its value as it stands there (*** for a secret), and its place."""

    key: str
    value: str
    place: str


def check(tables: Tables) -> Checked:
    """Read every value. Blocks: it reads the files that hold accounts' tokens."""
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for name, found in tables.found.items():
        model = TABLES[name].row
        values[TABLES[name].setting], complaints = (
            _patterns(tables, name, found) if model is None else _rows(tables, name, model, found)
        )
        wrong += [f"{tables.place(*keys)}{text}" for keys, text in complaints]
    return Checked(values, tuple(wrong))


def shown(tables: Tables) -> Iterator[Shown]:
    """Every key of every table. tables: without fault."""
    for name, found in tables.found.items():
        if (model := TABLES[name].row) is None:
            for pattern, value in found.items():
                yield Shown(f"{header_of(name)} {pattern}", as_text(value), tables.place(name, pattern))
            continue
        for number, row in enumerate(found):
            for key in _known(model, row):
                secret = model.model_fields[key].annotation is SecretStr
                value = "***" if secret else as_text(row[key])
                place = tables.place(name, number, key)
                yield Shown(f"{header_of(name)} {row['name']}: {key}", value, place)


# ---- tables of patterns


def _patterns(
    tables: Tables, name: str, found: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Sequence[tuple[TomlPath, str]]]:
    """Addresses by pattern, and what is wrong."""
    several = name == "recipients"
    names = frozenset(map(str.casefold, found)) if several else None
    read: dict[str, Any] = {}
    complaints: list[tuple[TomlPath, str]] = []
    first: dict[str, int] = {}
    for pattern, value in found.items():
        line = tables.lines[name, pattern]
        if complaint := _wrong_entry(pattern, value, names):
            complaints.append(((name, pattern), complaint))
        elif first.setdefault(pattern.casefold(), line) != line:
            same = first[pattern.casefold()]
            complaints.append(((name, pattern), f" is the pattern of line {same} again: keep one of them"))
        else:
            addresses = tuple(map(_target, value if isinstance(value, list) else [value]))
            read[pattern] = addresses if several else addresses[0]
    return read, complaints


def _wrong_entry(pattern: str, value: object, names: Collection[str] | None) -> str:
    """What is wrong with a pattern and its value, "" for nothing. names: patterns of the table, of which a
    name may be a value, as may several of them; None if only one address may.
    """
    if isinstance(value, dict):
        return ' is not in quotes, which a pattern with a dot needs: "example.com" = …'
    try:
        checked_pattern(pattern)
    except ValueError as error:
        return f" is not a pattern: {error}"
    items = value if names is not None and isinstance(value, list) else [value]
    for item in items:
        if not _is_address(item) and not _is_name_of(item, names or ()):
            return f": {written(item)} is wrong: it must be an address such as anna@example.com" + (
                ", or a name of this table" if names is not None else ""
            )
    return "" if items else ": [] is wrong: name one address at least"


def _is_name_of(value: object, names: Collection[str]) -> bool:
    """Whether it is a name without a domain for which the table has a pattern."""
    return isinstance(value, str) and "@" not in value and value.casefold() in names


def _target(value: str) -> str:
    return str(_ADDRESS.validate_python(value)) if "@" in value else value


def _is_address(value: object) -> bool:
    try:
        return bool(_ADDRESS.validate_python(value, strict=True))
    except ValidationError:
        return False


# ---- tables of which there may be several


def _rows(
    tables: Tables, name: str, model: type[AccountTable | ListenerTable], found: Sequence[Mapping[str, Any]]
) -> tuple[Sequence[BaseModel], Sequence[tuple[TomlPath, str]]]:
    """The tables in which nothing is wrong, and what is wrong."""
    good: dict[int, Any] = {}
    complaints: list[tuple[TomlPath, str]] = []
    for number, row in enumerate(found):
        at = (name, number)
        if wrong := [*_wrong_kinds(at, model, row), *_wrong_token(at, model, row)]:
            complaints += wrong
            continue
        try:
            good[number] = model.model_validate(_texts(model, row))
        except ValidationError as error:
            complaints += (_complaint(at, model, row, problem) for problem in error.errors())
    complaints += _names(name, good, tables)
    complaints += _accounts(good) if model is AccountTable else _listeners(good)
    return (*good.values(),), complaints


def _known(model: type[BaseModel], row: Mapping[str, Any]) -> list[str]:
    """The keys of a table that are settings of it."""
    return [key for key in row if key in model.model_fields]


def _wrong_kinds(at: TomlPath, model: type[BaseModel], row: Mapping[str, Any]) -> _Complaints:
    for key in _known(model, row):
        field = model.model_fields[key]
        if complaint := unfit(row[key], field):
            value = written(row[key], secret=field.annotation is SecretStr)
            yield (*at, key), f": {value} is wrong: {complaint}"


def _wrong_token(at: TomlPath, model: type[BaseModel], row: Mapping[str, Any]) -> _Complaints:
    """An account has a token, or a file that holds one."""
    if model is not AccountTable:
        return
    token, file = row.get("api_token"), row.get("api_token_file")
    if token and file:
        yield (*at, "api_token_file"), " and api_token are both set: set only one of them"
    elif not token and not file:
        yield at, " has no api_token and no api_token_file"
    elif isinstance(file, str):
        try:
            secret_files.secret_in(Path(as_text(file)))
        except ValueError as error:
            yield (*at, "api_token_file"), f": {error}"


def _texts(model: type[BaseModel], row: Mapping[str, Any]) -> dict[str, str]:
    """The values as text, an account's token from its file. Raises FileError."""
    texts = {key: as_text(row[key]) for key in _known(model, row)}
    if file := texts.get("api_token_file"):
        texts["api_token"] = secret_files.secret_in(Path(file))
    return {key: text for key, text in texts.items() if text}


def _complaint(
    at: TomlPath, model: type[BaseModel], row: Mapping[str, Any], problem: Mapping[str, Any]
) -> tuple[TomlPath, str]:
    """What one of pydantic's errors says."""
    key = str(problem["loc"][0])
    field = model.model_fields[key]
    if problem["type"] == "missing":
        return at, f" has no {key}"
    was = "its value" if field.annotation is SecretStr else repr(as_text(row[key]))
    place = (*at, key if row.get(key) else f"{key}_file")
    return place, f": {was} is wrong: {why(problem, key, field)}"


def _names(table: str, rows: Mapping[int, Any], tables: Tables) -> _Complaints:
    """Each name is given once, and not taken by something else."""
    first: dict[str, int] = {}
    for number, row in rows.items():
        name, place = row.name.casefold(), (table, number, "name")
        if name in RESERVED[table]:
            yield place, f": {row.name!r} is wrong: it is the name of {RESERVED[table][name]}"
        elif first.setdefault(name, number) != number:
            line = tables.lines[table, first[name], "name"]
            yield place, f": {row.name!r} is wrong: the {header_of(table)} of line {line} has this name"


def _accounts(rows: Mapping[int, AccountTable]) -> _Complaints:
    """Nobody has two accounts."""
    for key in ("users", "sender_domains"):
        named = ((number, row.name, text) for number, row in rows.items() for text in getattr(row, key))
        yield from _twice("account", key, named)


def _listeners(rows: Mapping[int, ListenerTable]) -> _Complaints:
    """No place is named twice, and smtps is TLS."""
    places = (
        (number, row.name, str(endpoint))
        for number, row in rows.items()
        for endpoint in row.listen
        if endpoint.path or endpoint.port
    )
    yield from _twice("listener", "listen", places)
    for number, row in rows.items():
        if row.protocol == "smtps" and row.tls == "off":
            yield ("listener", number, "tls"), ": 'off' is wrong: smtps is TLS from the first byte"


def _twice(table: str, key: str, named: Iterable[tuple[int, str, str]]) -> _Complaints:
    """What is named a second time. named: the number and the name of a table, and what it names."""
    first: dict[str, str] = {}
    for number, name, text in named:
        if (other := first.get(text.casefold())) is not None:
            where = "twice" if other == name else f"in {header_of(table)} {other} too"
            yield (table, number, key), f": {text} is named {where}: keep one of them"
        first.setdefault(text.casefold(), name)
