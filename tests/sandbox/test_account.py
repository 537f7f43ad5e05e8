"""What the account allows: who may send, how much a day, and what the token may ask about it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import cloudflare
import httpx
import pytest

from smtp2cf.sandbox import RateLimit
from smtp2cf.sandbox.quota import Quota
from smtp2cf.sandbox.senders import Senders

from .conftest import ACCOUNT, SENDING, Running, Start

SENDER = "email.sending.error.email.sender_not_configured"
DISABLED = "email.sending.error.email.sending_disabled"


@pytest.mark.parametrize(
    ("configured", "domain", "expected"),
    [
        ([], "example.com", ""),
        ([], "unconfigured.example", SENDER),
        ([], "unconfigured.example.com", SENDER),
        ([], "mail.unconfigured.example.com", SENDER),
        ([], "disabled.example.com", DISABLED),
        ([], "unconfigured-not.example.com", ""),
        (["Example.com."], "example.com", ""),
        (["example.com"], "mail.example.com", SENDER),
        (["example.com"], "web1.local", SENDER),
        (["*.example.com"], "a.b.example.com", ""),
        (["*.example.com"], "example.com", SENDER),
        (["*.example.com"], "anexample.com", SENDER),
        (["unconfigured.example"], "unconfigured.example", ""),
    ],
)
async def test_who_may_send(configured: list[str], domain: str, expected: str) -> None:
    refusal = Senders(configured).refusal(domain)
    assert (refusal.message if refusal else "") == expected


async def test_a_sender_that_is_not_set_up_is_refused_until_it_is(start: Start) -> None:
    running = await start(senders=["example.com"])
    await running.send("b@example.net")
    with pytest.raises(cloudflare.PermissionDeniedError) as refused:
        await running.send("b@example.net", from_="a@News.example.org")
    assert [(error.code, error.message) for error in refused.value.errors] == [(10204, SENDER)]
    running.sandbox.senders.configured.add("news.example.org")
    await running.send("b@example.net", from_="a@News.example.org")
    with pytest.raises(cloudflare.PermissionDeniedError) as refused:
        await (await start()).send("b@example.net", from_="a@disabled.example.org")
    assert [(error.code, error.message) for error in refused.value.errors] == [(10203, DISABLED)]


async def test_addresses_are_ascii_and_their_domains_a_labels(running: Running) -> None:
    await running.send("b@xn--bcher-kva.example", from_="a@xn--mnchen-3ya.example")
    for changes, pointer in [
        ({"from": "a@münchen.example"}, "/from"),
        ({"recipients": ["b@x.example", "b@bücher.example"]}, "/recipients/1"),
        ({"recipients": ["jörg@x.example"]}, "/recipients/0"),
    ]:
        answer = await running.post(**changes)
        (error,) = answer.json()["errors"]
        assert (answer.status_code, error["code"], error["source"]["pointer"]) == (400, 10001, pointer)
    assert len(running.sandbox.messages) == 1


async def limits(running: Running) -> Any:
    return (await running.http.get(f"{SENDING}/limits")).json()["result"]


async def test_without_a_quota_limits_are_null(running: Running) -> None:
    await running.send("b@example.net")
    assert await limits(running) == {"quota": None, "usage": None}


async def test_a_quota_counts_recipients_and_refuses_what_comes_after(start: Start) -> None:
    running = await start(quota=4)
    await running.send("b@example.net", "bounce@example.net", "queued@example.net")
    with pytest.raises(cloudflare.BadRequestError):  # it costs no quota
        await running.send("suppressed@example.net")
    before = await limits(running)
    assert before["quota"] == {"unit": "day", "value": 4}
    assert (before["usage"]["sent"], before["usage"]["over_quota"]) == (3, False)
    resets = datetime.fromisoformat(before["usage"]["resets_at"])
    assert timedelta() < resets - datetime.now(UTC) <= timedelta(days=1)
    assert resets.timetuple()[3:6] == (0, 0, 0)
    await running.send("b@example.net", "c@example.net")
    with pytest.raises(cloudflare.RateLimitError) as refused:
        await running.send("b@example.net")
    assert "Retry-After" not in refused.value.response.headers
    assert (await limits(running))["usage"]["over_quota"] is True
    running.sandbox.quota.resets_at = 0
    await running.send("b@example.net")
    assert (await limits(running))["usage"]["sent"] == 1


def test_a_quota_resets_at_midnight() -> None:
    now = 86400.0 * 20000 + 5
    quota = Quota(1, lambda: now)
    quota.count(1)
    assert quota.used_up
    assert quota.resets_at == 86400.0 * 20001
    now = quota.resets_at
    assert not quota.used_up
    assert quota.resets_at == 86400.0 * 20002


async def test_silent_says_nothing_of_the_rate_limit(start: Start) -> None:
    running = await start(rate_limit=RateLimit(1, 60, 60), silent=True)
    answers = [await running.post(), await running.post()]
    assert [answer.status_code for answer in answers] == [200, 429]
    for answer in (*answers, await (await start(silent=True)).post(recipients=["throttle-9s@example.net"])):
        assert not {"ratelimit", "ratelimit-policy", "retry-after"} & answer.headers.keys()


async def test_codes_are_strings_where_their_type_says_so(start: Start) -> None:
    running = await start(string_codes=True, token="another")
    running.http.headers["Authorization"] = "Bearer another"
    codes = {}
    for recipient in ("suppressed", "error", "throttle", "b"):
        answer = await running.post(recipients=[f"{recipient}@example.net"])
        codes[answer.status_code] = [error["code"] for error in answer.json()["errors"]]
    answer = await running.post(**{"from": "a@unconfigured.example"})
    codes[answer.status_code] = [error["code"] for error in answer.json()["errors"]]
    assert codes == {400: ["10205"], 500: [10002], 429: [10004], 200: [], 403: ["10204"]}
    running.sandbox.token = None
    with pytest.raises(cloudflare.BadRequestError) as refused:
        await running.send("suppressed@example.net")
    assert "suppress" in (refused.value.errors[0].message or "")


async def get(running: Running, path: str) -> httpx.Response:
    return await running.http.get(f"/client/v4{path}")


async def test_a_token_may_lack_permissions(start: Start) -> None:
    running = await start(lacking=["limits", "zones"])
    for path in (f"/accounts/{ACCOUNT}/email/sending/limits", "/zones", "/zones/1/email/sending/subdomains"):
        answer = await get(running, path)
        (error,) = answer.json()["errors"]
        assert (answer.status_code, error) == (403, {"code": 10000, "message": "Authentication error"})
    assert (await get(running, f"/accounts/{ACCOUNT}/email/sending/suppressions")).status_code == 200
    await running.send("b@example.net")


async def subdomains(running: Running, name: str) -> list[tuple[str, bool]]:
    found = []
    async for zone in running.cloudflare.zones.list(name=name):
        assert zone.name == name
        set_up = running.cloudflare.email_sending.subdomains.list(zone_id=zone.id)
        found += [(subdomain.name, subdomain.enabled) async for subdomain in set_up]
    return found


async def test_the_sdk_finds_a_zone_and_what_is_set_up_in_it(start: Start) -> None:
    running = await start(senders=["example.com", "news.example.com", "disabled.example.org"])
    assert await subdomains(running, "example.com") == [("example.com", True), ("news.example.com", True)]
    assert await subdomains(running, "example.org") == [("disabled.example.org", False)]
    assert await subdomains(running, "example.net") == []
    anyone = await start()
    assert await subdomains(anyone, "example.net") == [("example.net", True), ("*.example.net", True)]
    assert await subdomains(anyone, "unconfigured.example") == []
    assert await subdomains(anyone, "www.example.net") == []


async def test_the_sdk_reads_the_records_a_name_needs(running: Running) -> None:
    api = running.cloudflare.email_sending.subdomains.dns
    records = [(r.type, r.name) async for r in api.get("news.example.com", zone_id="1")]
    assert ("MX", "cf-bounce.news.example.com") in records
    assert ("TXT", "sandbox._domainkey.news.example.com") in records


async def test_a_suppressed_recipient_is_on_the_list_for_that_senders_domain(running: Running) -> None:
    with pytest.raises(cloudflare.BadRequestError):
        await running.send("anna+suppressed@example.net", from_="a@News.example")
    (entry,) = [
        entry async for entry in running.cloudflare.email_sending.suppressions.list(account_id=ACCOUNT)
    ]
    assert (entry.email, entry.reason) == ("anna+suppressed@example.net", "hard_bounce")
    assert entry.scope.value == "news.example"
    assert timedelta(days=6) < entry.expires_at - datetime.now(UTC) < timedelta(days=8)


async def test_a_dropped_recipient_is_on_the_list_too_and_dropped_every_time(running: Running) -> None:
    for _ in range(2):
        answer = await running.send("dropped@example.net", "b@example.net")
        assert answer.suppressed_recipients == ["dropped@example.net"]
        assert answer.delivered == ["b@example.net"]
    listed = running.cloudflare.email_sending.suppressions.list(account_id=ACCOUNT)
    assert [entry.email async for entry in listed] == ["dropped@example.net"]
