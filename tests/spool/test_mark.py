"""Whose a spool is: a sandbox's or a real bridge's."""

import asyncio
import re

import pytest

from smtp2cf.spool import SpoolError, SpoolFull, SpoolUnavailable, Status, Total
from smtp2cf.spool.mark import NOTE, SEEN, Mark, Use
from tests.spool.conftest import Backend, new_mail

OTHER = {Use.REAL: Use.SANDBOX, Use.SANDBOX: Use.REAL}


class Notes:
    """A spool as far as a mark asks it. waiting: messages. now: by its clock."""

    def __init__(self, waiting: int = 0, text: str = "") -> None:
        self.waiting, self.text, self.now, self.away, self.full = waiting, text, 1000.0, 0, False

    async def totals(self) -> dict[Status, Total]:
        if self.away:
            self.away -= 1
            raise SpoolUnavailable("it is away")
        return {Status.HELD: Total(self.waiting, 1, 0.0)} if self.waiting else {}

    async def amend(self, name, change):
        assert name == NOTE
        text, result = change(self.text, self.now)
        if self.full:
            raise SpoolFull("no space left on device")
        self.text = text
        return result


def mark(notes: Notes, use: Use, *, shared: bool = False) -> Mark:
    return Mark(notes, use, "there", shared=shared)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("before", "waiting", "after", "now", "taken"),
    [
        ("", 0, 0, Use.REAL, True),
        ("", 0, 0, Use.SANDBOX, True),
        ("", 1, 0, Use.REAL, True),
        ("", 1, 0, Use.SANDBOX, False),
        ("rubbish", 1, 0, Use.SANDBOX, False),
        (Use.REAL, 1, 0, Use.REAL, True),
        (Use.REAL, 1, SEEN + 1, Use.SANDBOX, False),
        (Use.REAL, 0, SEEN + 1, Use.SANDBOX, True),
        (Use.SANDBOX, 1, SEEN + 1, Use.REAL, False),
        (Use.SANDBOX, 0, SEEN + 1, Use.REAL, True),
        (Use.SANDBOX, 1, 0, Use.SANDBOX, True),
        (Use.REAL, 0, SEEN - 1, Use.SANDBOX, None),
        (Use.SANDBOX, 0, SEEN - 1, Use.REAL, None),
    ],
)
async def test_who_may_take_a_spool(
    before: str, waiting: int, after: float, now: Use, taken: bool | None, shared: bool
) -> None:
    """None: only where no other can be running."""
    notes = Notes(text=before)
    if isinstance(before, Use):
        notes.text = ""
        await mark(notes, before).take()
    notes.waiting, notes.now, text = waiting, notes.now + after, notes.text
    if taken if taken is not None else not shared:
        await mark(notes, now, shared=shared).take()
        notes.waiting, notes.now = 1, notes.now + SEEN + 1
        with pytest.raises(SpoolError):
            await mark(notes, OTHER[now], shared=shared).take()
    else:
        with pytest.raises(SpoolError, match=r"the spool there (holds 1 message of|is used by) a"):
            await mark(notes, now, shared=shared).take()
        assert notes.text == text


async def test_while_the_spool_is_away_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp2cf.spool.mark.AGAIN", 0.001)
    notes, taken = Notes(), asyncio.Event()
    notes.away = 3
    keeping = asyncio.create_task(mark(notes, Use.REAL).keep(taken.set))
    await asyncio.wait_for(taken.wait(), 20)
    assert notes.away == 0
    keeping.cancel()


async def test_on_a_full_disk_the_note_counts_that_is_there() -> None:
    notes = Notes(waiting=1)
    await mark(notes, Use.REAL).take()
    notes.full = True
    await mark(notes, Use.REAL).take()
    with pytest.raises(SpoolError):
        await mark(notes, Use.SANDBOX).take()


async def test_both_databases_keep_it(backend: Backend) -> None:
    spool = await backend.open()
    await Mark(spool, Use.REAL, "there", shared=False).take()
    await spool.put(new_mail())
    with pytest.raises(SpoolError, match=re.escape("holds 1 message of a bridge without --sandbox")):
        await Mark(spool, Use.SANDBOX, "there", shared=False).take()
