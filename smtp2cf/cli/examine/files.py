"""Files: those that the bridge opens: users, certificate, spool, drop directory."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smtp2cf.access.senders import Senders
from smtp2cf.cli.examine.finding import Finding, error, ok, warning
from smtp2cf.listen.files import FileError, read
from smtp2cf.relay.sender_domains import NOBODY_KNOWN, NOTE, domains_in
from smtp2cf.reply import SendError, few_in_words
from smtp2cf.settings import rooms
from smtp2cf.settings.fields import Settings, SettingsError
from smtp2cf.spool import SpoolError
from smtp2cf.spool.inspection import inspect, read_note

if TYPE_CHECKING:
    from smtp2cf.access.users import User

SHOWN = 5
"""Domains that a line names."""


def users(settings: Settings) -> Iterator[Finding]:
    """Who may log in."""
    if settings.users_file is None:
        return
    try:
        found = _users(settings)
    except ValueError as wrong:
        yield error("users", f"SMTP2CF_USERS_FILE: {wrong}")
        return
    if found:
        yield ok("users", f"SMTP2CF_USERS_FILE: {len(found)} in {settings.users_file}")
    else:
        yield warning(
            "users",
            f"SMTP2CF_USERS_FILE: {settings.users_file} is empty, so nobody can log in: smtp2cf user add NAME"
            f" --users-file {settings.users_file}",
        )


def senders_of_users(settings: Settings) -> list[Senders]:
    """What each user may send as; none where there is no users file, or it is of no use."""
    try:
        return [user.senders for user in _users(settings)]
    except ValueError:
        return []


def _users(settings: Settings) -> "list[User]":
    if settings.users_file is None:
        return []
    from smtp2cf.access.users import read_users

    return [*read_users(settings.users_file)[0].values()]


def certificate(settings: Settings) -> Iterator[Finding]:
    """What clients are shown, and what they make of it."""
    try:
        found = rooms.certificate(settings)
        complaints = rooms.certificate_complaints(settings, found)
    except SettingsError as wrong:
        yield error("certificate", str(wrong))
        return
    if found is not None:
        yield ok("certificate", str(found))
    for line in complaints:
        yield warning("certificate", line)


def holds_private_key(pem: Path) -> bool:
    """Whether a private key is in a file of certificates: it may be, and then the whole file is secret."""
    try:
        return b"PRIVATE KEY-----" in read(pem)
    except FileError:
        return False  # whoever reads the certificate says so


async def spool(settings: Settings) -> Finding:
    """Where mail waits."""
    url = settings.spool_url.get_secret_value()
    if url.lower() == "none":
        return ok("spool", "SMTP2CF_SPOOL_URL is none: what can't be sent at once is left to the client")
    try:
        said = await inspect(url, state_dir=settings.state_dir, min_free=rooms.spool_min_free(settings))
    except SpoolError as wrong:
        return error("spool", str(wrong))
    except SendError as refusal:
        return error("spool", refusal.reply.text)
    return ok("spool", said)


async def reports(settings: Settings) -> Finding | None:
    """Who DSNs come from; None where that can't be told for what is wrong with the spool."""
    if settings.postmaster:
        return ok("reports", f"they come from SMTP2CF_POSTMASTER={settings.postmaster}")
    url, domains = settings.spool_url.get_secret_value(), list[str]()
    if url.lower() != "none":
        try:
            domains = domains_in(await read_note(url, state_dir=settings.state_dir, name=NOTE))
        except (SpoolError, SendError):
            return None
    if not domains:
        return warning("reports", NOBODY_KNOWN)
    named = few_in_words(domains, SHOWN)
    return ok("reports", f"they come from mailer-daemon@ a domain that has sent: {named}")


def drop_directory(settings: Settings) -> Iterator[Finding]:
    """Where sendmail leaves mail, if it is there at all."""
    directory = settings.sendmail_drop_dir
    try:
        is_directory = stat.S_ISDIR(directory.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError as wrong:
        yield error("drop directory", f"SMTP2CF_SENDMAIL_DROP_DIR: {directory}: {wrong.strerror}")
        return
    if not is_directory:
        yield error(
            "drop directory",
            f"SMTP2CF_SENDMAIL_DROP_DIR: {directory} is not a directory, so sendmail can't leave mail there:"
            " make one in its place, with mode 3733",
        )
        return
    if os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        yield ok("drop directory", f"the bridge can read and empty {directory}")
    else:
        yield error(
            "drop directory",
            f"SMTP2CF_SENDMAIL_DROP_DIR: uid {os.geteuid()} may not read and write {directory}, so what"
            f" sendmail leaves there is never sent: chown it to the user the bridge runs as, mode 3733",
        )
