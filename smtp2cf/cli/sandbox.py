"""smtp2cf sandbox: the stand-in for Cloudflare's API by itself."""

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from smtp2cf.cli import stand_in
from smtp2cf.cli.loop import run_loop
from smtp2cf.cli.serve import SANDBOX_ENDPOINT
from smtp2cf.cli.terminal import endpoint_of
from smtp2cf.listen.endpoint import Endpoint, bound, listen
from smtp2cf.settings import loading

if TYPE_CHECKING:
    from smtp2cf.sandbox import Sandbox


def sandbox(
    sandbox_listen: Annotated[
        str, typer.Option("--listen", help="Where to listen.", metavar="HOST:PORT")
    ] = SANDBOX_ENDPOINT,
    strict: Annotated[bool, stand_in.strict("--strict")] = False,
    senders: Annotated[str, stand_in.senders("--senders")] = "",
    quota: Annotated[int | None, stand_in.quota("--quota")] = None,
    rate: Annotated[str, stand_in.rate("--rate")] = "",
    silent: Annotated[bool, stand_in.silent("--silent")] = False,
    string_codes: Annotated[bool, stand_in.string_codes("--string-codes")] = False,
) -> None:
    """Run only the sandbox's API."""
    make = stand_in.maker(
        strict=strict, senders=senders, quota=quota, rate=rate, silent=silent, string_codes=string_codes
    )
    hosts = (socket.gethostname(), *loading.load().admin_hosts)
    run_loop(_serve(endpoint_of(sandbox_listen), lambda: make(hosts=hosts)))


async def _serve(endpoint: Endpoint, make: "Callable[[], Sandbox]") -> None:
    """Run until SIGTERM or SIGINT."""
    sockets = listen(endpoint)
    sandbox = make()
    await sandbox.start(sockets)
    url = f"http://{bound(sockets, endpoint)}"
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    typer.echo(f"SMTP2CF_API_BASE_URL={url}/client/v4\nmessages: {url}/messages")
    await stop.wait()
    await sandbox.stop()
