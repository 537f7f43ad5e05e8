"""Re-reading: the TOML file is read again when it changes and on SIGHUP. What can be used at once, is.

Everything else waits for a restart, and the log names it. A file with which the bridge would not start
changes nothing; nor does one that is gone or empty now: it is being replaced, or the disk is full. Secrets
in files of their own are watched by secret_files.py. No secret is logged.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from pydantic import SecretStr

from smtp2cf.listen import files
from smtp2cf.listen.file_watch import FileWatch, Stamps
from smtp2cf.settings.fields import Settings, SettingsError
from smtp2cf.settings.fields.tables import TABLES, header_of
from smtp2cf.settings.secret_files import KINDS, LOOK_INTERVAL

NOT_REREAD = (
    "the environment and an env file are read at the start only: restart the bridge for other settings"
)
"""Without a TOML file."""

log = structlog.stdlib.get_logger("smtp2cf.settings")


class Loaded(NamedTuple):
    """Settings as they were read. secrets: the files that hold secrets, by the name of the setting."""

    settings: Settings
    secrets: Mapping[str, Path]


class SettingsFile(NamedTuple):
    """A file of settings. load: reads all settings (blocks; raises SettingsError). first: the start's."""

    path: Path
    load: Callable[[], Loaded]
    first: Loaded


class Reread:
    """A file of settings that may change while the bridge runs, with the files of its accounts' tokens.

    uses: what takes a setting's new value (a secret as text), by setting; raises ValueError if it can only be
    used after a restart. every: seconds between two looks.
    """

    def __init__(
        self, file: SettingsFile, uses: Mapping[str, Callable[[Any], None]], *, every: float = LOOK_INTERVAL
    ) -> None:
        self._path = file.path
        self._load = file.load
        self._uses = uses
        self._secrets = file.first.secrets
        self._in_use = {name: getattr(file.first.settings, name) for name in Settings.model_fields}
        self._file = FileWatch(*_files(file.path, file.first.settings), every=every, steady=True)
        self._file.read = ()  # it may have changed since the start, so the first look reads it
        self._said_something = bool(_content(file.path))
        self._told = ""

    async def watch(self) -> None:
        """Read the file whenever it changes, until cancelled."""
        async for new_for in self._file.looks():
            if new_for is not None:
                self._take(*await asyncio.to_thread(self._read))

    async def reread(self) -> None:
        """Read the file now; say again what is wrong with it, or waits for a restart."""
        self._told = ""
        self._take(*await asyncio.to_thread(self._read))

    def _read(self) -> tuple[Stamps, Loaded | SettingsError]:
        """What the file looks like, and the settings or what is wrong with them. Blocks."""
        stamps = self._file.stamps()
        try:
            self._require_content()
            return stamps, self._load()
        except SettingsError as error:
            return stamps, error

    def _require_content(self) -> None:
        """Raises SettingsError where the file is gone, or has become empty."""
        content = _content(self._path)
        if self._said_something and not content:
            raise SettingsError(f"{self._path} is empty now: to set nothing, leave a comment in it")
        self._said_something = bool(content)

    def _take(self, stamps: Stamps, found: Loaded | SettingsError) -> None:
        self._file.read = stamps
        if isinstance(found, SettingsError):
            reason = "; ".join(map(str, found.args))
            if self._is_news(reason):
                log.error("settings.reload_failed", reason=reason, note="the previous ones stay in use")
            return
        self._file.paths = _files(self._path, found.settings)
        changed = self._changed(found)
        used = [name for name in changed if self._use(name, found.settings)]
        if used:
            log.info("settings.reloaded", file=str(self._path), settings=[*map(_in_file, used)])
        waiting = [name for name in changed if name not in used]
        if self._is_news(" ".join(waiting)) and waiting:
            names = [*map(_in_file, waiting)]
            log.warning("settings.restart_needed", settings=names, note="restart the bridge to use them")

    def _is_news(self, text: str) -> bool:
        """Whether this was not the last thing to be told."""
        told, self._told = self._told, text
        return text != told

    def _changed(self, found: Loaded) -> list[str]:
        """The settings that are not what is in use, and the names of files with secrets."""
        in_files = {*self._secrets, *found.secrets}
        moved = [f"{name}_file" for name in KINDS if found.secrets.get(name) != self._secrets.get(name)]
        return [
            *(
                name
                for name, value in self._in_use.items()
                if name not in in_files and getattr(found.settings, name) != value
            ),
            *moved,
        ]

    def _use(self, name: str, settings: Settings) -> bool:
        """Use a setting's new value, if that needs no restart."""
        if name not in self._uses:
            return False
        value = getattr(settings, name)
        try:
            self._uses[name](value.get_secret_value() if isinstance(value, SecretStr) else value)
        except ValueError:
            return False
        self._in_use[name] = value
        return True


def _content(path: Path) -> bytes:
    """What is in the file but blanks. Raises SettingsError where it can't be read."""
    try:
        return files.read(path).strip()
    except files.FileError as error:
        raise SettingsError(str(error)) from None


def _files(path: Path, settings: Settings) -> tuple[Path, ...]:
    """The files to watch: the settings' own, and those that its tables name."""
    tokens = (account.api_token_file for account in settings.accounts)
    return (path, *(token for token in tokens if token is not None))


def _in_file(setting: str) -> str:
    """What a setting is called in the file."""
    tables = {table.setting: header_of(name) for name, table in TABLES.items()}
    return tables.get(setting, setting)
