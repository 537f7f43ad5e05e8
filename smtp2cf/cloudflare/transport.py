"""The way to the API: httpx's transport interface, over aiohttp (httpx-aiohttp), for one host.

httpx-aiohttp builds each answer for any kind of client; here a request is one small exchange with
one host, so it is read whole at once, within a limit, under one timeout. Never chunked, never
redirected, never repeated: a call that was sent may have sent mail. Knows no Cloudflare.
"""

import urllib.request

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import map_aiohttp_exceptions
from multidict import CIMultiDict

ANSWER_LIMIT = 1024 * 1024
"""Octets of an answer that are read; one that is longer is none of the API's."""
CONNECT_TIMEOUT = 10.0
"""Seconds until a connection must stand."""
KEEP_ALIVE = 30.0
"""Seconds an idle connection is kept: less than Cloudflare's edge does, so that it is not the edge
which closes one at the moment we use it."""


class Transport(AiohttpTransport):
    """Exchanges requests with the host of `base_url`, through the proxy the environment names.

    timeout: seconds of one exchange. connections: open at most.
    """

    def __init__(self, base_url: httpx.URL, timeout: float, connections: int) -> None:
        super().__init__(proxy=_proxy_of(base_url))
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_TIMEOUT, timeout))
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange; raises httpx.TransportError, aiohttp.ClientError, TimeoutError or OSError.

        What aiohttp raised is the `__cause__` of what httpx has a name for.
        """
        session = self._session or self._open_session()
        try:
            response = await session.request(
                request.method,
                str(request.url),
                headers=CIMultiDict(request.headers.multi_items()),
                data=request.content or None,
                allow_redirects=False,
            )
            try:
                content = await _read(response)
            except BaseException:
                response.close()
                raise
            response.release()
        except aiohttp.ClientError as error:
            with map_aiohttp_exceptions():
                raise error from None
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=httpx.ByteStream(content),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        """aiohttp wants a running loop for this, so it waits for the first request."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections, keepalive_timeout=KEEP_ALIVE, ssl=self.ssl_context, ttl_dns_cache=60
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding",),
            timeout=self._timeout,
            proxy=str(self.proxy.url) if self.proxy else None,
        )
        return self._session


async def _read(response: aiohttp.ClientResponse) -> bytes:
    blocks: list[bytes] = []
    size = 0
    while block := await response.content.readany():
        size += len(block)
        if size > ANSWER_LIMIT:
            raise httpx.ReadError(f"the answer is longer than {ANSWER_LIMIT} octets")
        blocks.append(block)
    return b"".join(blocks)


def _proxy_of(base_url: httpx.URL) -> httpx.Proxy | None:
    """The proxy that the environment names for this host (HTTPS_PROXY, NO_PROXY and the like)."""
    if urllib.request.proxy_bypass(base_url.host):
        return None
    proxies = urllib.request.getproxies()
    url = proxies.get(base_url.scheme) or proxies.get("all")
    return httpx.Proxy(url) if url else None
