"""The suppression list, through Cloudflare's SDK, and what it does to mail."""

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import cloudflare
import orjson
import pytest

from smtp2cf.sandbox import subdomains, suppressions
from tests.support.waiting import PATIENCE

from .conftest import ACCOUNT, SENDING, Running

ZONE = "fedcba9876543210fedcba9876543210"
LATER = datetime.now(UTC) + timedelta(days=7)


def api(running: Running) -> Any:
    return running.cloudflare.email_sending.suppressions


async def create(running: Running, email: str, **more: Any) -> str:
    return (await api(running).create(account_id=ACCOUNT, email=email, **more)).id


async def listed(running: Running, **filters: Any) -> list[str]:
    async with asyncio.timeout(PATIENCE):
        return [entry.email async for entry in api(running).list(account_id=ACCOUNT, **filters)]


async def test_the_sdk_creates_and_gets_an_entry(running: Running) -> None:
    created = await api(running).create(
        account_id=ACCOUNT, email="Anna@Example.net", expires_at=LATER, note="asked for it"
    )
    assert created.scope.type == "account"
    entry = await api(running).get(created.id, account_id=ACCOUNT)
    assert entry.id == created.id
    assert entry.email == "anna@example.net"
    assert entry.reason == "manual"
    assert entry.expires_at == LATER
    assert abs(entry.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert entry.read_only is False
    assert entry.note == "asked for it"
    assert entry.scope.type == "account"


async def test_an_entry_is_for_good_unless_it_says_otherwise(running: Running) -> None:
    entry = await api(running).get(await create(running, "anna@example.net"), account_id=ACCOUNT)
    assert entry.expires_at is None
    assert entry.note is None


async def test_creating_what_is_there_gives_what_is_there(running: Running) -> None:
    first = await create(running, "anna@example.net", note="first")
    assert await create(running, "ANNA@example.net", note="second") == first
    assert (await api(running).get(first, account_id=ACCOUNT)).note == "first"


async def test_an_address_can_be_listed_once_for_each_scope(running: Running) -> None:
    scope = {"type": "sending_domain", "value": "News.Example.com."}
    ids = {
        await create(running, "anna@example.net"),
        await create(running, "anna@example.net", scope=scope),
    }
    entries = [entry async for entry in api(running).list(account_id=ACCOUNT)]
    assert {entry.id for entry in entries} == ids
    assert [entry.scope.type for entry in entries] == ["sending_domain", "account"]
    assert entries[0].scope.value == "news.example.com"


async def test_the_sdk_edits_expiry_and_note(running: Running) -> None:
    key = await create(running, "anna@example.net", note="old", expires_at=LATER)
    await api(running).edit(key, account_id=ACCOUNT, note="new")
    entry = await api(running).get(key, account_id=ACCOUNT)
    assert (entry.note, entry.expires_at) == ("new", LATER)
    await api(running).edit(key, account_id=ACCOUNT, expires_at=None, note="")
    entry = await api(running).get(key, account_id=ACCOUNT)
    assert (entry.note, entry.expires_at) == (None, None)


async def test_a_scope_cannot_be_edited(running: Running) -> None:
    key = await create(running, "anna@example.net", note="old")
    with pytest.raises(cloudflare.BadRequestError, match="scope_immutable"):
        await api(running).edit(key, account_id=ACCOUNT, note="new", scope={"type": "account"})
    assert (await api(running).get(key, account_id=ACCOUNT)).note == "old"


async def test_the_sdk_deletes_an_entry(running: Running) -> None:
    key = await create(running, "anna@example.net")
    assert (await api(running).delete(key, account_id=ACCOUNT)).id == key
    assert await listed(running) == []
    with pytest.raises(cloudflare.NotFoundError) as refused:
        await api(running).get(key, account_id=ACCOUNT)
    assert [error.code for error in refused.value.errors] == [10000]


async def test_a_read_only_entry_refuses_changes(running: Running) -> None:
    entry = running.sandbox.suppressions.add("anna@example.net", reason="complaint", read_only=True)
    assert (await api(running).get(entry.id, account_id=ACCOUNT)).read_only is True
    with pytest.raises(cloudflare.PermissionDeniedError):
        await api(running).edit(entry.id, account_id=ACCOUNT, note="mine")
    with pytest.raises(cloudflare.PermissionDeniedError):
        await api(running).delete(entry.id, account_id=ACCOUNT)
    assert await listed(running) == ["anna@example.net"]


async def test_an_expired_entry_is_none(running: Running) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    entry = running.sandbox.suppressions.add("anna@example.net", reason="soft_bounce", expires_at=past)
    assert await listed(running) == []
    with pytest.raises(cloudflare.NotFoundError):
        await api(running).delete(entry.id, account_id=ACCOUNT)
    assert (await running.send("anna@example.net")).delivered == ["anna@example.net"]
    assert await create(running, "anna@example.net") != entry.id


async def test_a_list_is_paged_newest_first(running: Running) -> None:
    for number in range(7):
        await create(running, f"r{number}@example.net")
    page = await api(running).list(account_id=ACCOUNT, per_page=3)
    assert [entry.email for entry in page.result] == ["r6@example.net", "r5@example.net", "r4@example.net"]
    assert page.has_next_page()
    assert await listed(running, per_page=3) == [f"r{number}@example.net" for number in reversed(range(7))]


async def test_the_cursor_goes_by_both_names_and_carries_the_filters(running: Running) -> None:
    for name in ("a1", "b1", "a2", "a3"):
        await create(running, f"{name}@example.net")
    query = {"search": "a", "per_page": "2"}
    page = (await running.http.get(f"{SENDING}/suppressions", params=query)).json()
    assert [entry["email"] for entry in page["result"]] == ["a3@example.net", "a2@example.net"]
    cursor = page["result_info"]["next_cursor"]
    assert cursor
    assert cursor == page["result_info"]["cursor"]
    rest = (await running.http.get(f"{SENDING}/suppressions", params={"cursor": cursor})).json()
    assert [entry["email"] for entry in rest["result"]] == ["a1@example.net"]
    assert rest["result_info"]["next_cursor"] == rest["result_info"]["cursor"] == ""


async def test_entries_made_and_removed_between_pages_upset_nothing(running: Running) -> None:
    ids = [await create(running, f"r{number}@example.net") for number in range(4)]
    page = await api(running).list(account_id=ACCOUNT, per_page=2)
    await create(running, "new@example.net")
    await api(running).delete(ids[2], account_id=ACCOUNT)
    rest = await page.get_next_page()
    assert [entry.email for entry in rest.result] == ["r1@example.net", "r0@example.net"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"email": "Anna@example.net"}, ["anna@example.net"]),
        ({"email": "anna"}, []),
        ({"search": "anna@example.net"}, ["anna@example.net"]),
        ({"search": "anna@"}, ["anna@example.org", "anna@example.net"]),
        ({"search": "ann"}, ["annabel@example.net", "anna@example.org", "anna@example.net"]),
        ({"search": "anna@example"}, []),
        ({"reason": "complaint"}, ["carl@example.net"]),
        ({"reason": "policy"}, []),
        ({"scope_type": "sending_domain"}, ["annabel@example.net"]),
        ({"scope_type": "sending_domain", "scope_value": "other.example"}, []),
        ({"scope_type": "sending_domain", "scope_value": "News.example"}, ["annabel@example.net"]),
        ({"scope_type": "account", "search": "a"}, ["anna@example.org", "anna@example.net"]),
    ],
)
async def test_a_list_can_be_filtered(running: Running, filters: dict[str, str], expected: list[str]) -> None:
    await create(running, "anna@example.net")
    await create(running, "anna@example.org")
    await create(running, "annabel@example.net", scope={"type": "sending_domain", "value": "news.example"})
    running.sandbox.suppressions.add("carl@example.net", reason="complaint")
    assert await listed(running, **filters) == expected


