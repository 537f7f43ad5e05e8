"""smtp2cf quota: how many recipients each account may still send to, as Cloudflare counts them.

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
from smtp2cf.cloudflare.account import Account
from smtp2cf.cloudflare.quota import Quota, ask_quota
from smtp2cf.journal import logs
from smtp2cf.reply import SendError
from smtp2cf.settings import accounts, check, loading


def quota(as_json: Json = False, env_file: EnvFile = None) -> None:
    """Show each account's quota, how much of it is used, and when it resets."""
    logs.configure("error", "auto")
    settings = loading.load(env_file)
    check.require_account(settings)
    failed: list[tuple[str, int]] = []

    async def show_all() -> None:
        for account in accounts.build_all(settings):
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
    for text, _ in failed[:-1]:
        typer.echo(f"smtp2cf: {printable(text)}", err=True)
    if failed:
        fail(*failed[-1])


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
