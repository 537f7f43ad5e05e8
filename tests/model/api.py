"""Cloudflare's API as the model has it: what becomes of a call is scripted, and what it delivers is counted.

Recipients' names say what becomes of them: gone@ bounces, listed@ has the whole call refused, and so on. A
message is known by its X-Token field, a DSN by what it reports.
"""

import asyncio
import re
from collections import Counter, deque
from email import message_from_bytes
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import orjson

if TYPE_CHECKING:
    from tests.model.simulation import Life, World

PREFIX = "email.sending.error."


class Fate(StrEnum):
    """What becomes of a call."""

    FINE = "fine"
    NO_CONNECTION = "no connection"
    LOST = "sent, and the connection breaks"
    LOST_UNSENT = "not sent, and the connection breaks"
    SILENT = "sent, and no answer in time"
    SILENT_UNSENT = "not sent, and no answer in time"
    SLOW = "sent, after a while"
    LATE = "sent, later than a client waits"
    EDGE = "sent, and the edge answers with HTML"
    NO_JSON = "sent, and the answer is cut off"
    THROTTLED = "throttled"
    BLOCKED = "throttled for a time that it names"
    ERROR = "an error of its own"
    REFUSED = "the token is refused"
    NOT_SET_UP = "the sender's domain is not set up"


WEATHER = (Fate.FINE, Fate.NO_CONNECTION, Fate.ERROR, Fate.REFUSED, Fate.BLOCKED, Fate.SLOW, Fate.LATE)
"""What may go on for a while."""

ERRORS: dict[Fate, tuple[int, str, dict[str, str]]] = {
    Fate.THROTTLED: (429, "throttled", {}),
    Fate.BLOCKED: (429, "throttled", {"Retry-After": "300"}),
    Fate.ERROR: (500, "internal_server", {}),
    Fate.REFUSED: (401, "authentication.unauthorized", {}),
    Fate.NOT_SET_UP: (403, "email.sender_not_configured", {}),
}
SECONDS = {Fate.SLOW: 3.0, Fate.LATE: 15.0}


class Report(NamedTuple):
    """One recipient of a DSN. status: of a failure, or "" where it was not one."""

    token: str
    recipient: str
    status: str


class Api:
    """All bridges' calls. delivered: how often a token came to a recipient."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.weather = Fate.FINE
        self.script: deque[Fate] = deque()
        self.delivered: Counter[tuple[str, str]] = Counter()
        self.named: Counter[tuple[str, str]] = Counter()
        self.reports: list[Report] = []
        self.calls = 0

    def of(self, life: "Life") -> httpx.AsyncBaseTransport:
        """The way to it for one bridge."""
        return _Transport(self, life)

    def take_fate(self) -> Fate:
        return self.script.popleft() if self.script else self.weather

    def name(self, recipients: list[str], message: bytes) -> None:
        """A call has named these."""
        self.calls += 1
        self.named.update((token_of(message), who) for who in recipients)

    def submit(self, recipients: list[str], message: bytes) -> httpx.Response:
        """What it answers, and delivers, where nothing is in the way."""
        token = token_of(message)
        kinds = {who: who.partition("+")[0] for who in recipients}
        if any(kind == "listed" for kind in kinds.values()):
            return failure(400, "email.recipient_suppressed")
        if is_invalid(message) or any(kind == "odd" for kind in kinds.values()):
            return failure(400, "email.invalid")
        lists: dict[str, list[str]] = {"delivered": [], "queued": [], "permanent_bounces": []}
        for who, kind in kinds.items():
            if kind == "gone":
                lists["permanent_bounces"].append(who)
                continue
            if kind != "unlisted":
                lists["queued" if kind == "queued" else "delivered"].append(who)
            self._deliver(token, who, message)
        body = {"success": True, "errors": [], "result": {**lists, "message_id": f"<{self.calls}@cf>"}}
        return httpx.Response(200, content=orjson.dumps(body))

    def _deliver(self, token: str, recipient: str, message: bytes) -> None:
        if token:
            self.delivered[token, recipient] += 1
        else:
            self.reports += reports_in(message)


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, api: Api, life: "Life") -> None:
        self._api = api
        self._life = life

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call: dict[str, Any] = orjson.loads(request.content)
        recipients, message = call["recipients"], call["mime_message"].encode()
        assert len(recipients) <= 50
        if self._life.point():
            await self._life.alive()
        fate = self._api.take_fate()
        if fate is Fate.NO_CONNECTION:
            raise httpx.ConnectError("simulated")
        self._api.name(recipients, message)
        if fate is Fate.LOST_UNSENT:
            raise httpx.ReadError("simulated")
        if fate is Fate.SILENT_UNSENT:
            await asyncio.sleep(20.0)
            raise httpx.ReadTimeout("simulated")
        if fate in ERRORS:
            http, text, headers = ERRORS[fate]
            return failure(http, text, headers)
        await asyncio.sleep(SECONDS.get(fate, 0.01))
        await self._life.alive()
        response = self._api.submit(recipients, message)
        if self._life.point():
            await self._life.alive()
        if fate is Fate.LOST:
            raise httpx.ReadError("simulated")
        if fate is Fate.SILENT:
            await asyncio.sleep(20.0)
            raise httpx.ReadTimeout("simulated")
        if response.status_code == 200 and fate is Fate.EDGE:
            return httpx.Response(502, content=b"<html>")
        if response.status_code == 200 and fate is Fate.NO_JSON:
            return httpx.Response(200, content=response.content[:-5])
        return response


def failure(http: int, text: str, headers: dict[str, str] | None = None) -> httpx.Response:
    body = {"success": False, "errors": [{"code": 0, "message": PREFIX + text}], "result": None}
    return httpx.Response(http, content=orjson.dumps(body), headers=headers)


_TOKEN = re.compile(rb"^X-Token: (\w+)", re.MULTILINE)


def token_of(message: bytes) -> str:
    """What tells a message from any other; "" for a DSN, whose own header has none."""
    found = _TOKEN.search(message.partition(b"\r\n\r\n")[0])
    return found[1].decode() if found else ""


def is_invalid(message: bytes) -> bool:
    return b"X-Invalid" in message.partition(b"\r\n\r\n")[0]


def reports_in(dsn: bytes) -> list[Report]:
    """What a DSN says of each recipient."""
    found = _TOKEN.search(dsn)
    assert found is not None, dsn
    token = found[1].decode()
    reports = []
    for part in message_from_bytes(dsn).walk():
        if part.get_content_type() == "message/delivery-status":
            for fields in part.get_payload()[1:]:
                recipient = fields["Final-Recipient"].partition(";")[2].strip()
                failed = fields["Action"].strip() == "failed"
                reports.append(Report(token, recipient, fields["Status"].strip() if failed else ""))
    return reports