def forged(*cursor: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(cursor)).decode()


@pytest.mark.parametrize(
    "query",
    [
        {"per_page": "0"},
        {"per_page": "1001"},
        {"per_page": "9" * 5000},
        {"per_page": "x"},
        {"reason": "spite"},
        {"scope_type": "zone"},
        {"scope_value": "example.com"},
        {"cursor": "?"},
        {"cursor": "AAAA"},
        {"cursor": "W10="},
        {"cursor": "ü"},
        {"cursor": forged(-1, "", "", "", "", "", [True, 1])},
        {"cursor": forged(5, "", "", "", "", "", ["x", None])},
        {"cursor": forged(5, 0, "", "", "", "", [True, 1])},
    ],
)
async def test_a_list_with_a_bad_query_is_refused(running: Running, query: dict[str, str]) -> None:
    answer = await running.http.get(f"{SENDING}/suppressions", params=query)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 10001)
    assert answer.json()["errors"][0]["source"] == {"pointer": f"/{next(iter(query))}"}


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"email": "nobody"}, "/email"),
        ({"email": 5}, "/email"),
        ({"expires_at": "tomorrow"}, "/expires_at"),
        ({"expires_at": 12}, "/expires_at"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"note": "x" * 1001}, "/note"),
        ({"note": None}, "/note"),
        ({"scope": "account"}, "/scope"),
        ({"scope": {"type": "zone"}}, "/scope"),
        ({"scope": {"type": "sending_domain"}}, "/scope"),
        ({"scope": {"type": "sending_domain", "value": "münchen.example"}}, "/scope/value"),
        ({"scope": {"type": "sending_domain", "value": "a b"}}, "/scope/value"),
        ({"reason": "complaint"}, "/reason"),
    ],
)
async def test_an_entry_of_another_form_is_refused(
    running: Running, changes: dict[str, Any], pointer: str
) -> None:
    answer = await running.http.post(f"{SENDING}/suppressions", json={"email": "a@example.net"} | changes)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 10001)
    assert answer.json()["errors"][0]["source"] == {"pointer": pointer}
    assert await listed(running) == []


