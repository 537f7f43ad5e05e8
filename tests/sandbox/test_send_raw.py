"""send_raw, with Cloudflare's SDK as its client where the SDK can make the request at all."""

import asyncio
import gzip
import time
import tracemalloc
from typing import Any

import cloudflare
import orjson
import pytest

from smtp2cf.sandbox import send_raw
from smtp2cf.sandbox.send_raw import BODY_LIMIT, MESSAGE_LIMIT, is_address
from tests.support.waiting import PATIENCE

from .conftest import ACCOUNT, MESSAGE, SENDING, TOKEN, Running, Start


async def test_the_sdk_sends_a_message_and_reads_its_answer(running: Running) -> None:
    answer = await running.send("b@example.net", "c@example.net")
    assert answer.delivered == ["b@example.net", "c@example.net"]
    assert answer.queued == answer.permanent_bounces == answer.suppressed_recipients == []
    assert answer.message_id.startswith("<")
    assert answer.message_id.endswith("@example.com>")


async def test_the_synchronous_sdk_sends_as_well(running: Running) -> None:
    def send() -> Any:
        with cloudflare.Cloudflare(
            api_token=TOKEN, base_url=f"{running.base_url}/client/v4", max_retries=0
        ) as client:
            return client.email_sending.send_raw(
                account_id=ACCOUNT, from_="a@example.com", recipients=["b@example.net"], mime_message=MESSAGE
            )

    assert (await asyncio.to_thread(send)).delivered == ["b@example.net"]


async def test_an_accepted_message_is_kept_byte_for_byte(running: Running) -> None:
    text = "Subject: grün 🐦\r\n\r\n.\r\n\x00 \u2028 €\r\n"
    answer = await running.send("bounce@example.net", "b@example.net", mime_message=text)
    (message,) = running.sandbox.messages
    assert message.mime_message == text.encode()
    assert message.from_ == "a@example.com"
    assert message.recipients == ("bounce@example.net", "b@example.net")
    assert (message.delivered, message.permanent_bounces) == (("b@example.net",), ("bounce@example.net",))
    assert message.message_id == answer.message_id
    assert abs(message.received_at - time.time()) < 60


async def test_the_answer_is_in_cloudflares_envelope(running: Running) -> None:
    answer = (await running.post()).json()
    assert answer.keys() == {"success", "errors", "messages", "result", "result_info"}
    assert answer["success"] is True
    assert answer["errors"] == []
    assert answer["result_info"].keys() == {"count", "per_page", "total_count", "cursor", "page"}


LISTS = ("delivered", "queued", "permanent_bounces", "suppressed_recipients")


@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        ("anna@example.net", "delivered"),
        ("bounce@example.net", "permanent_bounces"),
        ("anna+bounce@example.net", "permanent_bounces"),
        ("anna+list+Bounce@Example.NET", "permanent_bounces"),
        ("queued@example.net", "queued"),
        ("anna+queued@example.net", "queued"),
        ("dropped@example.net", "suppressed_recipients"),
        ("unlisted@example.net", None),
        ("anna+unlisted@example.net", None),
        ("bounce+anna@example.net", "delivered"),
        ("bouncer@example.net", "delivered"),
        ("anna@bounce.example", "delivered"),
    ],
)
async def test_the_local_part_picks_the_fate(running: Running, recipient: str, expected: str | None) -> None:
    answer = await running.send(recipient)
    assert {name: getattr(answer, name) for name in LISTS if getattr(answer, name)} == (
        {expected: [recipient]} if expected else {}
    )


async def test_each_recipient_has_its_own_fate(running: Running) -> None:
    answer = await running.send("a+queued@x.example", "bounce@x.example", "b@x.example", "unlisted@x.example")
    assert answer.queued == ["a+queued@x.example"]
    assert answer.permanent_bounces == ["bounce@x.example"]
    assert answer.delivered == ["b@x.example"]


WHOLE_CALL = [
    ("suppressed", cloudflare.BadRequestError, 10205, "suppress"),
    ("throttle", cloudflare.RateLimitError, 10004, "email.sending.error.throttled"),
    ("error", cloudflare.InternalServerError, 10002, "email.sending.error.internal_server"),
    ("auth", cloudflare.AuthenticationError, 10101, "email.sending.error.authentication.unauthorized"),
]


@pytest.mark.parametrize(("fate", "exception", "code", "text"), WHOLE_CALL)
@pytest.mark.parametrize("tag", ["", "anna+"])
async def test_a_fate_of_the_whole_call_refuses_every_recipient(
    running: Running, fate: str, exception: type[cloudflare.APIStatusError], code: int, text: str, tag: str
) -> None:
    with pytest.raises(exception) as refused:
        await running.send("b@example.net", f"{tag}{fate}@example.net")
    (error,) = refused.value.errors
    assert error.code == code
    assert text in error.message
    assert "example.net" not in refused.value.response.text, "it names no address"
    assert not running.sandbox.messages


async def test_the_first_fate_of_the_whole_call_wins(running: Running) -> None:
    with pytest.raises(cloudflare.InternalServerError):
        await running.send("bounce@x.example", "error@x.example", "auth@x.example", "suppressed@x.example")


