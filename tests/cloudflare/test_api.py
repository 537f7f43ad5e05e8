"""The low-rate calls: an ordinary httpx client that asks the pacer and reads Cloudflare's envelope."""

import gzip

import httpx
import pytest

from smtp2cf.cloudflare.api import Api
from smtp2cf.cloudflare.pacing import Pacer
from smtp2cf.cloudflare.transport import Transport
from smtp2cf.reply import SendError
from tests.cloudflare.conftest import ACCOUNT, MakeClient
from tests.cloudflare.raw_server import always, http, serving
from tests.support.secret import TOKEN


def api_of(answer: httpx.Response, pacer: Pacer | None = None) -> Api:
    return Api(
        base_url=httpx.URL("http://api.test/client/v4"),
        account_id=ACCOUNT,
        token=TOKEN,
        timeout=5.0,
        transport=httpx.MockTransport(lambda _: answer),
        pacer=pacer or Pacer(4),
    )


async def test_a_success_is_its_result() -> None:
    info = {"cursor": "next"}
    api = api_of(httpx.Response(200, json={"success": True, "result": [1], "result_info": info}))
    answer = await api.call("GET", f"{api.account}/things", params={"per_page": 100})
    assert (answer.result, answer.info, answer.error) == ([1], info, None)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (httpx.Response(403, json={"success": False, "errors": [{"code": 10000}]}), "4.3.5"),
        (httpx.Response(200, json={"success": False, "errors": [{"code": 1}]}), "4.3.0"),
        (httpx.Response(200, json=[1]), "4.3.0"),
        (httpx.Response(502, content=b"<html>"), "4.3.0"),
        (httpx.Response(404, json={"success": False, "errors": [{"code": 7003}]}), "4.3.5"),
    ],
)
async def test_anything_else_is_an_error(answer: httpx.Response, status: str) -> None:
    asked = await api_of(answer).ask("GET", "/things")
    assert asked.error is not None
    assert (asked.status, asked.error.reply.status) == (answer.status_code, status)
    with pytest.raises(SendError):
        await api_of(answer).call("GET", "/things")


async def test_a_call_counts_and_its_limits_are_heeded() -> None:
    pacer = Pacer(4)
    await api_of(httpx.Response(200, json={}, headers={"Ratelimit": '"d";r=0;t=50'}), pacer).ask("GET", "/a")
    assert pacer.blocked_for > 49
    assert pacer.in_flight == 0
    throttled = httpx.Response(429, headers={"Retry-After": "120"})
    assert (await api_of(throttled, pacer).ask("GET", "/a", probe=True)).status == 429
    assert pacer.blocked_for > 119
    with pytest.raises(SendError, match="rate limit"):
        await api_of(throttled, pacer).ask("GET", "/a")


async def test_what_goes_over_the_wire() -> None:
    """With a real transport: one Content-Length, and an answer that was compressed is read once."""
    body = gzip.compress(b'{"success": true, "result": {"a": 1}}')
    async with serving(always(http("200 OK", body, Content_Encoding="gzip"))) as server:
        base = httpx.URL(server.base_url)
        transport = Transport(base, 5.0)
        api = Api(
            base_url=base,
            account_id=ACCOUNT,
            token=TOKEN,
            timeout=5.0,
            transport=transport,
            pacer=Pacer(4),
        )
        answer = await api.call("POST", f"{api.account}/things", params={"a": "b c"}, json={"x": 1})
        await transport.aclose()
    assert answer.result == {"a": 1}
    (request,) = server.requests
    assert request.line.replace("%20", "+") == f"POST /client/v4/accounts/{ACCOUNT}/things?a=b+c HTTP/1.1"
    assert request.json == {"x": 1}
    assert request.header("Content-Length") == str(len(request.body))
    assert request.header("Authorization") == f"Bearer {TOKEN}"


async def test_the_token_is_in_no_repr(make_client: MakeClient) -> None:
    assert TOKEN not in repr(make_client("http://127.0.0.1:1/client/v4").api)