async def test_the_sdk_imports_many_at_once_and_each_has_its_own_fate(running: Running) -> None:
    running.sandbox.suppressions.add("policy@example.net", reason="policy", read_only=True)
    known = await create(running, "known@example.net")
    result = await api(running).import_(
        account_id=ACCOUNT,
        items=[
            {"email": "new@example.net", "note": "imported"},
            {"email": "NEW@example.net"},
            {"email": "known@example.net"},
            {"email": "nobody"},
            {"email": "policy@example.net"},
            {"email": "new@example.net", "scope": {"type": "sending_domain", "value": "news.example"}},
        ],
    )
    assert (result.total, result.deduplicated, result.processed) == (6, 1, 3)
    assert (result.invalid, result.skipped, result.errors) == (1, 1, 0)
    assert [(item.index, item.status) for item in result.items] == [
        (0, "processed"),
        (2, "processed"),
        (3, "invalid"),
        (4, "skipped"),
        (5, "processed"),
    ]
    assert result.items[1].id == known
    assert "not an address" in result.items[2].error
    assert len(await listed(running)) == 4


@pytest.mark.parametrize("items", [None, [], "x", [{"email": "a@example.net"}] * 1001])
async def test_an_import_of_nothing_or_too_much_is_refused(running: Running, items: Any) -> None:
    answer = await running.http.post(f"{SENDING}/suppressions/bulk", json={"items": items})
    assert (answer.status_code, answer.json()["errors"][0]["source"]) == (400, {"pointer": "/items"})


