"""smtp2cf quota: how many recipients the account may still send to, as Cloudflare counts them.

Exit status (sysexits.h): 69 if Cloudflare gives no answer, 77 if it refuses the token, 78 for settings that
are wrong. Where it does not say, the quota is unknown, which is no error.
"""

import asyncio
import os
import sys
from typing import Any

import orjson
import typer

from smtp2cf.cli.arguments import EnvFile, Json
from smtp2cf.cli.terminal import fail, printable
from smtp2cf.cloudflare.quota import Quota, ask_quota
from smtp2cf.journal import logs
from smtp2cf.reply import SendError
from smtp2cf.settings import check, loading, rooms
from smtp2cf.settings.fields import Settings


def quota(as_json: Json = False, env_file: EnvFile = None) -> None:
    """Show the account's quota, how much of it is used, and when it resets."""
    logs.configure("error", "auto")
    settings = loading.load(env_file)
    check.require_account(settings)
    try:
        known, why = asyncio.run(_ask(settings))
    except SendError as no_answer:
        fail(no_answer.reply.text, os.EX_UNAVAILABLE)
    if as_json:
        sys.stdout.write(orjson.dumps(_as_json(known, why)).decode() + "\n")
    else:
        typer.echo(printable(str(known) if known is not None else f"unknown: {why}"))


async def _ask(settings: Settings) -> tuple[Quota | None, str]:
    """The quota, or why it is unknown. A token that may do nothing at all ends the command."""
    account = rooms.account(settings)
    try:
        known, why = await ask_quota(account.client.api)
        if known is None and not (token := await account.client.verify_token()).accepted:
            fail(token.reason, os.EX_NOPERM)
        return known, why
    finally:
        await account.aclose()


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