@pytest.mark.parametrize(
    ("recipient", "seconds"), [("throttle", "1"), ("anna+throttle-30s", "30"), ("throttle-1500ms", "2")]
)
async def test_a_throttled_call_says_when_to_come_back(
    running: Running, recipient: str, seconds: str
) -> None:
    answer = await running.post(recipients=[f"{recipient}@example.net"])
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, seconds)


async def test_a_slow_recipient_delays_the_answer_and_is_delivered(running: Running) -> None:
    began = time.monotonic()
    answer = await running.send("slow-0.01s@x.example", "anna+slow-250ms@x.example", "b@x.example")
    assert 0.25 <= time.monotonic() - began < PATIENCE
    assert len(answer.delivered) == 3


async def test_delay_is_what_every_call_takes(start: Start) -> None:
    running = await start(delay=0.2)
    began = time.monotonic()
    await running.send("b@example.net")
    assert time.monotonic() - began >= 0.2


def reaching(monkeypatch: pytest.MonkeyPatch, step: str) -> asyncio.Event:
    """An event that is set when a call reaches this step of send_raw."""
    reached = asyncio.Event()
    real = getattr(send_raw, step)

    async def watched(*arguments: Any) -> Any:
        reached.set()
        return await real(*arguments)

    monkeypatch.setattr(send_raw, step, watched)
    return reached


async def test_stopping_does_not_wait_for_a_slow_call(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    running = await start()
    reached = reaching(monkeypatch, "pause")
    call = asyncio.create_task(running.send("slow-60s@example.net"))
    await reached.wait()
    async with asyncio.timeout(PATIENCE):
        await running.sandbox.stop()
    with pytest.raises(cloudflare.APIConnectionError):
        await call
    assert running.sandbox.calls[0].status == 0


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"from": None}, "/from"),
    ({"from": ""}, "/from"),
    ({"from": 1}, "/from"),
    ({"from": "Anna <a@example.com>"}, "/from"),
    ({"recipients": None}, "/recipients"),
    ({"recipients": []}, "/recipients"),
    ({"recipients": "b@example.net"}, "/recipients"),
    ({"recipients": [f"r{i}@example.net" for i in range(51)]}, "/recipients"),
    ({"recipients": ["b@example.net", "c"]}, "/recipients/1"),
    ({"recipients": [["b@example.net"]]}, "/recipients/0"),
    ({"mime_message": None}, "/mime_message"),
    ({"mime_message": {}}, "/mime_message"),
    ({"to": "b@example.net"}, "/to"),
]


@pytest.mark.parametrize(("changes", "pointer"), MALFORMED)
async def test_a_request_of_another_form_is_refused(
    running: Running, changes: dict[str, Any], pointer: str
) -> None:
    answer = await running.post(**changes)
    assert answer.status_code == 400
    assert answer.json()["errors"] == [
        {
            "code": 10001,
            "message": "email.sending.error.invalid_request_schema",
            "source": {"pointer": pointer},
        }
    ]
    assert answer.json()["success"] is False
    assert answer.json()["result"] is None
    assert not running.sandbox.messages


async def test_fifty_recipients_are_not_too_many(running: Running) -> None:
    answer = await running.send(*(f"r{i}@example.net" for i in range(50)))
    assert len(answer.delivered) == 50


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/json"),
        (b"[]", "application/json"),
        (b'{"from": "a@example.com", ', "application/json"),
        (b"[" * 10_000, "application/json"),
        (b'{"mime_message": "\\ud800"}', "application/json"),
        (b'{"mime_message": "\xff"}', "application/json"),
        (
            orjson.dumps({"from": "a@x.example", "recipients": ["b@x.example"], "mime_message": MESSAGE}),
            "text/\xff",
        ),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(
    running: Running, body: bytes, content_type: str
) -> None:
    headers = {"Content-Type": content_type.encode("latin-1")}
    answer = await running.http.post(f"{SENDING}/send_raw", content=body, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 10001)


async def test_a_compressed_body_is_refused(running: Running) -> None:
    request = orjson.dumps({"from": "a@x.example", "recipients": ["b@x.example"], "mime_message": MESSAGE})
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = await running.http.post(f"{SENDING}/send_raw", content=gzip.compress(request), headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 10001)


