"""The bridge from its SMTP socket to an API on another, in one event loop: what the tests here look at.

The API answers what a test tells it to, in Cloudflare's form.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from email.message import Message
from email.parser import BytesParser
from typing import Any, NamedTuple

from aiohttp import web

from smtp2cf.access.sender_rewriting import SenderRewriting
from smtp2cf.cloudflare import Client
from smtp2cf.envelope import Envelope
from smtp2cf.relay import BouncePolicy, MessagePolicy, Relay, RetryPolicy
from smtp2cf.relay.senders import Senders
from smtp2cf.smtpd import Capacity, Listener, MailProtocol, Policy, Rules, Server
from smtp2cf.spool import Spool, SpoolItem
from tests.support.secret import TOKEN
from tests.support.waiting import PATIENCE

MESSAGE = b"Subject: hello\r\nMessage-ID: <1@example.com>\r\n\r\nhello\r\n"


class Call(NamedTuple):
    """One call of send_raw."""

    sender: str
    recipients: list[str]
    message: bytes
    account: str = "test"

    def parsed(self) -> Message:
        return BytesParser().parsebytes(self.message)


Answer = Callable[[Call], Awaitable[web.Response]]


class Api:
    """Cloudflare's API on a socket. answer: what it says to a call; everything is delivered at first."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answer: Answer = delivered
        self.url = ""
        self._came = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        """Listen; at the port it had, if it listened before."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/client/v4/accounts/{account}/email/sending/send_raw", self._send_raw)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await self._runner.setup()
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/client/v4"
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def wait_for(self, count: int) -> list[Call]:
        """The calls, once there are so many."""
        async with asyncio.timeout(PATIENCE), self._came:
            await self._came.wait_for(lambda: len(self.calls) >= count)
        return self.calls

    async def _send_raw(self, request: web.Request) -> web.Response:
        body = await request.json()
        account = request.match_info["account"]
        call = Call(body["from"], body["recipients"], body["mime_message"].encode(), account)
        self.calls.append(call)
        async with self._came:
            self._came.notify_all()
        return await self.answer(call)


def sorted_into(**lists: Sequence[str]) -> web.Response:
    """A success whose lists are these."""
    names = ("delivered", "permanent_bounces", "queued")
    result = {name: list(lists.get(name, ())) for name in names} | {"message_id": "<id@example.com>"}
    return web.json_response({"success": True, "errors": [], "messages": [], "result": result})


async def delivered(call: Call) -> web.Response:
    return sorted_into(delivered=call.recipients)


async def by_name(call: Call) -> web.Response:
    """Who is called bounce bounces; everybody else gets the mail."""
    bounced = [who for who in call.recipients if who.startswith("bounce")]
    return sorted_into(
        permanent_bounces=bounced, delivered=[who for who in call.recipients if who not in bounced]
    )


def failure(http: int, code: int, text: str, **headers: str) -> Answer:
    """An answer that is always this error."""

    async def answer(_: Call) -> web.Response:
        body = {"success": False, "errors": [{"code": code, "message": text}], "result": None}
        return web.json_response(
            body, status=http, headers={name.replace("_", "-"): v for name, v in headers.items()}
        )

    return answer


AWAY = failure(503, 10100, "email.sending.error.authentication.upstream")


def first(answer: Answer, times: int = 1, then: Answer = delivered) -> Answer:
    """That answer the first times, another one from then on."""
    left = times

    async def in_turn(call: Call) -> web.Response:
        nonlocal left
        left -= 1
        return await (answer if left >= 0 else then)(call)

    return in_turn


class World:
    """A relay with its queue and its SMTP server, on a spool and an API that a test hands it.

    lmtp: the server speaks LMTP.
    """

    def __init__(
        self,
        api: Api,
        spool: Spool,
        retry: RetryPolicy,
        policy: MessagePolicy,
        bounce: BouncePolicy,
        lmtp: bool = False,
    ) -> None:
        self.lmtp = lmtp
        self.api = api
        self.spool = spool
        self.client = Client(base_url=api.url, account_id="test", token=TOKEN, timeout=20, concurrency=20)
        self.sender_rewriting = SenderRewriting()
        self.relay = Relay(
            self.client.send,
            policy,
            spool=spool,
            retry=retry,
            bounce=bounce,
            pace=self.client.pacer,
            senders=Senders(self.sender_rewriting),
        )
        networks = (ipaddress.ip_network("127.0.0.0/8"),)
        smtp = Policy(
            hostname="bridge.example.com",
            allow_networks=networks,
            max_message_size=6 * 2**20,
            max_recipients=100,
            session_timeout=30,
        )
        self._rules = Rules(smtp)
        self.server = Server(self.relay.accept, Capacity(100), self.relay.answered)
        self.port = 0

    async def accept(self, *recipients: str, message: bytes = MESSAGE, **fields: Any) -> str:
        """Hand over a message; the answer as text."""
        fields = {
            "reverse_path": "anna@example.com",
            "forward_paths": recipients or ("ben@example.org",),
            **fields,
        }
        verdict = await self.relay.accept(Envelope(**fields), message)
        return str(verdict.reply)

    async def items(self) -> list[SpoolItem]:
        return [item async for item in self.spool.items()]

    async def until_empty(self) -> None:
        """Until nothing waits any more."""
        async with asyncio.timeout(PATIENCE):
            while await self.spool.count():  # noqa: ASYNC110 - it has no event for this
                await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[SpoolItem], bool]) -> SpoolItem:
        """The one message in the spool, once it is as wanted."""
        async with asyncio.timeout(PATIENCE):
            while True:
                items = await self.items()
                if len(items) == 1 and condition(items[0]):
                    return items[0]
                await asyncio.sleep(0.01)

    async def connect(self) -> "Smtp":
        """A client that has said EHLO, or LHLO."""
        client = Smtp(*await asyncio.open_connection("127.0.0.1", self.port))
        await client.reply()
        await client.say("LHLO client" if self.lmtp else "EHLO client")
        return client

    async def start(self) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        protocol: MailProtocol = "lmtp" if self.lmtp else "smtp"
        await self.server.start(Listener(rules=self._rules, protocol=protocol, sockets=[sock]))
        if self.relay.queue is not None:
            self.relay.queue.start()

    async def stop(self, drain: float = 5.0) -> None:
        """As serve does at SIGTERM."""
        if self.relay.queue is not None:
            await self.relay.queue.stop_claiming()
        await self.server.drain(drain)
        await self.relay.drain(drain)
        await self.client.aclose()
        await self.spool.close()


class Smtp:
    """An SMTP client that can be as rude as a test needs it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def reply(self) -> str:
        """The last line of the next reply."""
        while True:
            line = (await asyncio.wait_for(self._reader.readline(), PATIENCE)).decode()
            if line[3:4] != "-":
                return line.strip()

    async def say(self, line: str) -> str:
        self.writer.write(line.encode() + b"\r\n")
        return await self.reply()

    async def data(self, *recipients: str, message: bytes = MESSAGE, parameters: str = "") -> None:
        """A message up to its final dot; the answer is not waited for."""
        await self.say(f"MAIL FROM:<anna@example.com>{parameters}")
        for recipient in recipients or ("ben@example.org",):
            await self.say(f"RCPT TO:<{recipient}>")
        await self.say("DATA")
        self.writer.write(message + b".\r\n")

    async def quit(self) -> None:
        await self.say("QUIT")
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.writer.close()

    def reset(self) -> None:
        """Vanish: what was not read, nobody will read (RST)."""
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def world(
    spool: Spool,
    api: Api,
    *,
    retry: RetryPolicy | None = None,
    postmaster: str = "",
    lmtp: bool = False,
    reports_expire_after: float = 3600,
    **policy: Any,
) -> AsyncIterator[World]:
    """A world that is up; it is stopped after, and its spool closed."""
    retry = retry or RetryPolicy(minimum=0.05, maximum=0.2, expire_after=3600)
    one = World(
        api,
        spool,
        retry,
        MessagePolicy(**policy),
        BouncePolicy(hostname="bridge.example.com", postmaster=postmaster, expire_after=reports_expire_after),
        lmtp,
    )
    await one.start()
    try:
        yield one
    finally:
        await one.stop()
