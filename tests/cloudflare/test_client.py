"""What the client makes of answers: recipients found again, the token's state, throttled calls repeated."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.cloudflare import Client
from smtp2cf.cloudflare.client import sent_in
from smtp2cf.cloudflare.health import ApiHealth, State
from smtp2cf.cloudflare.transport import Answer
from smtp2cf.reply import ACCEPTED, BOUNCED, DELIVERED, QUEUED, SUPPRESSED, Reply, Scope, SendError
from tests.cloudflare.conftest import ACCOUNT, RECIPIENT, TOKEN, failed_send, send
from tests.cloudflare.test_errors import body_of

Handler = Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]


def client_of(handler: Handler, **changes: object) -> Client:
    """A client whose API is a function."""
    settings = {"account_id": ACCOUNT, "token": TOKEN, "timeout": 10.0, "concurrency": 10} | changes
    return Client(base_url="http://api.test/client/v4", transport=httpx.MockTransport(handler), **settings)


def answering(*answers: httpx.Response) -> Client:
    """A client whose API gives these answers, one after the other, and then the last for ever."""
    left = list(answers)
    return client_of(lambda _: left.pop(0) if len(left) > 1 else left[0])


def success(http: int = 200, /, **result: object) -> httpx.Response:
    return httpx.Response(http, json={"success": True, "errors": [], "messages": [], "result": result})


def refusal(status: int, text: str, **headers: str) -> httpx.Response:
    return httpx.Response(
        status, content=body_of({"message": f"email.sending.error.{text}"}), headers=headers
    )


# ---- recipients


async def outcomes_of(recipients: list[str], **result: object) -> dict[str, Reply]:
    return (await send(answering(success(**result)), *recipients)).outcomes


async def test_each_list_has_its_reply() -> None:
    assert await outcomes_of(
        ["a@x", "b@x", "c@x", "d@x", "e@x"],
        delivered=["a@x"],
        queued=["b@x"],
        permanent_bounces=["c@x"],
        suppressed_recipients=["d@x"],
    ) == {"a@x": DELIVERED, "b@x": QUEUED, "c@x": BOUNCED, "d@x": SUPPRESSED, "e@x": ACCEPTED}


@pytest.mark.parametrize(
    ("reply", "code", "status"),
    [
        (DELIVERED, 250, "2.0.0"),
        (QUEUED, 250, "2.0.0"),
        (ACCEPTED, 250, "2.0.0"),
        (BOUNCED, 550, "5.1.1"),
        (SUPPRESSED, 550, "5.7.1"),
    ],
)
def test_the_replies_are_those_of_the_design(reply: Reply, code: int, status: str) -> None:
    assert (reply.code, reply.status) == (code, status)
    assert "suppressed" in SUPPRESSED.text


@pytest.mark.parametrize(
    "result",
    [
        {"delivered": [], "queued": [], "permanent_bounces": []},
        {},
        {"delivered": None, "queued": None, "permanent_bounces": None, "suppressed_recipients": None},
        {"delivered": 0.5, "queued": True, "permanent_bounces": 0, "suppressed_recipients": False},
        {"unknown": ["b@x"]},
    ],
)
async def test_a_recipient_in_no_list_was_accepted(result: dict) -> None:
    assert await outcomes_of(["b@x"], **result) == {"b@x": ACCEPTED}


async def test_success_without_a_result_was_accepted_too() -> None:
    null = httpx.Response(200, json={"success": True, "errors": [], "messages": [], "result": None})
    assert await send(answering(null)) == ({RECIPIENT: ACCEPTED}, "", ())


async def test_an_address_is_found_in_other_letter_case_of_its_domain() -> None:
    found = await outcomes_of(
        ["Anna@Example.COM", "bob@example.com"],
        permanent_bounces=["Anna@example.com"],
        delivered=["bob@EXAMPLE.com"],
    )
    assert found == {"Anna@Example.COM": BOUNCED, "bob@example.com": DELIVERED}


async def test_an_address_is_found_in_other_letter_case_altogether() -> None:
    found = await outcomes_of(["Anna@Example.COM"], suppressed_recipients=["aNNA@eXAMPLE.com"])
    assert found == {"Anna@Example.COM": SUPPRESSED}
    assert await outcomes_of(["STRASSE@x", "İ@x"], permanent_bounces=["straße@X"]) == {
        "STRASSE@x": BOUNCED,
        "İ@x": ACCEPTED,
    }


async def test_two_mailboxes_that_differ_in_case_alone_keep_their_own_fates() -> None:
    found = await outcomes_of(
        ["Anna@x", "anna@x", "ANNA@x"], delivered=["anna@x"], permanent_bounces=["Anna@x"]
    )
    assert found == {"Anna@x": BOUNCED, "anna@x": DELIVERED, "ANNA@x": BOUNCED}
    found = await outcomes_of(["anna@X", "Anna@X"], permanent_bounces=["Anna@x"], delivered=["anna@x"])
    assert found == {"anna@X": DELIVERED, "Anna@X": BOUNCED}


async def test_an_address_that_is_found_as_it_was_sent_is_not_looked_for_in_other_spellings() -> None:
    found = await outcomes_of(["a@x", "a@X", "c@y"], delivered=["a@x"], permanent_bounces=["a@X"])
    assert found == {"a@x": DELIVERED, "a@X": BOUNCED, "c@y": ACCEPTED}


@pytest.mark.parametrize("spelling", ["b@x.org", "b@X.ORG", "B@X.org"])
async def test_of_several_lists_with_an_address_the_worst_counts(spelling: str) -> None:
    everywhere = {
        name: [spelling] for name in ("delivered", "queued", "suppressed_recipients", "permanent_bounces")
    }
    assert await outcomes_of(["b@x.org"], **everywhere) == {"b@x.org": BOUNCED}
    del everywhere["permanent_bounces"]
    assert await outcomes_of(["b@x.org"], **everywhere) == {"b@x.org": SUPPRESSED}
    del everywhere["suppressed_recipients"]
    assert await outcomes_of(["b@x.org"], **everywhere) == {"b@x.org": QUEUED}


async def test_addresses_that_were_not_asked_for_are_nobodys_outcome() -> None:
    assert await outcomes_of(["b@x"], delivered=["b@x", "c@x"], permanent_bounces=["d@x"]) == {
        "b@x": DELIVERED
    }


addresses = st.sampled_from(["a@x", "A@x", "a@X", "b@x", "B@X", "c@y", "C@y", "c@Y"])
lists = st.lists(addresses | st.none() | st.integers(), max_size=5) | st.none() | st.text(max_size=3)


@given(
    recipients=st.lists(addresses, min_size=1, max_size=8, unique=True),
    result=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("delivered", "queued", "permanent_bounces", "suppressed_recipients"), lists),
    ),
)
def test_every_recipient_has_one_outcome_and_an_exact_match_decides(
    recipients: list[str], result: dict
) -> None:
    body = json.dumps({"success": True, "result": result}).encode()
    sent = sent_in(Answer(200, {}, body), recipients)
    assert sent is not None
    assert list(sent.outcomes) == recipients
    worst_first = [
        ("permanent_bounces", BOUNCED),
        ("suppressed_recipients", SUPPRESSED),
        ("queued", QUEUED),
        ("delivered", DELIVERED),
    ]
    for recipient in recipients:
        named = [
            reply
            for name, reply in worst_first
            if isinstance(result.get(name), list) and recipient in result[name]
        ]
        if named:
            assert sent.outcomes[recipient] == named[0]


@pytest.mark.parametrize(
    ("message_id", "found"),
    [
        ("<1@x>", "<1@x>"),
        ("1@x", "1@x"),
        (" <1@x>\r\n", "<1@x>"),
        ("", ""),
        (None, ""),
        (17, ""),
        (["<1@x>"], ""),
        ("<1@x>\r\n250 OK", ""),
        ("\x1b[2J", ""),
        ("x" * 1_000_000, ""),
    ],
)
async def test_message_id(message_id: object, found: str) -> None:
    sent = await send(answering(success(delivered=[RECIPIENT], message_id=message_id)))
    assert sent.message_id == found


@pytest.mark.parametrize(
    "envelope", [{}, {"messages": None, "errors": None}, {"result_info": {}, "x": 1}], ids=str
)
async def test_of_a_successs_envelope_only_success_and_the_result_are_needed(envelope: dict) -> None:
    answer = {"success": True, "result": {"queued": [RECIPIENT], "unknown": {"x": []}}} | envelope
    sent = await send(answering(httpx.Response(200, json=answer)))
    assert sent.outcomes == {RECIPIENT: QUEUED}


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("email.too_big", (552, "5.3.4")),
        ("email.sender_not_configured", (451, "4.3.5")),
        ("throttled", (451, "4.7.1")),
        ("unheard_of", (451, "4.3.0")),
    ],
)
async def test_200_with_success_false_is_the_error_that_it_names(text: str, reply: tuple[int, str]) -> None:
    error = await failed_send(answering(refusal(200, text)), wait=0.0)
    assert error.reply[:2] == reply
    assert not error.unanswered


async def test_a_success_with_another_status_than_200_is_one() -> None:
    assert (await send(answering(success(202, queued=[RECIPIENT])))).outcomes == {RECIPIENT: QUEUED}


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"",
        b"[]",
        b'{"success": true}',
        b'{"success": true, "result": []}',
        b'{"success": true, "result": "sent"}',
        b'{"success": "true", "result": {}}',
        b'{"success": 1, "result": {}}',
        b'{"success": false, "errors": [], "result": {"delivered": ["b@example.net"]}}',
        b'{"success": true, "result": {"delivered": ["b@example.net"]',
        b'{"result": {"delivered": ["b@example.net"]}}',
    ],
)
async def test_anything_else_with_200_is_no_success_but_may_have_sent_the_mail(body: bytes) -> None:
    error = await failed_send(answering(httpx.Response(200, content=body)))
    assert (error.reply.code, error.reply.status, error.scope) == (451, "4.3.0", Scope.ACCOUNT)
    assert error.unanswered


# ---- throttling


async def test_a_throttled_call_is_repeated_after_retry_after_within_the_deadline() -> None:
    calls: list[float] = []

    def handler(_: httpx.Request) -> httpx.Response:
        calls.append(time.monotonic())
        return (
            refusal(429, "throttled", **{"Retry-After": "1"})
            if len(calls) == 1
            else success(delivered=[RECIPIENT])
        )

    assert (await send(client_of(handler), wait=5)).outcomes == {RECIPIENT: DELIVERED}
    assert len(calls) == 2
    assert calls[1] - calls[0] >= 1.0


async def test_a_throttled_call_that_can_not_be_repeated_in_time_is_told_so_at_once() -> None:
    client = answering(refusal(429, "throttled", **{"Retry-After": "60"}))
    started = time.monotonic()
    error = await failed_send(client, wait=50)
    assert time.monotonic() - started < 40, "it waited for the deadline"
    assert (error.reply.code, error.reply.status, error.scope) == (451, "4.7.1", Scope.ACCOUNT)
    assert error.retry_after == 60.0
    assert client.pacer.blocked_for == pytest.approx(60, abs=1)
    assert client.pacer.in_flight == 0


async def test_while_blocked_nobody_calls_neither_to_send_nor_to_check_the_token() -> None:
    calls = []
    client = client_of(
        lambda request: calls.append(request) or refusal(429, "throttled", **{"Retry-After": "60"})
    )
    await failed_send(client, wait=5)
    await failed_send(client, wait=5)
    with pytest.raises(SendError) as caught:
        await client.verify_token()
    assert caught.value.reply.status == "4.7.1"
    assert len(calls) == 1


async def test_retry_after_may_be_missing() -> None:
    used_up = {"Ratelimit": '"default";r=0;t=42'}
    error = await failed_send(answering(refusal(429, "throttled", **used_up)), wait=1)
    assert error.retry_after == 42.0
    client = answering(refusal(429, "throttled"))
    assert (await failed_send(client, wait=1)).retry_after is None
    assert client.pacer.blocked_for == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize("value", ["\xb2", "soon", "-1", "Mon, 99 Foo 99999", "9" * 400])
async def test_a_retry_after_of_nonsense_does_no_harm(value: str) -> None:
    answer = httpx.Response(429, headers=[(b"Retry-After", value.encode("latin-1"))])
    assert (await failed_send(answering(answer), wait=1)).reply.status == "4.7.1"


async def test_ratelimit_of_a_refused_message_counts_as_well() -> None:
    client = answering(refusal(400, "email.invalid", Ratelimit='"default";r=0;t=50'))
    await failed_send(client)
    assert client.pacer.blocked_for > 49


async def test_ratelimit_of_a_success_is_heeded() -> None:
    answer = success(delivered=[RECIPIENT])
    answer.headers["RateLimit"] = '"default";r=0;t=50'
    client = answering(answer)
    await send(client)
    assert (await failed_send(client, wait=1)).reply.status == "4.7.1"


# ---- the token


async def test_a_refused_token_is_known_until_a_call_succeeds() -> None:
    client = answering(refusal(401, "authentication.unauthorized"), success(delivered=[RECIPIENT]))
    error = await failed_send(client)
    assert (error.reply.code, error.reply.status, error.scope) == (451, "4.3.5", Scope.ACCOUNT)
    assert client.health.state is State.TOKEN_REFUSED
    assert "SMTP2CF_API_TOKEN" in client.health.reply.text
    await send(client)
    assert client.health.state is State.UP


async def test_a_call_that_is_refused_for_a_token_replaced_meanwhile_is_repeated_with_the_new_one() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        client.use_token("new")
        good = request.headers["Authorization"] == "Bearer new"
        return success(delivered=[RECIPIENT]) if good else refusal(401, "authentication.unauthorized")

    client = client_of(answer)
    assert (await send(client)).outcomes == {RECIPIENT: DELIVERED}
    assert client.health.state is State.UP


async def test_a_token_that_has_replaced_a_refused_one_is_tried_at_once() -> None:
    health = ApiHealth()
    refused = refusal(401, "authentication.unauthorized")
    client = client_of(
        lambda request: success() if request.headers["Authorization"] == "Bearer new" else refused,
        health=health,
    )
    await failed_send(client)
    assert not health.on_trial
    client.use_token("new")
    await send(client)
    assert health.state is State.UP


@pytest.mark.parametrize(
    "answer",
    [
        refusal(403, "sender_not_configured"),
        refusal(403, "email.sending_disabled"),
        refusal(403, "brand_new"),
        refusal(404, "not_found"),
        refusal(400, "email.invalid"),
        refusal(500, "internal_server"),
        httpx.Response(403, content=b"<html>blocked"),
        httpx.Response(502, content=b"<html>"),
    ],
)
async def test_errors_about_something_else_say_nothing_about_the_token(answer: httpx.Response) -> None:
    client = answering(success(), answer)
    await send(client)
    await failed_send(client)
    assert client.health.state is State.UP


def token_is(status: object) -> httpx.Response:
    return success(id="1", status=status)


NO_SUCH_TOKEN = httpx.Response(
    401, json={"success": False, "errors": [{"code": 1000, "message": "Invalid API Token"}]}
)
MALFORMED_TOKEN = httpx.Response(
    400, json={"success": False, "errors": [{"code": 6003, "message": "Invalid request headers"}]}
)
NO_ROUTE = httpx.Response(
    404, json={"success": False, "errors": [{"code": 7003, "message": "Could not route to /x"}]}
)


@pytest.mark.parametrize(
    ("answers", "accepted", "reason"),
    [
        ([token_is("active")], True, ""),
        ([token_is("disabled")], False, "Cloudflare says the token is disabled"),
        ([token_is("expired")], False, "Cloudflare says the token is expired"),
        ([token_is("\x1b[2J\r\n")], False, "Cloudflare says the token is [2J"),
        ([NO_SUCH_TOKEN, token_is("active")], True, ""),
        ([NO_ROUTE, token_is("active")], True, ""),
        ([httpx.Response(502), token_is("active")], True, ""),
        ([NO_SUCH_TOKEN, token_is("expired")], False, "Cloudflare says the token is expired"),
        ([NO_SUCH_TOKEN, NO_SUCH_TOKEN], False, "SMTP2CF_API_TOKEN"),
        ([NO_ROUTE, NO_SUCH_TOKEN], False, "SMTP2CF_API_TOKEN"),
        ([MALFORMED_TOKEN, MALFORMED_TOKEN], False, "SMTP2CF_API_TOKEN"),
    ],
)
async def test_the_token_is_asked_for_as_an_accounts_and_then_as_a_users(
    answers: list[httpx.Response], accepted: bool, reason: str
) -> None:
    asked = []
    left = list(answers)
    client = client_of(lambda request: asked.append(str(request.url)) or left.pop(0))
    found = await client.verify_token()
    assert found.accepted is accepted
    assert reason in found.reason
    base = "http://api.test/client/v4"
    urls = [f"{base}/accounts/{ACCOUNT}/tokens/verify", f"{base}/user/tokens/verify"]
    assert asked == urls[: len(answers)]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, content=b"<html>Please log in to the guest network"),
        httpx.Response(200, json={"success": True, "result": {}}),
        httpx.Response(200, json={"success": True, "result": {"status": None}}),
        httpx.Response(502, content=b"<html>"),
        httpx.Response(403, content=b"<html>blocked"),
        NO_ROUTE,
    ],
)
async def test_what_tells_nothing_of_the_token_is_an_error(answer: httpx.Response) -> None:
    client = answering(answer)
    with pytest.raises(SendError):
        await client.verify_token()


# ---- secrets


async def test_the_token_is_in_no_repr_and_no_error() -> None:
    def broken(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("broke")

    client = client_of(broken)
    error = await failed_send(client)
    shown = f"{client!r} {client!s} {error!r} {error!s} {error.__cause__!r} {client.pacer!r}"
    assert TOKEN not in shown
    assert error.unanswered


async def test_a_cancelled_call_leaves_nothing_in_flight() -> None:
    started = asyncio.Event()

    async def never(_: httpx.Request) -> httpx.Response:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    client = client_of(never)
    call = asyncio.create_task(send(client))
    await started.wait()
    assert client.pacer.in_flight == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert client.pacer.in_flight == 0
