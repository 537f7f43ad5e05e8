"""Clients that take an answer for each recipient (LMTP, PRDR): everybody's true fate, told once.

What the wire said, no DSN says again; what the spool kept is told later; and a client that lost its
answers gets the very same ones.
"""

from collections.abc import Sequence

import pytest
from aiohttp import web

from smtp2cf.envelope import Envelope, Outcomes
from smtp2cf.relay import duplicates
from tests.relay.test_deadline import Gate, no_room
from tests.relay.test_lost_reply import remembered, vanish
from tests.relay.world import AWAY, MESSAGE, Api, Call, World, by_name, delivered, world
from tests.spool.conftest import Backend
from tests.support.reach import instances

CROWD = [f"r{number}@example.org" for number in range(49)]
"""With one who bounces, as many as a call takes."""
MIXED = ("bounce@example.org", *CROWD, "late@example.org")


def away_for(*recipients: str) -> "Answers":
    """Who is in a call with one of these waits for another attempt; the others go by their names."""
    return Answers(set(recipients))


class Answers:
    """An API that is away for some, until `back`."""

    def __init__(self, away: set[str]) -> None:
        self.away = away

    def back(self) -> None:
        self.away = set()

    async def __call__(self, call: Call) -> web.Response:
        return await (AWAY if self.away & set(call.recipients) else by_name)(call)


async def each(here: World, *recipients: str, **fields: object) -> Outcomes:
    """Every recipient's answer."""
    envelope = Envelope(
        reverse_path="anna@example.com", forward_paths=recipients, per_recipient=True, **fields
    )
    return (await here.relay.accept(envelope, MESSAGE)).outcomes


def reports(api: Api) -> list[Call]:
    return [call for call in api.calls if call.sender.startswith("mailer-daemon@")]


def sent_to(calls: Sequence[Call], recipient: str) -> int:
    return sum(recipient in call.recipients for call in calls)


# ---- what is said, and what is not said again


@pytest.mark.parametrize("partial_bounce", ["accept", "reject"])
async def test_everybody_has_their_own_answer_and_no_dsn_repeats_it(
    backend: Backend, api: Api, partial_bounce: str
) -> None:
    api.answer = answers = away_for("late@example.org")
    async with world(await backend.open(), api, partial_bounce=partial_bounce) as here:
        outcomes = await each(here, *MIXED)
        assert list(outcomes) == list(MIXED)
        assert str(outcomes["bounce@example.org"]).startswith("550 5.1.1")
        assert outcomes["late@example.org"].code == 250
        assert "kept for another attempt (451" in outcomes["late@example.org"].text
        assert {outcomes[who].code for who in CROWD} == {250}
        assert "delivered, message-id <id@example.com>" in outcomes[CROWD[0]].text
        answers.back()
        await here.until_empty()
    assert reports(api) == []
    assert sent_to(api.calls, "bounce@example.org") == sent_to(api.calls, CROWD[0]) == 1


async def test_who_bounces_after_a_250_is_reported(sqlite: Backend, api: Api) -> None:
    api.answer = answers = away_for("bounce-late@example.org")
    async with world(await sqlite.open(), api) as here:
        outcomes = await each(here, "bounce@example.org", *CROWD, "bounce-late@example.org")
        assert outcomes["bounce-late@example.org"].code == 250
        answers.back()
        await here.until_empty()
    (report,) = reports(api)
    assert report.recipients == ["anna@example.com"]
    assert b"bounce-late@example.org" in report.message
    assert b"<bounce@example.org>" not in report.message


@pytest.mark.parametrize("notify", ["SUCCESS,FAILURE", "FAILURE", "NEVER"])
async def test_a_success_is_reported_where_it_was_asked_for(sqlite: Backend, api: Api, notify: str) -> None:
    api.answer = by_name
    async with world(await sqlite.open(), api) as here:
        both = ("ben@example.org", "bounce@example.org")
        await each(here, *both, notify=dict.fromkeys(both, notify))
        await here.until_empty()
    wanted = 1 if "SUCCESS" in notify else 0
    assert len(reports(api)) == wanted
    for report in reports(api):
        assert b"ben@example.org" in report.message
        assert b"bounce@example.org" not in report.message


async def test_where_nobody_got_it_everybody_is_told_why(sqlite: Backend, api: Api) -> None:
    api.answer = by_name
    async with world(await sqlite.open(), api) as here:
        outcomes = await each(here, "bounce@example.org", "bounce2@example.org")
        assert {outcome.code for outcome in outcomes.values()} == {550}
        assert await here.items() == []
    assert reports(api) == []


async def test_what_cannot_be_kept_is_not_called_kept(sqlite: Backend, api: Api) -> None:
    api.answer = away_for("late@example.org")
    async with world(await sqlite.open(), api) as here:

        async def full(*_: object) -> None:
            raise no_room()

        here.spool.put = full  # type: ignore[method-assign]
        outcomes = await each(here, *MIXED)
        assert (outcomes["late@example.org"].code, outcomes["bounce@example.org"].code) == (451, 550)
        assert {outcomes[who].code for who in CROWD} == {250}
    assert reports(api) == []


