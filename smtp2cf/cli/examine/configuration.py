"""Configuration: the settings by themselves and against each other, and who may read the secrets."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from smtp2cf.cli.examine.finding import Finding, error, ok, warning
from smtp2cf.settings import check, loading
from smtp2cf.settings.fields import Settings, SettingsError


def settings_read(env_file: Path | None) -> tuple[Settings | None, list[Finding]]:
    """The settings, None if they can't be read, and what is wrong with them."""
    found = []
    settings = None
    try:
        found += [error("settings", line) for line in loading.unknown_variables(env_file)]
        settings = loading.load(env_file)
        check.require_account(settings)
    except SettingsError as wrong:
        found += [error("settings", str(line)) for line in wrong.args]
    if settings is not None:
        found += [error("settings", line) for line in check.contradictions(settings)]
        found += [error("settings", line) for line in check.mistakes(settings)]
        found += [warning("settings", line) for line in check.doubts(settings)]
    return settings, found or [ok("settings", "they are valid and fit together")]


def secrets_kept(secrets: Mapping[str, Path]) -> Iterator[Finding]:
    """Whether other users of this host can read a file. secrets: by what names it."""
    for name, path in secrets.items():
        try:
            mode = path.stat().st_mode
        except OSError:
            continue  # whoever reads it says so
        if not stat.S_ISREG(mode):
            continue  # a directory in its place is not to be locked up, and no secret is read from it
        if mode & stat.S_IROTH:
            yield warning(
                "secrets",
                f"{name}: {path} can be read by every user of this host (mode {stat.S_IMODE(mode):04o}):"
                f" chmod o-r {path}",
            )
        else:
            yield ok("secrets", f"{name}: {path} can't be read by other users")
