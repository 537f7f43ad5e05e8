"""The way to the API: httpx's transport interface, over aiohttp's connections, for HTTP/1.1 with one host.

aiohttp's connector opens the connections (names, proxies, TLS), and its parser reads the answers. The part in
between is ours: it keeps connections, and exchanges one complete request for one complete answer. aiohttp's
own handles everything HTTP can do, and costs as much as all the rest of relaying a message. Nothing is
chunked, redirected or repeated: a call that went out may have sent mail.

The parts of aiohttp used here have public names, but not all are documented; tests/cloudflare/test_aiohttp.py
checks them against the installed version. Knows no Cloudflare.
"""

import asyncio
import base64
import os
import re
import select
import ssl
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

ANSWER_LIMIT = 1024 * 1024
"""Octets of an answer that are read; one that is longer is none of the API's."""
INTERIM_LIMIT = 10
"""Interim answers (1xx) before the one that counts."""
EARLY_ANSWER = 65536
"""Octets of a body after which a refusal may come before all of it was sent. What is left waits in TLS, which
tells nobody, and would be in the way of the next request."""
CONNECT_TIMEOUT = 10.0
"""Seconds until a connection must stand: name, TCP, proxy and TLS."""
CONNECT_SHARE = 0.8
"""The same as a share of a shorter timeout, so that it is known which of the two has passed."""
KEEP_ALIVE = 30.0
"""Seconds an idle connection is kept: less than Cloudflare's edge does, so that it is not the edge
which closes one at the moment we use it."""

QUIET_ROUNDS = 8
"""Rounds of the loop without anything to read, after which no answer has come in time. What was read takes a
few of them to become an answer."""
LAST_ROUNDS = 256
"""Rounds in all. A round reads 16 KiB at least (a record of TLS), so the longest answer, with what becomes of
it, is through long before; whoever floods us has the loop for no longer than this takes."""


_ERRNO = re.compile(r"\[Errno ([0-9]+)\]")
DECODED = ("content-encoding", "content-length", "transfer-encoding")
"""Fields that say how a body was sent, which is no longer so once it has been read."""


