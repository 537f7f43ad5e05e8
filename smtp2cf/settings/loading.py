"""Loading: where settings come from: the environment, an env file, a TOML file, and files that hold secrets.

The environment takes precedence over the env file, and that over the TOML file. Knows the settings' names,
and of their values only how to say that one is wrong (wrong.py).
"""

import difflib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import AliasChoices, SecretStr, ValidationError

from smtp2cf.listen import files
from smtp2cf.settings import naming, secret_files, toml_file, toml_tables
from smtp2cf.settings.fields import PREFIX, Plain, Settings, SettingsError
from smtp2cf.settings.wrong import as_written, line_of

SENDMAIL_NAMES = (
    *("ALIASES", "CONF", "DIRECT", "DOMAIN", "DROP_DIR", "HOST", "PASSWORD", "PASSWORD_FILE", "TLS"),
    *("TLS_CA_FILE", "USER"),
)
"""Variables of the sendmail command, which reads them itself: SMTP2CF_SENDMAIL_ and one of these."""


class Given(NamedTuple):
    """What was set, by its variable. places: where those stand that the TOML file has set.

    unknown: a line for each key in that file that is no setting.
    """

    texts: Mapping[str, str]
    places: Mapping[str, str]
    unknown: tuple[str, ...]
    tables: toml_file.Tables


def load(env_file: Path | None = None) -> Settings:
    """Read the settings. Raises SettingsError with a line for each wrong one."""
    given = _given(env_file)
    tables = toml_tables.check(given.tables)
    from_files = {**_from_toml(given), **_secrets_from_files(given), **tables.values}
    try:
        settings = Settings(_env_file=env_file, **from_files)  # type: ignore[call-arg]
    except ValidationError as error:
        lines = (line_of(problem, given.texts, given.places) for problem in error.errors())
        raise SettingsError(*lines, *tables.wrong) from None
    if tables.wrong:
        raise SettingsError(*tables.wrong)
    return settings


def users_file(env_file: Path | None = None) -> Path | None:
    """SMTP2CF_USERS_FILE alone, whatever the other settings are. Raises SettingsError for the files."""
    given = _given(env_file).texts.get(f"{PREFIX}USERS_FILE", "").strip()
    return Path(given) if given else None


def files_of_secrets(env_file: Path | None = None) -> dict[str, Path]:
    """The files that hold secrets, by the name of the setting. Raises SettingsError."""
    return _secret_files(_given(env_file))


def unknown_variables(env_file: Path | None = None) -> list[str]:
    """A line for each SMTP2CF_ variable, and each key of the TOML file, that is not a setting, with the
    nearest that is. Raises SettingsError.
    """
    given = _given(env_file)
    known = ["CONFIG", *(name.upper() for name in Plain.model_fields)]
    known += [f"{name.upper()}_FILE" for name in secret_files.KINDS]
    known += [f"SENDMAIL_{name}" for name in SENDMAIL_NAMES]
    lines = []
    for variable in sorted(given.texts):
        name = variable.removeprefix(PREFIX)
        if name in (variable, *known):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.65)
        lines.append(f"{variable} is not a setting{f': did you mean {PREFIX}{near[0]}?' if near else ''}")
    return [*lines, *given.unknown]


def named(lines: Iterable[str], env_file: Path | None = None) -> list[str]:
    """Messages about settings, with the places of those that the TOML file has set."""
    lines = [*lines]
    try:
        given = _given(env_file)
    except SettingsError:
        return lines  # which is told already
    return [naming.named(line, given.places, given.tables) for line in lines]


class Effective(NamedTuple):
    """A setting in use: its value as an operator would write it, *** for a secret, and its origin."""

    setting: str
    value: str
    origin: str


def effective(env_file: Path | None = None) -> Iterator[Effective]:
    """Every setting, and every key of a table. Raises SettingsError if one is wrong."""
    settings, given = load(env_file), _given(env_file)
    origins = _origins(env_file, given)
    for name, field in Plain.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            shown = "***" if value.get_secret_value() else ""
        else:
            as_given = given.texts.get(f"{PREFIX}{name.upper()}", "")
            shown = as_written(value, field) if value not in (None, ()) else as_given
        yield Effective(name, shown, origins.get(name, "default"))
    for key, text, place in toml_tables.shown(given.tables):
        yield Effective(key, text, place)


