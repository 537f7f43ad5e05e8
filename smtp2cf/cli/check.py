"""smtp2cf check: would the bridge start with these settings, and does Cloudflare accept the token?"""

import asyncio
import os

import typer

from smtp2cf.cli.arguments import EnvFile
from smtp2cf.cli.terminal import fail
from smtp2cf.reply import SendError
from smtp2cf.settings import loading
from smtp2cf.settings.fields import Settings


def check(env_file: EnvFile = None) -> None:
    """Check the settings, the token and the connection to Cloudflare. Exit 0 or 78."""
    from smtp2cf.journal import logs
    from smtp2cf.settings import rooms
    from smtp2cf.settings.check import check as check_against_each_other
    from smtp2cf.settings.check import require_account

    settings = loading.load(env_file)
    require_account(settings)
    logs.configure("warning", settings.log_format)
    rooms.access(settings).close()  # before the rest: a users file that can't be used is what is wrong first
    check_against_each_other(settings)
    certificate = rooms.certificate(settings)
    for line in (*loading.unknown_variables(env_file), *rooms.certificate_complaints(settings, certificate)):
        typer.echo(f"warning: {line}", err=True)
    typer.echo("settings: ok")
    if certificate is not None:
        typer.echo(f"certificate: {certificate}")
    try:
        refused = asyncio.run(_token_refusal(settings))
    except SendError as error:
        fail(
            f"Cloudflare: {error.reply.text} (SMTP2CF_API_BASE_URL is {settings.api_base_url})", os.EX_CONFIG
        )
    if refused:
        fail(f"token: {refused}", os.EX_CONFIG)
    typer.echo(f"Cloudflare: {settings.api_base_url} answers\ntoken: active")


async def _token_refusal(settings: Settings) -> str:
    """Why Cloudflare refuses the token, "" if it accepts it. Raises SendError if there is no answer."""
    from smtp2cf.settings import rooms

    account = rooms.account(settings)
    try:
        state = await account.client.verify_token()
    finally:
        await account.aclose()
    return "" if state.accepted else state.reason
