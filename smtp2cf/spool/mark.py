"""Mark: whether a spool is a sandbox's or a real bridge's, so that neither ever sends the other's mail.

A sandbox would take real mail, and nobody would get it; a real bridge would send a sandbox's to people. Who
serves a spool leaves a note in it. The other kind takes the spool only over while nothing waits there and, in
a database that several share, no bridge of the first kind was seen for a while. A spool without a note that
holds mail is from an older version, so the mail is real.

Knows neither database, and no sandbox.
"""

import asyncio
import enum
import functools
from collections.abc import Callable

import orjson
import structlog

from smtp2cf.reply import SendError
from smtp2cf.spool.protocol import Spool, SpoolError, SpoolFull, SpoolUnavailable

NOTE = "spool.use"
RENEWED_EVERY = 60.0
"""Seconds between two notes that the spool is in use."""
SEEN = 600.0
"""Seconds for which a bridge counts as running, in a database that several share, after it has noted that."""
AGAIN = 1.0
"""Seconds until a spool that is away is asked again."""

log = structlog.stdlib.get_logger("smtp2cf.spool")


class Use(enum.StrEnum):
    """Whose mail it is."""

    REAL = "real"
    SANDBOX = "sandbox"


class Mark:
    """The note of one process that is to serve a spool.

    place: the spool's name for people. shared: other processes may serve it too.
    """

    def __init__(self, spool: Spool, use: Use, place: str, *, shared: bool) -> None:
        self._spool = spool
        self._use = use
        self._place = place
        self._shared = shared
        self._found: str | None = None
        """What the note said at last, even if another could not be written: see `_change`."""
        self._taken = False

    def refusal(self) -> SpoolUnavailable | None:
        """Why no mail may come in yet: a sandbox's own could not be told from real mail that waits."""
        if self._taken or self._use is Use.REAL:
            return None
        return SpoolUnavailable("nobody knows yet whether it is a sandbox's")

    async def take(self) -> None:
        """Note that the spool is ours. Raises SpoolError if it is the other kind's, SendError if it is
        away.
        """
        waiting = sum(total.messages for total in (await self._spool.totals()).values())
        self._found = None
        try:
            await self._spool.amend(NOTE, functools.partial(self._change, waiting))
        except SpoolFull:
            if self._found is None:
                raise
        if self._found:
            raise SpoolError(self._found)
        self._taken = True

    async def keep(self, taken: Callable[[], None]) -> None:
        """Renew the note again and again; until the first time, however long the spool is away.

        taken: called whenever it is certain that the spool is ours. Raises SpoolError if it isn't.
        """
        while True:
            try:
                await self.take()
            except SpoolError:
                raise
            except SendError as error:
                log.debug("spool.unavailable", reply=str(error.reply))
                await asyncio.sleep(AGAIN)
                continue
            taken()
            await asyncio.sleep(RENEWED_EVERY)

    def _change(self, waiting: int, text: str, now: float) -> tuple[str, None]:
        """The new note; and it is found why the spool is not ours, "" if it is. See Spool.amend."""
        use, seen_at = _read(text)
        if use is None and waiting:
            use = Use.REAL
        is_used = self._shared and seen_at > now - SEEN
        if use not in (None, self._use) and (waiting or is_used):
            self._found = self._refusal(waiting)
            return text, None
        self._found = ""
        return orjson.dumps({"use": self._use, "at": now}).decode(), None

    def _refusal(self, waiting: int) -> str:
        holds = f"holds {waiting} message{'s' * (waiting != 1)} of" if waiting else "is used by"
        another = "name another one (SMTP2CF_STATE_DIR, SMTP2CF_SPOOL_URL)"
        if self._use is Use.SANDBOX:
            why = "a sandbox would take real mail, and nobody would get it"
            return f"the spool {self._place} {holds} a bridge without --sandbox: {why}; {another}"
        why = "this bridge would send it to people"
        delete = "delete it with 'smtp2cf queue delete --all', or " if waiting else ""
        return f"the spool {self._place} {holds} a sandbox: {why}; {delete}{another}"


def _read(text: str) -> tuple[Use | None, float]:
    """Whose a spool is, None where nobody knows; and when that was noted, by the spool's clock."""
    try:
        found = orjson.loads(text)
        return Use(found["use"]), float(found["at"])
    except (ValueError, KeyError, TypeError):
        return None, 0.0
