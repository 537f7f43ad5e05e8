"""Answers that come in time while our own loop is busy: they are read before a call is given up.

The server is a thread of its own, so it answers while the loop stands still.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import pytest
import uvloop

from smtp2cf.cloudflare import Client
from smtp2cf.cloudflare.client import Sent
from smtp2cf.reply import DELIVERED, SendError
from tests.cloudflare.assertions import assert_maybe_sent
from tests.cloudflare.conftest import ACCOUNT, RECIPIENT, Certificates, send
from tests.cloudflare.raw_server import ok
from tests.support.needs import needs
from tests.support.secret import TOKEN
from tests.support.waiting import PATIENCE

TIMEOUT = 0.5
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
ANSWERS = {"small": ok(RECIPIENT), "large": ok(RECIPIENT, pad="x" * 900_000)}


class Busy(NamedTuple):
    """base_url of a server; `answered`: its answer is handed to the kernel. `left`: it has hung up."""

    base_url: str
    asked: threading.Event
    answered: threading.Event
    left: threading.Event


@contextlib.contextmanager
def answering(answer: bytes, tls: ssl.SSLContext | None = None) -> Iterator[Busy]:
    """A server that answers one request, at once."""
    listener = socket.create_server(("127.0.0.1", 0))
    scheme = "https" if tls else "http"
    base_url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/client/v4"
    busy = Busy(base_url, threading.Event(), threading.Event(), threading.Event())

    def serve() -> None:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError):
            connection = tls.wrap_socket(connection, server_side=True) if tls else connection
            connection.recv(65536)
            busy.asked.set()
            busy.answered.set() if len(answer) > 100_000 else None
            connection.sendall(answer)
            busy.answered.set()
            while connection.recv(65536):  # the rest of the request too: a reset would take away the answer
                pass
        connection.close()
        busy.left.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield busy
    finally:
        listener.close()
        thread.join(PATIENCE)


def run(loop: str, busy: Busy, during: Callable[[], Awaitable[None]]) -> Sent:
    """A call, with something else that the loop does meanwhile."""

    async def main() -> Sent:
        client = Client(
            base_url=busy.base_url, account_id=ACCOUNT, token=TOKEN, timeout=TIMEOUT, concurrency=1
        )
        task = asyncio.create_task(during())
        try:
            return await send(client)
        finally:
            await task
            await client.aclose()
            # The loop must not end while a connection in TLS is half closed.
            await asyncio.to_thread(busy.left.wait, 10)
            await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(main())


@needs("openssl")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("size", ANSWERS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_answer_that_came_while_the_loop_stood_still_is_read(
    loop: str, size: str, scheme: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    with answering(ANSWERS[size], certificates.server if scheme == "https" else None) as busy:

        async def stand_still() -> None:
            while not busy.asked.is_set():  # noqa: ASYNC110 - it is another thread's event
                await asyncio.sleep(0)
            assert busy.answered.wait(PATIENCE)
            time.sleep(TIMEOUT + 0.1)  # noqa: ASYNC251 - this is what a stall is

        assert run(loop, busy, stand_still).outcomes == {RECIPIENT: DELIVERED}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("answer", [b"", ok(RECIPIENT)[:-1]], ids=["none", "all but an octet"])
def test_what_is_no_whole_answer_by_then_is_given_up_soon(loop: str, answer: bytes) -> None:
    with answering(answer) as busy:

        async def stand_still() -> None:
            while not busy.asked.is_set():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            assert busy.answered.wait(PATIENCE)
            time.sleep(TIMEOUT + 0.1)  # noqa: ASYNC251 - as above

        started = time.monotonic()
        with pytest.raises(SendError) as caught:
            run(loop, busy, stand_still)
        assert_maybe_sent(caught.value)
        assert "SMTP2CF_API_TIMEOUT" in caught.value.reply.text
        assert time.monotonic() - started < 30
