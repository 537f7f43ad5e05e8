"""The same mail, twice at once: if one client loses its answer, the other neither pays nor profits."""

from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.relay import duplicates
from smtp2cf.relay.duplicates import Duplicates
from smtp2cf.reply import Reply
from smtp2cf.spool import NewMail, Spool
from tests.spool.conftest import Backend

WHO = "ben@example.org"
BOUNCED = Reply(550, "5.1.1", "no")
LATER = Reply(451, "4.3.0", "later")


@pytest.fixture
async def spool(backend: Backend) -> AsyncIterator[Spool]:
    opened = await backend.open()
    yield opened
    await opened.close()


class Client:
    """One that sends always the same."""

    def __init__(self, duplicates: Duplicates) -> None:
        self._duplicates = duplicates
        self._envelope = Envelope(reverse_path="anna@example.com", forward_paths=(WHO,))

    async def sends(self) -> Reply | None:
        """What it is told without a call; None where there is one."""
        verdict = await self._duplicates.begin(self._envelope, b"\r\nHello\r\n", call=True)
        return verdict.reply if verdict is not None else None

    async def keeps(self, spool: Spool) -> Reply | None:
        """Put the mail in without a call, as in queue mode; the answer because of which it isn't kept."""
        verdict = Verdict(Reply(250, "2.0.0", f"{self._envelope.queue_id} queued"), {})
        note = self._duplicates.answer_to_note(self._envelope, verdict, unless_noted=True)
        return await spool.put(
            NewMail(envelope=self._envelope, message=b"\r\nHello\r\n", expires_in=60, answer=note)
        )

    def is_told(self, reply: Reply) -> None:
        self._duplicates.end(self._envelope, Verdict(reply, {WHO: reply}))

    def got_it(self, received: bool) -> None:
        self._duplicates.answered(self._envelope, received=received)

    def fails(self) -> None:
        self._duplicates.fail(self._envelope)


def delivered(number: int) -> Reply:
    return Reply(250, "2.0.0", f"delivered {number}")


@pytest.mark.parametrize("first_to_end", [0, 1])
@pytest.mark.parametrize("first_to_settle", [0, 1])
@pytest.mark.parametrize("lost", [0, 1])
async def test_who_lost_its_answer_gets_one_though_the_other_got_its_own(
    spool: Spool, first_to_end: int, first_to_settle: int, lost: int
) -> None:
    memory = Duplicates(spool)
    twins = [Client(memory), Client(memory)]
    assert [await twin.sends() for twin in twins] == [None, None]
    for number in (first_to_end, 1 - first_to_end):
        twins[number].is_told(delivered(number))
    for number in (first_to_settle, 1 - first_to_settle):
        twins[number].got_it(received=number != lost)
    again = Client(memory)
    reply = await again.sends()
    assert reply is not None
    assert reply.success
    again.got_it(received=True)
    assert await Client(memory).sends() is None


async def test_who_comes_back_while_the_other_is_under_way_gets_the_answer(spool: Spool) -> None:
    memory = Duplicates(spool)
    first, other, again, third = (Client(memory) for _ in range(4))
    await first.sends()
    await other.sends()
    first.is_told(delivered(1))
    first.got_it(received=False)
    assert await again.sends() == delivered(1)
    again.got_it(received=True)
    other.is_told(delivered(2))
    other.got_it(received=True)
    assert await third.sends() is None


@pytest.mark.parametrize("reply", [BOUNCED, LATER, None])
async def test_who_is_refused_does_not_get_the_others_answer(spool: Spool, reply: Reply | None) -> None:
    """Mail would be lost: the other has its answer, and it was about other mail."""
    memory = Duplicates(spool)
    other, refused, again = (Client(memory) for _ in range(3))
    await other.sends()
    await refused.sends()
    other.is_told(delivered(1))
    other.got_it(received=True)
    if reply is None:
        refused.fails()
    else:
        refused.is_told(reply)
        refused.got_it(received=True)
    assert await again.sends() is None


async def test_a_refusal_takes_no_answer_from_who_lost_it(spool: Spool) -> None:
    memory = Duplicates(spool)
    lost, refused, again = (Client(memory) for _ in range(3))
    await lost.sends()
    await refused.sends()
    lost.is_told(delivered(1))
    refused.is_told(LATER)
    lost.got_it(received=False)
    refused.got_it(received=True)
    assert await again.sends() == delivered(1)


@pytest.mark.parametrize("reply", [delivered(1), BOUNCED, LATER])
async def test_the_other_was_under_way_when_the_process_died(spool: Spool, reply: Reply) -> None:
    memory = Duplicates(spool)
    first, other = Client(memory), Client(memory)
    await first.sends()
    await other.sends()
    first.is_told(reply)
    first.got_it(received=True)
    with capture_logs() as lines:
        assert await Client(Duplicates(spool)).sends() is None
    assert [line["to"] for line in lines if line["event"] == "mail.possible_duplicate"] == [[WHO]]


@pytest.mark.parametrize("first_to_be_kept", [0, 1])
@pytest.mark.parametrize("received", [False, True])
async def test_both_are_kept_whatever_is_noted_of_the_other(
    spool: Spool, first_to_be_kept: int, received: bool
) -> None:
    memory = Duplicates(spool)
    twins = [Client(memory), Client(memory)]
    assert [await twin.sends() for twin in twins] == [None, None]
    first, other = twins[first_to_be_kept], twins[1 - first_to_be_kept]
    assert await first.keeps(spool) is None
    first.is_told(delivered(1))
    first.got_it(received)
    assert await other.keeps(spool) is None
    assert await spool.count() == 2


async def test_a_call_longer_than_anybody_waits_is_a_possible_duplicate(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "PATIENCE", 0.01)
    memory = Duplicates(spool)
    gone = Client(memory)
    await gone.sends()
    gone.got_it(received=False)  # it hung up over the call
    with capture_logs() as lines:
        assert await Client(memory).sends() is None
    assert [line["to"] for line in lines if line["event"] == "mail.possible_duplicate"] == [[WHO]]
