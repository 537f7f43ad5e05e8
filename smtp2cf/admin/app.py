"""The admin application, on aiohttp's server."""

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import NamedTuple

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from smtp2cf.admin.page import render


class Readiness(NamedTuple):
    """Whether mail can be taken and sent, and why not."""

    ready: bool
    reason: str


class Admin:
    """Serves probes, metrics and the status page on the sockets it is given.

    readiness, status: asked at every request; status is what the page shows, in its order. queue:
    the mail that waits, None where there is no spool.
    """

    def __init__(
        self,
        readiness: Callable[[], Readiness],
        status: Callable[[], Mapping[str, object]],
        queue: Callable[[], AsyncIterator[Mapping[str, object]]] | None = None,
    ) -> None:
        self._readiness = readiness
        self._status = status
        self._queue = queue
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        if queue is not None:
            app.router.add_get("/queue", self._waiting_mail)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve on listening sockets."""
        await self._runner.setup()
        for sock in sockets:
            await web.SockSite(self._runner, sock).start()

    async def stop(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        readiness = self._readiness()
        if readiness.ready:
            return web.Response(text=f"ok\n{readiness.reason}\n" if readiness.reason else "ok\n")
        return web.Response(status=503, text=f"{readiness.reason}\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _waiting_mail(self, request: web.Request) -> web.StreamResponse:
        """The mail that waits, one JSON object a line, oldest first: what mailq shows."""
        assert self._queue is not None  # noqa: S101 - the route is there only with a queue
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await response.prepare(request)
        async for mail in self._queue():
            await response.write(orjson.dumps(mail) + b"\n")
        await response.write_eof()
        return response

    async def _page(self, _: web.Request) -> web.Response:
        html = render(self._readiness(), self._status())
        policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(text=html, content_type="text/html", headers=policy)