async def test_a_chunk_that_is_none_is_refused(running: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(
        f"POST {SENDING}/suppressions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nxx\r\n".encode()
    )
    assert b" 400 " in await reader.readline()
    writer.close()


async def test_the_sdk_raises_bad_request_for_an_address_that_is_none(running: Running) -> None:
    with pytest.raises(cloudflare.BadRequestError) as refused:
        await running.send("not an address")
    assert [error.code for error in refused.value.errors] == [10001]


@pytest.mark.parametrize(
    "text", ["\r\n", "\r\nbody\r\n", "no header here\r\n\r\nSubject: late\r\n", " folded: x"]
)
async def test_a_message_without_a_header_is_taken(running: Running, text: str) -> None:
    await running.send("b@example.net", mime_message=text)
    assert running.sandbox.messages[-1].mime_message == text.encode()


async def test_an_empty_message_is_invalid(running: Running) -> None:
    with pytest.raises(cloudflare.BadRequestError) as refused:
        await running.send("b@example.net", mime_message="")
    (error,) = refused.value.errors
    assert (error.code, error.message) == (10202, "email.sending.error.email.invalid")


async def test_a_message_of_exactly_the_limit_is_accepted_and_one_octet_more_is_too_big(
    running: Running,
) -> None:
    filler = "é" * (MESSAGE_LIMIT // 2)
    head = "Subject: big\r\n\r\n"
    most = head + filler[: (MESSAGE_LIMIT - len(head)) // 2]
    await running.send("b@example.net", mime_message=most)
    assert len(running.sandbox.messages[-1].mime_message) == MESSAGE_LIMIT
    with pytest.raises(cloudflare.BadRequestError) as refused:
        await running.send("b@example.net", mime_message=most + ".")
    assert [error.message for error in refused.value.errors] == ["email.sending.error.email.too_big"]
    assert running.sandbox.calls[-1].status == 400


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head.split()[1]), orjson.loads(await reader.readexactly(length))


async def test_a_body_longer_than_any_message_needs_is_refused_before_it_is_read(running: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(
        f"POST {SENDING}/send_raw HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {BODY_LIMIT + 1}\r\n\r\n{{".encode()
    )
    status, answer = await read_answer(reader)
    writer.close()
    assert (status, answer["errors"][0]["message"]) == (400, "email.sending.error.email.too_big")


async def test_a_chunked_body_is_refused_and_the_connection_lives(running: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    body = orjson.dumps({"from": "a@x.example", "recipients": ["b@x.example"], "mime_message": MESSAGE})
    head = (
        f"POST {SENDING}/send_raw HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: application/json\r\n"
    )
    writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body)
    writer.write(b"\r\n0\r\n\r\n")
    status, answer = await read_answer(reader)
    assert (status, answer["errors"][0]["code"]) == (400, 10201)
    assert answer["errors"][0]["message"] == "email.sending.error.email.no_content_length"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert (await read_answer(reader))[0] == 200
    writer.close()


async def test_a_client_that_leaves_within_its_request_leaves_no_message(
    running: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = reaching(monkeypatch, "read_submission")
    _, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(
        f"POST {SENDING}/send_raw HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        f'Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"from":'.encode()
    )
    await reached.wait()
    writer.transport.abort()
    await running.send("b@example.net")
    assert len(running.sandbox.messages) == 1
    assert not caplog.records


async def test_every_call_that_arrives_is_recorded_with_its_answer(running: Running) -> None:
    before = time.monotonic()
    await running.post()
    await running.post(recipients=["auth@example.net"])
    await running.post(recipients=[])
    assert [(call.status, call.recipients) for call in running.sandbox.calls] == [
        (200, ("b@example.net",)),
        (401, ("auth@example.net",)),
        (400, ()),
    ]
    for call in running.sandbox.calls:
        assert call.answered_at is not None
        assert before <= call.at <= call.answered_at <= time.monotonic()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("a@example.com", True),
        ("a.b+c=d/e'f@sub-domain.example.co.uk", True),
        ("jurgen@xn--mnchen-3ya.example", True),
        ("anna@münchen.example", False),
        ("jürgen@example.com", False),
        ('"jürgen"@example.com', False),
        ('"quoted part"@example.com', True),
        (r'"a\"b"@example.com', True),
        ("a@[192.0.2.1]", True),
        ("a@localhost", True),
        ("a" * 64 + "@example.com", True),
        ("a" * 65 + "@example.com", False),
        ("a@" + ".".join(["b" * 60] * 5), False),
        ("a" * 1_000_000, False),
        ("", False),
        ("a", False),
        ("@example.com", False),
        ("a@", False),
        ("a@b@c.example", False),
        ("a b@example.com", False),
        ("a@exa mple.com", False),
        ("<a@example.com>", False),
        ("Anna <a@example.com>", False),
        ("a@example..com", False),
        ("a@-example.com", False),
        ("a@example.com\n", False),
        ("a\r\n@example.com", False),
        ("a@example.com,b@example.com", False),
    ],
)
def test_what_looks_like_an_address(address: str, expected: bool) -> None:
    assert is_address(address) is expected


async def test_a_message_is_held_once_as_soon_as_it_is_read(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    submission = send_raw.Submission

    def weigh(*fields: Any) -> send_raw.Submission:
        held.append(tracemalloc.get_traced_memory()[0])
        return submission(*fields)

    monkeypatch.setattr(send_raw, "Submission", weigh)
    text = MESSAGE + "x" * 4_000_000
    body = orjson.dumps({"from": "a@x.example", "recipients": ["b@x.example"], "mime_message": text})
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    tracemalloc.start()
    try:
        writer.write(
            f"POST {SENDING}/send_raw HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        for start in range(0, len(body), 65536):
            writer.write(body[start : start + 65536])
            await writer.drain()
        assert (await read_answer(reader))[0] == 200
    finally:
        tracemalloc.stop()
        writer.close()
    assert 1.0 <= held[0] / len(text) < 1.5
