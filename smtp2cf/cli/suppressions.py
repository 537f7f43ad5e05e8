"""Cloudflare's suppression list by hand: smtp2cf suppressions list, show, add, remove.

Of one account: suppressions --account NAME list. A table for people, one JSON object a line for scripts. Exit
status (sysexits.h): 1 where the address is on the list already, 66 where it is not, 77 where the token or a
read-only entry forbids it, 65 where Cloudflare refuses what was asked for, 69 where the API gives no answer.
Knows the account, and no bridge.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from smtp2cf.cli import journal
from smtp2cf.cli.arguments import App, EnvFile, Json
from smtp2cf.cli.terminal import fail, printable
from smtp2cf.cloudflare.errors import TokenRefusedError
from smtp2cf.cloudflare.suppressions import NOTE_LIMIT, ReadOnlyError, Suppression, Suppressions
from smtp2cf.envelope import domain_of, sent_form
from smtp2cf.reply import RefusedError, SendError
from smtp2cf.settings import accounts, check, loading
from smtp2cf.settings.units import seconds

app = App(help="List, look up, add or remove addresses that Cloudflare sends no mail to.")
_chosen: list[str] = []
"""The account that the command line names."""

Reason = StrEnum("Reason", ["manual", "complaint", "hard_bounce", "soft_bounce", "policy"])

Address = Annotated[str, typer.Argument(help="The recipient's address.", metavar="ADDRESS")]
Domain = Annotated[
    str | None,
    typer.Option(help="Only what is for mail from this sender's domain.", metavar="DOMAIN"),
]
AccountOnly = Annotated[bool, typer.Option("--account", help="Only what is for the whole account.")]

_COLUMNS = "{:<32}  {:<24}  {:<11}  {:<20}  {}"


@app.callback()
def _choose(
    account: Annotated[
        str,
        typer.Option("--account", help="Whose list, where there are several accounts.", metavar="NAME"),
    ] = "",
) -> None:
    _chosen[:] = [account]


@app.command("list")
def list_(
    search: Annotated[
        str,
        typer.Argument(
            help="The beginning of an address, or user@ for that user anywhere.", metavar="[TEXT]"
        ),
    ] = "",
    reason: Annotated[
        Reason | None,
        typer.Option(help="manual, complaint, hard_bounce, soft_bounce or policy.", metavar="REASON"),
    ] = None,
    domain: Domain = None,
    account: AccountOnly = False,
    as_json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """List suppressed addresses."""
    scope = _scope(domain, account=account)
    if account and search and search in {table.name for table in loading.load(env_file).accounts}:
        right = f"smtp2cf suppressions --account {search} list"
        raise typer.BadParameter(f"for the list of account {search}, say {right}", param_hint="--account")

    async def print_all(suppressions: Suppressions) -> None:
        table = _Table(as_json=as_json)
        async for entry in suppressions.entries(
            search=search, reason=str(reason) if reason else "", domain=scope
        ):
            table.add(entry)
        if not table.count and not as_json:
            named = search or reason or scope is not None
            typer.echo("no matching address" if named else "no address is suppressed")

    _with_list(env_file, print_all)


@app.command()
def show(
    address: Address,
    domain: Domain = None,
    account: AccountOnly = False,
    as_json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Show why an address is suppressed, until when, and for whose mail."""
    wanted, scope = _address(address), _scope(domain, account=account)

    async def print_found(suppressions: Suppressions) -> None:
        for number, entry in enumerate(await _found(suppressions, wanted, scope)):
            if as_json:
                _print_json(entry.as_json())
            else:
                sys.stdout.write("\n" if number else "")
                _print_entry(entry)

    _with_list(env_file, print_found)


