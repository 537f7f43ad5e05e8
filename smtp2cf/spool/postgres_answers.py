"""What the PostgreSQL spool remembers of answers that their clients may not have got.

Notes are written in the background, and several at a time; who looks a digest up waits for them.

Knows nothing of mail.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from smtp2cf.reply import Reply
from smtp2cf.spool import codec, postgres_sql
from smtp2cf.spool.batcher import Batcher
from smtp2cf.spool.postgres_database import Database
from smtp2cf.spool.protocol import MEMORY, Memory


class _Note(NamedTuple):
    """A digest and the reply to remember for it, None to forget it."""

    digest: bytes
    reply: str | None


class PostgresAnswers:
    """The answers in a database that several processes share."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._notes = Batcher(self._write_all)
        self._posted: dict[bytes, asyncio.Future[None]] = {}

    async def recall(self, digest: bytes, *, begin: bool) -> Memory | None:
        """See protocol.Spool."""
        await self.until_written((digest,))
        rows = await (self._begin(digest) if begin else self._database.fetch(postgres_sql.KNOWN, digest))
        return Memory(codec.decode_reply(rows[0][0])) if rows else None

    def note(self, digest: bytes, reply: Reply | None) -> None:
        """Remember the reply, or that there is none yet, soon."""
        self._post(_Note(digest, codec.encode_reply(reply)))

    def forget(self, digest: bytes) -> None:
        """Forget the reply, soon."""
        self._post(_Note(digest, None))

    async def until_written(self, digests: Iterable[bytes]) -> None:
        """Wait until what was noted of these is written.

        A client that has its answer may send the same again at once, and must not
        meet what is being forgotten.
        """
        posted = [self._posted[digest] for digest in digests if digest in self._posted]
        if posted:
            await asyncio.wait(posted)

    async def finish(self) -> None:
        """Wait until everything is written."""
        await self._notes.finish()

    def _post(self, note: _Note) -> None:
        # If a note is lost, mail is sent twice at worst; the renewal of leases reports the cause.
        future = self._posted[note.digest] = self._notes.ask(note)
        future.add_done_callback(partial(self._written, note.digest))

    def _written(self, digest: bytes, future: "asyncio.Future[None]") -> None:
        if self._posted.get(digest) is future:
            del self._posted[digest]
        if not future.cancelled():
            future.exception()  # or asyncio warns that nobody looked at it

    async def _begin(self, digest: bytes) -> list[Any]:
        while True:
            rows = await self._database.fetch(postgres_sql.RECALL, digest, MEMORY, fills=True)
            if not rows or rows[0][0] is not None:
                return rows

    async def _write_all(self, notes: Sequence[_Note]) -> list[None]:
        last = {note.digest: note.reply for note in notes}
        kept = {digest: reply for digest, reply in last.items() if reply is not None}
        if kept:
            await self._database.execute(
                postgres_sql.REMEMBER, list(kept), list(kept.values()), MEMORY, fills=True
            )
        if len(kept) < len(last):
            await self._database.execute(
                postgres_sql.FORGET, [digest for digest in last if digest not in kept]
            )
        return [None] * len(notes)