class Answer(NamedTuple):
    """An answer. headers: looked up in any letter case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NotBegun(Exception):  # noqa: N818 - it is no error of anybody's
    """When there was a connection, the request was no longer allowed to go out. Nothing was sent."""


class Transport(httpx.AsyncBaseTransport):
    """Exchanges requests with the host of `base_url`, through the environment's proxy if there is one.

    timeout: seconds of one exchange. There are as many connections as exchanges at once. Raises ValueError
    for an invalid proxy.
    """

    def __init__(self, base_url: httpx.URL, timeout: float) -> None:
        self._base_url = base_url
        self._proxy = proxy_of(base_url)
        self._timeout = timeout
        self._connecting = aiohttp.ClientTimeout(connect=min(CONNECT_TIMEOUT, timeout * CONNECT_SHARE))
        self._ssl_context = httpx.create_ssl_context()
        self._connector: aiohttp.TCPConnector | None = None
        self._idle: deque[tuple[Connection, float]] = deque()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._origin = self._proxy_field = b""
        if self._proxy is not None and base_url.scheme == "http":
            # A proxy that is to make the call itself is told all of the URL (RFC 9112 §3.2.2).
            self._origin = b"http://" + base_url.netloc
            self._proxy_field = _proxy_authorization(self._proxy)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange in httpx's own terms, see `exchange`."""
        sent = [field for field in request.headers.raw if field[0].lower() != b"content-length"]
        fields = b"".join(b"%b: %b\r\n" % field for field in sent)
        answer = await self.exchange(request.method, request.url.raw_path, fields, await request.aread())
        headers = [
            (name.encode(), value.encode("utf-8", "surrogateescape"))
            for name, value in answer.headers.items()
            if name.lower() not in DECODED
        ]
        return httpx.Response(answer.status, headers=headers, stream=httpx.ByteStream(answer.body))

    async def exchange(
        self,
        method: str,
        target: bytes,
        fields: bytes,
        body: bytes,
        may_begin: Callable[[], bool] | None = None,
    ) -> Answer:
        """One exchange, with an answer that was read whole; httpx's objects would cost a tenth of relaying
        a message.

        target: path and query. fields: the header's lines, but Content-Length. may_begin: asked at the last
        moment; raises NotBegun where it says no. Raises httpx.ConnectError
        where there is no connection, so that nothing was sent; httpx.ReadTimeout and httpx.ReadError where
        the request was sent and no whole answer came back. Their texts are for a person.
        """
        length = b"Content-Length: %d\r\n" % len(body) if body else b""
        line = b"%b %b%b HTTP/1.1\r\n" % (method.encode(), self._origin, target)
        head = b"".join((line, fields, self._proxy_field, length, b"\r\n"))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        try:
            connection = self._take_idle(loop.time()) or await self._connect()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # It is no cause to show: aiohttp's may hold what was sent to the proxy, with the password.
            raise httpx.ConnectError(_why_unreachable(error, self._proxy)) from None
        if may_begin is not None and not may_begin():
            self._keep(connection, loop)
            raise NotBegun
        try:
            with _Deadline(loop, deadline, connection):
                answer = await _converse(connection, (head, body))
        except TimeoutError:
            _abort(connection)
            raise httpx.ReadTimeout("no answer in time") from None
        except _NO_ANSWER as error:
            _abort(connection)
            raise httpx.ReadError(_why_broken(error)) from error
        except BaseException:
            _abort(connection)
            raise
        if answer.status >= 300 and len(body) > EARLY_ANSWER:
            _abort(connection)
        else:
            self._keep(connection, loop)
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        while self._idle:
            self._idle.popleft()[0].close()
        if self._connector is not None:
            await self._connector.close()

    def _take_idle(self, now: float) -> "Connection | None":
        """The reusable connection that was used last; None if there is none."""
        while self._idle:
            connection, since = self._idle.pop()
            if now - since < KEEP_ALIVE and _is_reusable(connection):
                return connection
            _abort(connection)
        return None

    def _keep(self, connection: "Connection", loop: asyncio.AbstractEventLoop) -> None:
        """Keep a connection for the next request if it can be reused."""
        if not _is_reusable(connection):
            return _abort(connection)
        self._idle.append((connection, loop.time()))
        if self._sweep_timer is None:
            self._sweep_timer = loop.call_later(KEEP_ALIVE, self._sweep, loop)
        return None

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close connections that have been idle for too long; reschedule for the rest."""
        self._sweep_timer = None
        now = loop.time()
        while self._idle and now - self._idle[0][1] >= KEEP_ALIVE:
            self._idle.popleft()[0].close()
        if self._idle:
            self._sweep_timer = loop.call_at(self._idle[0][1] + KEEP_ALIVE, self._sweep, loop)

    async def _connect(self) -> "Connection":
        connector = self._connector or self._open_connector()
        return await connector.connect(self._target, [], self._connecting)

    def _open_connector(self) -> aiohttp.TCPConnector:
        """Open it at the first request, because aiohttp needs a running loop. Raises ValueError."""
        if self._base_url.scheme not in ("http", "https"):
            raise ValueError(f"unsupported scheme {self._base_url.scheme!r}: use https://")
        # To aiohttp it is a request that says whom to connect to; it is never sent.
        self._target = aiohttp.ClientRequest(
            "POST",
            URL(str(self._base_url)),
            proxy=URL(str(self._proxy)) if self._proxy is not None else None,
            loop=asyncio.get_running_loop(),
        )
        self._connector = aiohttp.TCPConnector(limit=0, ssl=self._ssl_context, ttl_dns_cache=60)
        return self._connector


class _Deadline:
    """Ends an exchange at a time of the loop's clock, with TimeoutError.

    An answer that has arrived by then counts, even if the busy loop hasn't read it yet: it is read first.
    asyncio.timeout only looks at the clock, and costs five times as much.
    """

    __slots__ = ("_loop", "_passed", "_quiet", "_rounds", "_timer", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, when: float, connection: "Connection") -> None:
        self._loop = loop
        self._transport = connection.transport
        self._passed = False
        self._quiet = self._rounds = 0
        self._timer: asyncio.Handle = loop.call_at(when, self._look)

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        self._timer.cancel()
        if self._passed and not isinstance(error, asyncio.CancelledError):
            raise TimeoutError

    def _look(self) -> None:
        """Time is up: let the loop read what has arrived, round by round, then end the exchange."""
        self._rounds += 1
        self._quiet = 0 if _has_unread(self._transport) else self._quiet + 1
        if self._quiet < QUIET_ROUNDS and self._rounds < LAST_ROUNDS:
            self._timer = self._loop.call_soon(self._look)
            return
        self._passed = True
        if self._transport is not None:
            self._transport.abort()


def _has_unread(transport: asyncio.Transport | None) -> bool:
    """Whether data or an end has arrived that the loop has not read."""
    if transport is None or transport.is_closing():
        return False
    look = select.poll()
    look.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(look.poll(0))


_NO_ANSWER = (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError)
"""What a connection that breaks, and an answer that is none, raise. RuntimeError: a connection that was lost
while more of a compressed answer had come than was read."""


async def _converse(connection: "Connection", request: tuple[bytes, bytes]) -> Answer:
    """Write a request, read its answer. Raises _NO_ANSWER."""
    protocol = _protocol(connection)
    transport = connection.transport
    if transport is None:
        raise aiohttp.ServerDisconnectedError
    protocol.set_response_params(read_until_eof=True)
    # In one packet where it fits, without another copy where it is large.
    transport.writelines(request)
    for _ in range(INTERIM_LIMIT):
        message, content = await protocol.read()
        status = message.code
        if not 100 <= status < 200 or status == 101:
            break
    else:
        raise aiohttp.ClientPayloadError("it keeps sending interim responses and no answer")
    blocks: list[bytes] = []
    size = 0
    while not content.at_eof():
        block = await content.readany()
        size += len(block)
        if size > ANSWER_LIMIT:
            raise aiohttp.ClientPayloadError(f"the answer is longer than {ANSWER_LIMIT} octets")
        blocks.append(block)
    return Answer(status, message.headers, b"".join(blocks))


def _protocol(connection: "Connection") -> "ResponseHandler":
    protocol = connection.protocol
    if protocol is None:
        raise aiohttp.ClientConnectionError("the connection was released")
    return protocol


def _is_reusable(connection: "Connection") -> bool:
    """Whether it is open, the last request was sent completely (an answer may come early), its answer was
    read, and nothing has arrived since, which would be taken for the next answer."""
    protocol = connection.protocol
    transport = connection.transport
    return (
        protocol is not None
        and transport is not None
        and not protocol.should_close
        and not transport.is_closing()
        and not transport.get_write_buffer_size()
    )


def _abort(connection: "Connection") -> None:
    """Close it now, without sending or reading the rest."""
    if connection.transport is not None:
        connection.transport.abort()
    connection.close()


def _why_unreachable(error: Exception, proxy: httpx.URL | None) -> str:
    """Why there is no connection, for a person."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            why = error.certificate_error
            return f"its certificate is not trusted: {why} (for your own CA set SSL_CERT_FILE)"
        case aiohttp.ClientProxyConnectionError():
            said = in_words(error.os_error)
            return f"the proxy {error.host}:{error.port} does not answer: {said} (HTTPS_PROXY)"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answers {error.status} {error.message} (HTTPS_PROXY)"
        case aiohttp.ClientResponseError():
            return f"the proxy's answer is not HTTP: {error.message} (HTTPS_PROXY)"
        case aiohttp.ClientConnectorError() if proxy is not None and error.host == proxy.host:
            return f"the proxy {error.host}:{error.port}: {in_words(error.os_error)} (HTTPS_PROXY)"
        case aiohttp.ClientConnectorError():
            return in_words(error.os_error)
        case TimeoutError():
            return "no connection in time"
    return str(error) or type(error).__name__