async def test_the_eleventh_import_within_a_minute_is_refused(running: Running) -> None:
    items = {"items": [{"email": "a@example.net"}, "no object"]}
    answers = [await running.http.post(f"{SENDING}/suppressions/bulk", json=items) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    assert int(answers[-1].headers["Retry-After"]) in range(50, 61)
    assert (await running.post()).status_code == 200


async def test_a_full_list_takes_no_more(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppressions, "ENTRIES_LIMIT", 2)
    past = datetime.now(UTC) - timedelta(seconds=1)
    running.sandbox.suppressions.add("expired@example.net", expires_at=past)
    await create(running, "r1@example.net")
    await create(running, "r2@example.net")
    with pytest.raises(cloudflare.BadRequestError, match="limit_reached"):
        await create(running, "r3@example.net")
    result = await api(running).import_(account_id=ACCOUNT, items=[{"email": "r4@example.net"}])
    assert (result.errors, result.items[0].status) == (1, "error")


async def test_a_listed_recipient_costs_everybody_their_mail(running: Running) -> None:
    await create(running, "Anna@example.net")
    with pytest.raises(cloudflare.BadRequestError, match="suppress") as refused:
        await running.send("b@example.net", "anna@EXAMPLE.net", "auth@example.net")
    assert "anna" not in refused.value.response.text.lower()
    assert not running.sandbox.messages
    assert (await running.send("b@example.net")).delivered == ["b@example.net"]


async def test_an_entry_for_one_domain_suppresses_its_mail_only(running: Running) -> None:
    scope = {"type": "sending_domain", "value": "news.example"}
    await create(running, "anna@example.net", scope=scope)
    assert (await running.send("anna@example.net")).delivered
    with pytest.raises(cloudflare.BadRequestError, match="suppress"):
        await running.send("anna@example.net", from_="a@News.example")


async def drop(running: Running, subdomain: str, *, on: bool = True) -> Any:
    return await running.cloudflare.email_sending.subdomains.edit(
        subdomain, zone_id=ZONE, drop_suppressed_recipients=on
    )


@pytest.mark.parametrize(
    ("subdomain", "covered"),
    [
        ("0123456789abcdef", True),
        ("example.com", True),
        ("EXAMPLE.com", True),
        ("*.com", True),
        ("other.example", False),
        ("*.example.com", False),
    ],
)
async def test_a_subdomain_can_drop_suppressed_recipients(
    running: Running, subdomain: str, covered: bool
) -> None:
    await create(running, "anna@example.net")
    edited = await drop(running, subdomain)
    assert edited.drop_suppressed_recipients is True
    if not covered:
        with pytest.raises(cloudflare.BadRequestError, match="suppress"):
            await running.send("anna@example.net", "b@example.net")
        return
    answer = await running.send("anna@example.net", "suppressed@example.net", "b@example.net")
    assert answer.suppressed_recipients == ["anna@example.net", "suppressed@example.net"]
    assert answer.delivered == ["b@example.net"]


async def test_dropping_can_be_read_and_switched_off_again(running: Running) -> None:
    zone = running.cloudflare.email_sending.subdomains
    before = await zone.get("example.com", zone_id=ZONE)
    assert before is not None
    assert (before.name, before.enabled, before.drop_suppressed_recipients) == ("example.com", True, False)
    await drop(running, "example.com")
    await zone.edit("example.com", zone_id=ZONE, preview_enabled=True)
    during = await zone.get("example.com", zone_id=ZONE)
    assert during is not None
    assert (during.drop_suppressed_recipients, during.preview_enabled) == (True, True)
    await drop(running, "example.com", on=False)
    with pytest.raises(cloudflare.BadRequestError, match="suppress"):
        await running.send("suppressed@example.net")


async def test_a_setting_that_is_none_is_refused(running: Running) -> None:
    path = f"/client/v4/zones/{ZONE}/email/sending/subdomains/example.com"
    for body in ({"drop_suppressed_recipients": "yes"}, {"drop": True}):
        answer = await running.http.patch(path, json=body)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 10001)


async def test_only_so_many_subdomains_are_remembered(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subdomains, "SUBDOMAINS_LIMIT", 1)
    await drop(running, "example.com")
    await drop(running, "example.com", on=False)
    with pytest.raises(cloudflare.BadRequestError):
        await drop(running, "example.org")
