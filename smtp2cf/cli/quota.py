"""smtp2cf quota: how many recipients each account may still send to, as Cloudflare counts them.

Exit status (sysexits.h): 69 if Cloudflare gives no answer, 77 if it refuses the token, 78 for settings that
are wrong. Where it does not say, the quota is unknown, which is no error.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import orjson
import typer

from smtp2cf.access.quotas import OfUser
from smtp2cf.access.standing import nearly_used_up
from smtp2cf.cli.arguments import EnvFile, Json
from smtp2cf.cli.terminal import fail, printable
from smtp2cf.cloudflare.account import Account
from smtp2cf.cloudflare.quota import Quota, ask_quota
from smtp2cf.journal import logs
from smtp2cf.reply import SendError
from smtp2cf.settings import accounts, check, loading, quotas
from smtp2cf.settings.fields import Settings
from smtp2cf.spool.inspection import read_counts
from smtp2cf.spool.protocol import SpoolError

SHOWN = 50
"""Clients, users and senders that are shown."""


def quota(as_json: Json = False, env_file: EnvFile = None) -> None:
    """Show each account's quota, how much of it is used, and when it resets; and who nears one of our own."""
    logs.configure("error", "auto")
    settings = loading.load(env_file)
    check.require_account(settings)
    failed: list[tuple[str, int]] = []

    async def show_all() -> None:
        for account in accounts.build_all(settings, loading.files_of_secrets(env_file)):
            whose = f"{account.name}: " if account.name else ""
            known, why, status = await _ask(account)
            if status:
                failed.append((f"{whose}{why}", status))
            elif as_json:
                named = {"account": account.name} if account.name else {}
                sys.stdout.write(orjson.dumps(named | _as_json(known, why)).decode() + "\n")
            else:
                text = str(known) if known is not None else f"unknown: {why}"
                typer.echo(printable(f"{whose}{text}"))

    asyncio.run(show_all())
    asyncio.run(_show_local(settings, as_json=as_json))
    for text, _ in failed[:-1]:
        typer.echo(f"smtp2cf: {printable(text)}", err=True)
    if failed:
        fail(*failed[-1])


async def _show_local(settings: Settings, *, as_json: bool) -> None:
    """Who has used most of one of the bridge's own quotas, if it has any."""
    rulings = [*quotas.all_rulings(settings)]
    url = settings.spool_url.get_secret_value()
    if (not rulings and settings.users_file is None) or url.lower() == "none":
        return
    try:
        counts, now = await read_counts(url, state_dir=settings.state_dir)
    except (SpoolError, SendError) as error:
        why = error.reply.text if isinstance(error, SendError) else str(error)
        typer.echo(f"smtp2cf: the bridge's own quotas are unknown: {printable(why)}", err=True)
        return
    found = nearly_used_up(counts, now, rulings, _of_user(settings.users_file))
    for used in found[:SHOWN]:
        limit, setting = used.named
        told = {"setting": setting, "limit": str(limit), "who": used.who, "used": used.used}
        typer.echo(orjson.dumps(told).decode() if as_json else printable(str(used)))
    if len(found) > SHOWN and not as_json:
        typer.echo(f"and {len(found) - SHOWN} more")


def _of_user(users_file: Path | None) -> OfUser | None:
    """Users' own quotas; none where the file can't be used, which `check` says."""
    if users_file is None:
        return None
    from smtp2cf.access.users import UsersFile, UsersFileError

    try:
        return UsersFile(users_file).quota_of
    except UsersFileError:
        return None


async def _ask(account: Account) -> tuple[Quota | None, str, int]:
    """The quota, or why it is unknown, and the exit status that calls for: a token may do nothing at all."""
    try:
        known, why = await ask_quota(account.client.api)
        token = await account.client.verify_token() if known is None else None
    except SendError as no_answer:
        return None, no_answer.reply.text, os.EX_UNAVAILABLE
    finally:
        await account.aclose()
    if token is not None and not token.accepted:
        return None, token.reason, os.EX_NOPERM
    return known, why, os.EX_OK


def _as_json(known: Quota | None, why: str) -> dict[str, Any]:
    if known is None:
        return {"known": False, "reason": why}
    return {
        "known": True,
        "unit": known.unit,
        "quota": known.value,
        "sent": known.sent,
        "used_up": known.used_up,
        "resets_at": known.resets_at,
    }
