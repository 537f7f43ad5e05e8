"""The admin's HTTP application, on aiohttp's server: read only, one request per connection."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from smtp2cf.journal.readiness import Readiness
from smtp2cf.web.connections import Connections
from smtp2cf.web.cross_origin import HEADERS, Hosts, add_headers, guard
from smtp2cf.web.status_page import STYLE_SOURCE, render

PROBES = ("/livez", "/readyz")
"""Answered whatever the Host: they say nothing that a stranger should not know."""
STOP_GRACE = 1.0
"""Seconds that answers under way get when the bridge stops."""
_PAGE_POLICY = f"{HEADERS['Content-Security-Policy']}; style-src {STYLE_SOURCE}"

Queue = Callable[[], AsyncIterator[Mapping[str, object]]]
"""Gives the mail that waits, each as the fields to show."""


class Admin:
    """Serves probes, metrics and the status page on the sockets it is given.

    readiness: whether mail can be taken. can_send: whether it can be taken and sent. status: what the page
    shows, in this order. All three are called for every request. queue:
    gives the waiting mail; None where there is no spool. hosts: host names that requests may use, besides
    localhost and IP addresses.
    """

    def __init__(
        self,
        readiness: Callable[[], Readiness],
        can_send: Callable[[], Readiness],
        status: Callable[[], Mapping[str, object]],
        queue: Queue | None = None,
        *,
        hosts: Iterable[str] = (),
    ) -> None:
        self._readiness = readiness
        self._can_send = can_send
        self._status = status
        app = web.Application(middlewares=[self._begin, guard(Hosts(hosts), open_to_all=PROBES.__contains__)])
        app.on_response_prepare.append(add_headers)
        app.router.add_get("/", self._page)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        if queue is not None:
            app.router.add_get("/queue", partial(_waiting_mail, queue))
        self._runner = web.AppRunner(
            app, access_log=None, lingering_time=STOP_GRACE, shutdown_timeout=STOP_GRACE
        )
        self._connections: Connections | None = None
        self._servers: list[asyncio.Server] = []

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve on listening sockets."""
        await self._runner.setup()
        server = self._runner.server
        if server is None:
            raise RuntimeError("aiohttp's runner has no server after its setup")
        self._connections = Connections(server)
        loop = asyncio.get_running_loop()
        self._servers = [await loop.create_server(self._connections, sock=sock) for sock in sockets]

    async def stop(self) -> None:
        """Stop serving."""
        for server in self._servers:
            server.close()
        await self._runner.cleanup()

    @web.middleware
    async def _begin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Take one request per connection, without a body, and close it after the answer."""
        if self._connections is not None:
            self._connections.asked(request.transport)
        try:
            if request.body_exists:
                raise web.HTTPRequestEntityTooLarge(
                    max_size=0, actual_size=1, text="a request here has no body\n"
                )
            response = await handler(request)
        except web.HTTPException as error:
            error.force_close()
            raise
        response.force_close()
        return response

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        """Whether mail can be taken; with ?sending, whether it can be sent as well."""
        readiness = self._can_send() if "sending" in request.query else self._readiness()
        if readiness.ready:
            return web.Response(text=f"ok\n{readiness.reason}\n" if readiness.reason else "ok\n")
        return web.Response(status=503, text=f"{readiness.reason}\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _page(self, request: web.Request) -> web.Response:
        """The status page; as JSON for whoever asks for that."""
        if request.headers.get("Accept") == "application/json":
            body = orjson.dumps(dict(self._status()), default=_as_json)
            return web.Response(body=body, content_type="application/json")
        html = render(self._readiness(), self._can_send(), self._status())
        policy = {"Content-Security-Policy": _PAGE_POLICY}
        return web.Response(text=html, content_type="text/html", headers=policy)


async def _waiting_mail(queue: Queue, request: web.Request) -> web.StreamResponse:
    """The mail that waits, one JSON object a line, oldest first: what mailq shows."""
    response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
    response.force_close()
    await response.prepare(request)
    async for mail in queue():
        await response.write(orjson.dumps(mail) + b"\n")
    await response.write_eof()
    return response


def _as_json(value: object) -> object:
    """A named tuple as an object; orjson takes plain tuples only."""
    return value._asdict() if isinstance(value, tuple) and hasattr(value, "_asdict") else str(value)