def _origins(env_file: Path | None, given: Given) -> dict[str, str]:
    """Where each setting that is set was set, by setting."""
    in_files = _secret_files(given)
    sources: list[tuple[str, Mapping[str, str]]] = [("the environment", os.environ)]
    if env_file is not None:
        sources.append((f"--env-file {env_file}", _env_file_values(env_file)))
    found = {}
    for name in Plain.model_fields:
        variables = [secret_files.variable_of(name)] if name in in_files else _variables_of(name)
        origins = [given.places[variable] for variable in variables if variable in given.places]
        for where, values in reversed(sources):
            is_set = {variable.upper() for variable, value in values.items() if value}
            origins += [f"{variable} in {where}" for variable in reversed(variables) if variable in is_set]
        if origins:
            found[name] = origins[-1]
    return found


def has_secrets(env_file: Path) -> bool:
    """Whether the env file itself holds a secret. Raises SettingsError."""
    given = _env_file_values(env_file)
    return any(
        given.get(f"{prefix}{name.upper()}")
        for prefix in (PREFIX, "CLOUDFLARE_")
        for name in secret_files.KINDS
    )


def toml_path(env_file: Path | None = None) -> Path | None:
    """The TOML file, None for none. Raises SettingsError for the env file."""
    return toml_file.path_of(_variables(env_file))


def toml_with_secrets(env_file: Path | None = None) -> Path | None:
    """The TOML file if it holds a secret itself. Raises SettingsError."""
    path = toml_path(env_file)
    return path if path is not None and toml_file.has_secrets(toml_file.read(path)) else None


def _given(env_file: Path | None) -> Given:
    variables = _variables(env_file)
    path = toml_file.path_of(variables)
    file = toml_file.read(path) if path is not None else toml_file.NO_FILE
    is_set = {name.upper() for name, value in variables.items() if value}
    kept = [key for key in file.texts if not is_set & _rivals(key)]
    texts = {f"{PREFIX}{key.upper()}": file.texts[key] for key in kept}
    places = {f"{PREFIX}{key.upper()}": file.places[key] for key in kept}
    return Given({**variables, **texts}, places, file.unknown, file.tables)


def _variables(env_file: Path | None) -> dict[str, str]:
    """Every variable of the env file and the environment."""
    return {**(_env_file_values(env_file) if env_file is not None else {}), **os.environ}


def _rivals(key: str) -> set[str]:
    """The variables that take precedence over a key of the TOML file: a secret may be in either form."""
    name = key.removesuffix("_file")
    if name in secret_files.KINDS:
        return {secret_files.variable_of(name), *_variables_of(name)}
    return set(_variables_of(key))


def _variables_of(setting: str) -> list[str]:
    """The variables that set it, the one that takes precedence first."""
    alias = Plain.model_fields[setting].validation_alias
    return [*map(str, alias.choices)] if isinstance(alias, AliasChoices) else [f"{PREFIX}{setting.upper()}"]


def _from_toml(given: Given) -> dict[str, str]:
    """What the TOML file sets and nothing else does, by setting."""
    named = {variable.removeprefix(PREFIX).lower(): given.texts[variable] for variable in given.places}
    return {name: text for name, text in named.items() if name in Plain.model_fields}


def _env_file_values(path: Path) -> dict[str, str]:
    """The variables of an env file; raises SettingsError with a line for each line of it that is wrong."""
    try:
        text = files.read_text(path)
    except files.FileError as error:
        raise SettingsError(f"--env-file {error}") from None
    wrong = []
    for binding in parse_stream(io.StringIO(text)):
        # What was found is not shown: it may be a secret.
        line = (
            binding.original.line + len(binding.original.string) - len(binding.original.string.lstrip("\n"))
        )
        if binding.error:
            wrong.append(f"--env-file {path}, line {line}: not NAME=value; is a quote left open?")
        elif binding.key is not None and binding.key.startswith(PREFIX) and binding.value is None:
            wrong.append(f"--env-file {path}, line {line}: {binding.key} has no = and no value")
    if wrong:
        raise SettingsError(*wrong)
    return {name: value or "" for name, value in dotenv_values(stream=io.StringIO(text)).items()}


def _secrets_from_files(given: Given) -> dict[str, str]:
    secrets = {}
    for name, path in _secret_files(given).items():
        try:
            secrets[name] = secret_files.read(name, path)
        except secret_files.SecretFileError as error:
            variable = secret_files.variable_of(name)
            place = given.places.get(variable, variable)
            raise SettingsError(f"{place}{str(error).removeprefix(variable)}") from None
    return secrets


def _secret_files(given: Given) -> dict[str, Path]:
    """The files that are named, by the name of the setting that they hold."""
    named = {}
    for name in secret_files.KINDS:
        variable, with_file = f"{PREFIX}{name.upper()}", secret_files.variable_of(name)
        path = given.texts.get(with_file, "")
        if path and given.texts.get(variable):
            both = " and ".join(given.places.get(each, each) for each in (variable, with_file))
            raise SettingsError(f"{both} are both set: set only one of them")
        if path:
            named[name] = Path(path)
    return named
