"""The admin application, on aiohttp's server."""

import socket
from collections.abc import Callable, Mapping
from typing import NamedTuple

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from smtp2cf.admin.page import render


class Readiness(NamedTuple):
    """Whether mail can be taken and sent, and why not."""

    ready: bool
    reason: str


class Admin:
    """Serves probes, metrics and the status page on the sockets it is given.

    readiness, status: asked at every request; status is what the page shows, in its order.
    """

    def __init__(
        self, readiness: Callable[[], Readiness], status: Callable[[], Mapping[str, object]]
    ) -> None:
        self._readiness = readiness
        self._status = status
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
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
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"{readiness.reason}\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _page(self, _: web.Request) -> web.Response:
        html = render(self._readiness(), self._status())
        policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(text=html, content_type="text/html", headers=policy)
