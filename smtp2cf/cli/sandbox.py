"""smtp2cf sandbox: the stand-in for Cloudflare's API by itself."""

import asyncio
import signal
import socket
from collections.abc import Sequence
from typing import Annotated

import typer

from smtp2cf.cli.loop import run_loop
from smtp2cf.cli.serve import SANDBOX_ENDPOINT
from smtp2cf.cli.terminal import endpoint_of
from smtp2cf.listen.endpoint import Endpoint, bound, listen
from smtp2cf.settings import loading


def sandbox(
    sandbox_listen: Annotated[
        str, typer.Option("--listen", help="Where to listen.", metavar="HOST:PORT")
    ] = SANDBOX_ENDPOINT,
) -> None:
    """Run only the sandbox's API."""
    hosts = (socket.gethostname(), *loading.load().admin_hosts)
    run_loop(_stand_in(endpoint_of(sandbox_listen), hosts))


async def _stand_in(endpoint: Endpoint, hosts: Sequence[str]) -> None:
    """Run until SIGTERM or SIGINT."""
    from smtp2cf.sandbox import Sandbox

    sockets = listen(endpoint)
    stand_in = Sandbox(token=None, hosts=tuple(hosts))
    await stand_in.start(sockets)
    url = f"http://{bound(sockets, endpoint)}"
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    typer.echo(f"SMTP2CF_API_BASE_URL={url}/client/v4\nmessages: {url}/messages")
    await stop.wait()
    await stand_in.stop()
