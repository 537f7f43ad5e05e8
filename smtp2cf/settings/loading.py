"""Loading: where settings come from: the environment, an env file, and files that hold secrets.

The environment takes precedence over the env file. Knows the settings' names, and of their values only how
to say that one is wrong (wrong.py).
"""

import difflib
import io
import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import ValidationError

from smtp2cf.listen import files
from smtp2cf.settings import secret_files
from smtp2cf.settings.fields import PREFIX, Settings, SettingsError
from smtp2cf.settings.wrong import line_of

SENDMAIL_NAMES = (
    *("ALIASES", "CONF", "DIRECT", "DOMAIN", "DROP_DIR", "HOST", "PASSWORD", "PASSWORD_FILE", "TLS"),
    *("TLS_CA_FILE", "USER"),
)
"""Variables of the sendmail command, which reads them itself: SMTP2CF_SENDMAIL_ and one of these."""


def load(env_file: Path | None = None) -> Settings:
    """Read the settings. Raises SettingsError with a line for each wrong one."""
    given = _given(env_file)
    secrets = _secrets_from_files(given)
    try:
        return Settings(_env_file=env_file, **secrets)  # type: ignore[arg-type, call-arg]
    except ValidationError as error:
        raise SettingsError(*(line_of(problem, given) for problem in error.errors())) from None


def users_file(env_file: Path | None = None) -> Path | None:
    """SMTP2CF_USERS_FILE alone, whatever the other settings are. Raises SettingsError for the env file."""
    given = _given(env_file).get(f"{PREFIX}USERS_FILE", "").strip()
    return Path(given) if given else None


def files_of_secrets(env_file: Path | None = None) -> dict[str, Path]:
    """The files that hold secrets, by the name of the setting. Raises SettingsError."""
    return _secret_files(_given(env_file))


def unknown_variables(env_file: Path | None = None) -> list[str]:
    """A line for each SMTP2CF_ variable that is not a setting, with the nearest name that is."""
    known = [name.upper() for name in Settings.model_fields]
    known += [f"{name.upper()}_FILE" for name in secret_files.KINDS]
    known += [f"SENDMAIL_{name}" for name in SENDMAIL_NAMES]
    lines = []
    for variable in sorted(_given(env_file)):
        name = variable.removeprefix(PREFIX)
        if name in (variable, *known):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.65)
        lines.append(f"{variable} is not a setting{f': did you mean {PREFIX}{near[0]}?' if near else ''}")
    return lines


def has_secrets(env_file: Path) -> bool:
    """Whether the env file itself holds a secret. Raises SettingsError."""
    given = _env_file_values(env_file)
    return any(
        given.get(f"{prefix}{name.upper()}")
        for prefix in (PREFIX, "CLOUDFLARE_")
        for name in secret_files.KINDS
    )


def _given(env_file: Path | None) -> dict[str, str]:
    """Every variable of the env file and the environment."""
    return {**(_env_file_values(env_file) if env_file is not None else {}), **os.environ}


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


def _secrets_from_files(given: Mapping[str, str]) -> dict[str, str]:
    try:
        return {name: secret_files.read(name, path) for name, path in _secret_files(given).items()}
    except secret_files.SecretFileError as error:
        raise SettingsError(str(error)) from None


def _secret_files(given: Mapping[str, str]) -> dict[str, Path]:
    """The files that are named, by the name of the setting that they hold."""
    named = {}
    for name in secret_files.KINDS:
        variable, path = f"{PREFIX}{name.upper()}", given.get(secret_files.variable_of(name), "")
        if path and given.get(variable):
            raise SettingsError(f"{variable} and {variable}_FILE are both set: set only one of them")
        if path:
            named[name] = Path(path)
    return named
