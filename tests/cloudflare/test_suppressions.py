"""The suppression list: pages that never end, entries that make no sense, and what a reply says of one."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from smtp2cf.cloudflare import suppression_reasons
from smtp2cf.cloudflare.api import Api
from smtp2cf.cloudflare.errors import TokenRefusedError
from smtp2cf.cloudflare.pacing import Pacer
from smtp2cf.cloudflare.suppression_reasons import SuppressionReasons
from smtp2cf.cloudflare.suppressions import PAGES_LIMIT, ReadOnlyError, Suppressions
from smtp2cf.reply import SUPPRESSED, SendError
from tests.support.secret import TOKEN

ANNA, SENDER = "anna@example.net", "shop@shop.example"
NOTHING_KNOWN = SUPPRESSED._replace(text="")
ENTRY = {
    "id": "1",
    "email": ANNA,
    "reason": "hard_bounce",
    "created_at": "2026-11-01T10:00:00Z",
    "expires_at": "2099-12-01T10:00:00Z",
    "read_only": False,
    "scope": {"type": "account"},
}


class Cloudflare:
    """Answers look-ups. answer: what it says, or a wait and then that."""

    def __init__(self, *entries: Any) -> None:
        self.answer: Callable[[httpx.Request], httpx.Response] = lambda _: page(*entries)
        self.asked: list[str] = []
        self.deleted: list[bytes] = []
        self.silent = False
        self.pacer = Pacer(4)
        self.now = 0.0
        api = Api(
            base_url=httpx.URL("http://api.test/client/v4"),
            account_id="a1",
            token=TOKEN,
            timeout=5.0,
            transport=httpx.MockTransport(self._respond),
            pacer=self.pacer,
        )
        self.list = Suppressions(api)
        self.reasons = SuppressionReasons(self.list, self.pacer, clock=lambda: self.now)

    async def _respond(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.params.get("email", ""))
        self.deleted += [request.url.raw_path] if request.method == "DELETE" else []
        if self.silent:
            await asyncio.Event().wait()
        return self.answer(request)

    async def said(self, recipient: str = ANNA, sender: str = SENDER) -> str:
        """What a reply says of a recipient; "" where nothing is known."""
        return (await self.reasons.replies([recipient], sender)).get(recipient, NOTHING_KNOWN).text

    async def ids(self, **filters: Any) -> list[str]:
        return [entry.id async for entry in self.list.entries(**filters)]


def page(*entries: Any, cursor: str = "", name: str = "next_cursor") -> httpx.Response:
    info = {name: cursor} if cursor else {}
    return httpx.Response(200, json={"success": True, "result": list(entries), "result_info": info})


def refusal(status: int, code: int, message: str) -> httpx.Response:
    return httpx.Response(status, json={"success": False, "errors": [{"code": code, "message": message}]})


# ---- the list


@pytest.mark.parametrize("name", ["next_cursor", "cursor"])
async def test_pages_are_followed_by_either_name_over_empty_ones(name: str) -> None:
    cloudflare = Cloudflare()
    pages = {
        "": page(ENTRY, cursor="a", name=name),
        "a": page(cursor="b", name=name),
        "b": page(ENTRY | {"id": "2"}),
    }
    cloudflare.answer = lambda request: pages[request.url.params.get("cursor", "")]
    assert await cloudflare.ids() == ["1", "2"]


async def test_pages_that_never_end() -> None:
    cloudflare = Cloudflare()
    cloudflare.answer = lambda _: page(ENTRY, cursor="again")
    assert await cloudflare.ids() == ["1"]
    cloudflare.asked.clear()
    cloudflare.answer = lambda _: page(cursor=f"c{len(cloudflare.asked)}")
    assert await cloudflare.ids() == []
    assert len(cloudflare.asked) == PAGES_LIMIT


@pytest.mark.parametrize(
    "entry",
    [
        None,
        17,
        [],
        {},
        {"id": None},
        {"id": "../../zones"},
        {"id": "x" * 10_000},
    ],
)
async def test_what_is_no_entry_is_left_out(entry: Any) -> None:
    assert await Cloudflare(entry, ENTRY).ids() == ["1"]


async def test_an_entry_of_any_types_is_read_as_far_as_it_goes() -> None:
    odd = {name: [17] for name in ENTRY} | {"id": "1", "email": "a\x1b[2J\r\nb" * 1000, "scope": "account"}
    (entry,) = [entry async for entry in Cloudflare(odd).list.entries()]
    assert entry.email.isprintable()
    assert len(entry.email) < 400
    assert (entry.reason, entry.domain, entry.expires_at, entry.read_only) == ("", "", None, False)


async def test_an_error_is_not_about_mail() -> None:
    cloudflare = Cloudflare()
    cloudflare.answer = lambda _: refusal(400, 10302, "suppression.limit_reached")
    with pytest.raises(SendError) as raised:
        await cloudflare.list.add(ANNA, domain="", expires_at=datetime.now(UTC), note="")
    text = raised.value.reply.text
    assert "refuses that for its suppression list" in text
    assert "suppression.limit_reached" in text


NOT_ABOUT_MAIL = [
    (
        400,
        10001,
        "email.sending.error.invalid_request_schema",
        "refuses that for its suppression list: [HTTP 40",
    ),
    (404, 10000, "email.sending.error.not_found", "does not know this account: check SMTP2CF_ACCOUNT_ID"),
    (401, 10101, "email.sending.error.authentication.unauthorized", "refuses the API token"),
    (407, 0, "", "the proxy requires a login: check HTTPS_PROXY"),
    (429, 10004, "email.sending.error.throttled", "rate limit"),
    (500, 10002, "email.sending.error.internal_server", "had an internal error"),
    (503, 10100, "email.sending.error.authentication.upstream", "had an internal error"),
]


@pytest.mark.parametrize(("status", "code", "message", "said"), NOT_ABOUT_MAIL)
async def test_an_error_names_what_is_to_blame(status: int, code: int, message: str, said: str) -> None:
    cloudflare = Cloudflare()
    cloudflare.answer = lambda _: refusal(status, code, message)
    for work in (cloudflare.ids(), cloudflare.list.find(ANNA)):
        with pytest.raises(SendError) as raised:
            await work
        assert said in raised.value.reply.text


@pytest.mark.parametrize("exactly", [True, False])
@pytest.mark.parametrize(
    ("kept", "asked_for", "found"),
    [
        ("anna@example.net", "anna@example.net", True),
        ("Anna@example.net", "Anna@example.net", True),
        ("anna@example.net", "Anna@example.net", True),
        ("anna.b@example.net", "anna@example.net", False),
    ],
)
async def test_an_address_is_found_whether_or_not_a_search_minds_letter_case(
    kept: str, asked_for: str, found: bool, exactly: bool
) -> None:
    cloudflare = Cloudflare()
    cloudflare.answer = lambda request: page(
        *([ENTRY | {"email": kept}] if request.url.params["email"] == kept or not exactly else [])
    )
    assert [entry.email for entry in await cloudflare.list.find(asked_for)] == ([kept] if found else [])


async def test_an_entry_is_removed_also_if_it_has_gone_and_not_if_it_is_read_only() -> None:
    cloudflare = Cloudflare(ENTRY)
    (entry,) = await cloudflare.list.find(ANNA)
    cloudflare.answer = lambda _: refusal(404, 10000, "email.sending.error.not_found")
    await cloudflare.list.remove(entry)
    assert cloudflare.deleted == [b"/client/v4/accounts/a1/email/sending/suppressions/1"]
    cloudflare.answer = lambda _: refusal(403, 10303, "email.sending.error.suppression.read_only")
    with pytest.raises(ReadOnlyError):
        await cloudflare.list.remove(entry)
    cloudflare.answer = lambda _: refusal(403, 10102, "email.sending.error.authentication.forbidden")
    with pytest.raises(TokenRefusedError):
        await cloudflare.list.remove(entry)


# ---- what a reply says


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], ""),
        ([ENTRY], " after a hard bounce, until 2099-12-01 10:00 UTC"),
        ([ENTRY | {"expires_at": None, "reason": "complaint"}], " after a complaint, for good"),
        ([ENTRY | {"reason": "manual", "expires_at": None}], " added by hand, for good"),
        ([ENTRY | {"reason": "new_reason", "expires_at": "soon"}], " new_reason, for good"),
        (
            [ENTRY | {"scope": {"type": "sending_domain", "value": "shop.example"}}],
            " after a hard bounce, until 2099-12-01 10:00 UTC, for mail from shop.example",
        ),
        ([ENTRY | {"scope": {"type": "sending_domain", "value": "other.example"}}], ""),
        ([ENTRY | {"email": "somebody@else.example"}], ""),
        (
            [ENTRY | {"scope": {"type": "sending_domain", "value": "SHOP.example."}, "expires_at": None}],
            " after a hard bounce, for good, for mail from shop.example",
        ),
        ([ENTRY | {"expires_at": "2020-12-01T10:00:00Z"}], ""),
        (
            [ENTRY | {"expires_at": "2020-12-01T10:00:00Z", "reason": "complaint"}, ENTRY | {"id": "2"}],
            " after a hard bounce, until 2099-12-01 10:00 UTC",
        ),
        ([ENTRY | {"expires_at": "0001-01-01T00:00:00+05:00"}], " after a hard bounce, for good"),
        ([ENTRY | {"expires_at": "9999-12-31T23:59:59-05:00"}], " after a hard bounce, for good"),
        (
            [ENTRY, ENTRY | {"id": "2", "expires_at": None, "reason": "complaint"}],
            " after a complaint, for good",
        ),
    ],
)
async def test_a_reply_says_why_until_when_and_for_whose_mail(entries: list[Any], said: str) -> None:
    assert await Cloudflare(*entries).said() == (SUPPRESSED.text + said if said else "")


async def test_what_was_found_is_remembered_for_a_while() -> None:
    cloudflare = Cloudflare(ENTRY)
    first = await cloudflare.said()
    cloudflare.answer = lambda _: page()
    assert await cloudflare.said() == first
    assert await cloudflare.said(sender="other@other.example") == ""
    assert len(cloudflare.asked) == 2
    cloudflare.now += suppression_reasons.GOOD_FOR
    assert await cloudflare.said() == ""
    assert len(cloudflare.asked) == 3


async def test_what_is_not_listed_yet_is_soon_looked_up_again() -> None:
    cloudflare = Cloudflare()
    assert [await cloudflare.said() for _ in range(2)] == ["", ""]
    assert len(cloudflare.asked) == 1
    cloudflare.answer = lambda _: page(ENTRY)
    cloudflare.now += suppression_reasons.AFTER_FAILURE
    assert await cloudflare.said() != ""


async def test_only_some_of_many_are_looked_up() -> None:
    cloudflare = Cloudflare()
    many = [f"r{number}@example.net" for number in range(50)]
    await cloudflare.reasons.replies(many, SENDER)
    assert cloudflare.asked == many[: suppression_reasons.LOOK_UPS]


async def test_a_token_without_the_permission_is_asked_again_after_an_hour_or_once_replaced() -> None:
    cloudflare = Cloudflare()
    cloudflare.answer = lambda _: refusal(403, 10000, "Authentication error")
    assert [await cloudflare.said() for _ in range(3)] == [""] * 3
    assert len(cloudflare.asked) == 1
    cloudflare.answer = lambda _: page(ENTRY)
    cloudflare.now += suppression_reasons.WITHOUT_PERMISSION - 1
    assert await cloudflare.said() == ""
    cloudflare.reasons.token_changed()
    assert await cloudflare.said() != ""


async def test_a_token_that_is_refused_as_it_is_replaced_says_nothing_of_the_new_one() -> None:
    cloudflare = Cloudflare()

    def replaced(_: httpx.Request) -> httpx.Response:
        cloudflare.reasons.token_changed()
        return refusal(403, 10000, "Authentication error")

    cloudflare.answer = replaced
    assert await cloudflare.said() == ""
    cloudflare.answer = lambda _: page(ENTRY)
    assert await cloudflare.said() != ""


async def test_a_silent_api_costs_one_reply_its_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression_reasons, "PATIENCE", 0.05)
    cloudflare = Cloudflare()
    cloudflare.silent = True
    async with asyncio.timeout(60):
        assert await cloudflare.said() == ""
        assert await cloudflare.said() == ""
    assert len(cloudflare.asked) == 1
    cloudflare.silent = False
    cloudflare.now += suppression_reasons.AFTER_FAILURE
    await cloudflare.said()
    assert len(cloudflare.asked) == 2


async def test_a_slow_list_takes_few_calls_from_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression_reasons, "AT_ONCE", 2)
    monkeypatch.setattr(suppression_reasons, "PATIENCE", 600.0)
    cloudflare = Cloudflare()
    cloudflare.silent = True
    first, second, third = (asyncio.create_task(cloudflare.said(f"r{number}@x")) for number in range(3))
    assert await third == "", "it does not wait for the others"
    assert (len(cloudflare.asked), cloudflare.pacer.in_flight) == (2, 2)
    first.cancel()
    await asyncio.wait([first])
    cloudflare.silent = False
    await cloudflare.said("r3@x")
    assert len(cloudflare.asked) == 3
    second.cancel()
    await asyncio.wait([second])
    assert cloudflare.pacer.in_flight == 0


async def test_an_error_of_our_own_costs_no_answer() -> None:
    cloudflare = Cloudflare(ENTRY)

    def fail(_: httpx.Request) -> httpx.Response:
        raise KeyError("a defect")

    cloudflare.answer = fail
    with capture_logs() as lines:
        assert await cloudflare.said() == ""
        assert await cloudflare.said() == ""
    assert [line["event"] for line in lines] == ["suppressions.error"]
    assert len(cloudflare.asked) == 1


async def test_mail_goes_first() -> None:
    cloudflare = Cloudflare(ENTRY)
    turn = await cloudflare.pacer.admit(float("inf"))
    cloudflare.pacer.block(turn, 60.0)
    cloudflare.pacer.done(turn)
    assert await cloudflare.said() == ""
    assert cloudflare.asked == []