async def test_queue_mode_keeps_it_for_each(backend: Backend, api: Api) -> None:
    api.answer = by_name
    async with world(await backend.open(), api, mode="queue") as here:
        outcomes = await each(here, "ben@example.org", "bounce@example.org")
        assert all(outcome.text.endswith(" queued") for outcome in outcomes.values())
        await here.until_empty()
    (report,) = reports(api)
    assert b"bounce@example.org" in report.message, "its 250 has to be taken back"


async def test_a_late_answer_settles_what_was_kept_for_each(sqlite: Backend, api: Api) -> None:
    gate = Gate(api, by_name)
    async with world(await sqlite.open(), api, reply_timeout=0.1) as here:
        outcomes = await each(here, "ben@example.org", "bounce@example.org")
        assert {outcome.code for outcome in outcomes.values()} == {250}
        gate.open.set()
        await here.until_empty()
    assert len(reports(api)) == 1


# ---- answers that did not arrive

ENVELOPES = {
    "LMTP": (True, ""),
    "PRDR": (False, " PRDR"),
}


async def heard(here: World, count: int, parameters: str, *recipients: str) -> list[str]:
    """The answers of a client that goes on in good order, without their queue ids."""
    client = await here.connect()
    await client.data(*recipients, parameters=parameters)
    answers = [await client.reply() for _ in range(count)]
    await client.quit()
    return [answer[: answer.find(" ", 10)] + answer[answer.find(" ", 11) :] for answer in answers]


@pytest.mark.parametrize("restart", [False, True], ids=["", "after a restart"])
@pytest.mark.parametrize(("lmtp", "parameters"), ENVELOPES.values(), ids=ENVELOPES)
async def test_the_same_message_again_gets_the_same_answers(
    backend: Backend, api: Api, lmtp: bool, parameters: str, restart: bool
) -> None:
    gate = Gate(api, away := away_for("late@example.org"))
    spool = await backend.open()
    patient = {"retry": _never()} if restart else {}
    async with world(spool, api, lmtp=lmtp, **patient) as here:
        await vanish(here, gate, "reset", *MIXED, parameters=parameters)
        calls = len(api.calls)
        if not restart:
            await _check_again(here, lmtp, parameters, calls)
    if restart:
        async with world(await backend.open(serve=True), api, lmtp=lmtp, **patient) as again:
            await _check_again(again, lmtp, parameters, calls)
    assert away.away, "the late one was still away"
    assert reports(api) == []


def _never() -> object:
    from smtp2cf.relay import RetryPolicy

    return RetryPolicy(minimum=3600, maximum=3600, expire_after=7200)


async def _check_again(here: World, lmtp: bool, parameters: str, calls: int) -> None:
    count = len(MIXED) + (0 if lmtp else 2)
    answers = await heard(here, count, parameters, *MIXED)
    if not lmtp:
        assert answers.pop(0).startswith("353")
        assert answers.pop().startswith("250 2.0.0")
    assert answers[0].startswith("550 5.1.1")
    assert {answer[:9] for answer in answers[1:]} == {"250 2.1.5"}
    bounced = [call for call in here.api.calls if "bounce@example.org" in call.recipients]
    assert len(bounced) == 1, "no second call for those who were answered"


async def test_another_message_is_not_held_to_the_answers_of_the_first(sqlite: Backend, api: Api) -> None:
    """A client that got its answers may send the same again, and who bounced may be there by then."""
    others = instances(duplicates)
    gate = Gate(api, by_name)
    async with world(await sqlite.open(), api, lmtp=True) as here:
        both = ("ben@example.org", "bounce@example.org")
        await vanish(here, gate, "reset", *both)
        assert [answer[:3] for answer in await heard(here, 2, "", *both)] == ["250", "550"]
        api.answer = delivered
        assert [answer[:3] for answer in await heard(here, 2, "", *both)] == ["250", "250"]
        assert len(api.calls) == 2
        assert remembered(here, others) == ([], [])


async def test_refused_for_all_it_is_the_clients_to_send_again(sqlite: Backend, api: Api) -> None:
    gate = Gate(api, by_name)
    async with world(await sqlite.open(), api, lmtp=True) as here:
        both = ("bounce1@example.org", "bounce2@example.org")
        await vanish(here, gate, "reset", *both)
        api.answer = delivered
        assert [answer[:3] for answer in await heard(here, 2, "", *both)] == ["250", "250"]
        assert len(api.calls) == 2


async def test_what_could_not_be_kept_is_sent_again_to_those_alone(sqlite: Backend, api: Api) -> None:
    gate = Gate(api, away := away_for("late@example.org"))
    async with world(await sqlite.open(), api, lmtp=True) as here:

        async def full(*_: object) -> None:
            raise no_room()

        put, here.spool.put = here.spool.put, full  # type: ignore[method-assign]
        await vanish(here, gate, "reset", *MIXED)
        here.spool.put = put  # type: ignore[method-assign]
        away.back()
        answers = await heard(here, len(MIXED), "", *MIXED)
        assert (answers[0][:3], answers[-1][:3]) == ("550", "451")
        assert [answer[:3] for answer in await heard(here, 1, "", "late@example.org")] == ["250"]
    assert sent_to(api.calls, CROWD[0]) == 1
    assert sent_to(api.calls, "late@example.org") == 2
