"""A call of the webhook: signed so that the library verifies it, and nothing a receiver answers does harm."""

import asyncio
import time

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from smtp2cf.relay.webhook_call import Result, WebhookCall
from smtp2cf.spool import Posting
from tests.cloudflare.raw_server import RawServer, Request, always, http, serving
from tests.support.secret import WEBHOOK_SECRET

OTHER = "whsec_bmV3LXNlY3JldC1uZXctc2VjcmV0LW5ldw=="
EVENT = Posting("msg_1", '{"type":"mail.held","data":{"text":"Grüße"}}')


async def post(server: RawServer, *secrets: str, seconds: float = 20.0) -> Result:
    url = f"{server.scheme}://127.0.0.1:{server.port}/mail?key=1"
    call = WebhookCall(url, secrets or (WEBHOOK_SECRET,), seconds)
    try:
        return await call.post(EVENT)
    finally:
        await call.aclose()


def verify(request: Request, secret: str) -> object:
    return Verifier(secret).verify(request.body, dict(request.headers))


async def test_the_library_verifies_what_is_posted_with_each_secret_and_no_other() -> None:
    async with serving(always(http("204 No Content"))) as server:
        assert await post(server, WEBHOOK_SECRET, OTHER) == Result()
        assert await post(server, WEBHOOK_SECRET) == Result()
    both, one = server.requests
    assert both.line == "POST /mail?key=1 HTTP/1.1"
    assert both.header("content-type") == "application/json"
    assert both.header("webhook-id") == EVENT.id
    assert abs(int(both.header("webhook-timestamp") or 0) - time.time()) < 60
    assert both.body.decode() == EVENT.body
    assert verify(both, WEBHOOK_SECRET) == verify(both, OTHER) == verify(one, WEBHOOK_SECRET) == one.json
    with pytest.raises(WebhookVerificationError):
        verify(one, OTHER)
    one.body = one.body.replace(b"held", b"sent")
    with pytest.raises(WebhookVerificationError):
        verify(one, WEBHOOK_SECRET)


async def test_another_secret_signs_from_then_on() -> None:
    async with serving(always(http("200 OK", b"thanks"))) as server:
        call = WebhookCall(server.base_url, [WEBHOOK_SECRET])
        await call.post(EVENT)
        call.use_secrets([OTHER])
        await call.post(EVENT)
        await call.aclose()
    assert server.connections == 1
    verify(server.requests[0], WEBHOOK_SECRET)
    verify(server.requests[1], OTHER)


DATE = "Thu, 26 Nov 2026 22:00:00 GMT"
LATER = "Thu, 26 Nov 2026 22:05:00 GMT"
ANSWERS = {
    "200 OK": Result(),
    "202 Accepted": Result(),
    "500 Internal Server Error": Result("it answers 500"),
    "404 Not Found": Result("it answers 404"),
    "400 Bad Request": Result("it answers 400", about_event=True),
    "413 Content Too Large": Result("it answers 413", about_event=True),
    "410 Gone": Result("it answers 410", gone=True),
    "301 Moved Permanently": Result(
        "it answers 301, a redirect: set SMTP2CF_WEBHOOK_URL to where that leads"
    ),
}


async def test_what_answers_mean_and_that_no_redirect_is_followed() -> None:
    results = {}
    for status in ANSWERS:
        async with serving(always(http(status, Location="/elsewhere"))) as server:
            results[status] = await post(server)
        assert len(server.requests) == 1
    assert results == ANSWERS


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"Retry_After": "120"}, 120.0),
        ({"Retry_After": LATER, "Date": DATE}, 300.0),
        ({"Retry_After": "9" * 400}, 2.0**31),
        ({"Retry_After": "soon"}, 0.0),
        ({"Retry_After": "-5"}, 0.0),
    ],
    ids=["seconds", "date", "endless", "no time", "negative"],
)
async def test_retry_after_is_read_in_both_forms(fields: dict[str, str], seconds: float) -> None:
    async with serving(always(http("429 Too Many Requests", **fields))) as server:
        assert (await post(server)).retry_after == seconds


async def endless_body(_: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await writer.drain()


async def endless_header(_: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while not writer.is_closing():
        writer.write(b"X-Padding: " + b"x" * 4096 + b"\r\n")
        await writer.drain()


async def silence(_: Request, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def half_an_answer(_: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal")
    writer.close()


async def no_answer(_: Request, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize("respond", [endless_body, endless_header, half_an_answer, no_answer])
async def test_a_receiver_that_misbehaves_has_not_taken_the_event(respond: object) -> None:
    async with serving(respond) as server:  # type: ignore[arg-type]
        result = await post(server)
    assert result.reason
    assert not result.gone
    assert "key=1" not in result.reason


async def test_a_receiver_that_is_silent_is_waited_for_no_longer_than_a_call_may_take() -> None:
    async with serving(silence) as server:
        assert (await post(server, seconds=0.05)).reason == "no answer in time"


async def test_nobody_listens() -> None:
    async with serving(silence) as server:
        pass
    assert (await post(server)).reason