def _why_broken(error: Exception) -> str:
    """Why there is no complete answer, for a person."""
    if isinstance(error, HttpProcessingError):
        return f"the answer is not HTTP: {error.message}"
    if isinstance(error, OSError):
        return in_words(error) or type(error).__name__
    return str(error) or type(error).__name__


def in_words(error: OSError) -> str:
    """What the system says, as part of a sentence: "connection refused"."""
    if isinstance(error, ssl.SSLError):
        return str(error)
    numbers = dict.fromkeys(map(int, _ERRNO.findall(str(error))))  # of several addresses, say
    said = [os.strerror(number) for number in numbers] or [error.strerror or str(error)]
    return ", ".join(text[:1].lower() + text[1:] for text in said)


def _proxy_authorization(proxy: httpx.URL) -> bytes:
    """The field with the credentials in a proxy's URL (RFC 7617); empty if it has none."""
    if not proxy.userinfo:
        return b""
    credentials = base64.b64encode(f"{proxy.username}:{proxy.password}".encode())
    return b"Proxy-Authorization: Basic %b\r\n" % credentials


def proxy_of(base_url: httpx.URL) -> httpx.URL | None:
    """The proxy that the environment names for this host, with its credentials; None for none.

    HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, also in lower case. Raises ValueError.
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
        raise ValueError(f"invalid proxy URL in the environment: {error}") from None
    if proxy.scheme not in ("http", "https"):
        raise ValueError(f"unsupported proxy scheme {proxy.scheme!r}: use http://host:port")
    if not proxy.host:
        raise ValueError("invalid proxy URL in the environment: use http://host:port")
    return proxy
