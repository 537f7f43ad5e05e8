"""The users file by hand: smtp2cf user add, list, delete. A running bridge reads the change by itself.

A password is asked for on a terminal, or read as one line of standard input; it is never an argument, which
everybody on the host could see. Exit status (sysexits.h): 1 where there is no such user, or one already; 65
for a name, a password or a sender that can't be one; 78 where no file is named, or it can't be used.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from smtp2cf.cli import journal
from smtp2cf.cli.arguments import App, EnvFile, Json
from smtp2cf.cli.terminal import fail, printable, read_password
from smtp2cf.settings import fields, loading

app = App(help="Add, list or delete the users of SMTP2CF_USERS_FILE.")

Name = Annotated[str, typer.Argument(help="The user's name.", metavar="NAME")]
FileOption = Annotated[
    Path | None,
    typer.Option("--users-file", help="The users file. Default: SMTP2CF_USERS_FILE.", metavar="FILE"),
]
SenderOption = Annotated[
    list[str] | None,
    typer.Option(
        help="An address, a domain or *.domain that the user may send as. May be repeated.", metavar="SENDER"
    ),
]
QuotaOption = Annotated[
    str | None,
    typer.Option(
        help="How much the user may send, instead of SMTP2CF_USER_QUOTA: 1000 messages/1d, or none.",
        metavar="QUOTA",
    ),
]


@app.command()
def add(
    name: Name,
    sender: SenderOption = None,
    quota: QuotaOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Set a new password for an existing user.")
    ] = False,
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin", help="Read the password from standard input instead of the terminal."
        ),
    ] = False,
    users_file: FileOption = None,
    env_file: EnvFile = None,
) -> None:
    """Add a user. Asks for the password, or reads it from standard input."""
    from smtp2cf.access import edit, limit
    from smtp2cf.access.logins import hash_password
    from smtp2cf.access.senders import Senders
    from smtp2cf.access.users import UsersFileError, checked_name, read_users

    path = _users_file(users_file, env_file)
    try:
        name = checked_name(name)
        senders = [part.strip() for given in sender for part in given.split(",")] if sender else None
        Senders.parse(senders or ())
        limits = limit.parse(quota) if quota is not None else None
        is_new = not path.exists()
        exists = not is_new and name in read_users(path)[0]
        if exists and not replace:
            raise edit.UserExistsError  # noqa: TRY301 - before a password is typed in vain
        hashed = hash_password(read_password(name, from_stdin=password_stdin, twice=True))
        existed = edit.put_user(path, name, hashed, senders, limits, replace=replace)
    except edit.UserExistsError:
        fail(f"{path} already has a user {printable(name)}: use --replace to set a new password", 1)
    except UsersFileError as error:
        fail(str(error), os.EX_CONFIG)
    except ValueError as error:
        fail(str(error), os.EX_DATAERR)
    _note("changed" if existed else "added", name, env_file)
    typer.echo(f"{printable(name)}: {'has a new password' if existed else 'added'}")
    if is_new:
        _say_who_can_read(path)


@app.command("list")
def list_(as_json: Json = False, users_file: FileOption = None, env_file: EnvFile = None) -> None:
    """List the users and what they may send as."""
    from smtp2cf.access.limit import written
    from smtp2cf.access.users import UsersFileError, read_users

    try:
        users, _ = read_users(_users_file(users_file, env_file))
    except UsersFileError as error:
        fail(str(error), os.EX_CONFIG)
    for user in users.values():
        if as_json:
            told = {"name": user.name, "senders": list(user.senders.written)}
            own = {"quota": written(user.quota)} if user.quota is not None else {}
            sys.stdout.write(orjson.dumps(told | own).decode() + "\n")
        else:
            quota = f"; quota {written(user.quota)}" if user.quota is not None else ""
            senders = ", ".join(user.senders.written) or "any sender"
            typer.echo(printable(f"{user.name:<24}  {senders}{quota}"))


@app.command()
def delete(name: Name, users_file: FileOption = None, env_file: EnvFile = None) -> None:
    """Delete a user. Sessions that are logged in can't send any more."""
    import unicodedata

    from smtp2cf.access import edit
    from smtp2cf.access.users import UsersFileError

    path = _users_file(users_file, env_file)
    try:
        edit.delete_user(path, unicodedata.normalize("NFC", name))
    except edit.NoSuchUserError:
        fail(f"{path} has no user {printable(name)}", 1)
    except UsersFileError as error:
        fail(str(error), os.EX_CONFIG)
    _note("deleted", name, env_file)
    typer.echo(f"{printable(name)}: deleted")


def _say_who_can_read(path: Path) -> None:
    owner = path.stat().st_uid
    typer.echo(
        f"{path} is new, and only uid {owner} can read it: let the bridge's user read it too", err=True
    )


def _note(done: str, name: str, env_file: Path | None) -> None:
    """Say in the journal who did it."""
    journal.note(env_file, f"operator.user_{done}", {"user": name})


def _users_file(given: Path | None, env_file: Path | None) -> Path:
    """The file that the option or the settings name. Other settings may be wrong: they don't matter here."""
    path = given or loading.users_file(env_file)
    if path is None:
        raise fields.SettingsError("no users file: set SMTP2CF_USERS_FILE or use --users-file")
    return path
