"""The way to the API: httpx's transport interface, over aiohttp (httpx-aiohttp), for one host.

httpx-aiohttp builds each answer for any kind of client; here a request is one small exchange with
one host, so it is read whole at once, within a limit, under one timeout. Never chunked, never
redirected, never repeated: a call that was sent may have sent mail. Knows no Cloudflare.
"""

import urllib.request

import aiohttp
import httpx
from aiohttp.payload import BytesPayload, Payload
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import map_aiohttp_exceptions
from multidict import CIMultiDict

ANSWER_LIMIT = 1024 * 1024
"""Octets of an answer that are read; one that is longer is none of the API's."""
CONNECT_TIMEOUT = 10.0
"""Seconds until a connection must stand: name, TCP, proxy and TLS."""
CONNECT_SHARE = 0.8
"""The same as a share of a shorter timeout, so that it is known which of the two has passed."""
KEEP_ALIVE = 30.0
"""Seconds an idle connection is kept: less than Cloudflare's edge does, so that it is not the edge
which closes one at the moment we use it."""


class Transport(AiohttpTransport):
    """Exchanges requests with the host of `base_url`, through the proxy the environment names.

    timeout: seconds of one exchange. connections: open at most. Raises ValueError for a proxy that is
    none.
    """

    def __init__(self, base_url: httpx.URL, timeout: float, connections: int) -> None:
        super().__init__()
        self._proxy_url = proxy_of(base_url)
        self._timeout = aiohttp.ClientTimeout(
            total=timeout, connect=min(CONNECT_TIMEOUT, timeout * CONNECT_SHARE)
        )
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange; raises httpx.TransportError, aiohttp.ClientError, TimeoutError or OSError.

        What aiohttp raised is the `__cause__` of what httpx has a name for.
        """
        session = self._session or self._open_session()
        body = request.content
        try:
            response = await session.request(
                request.method,
                str(request.url),
                headers=CIMultiDict((name.decode(), value.decode()) for name, value in request.headers.raw),
                data=_Body(body) if body else None,
                allow_redirects=False,
            )
            try:
                content = await _read(response)
            except BaseException:
                response.close()
                raise
        except aiohttp.ClientResponseError as error:
            raise _without_headers(error) from None
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
            proxy=self._proxy_url,
        )
        return self._session


class _Body(BytesPayload):
    """A request's body, written in one piece. aiohttp's own payload of bytes warns above a megabyte,
    and reads one from a file in small pieces; this one is in memory whatever we do."""

    def __init__(self, content: bytes) -> None:
        Payload.__init__(self, content)
        self._size = len(content)


def _without_headers(error: aiohttp.ClientResponseError) -> httpx.TransportError:
    """The error in httpx's words: aiohttp's shows the request's headers, with the token, in its repr."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return httpx.ProxyError(f"the proxy answers {error.status} {error.message}")
    return httpx.RemoteProtocolError(f"what came back is not HTTP: {error.message}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    blocks: list[bytes] = []
    size = 0
    while block := await response.content.readany():
        size += len(block)
        if size > ANSWER_LIMIT:
            raise httpx.ReadError(f"the answer is longer than {ANSWER_LIMIT} octets")
        blocks.append(block)
    return b"".join(blocks)


def proxy_of(base_url: httpx.URL) -> str | None:
    """The proxy that the environment names for this host, with its credentials; None for none.

    HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in small letters too. Raises ValueError.
    """
    port = base_url.port or (443 if base_url.scheme == "https" else 80)
    if urllib.request.proxy_bypass(f"{base_url.host}:{port}"):
        return None
    proxies = urllib.request.getproxies()
    url = proxies.get(base_url.scheme) or proxies.get("all")
    if not url:
        return None
    try:
        proxy = httpx.URL(url if "://" in url else f"http://{url}")
    except httpx.InvalidURL as error:
        raise ValueError(f"the proxy that the environment names can't be used: {error}") from None
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise ValueError(f"the proxy that the environment names is no http://host:port but {proxy.scheme}:")
    return str(proxy)
