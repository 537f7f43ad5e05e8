"""Secret files: secrets that are settings and are read from files, and what happens when those change.

A secret is replaced in one of three ways: another file is renamed over it, a link to it (or to its directory,
as in Kubernetes) points somewhere else, or it is written in place. Whichever it was, the bridge goes on with
the new secret; if that can't be used, with the old one. No secret is logged, or part of an error.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from pydantic import SecretStr

from smtp2cf.listen import files
from smtp2cf.listen.file_watch import FileWatch, Stamps
from smtp2cf.settings.fields import PREFIX, Settings
from smtp2cf.settings.values import checked_spool_url, checked_token, checked_webhook_secret

LOOK_INTERVAL = 1.0
"""Seconds between two looks at a file. A change is read once the file looks the same at two of them, so that
one that is being written in place is read whole."""

KINDS: Mapping[str, tuple[str, Callable[[SecretStr], object]]] = {
    "api_token": ("token", checked_token),
    "events_api_token": ("events_token", checked_token),
    "spool_url": ("spool_url", checked_spool_url),
    "webhook_secret": ("webhook_secret", checked_webhook_secret),
}
"""Settings that can be read from a file: what log lines call each, and what checks it (ValueError)."""

log = structlog.stdlib.get_logger("smtp2cf.settings")


class SecretFileError(ValueError):
    """The file can't be used; the text names the setting and the file, on one line."""


def variable_of(setting: str) -> str:
    """The variable that names the file of a setting."""
    return f"{PREFIX}{setting.upper()}_FILE"


def read(setting: str, path: Path) -> str:
    """The secret in a file, not checked. Blocks. Raises SecretFileError."""
    try:
        return secret_in(path)
    except files.FileError as error:
        raise SecretFileError(f"{variable_of(setting)}: {error}") from None


def secret_in(path: Path) -> str:
    """The secret in a file, not checked. Blocks. Raises FileError, which names the file and no setting."""
    secret = files.read_text(path).strip()
    if not secret:
        raise files.FileError(f"{path} is empty")
    return secret


class SecretFile:
    """A secret that may be replaced while the bridge runs.

    settings: hold the one that was read at the start. use: takes another one; raises ValueError if it can
    only be used after a restart. every: seconds between two looks.
    """

    def __init__(
        self,
        settings: Settings,
        setting: str,
        path: Path,
        use: Callable[[str], None],
        *,
        every: float = LOOK_INTERVAL,
    ) -> None:
        self._setting = setting
        self._path = path
        self._in_use: str = getattr(settings, setting).get_secret_value()
        self._use = use
        self._name, self._check = KINDS[setting]
        self._file = FileWatch(path, every=every, steady=True)
        self._file.read = ()  # it may have changed since the start, so the first look reads it
        self._complaint = ""

    async def watch(self) -> None:
        """Use what is in the file whenever it changes, until cancelled."""
        async for new_for in self._file.looks():
            if new_for is not None:
                self._take(*await asyncio.to_thread(self._read))

    async def reread(self) -> None:
        """Use what is in the file now; say what is wrong with it even if that was said before."""
        self._complaint = ""
        self._take(*await asyncio.to_thread(self._read))

    def _read(self) -> tuple[Stamps, str | SecretFileError]:
        """What the file looks like, and the secret in it or what is wrong with it. Blocks."""
        stamps = self._file.stamps()
        try:
            secret = read(self._setting, self._path)
            self._check(SecretStr(secret))
        except SecretFileError as error:
            return stamps, error
        except ValueError as error:
            return stamps, self._unusable(error)
        return stamps, secret

    def _unusable(self, why: ValueError) -> SecretFileError:
        return SecretFileError(f"{variable_of(self._setting)}: what is in {self._path} can't be used: {why}")

    def _take(self, stamps: Stamps, found: str | SecretFileError) -> None:
        self._file.read = stamps
        if isinstance(found, SecretFileError):
            self._complain(found)
            return
        if found != self._in_use:
            try:
                self._use(found)
            except ValueError as error:
                self._complain(self._unusable(error))
                return
            self._in_use = found
            log.info(f"{self._name}.reloaded", file=str(self._path))
        self._complaint = ""

    def _complain(self, error: SecretFileError) -> None:
        if str(error) != self._complaint:
            log.error(f"{self._name}.reload_failed", reason=str(error), note="the previous one stays in use")
        self._complaint = str(error)
