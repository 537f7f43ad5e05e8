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
from smtp2cf.settings.fields import PREFIX, SECRETS, Settings, SettingsError
from smtp2cf.settings.wrong import line_of

SENDMAIL_PREFIX = "SMTP2CF_SENDMAIL_"
"""Variables of the sendmail command, which reads them itself."""


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


def unknown_variables(env_file: Path | None = None) -> list[str]:
    """A line for each SMTP2CF_ variable that is not a setting, with the nearest name that is."""
    known = [name.upper() for name in Settings.model_fields] + [f"{name.upper()}_FILE" for name in SECRETS]
    lines = []
    for variable in sorted(_given(env_file)):
        name = variable.removeprefix(PREFIX)
        if name in (variable, *known) or variable.startswith(SENDMAIL_PREFIX):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.65)
        lines.append(f"{variable} is not a setting{f': did you mean {PREFIX}{near[0]}?' if near else ''}")
    return lines


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
    secrets = {}
    for name in SECRETS:
        variable = f"{PREFIX}{name.upper()}"
        path = given.get(f"{variable}_FILE", "")
        if not path:
            continue
        if given.get(variable):
            raise SettingsError(f"{variable} and {variable}_FILE are both set: set only one of them")
        try:
            secrets[name] = files.read_text(Path(path)).strip()
        except files.FileError as error:
            raise SettingsError(f"{variable}_FILE: {error}") from None
        if not secrets[name]:
            raise SettingsError(f"{variable}_FILE: {path} is empty")
    return secrets