@app.command()
def add(
    address: Address,
    domain: Annotated[
        str | None,
        typer.Option(
            help="Only mail from this sender's domain. Default: all mail of the account.", metavar="DOMAIN"
        ),
    ] = None,
    for_: Annotated[
        str | None,
        typer.Option("--for", help="How long, such as 36h or 30d. Default: for good.", metavar="AGE"),
    ] = None,
    note: Annotated[str, typer.Option(help="Why, for whoever reads the list.", metavar="TEXT")] = "",
    as_json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Suppress an address: Cloudflare sends it no mail any more."""
    wanted, scope, expires_at = _address(address), _scope(domain) or "", _expiry(for_)
    if len(note) > NOTE_LIMIT:
        raise typer.BadParameter(f"more than {NOTE_LIMIT} characters", param_hint="--note")

    async def suppress(suppressions: Suppressions) -> None:
        # Cloudflare would keep such an entry as it is, with its own expiry and note, and report success.
        if present := [entry for entry in await suppressions.find(wanted, scope) if not entry.expired]:
            why = f"{present[0].reason}, {_until(present[0].expires_at)}"
            raise _ListedError(f"{wanted} is already suppressed for {_whose(scope)}: {why}")
        await suppressions.add(wanted, domain=scope, expires_at=expires_at, note=note)
        changed.append(scope)
        if as_json:
            _print_json({"email": wanted, "domain": scope or None, "action": "add"})
        else:
            what = f"{wanted} is suppressed for {_whose(scope)}, {_until(expires_at)}"
            typer.echo(f"{printable(what)}. That can take a minute to have an effect.")

    changed: list[str] = []
    try:
        _with_list(env_file, suppress)
    finally:
        _note("suppress", wanted, changed, env_file)


@app.command()
def remove(
    address: Address,
    domain: Domain = None,
    account: AccountOnly = False,
    as_json: Json = False,
    env_file: EnvFile = None,
) -> None:
    """Take an address off the list, in every scope that is not excluded."""
    wanted, scope = _address(address), _scope(domain, account=account)

    async def remove_found(suppressions: Suppressions) -> None:
        kept = []
        for entry in await _found(suppressions, wanted, scope):
            try:
                await suppressions.remove(entry)
            except ReadOnlyError:
                kept.append(entry)
                continue
            changed.append(entry.domain)
            if as_json:
                _print_json({"email": entry.email, "domain": entry.domain or None, "action": "remove"})
            else:
                typer.echo(f"{printable(entry.email)} is no longer suppressed for {_whose(entry.domain)}")
        if kept:
            whose = " and ".join(_whose(entry.domain) for entry in kept)
            raise ReadOnlyError(
                f"{wanted} stays suppressed for {whose}: that is read-only, and only Cloudflare can remove it"
            )

    changed: list[str] = []
    try:
        _with_list(env_file, remove_found)
    finally:
        _note("unsuppress", wanted, changed, env_file)


def _note(action: str, address: str, domains: Sequence[str], env_file: Path | None) -> None:
    """Say in the journal who did what: for mail from which domains, "" for all of it."""
    if domains:
        of = {"account": account} if (account := next(iter(_chosen), "")) else {}
        fields = {"to": [address], "domains": list(domains), **of}
        journal.note(env_file, f"operator.{action}", fields)


class _ListedError(Exception):
    """The address that is to be added is on the list."""


class _NotListedError(Exception):
    """The address that was named is not on the list."""


async def _found(suppressions: Suppressions, address: str, scope: str | None) -> list[Suppression]:
    entries = await suppressions.find(address, scope)
    if not entries:
        raise _NotListedError(
            f"{address} is not suppressed{f' for {_whose(scope)}' if scope is not None else ''}"
        )
    return entries


def _with_list(env_file: Path | None, work: Callable[[Suppressions], Awaitable[None]]) -> None:
    """Do the work on the list of the account that the settings name."""

    async def run() -> None:
        settings = loading.load(env_file)
        check.require_account(settings)
        account = accounts.named(settings, loading.files_of_secrets(env_file), *_chosen)
        try:
            await work(Suppressions(account.client.api))
        finally:
            await account.aclose()

    try:
        asyncio.run(run())
        sys.stdout.flush()
    except _ListedError as error:
        fail(str(error), 1)
    except _NotListedError as error:
        fail(str(error), os.EX_NOINPUT)
    except ReadOnlyError as error:
        fail(str(error), os.EX_NOPERM)
    except TokenRefusedError as error:
        fail(error.reply.text, os.EX_NOPERM)
    except SendError as error:
        fail(error.reply.text, os.EX_UNAVAILABLE if error.reply.transient else os.EX_DATAERR)


# ---- what was typed


def _address(text: str) -> str:
    try:
        address = sent_form(text.strip("<>"))
    except RefusedError as error:
        raise typer.BadParameter(f"{text}: {error.reply.text}", param_hint="ADDRESS") from None
    if not all(address.rpartition("@")):
        raise typer.BadParameter(f"{text!r} is no address: use name@domain", param_hint="ADDRESS")
    return address


def _scope(domain: str | None, *, account: bool = False) -> str | None:
    """The sender's domain whose entries are meant, "" for those of the whole account, None for all."""
    if domain is None:
        return "" if account else None
    if account:
        raise typer.BadParameter("use one of --domain and --account", param_hint="--domain")
    if not (found := domain_of(f"@{domain.strip('@.')}")):
        raise typer.BadParameter("name a domain", param_hint="--domain")
    return found


def _expiry(duration: str | None) -> datetime | None:
    if duration is None:
        return None
    try:
        return datetime.now(UTC) + timedelta(seconds=seconds(duration))
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{duration!r}: use 90s, 30m, 2h or 3d", param_hint="--for") from None


# ---- what is shown


class _Table:
    """Prints entries as they come, with a heading before the first."""

    def __init__(self, *, as_json: bool) -> None:
        self.count = 0
        self._as_json = as_json

    def add(self, entry: Suppression) -> None:
        if self._as_json:
            _print_json(entry.as_json())
        else:
            if not self.count:
                typer.echo(_COLUMNS.format("address", "for", "reason", "until", "").rstrip())
            remark = "read-only" if entry.read_only else ""
            row = (entry.email, _whose(entry.domain), entry.reason, _expires(entry), remark)
            sys.stdout.write(_COLUMNS.format(*map(printable, row)).rstrip() + "\n")
        self.count += 1


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(value).decode() + "\n")


def _print_entry(entry: Suppression) -> None:
    given = {
        "address": entry.email,
        "for": _whose(entry.domain),
        "reason": entry.reason,
        "since": _utc(entry.created_at) if entry.created_at else entry.created or "unknown",
        "until": _expires(entry),
        "note": entry.note,
        "read-only": "yes: only Cloudflare can remove it" if entry.read_only else "no",
    }
    for name, value in given.items():
        if value:
            typer.echo(f"{name + ':':<11}{printable(value)}")


def _expires(entry: Suppression) -> str:
    return _until(entry.expires_at).removeprefix("until ")


def _until(moment: datetime | None) -> str:
    return f"until {_utc(moment)}" if moment else "for good"


def _utc(moment: datetime) -> str:
    """As in replies."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _whose(domain: str | None) -> str:
    return f"mail from {domain}" if domain else "all mail"
