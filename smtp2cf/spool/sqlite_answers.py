"""What the SQLite spool remembers of answers that their clients may not have got.

All of it is in memory. What has to outlive the process is in a file beside the spool (notes_file.py), except
what came in together with mail: that is in the database, in the mail's own transaction. A clean end moves the
rest there too, where an older version looks for it.

Knows nothing of mail.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import structlog

from smtp2cf.reply import Reply
from smtp2cf.spool import codec
from smtp2cf.spool.clock import Clock
from smtp2cf.spool.notes_file import Noted, NotesFile, later, line_of
from smtp2cf.spool.protocol import MEMORY, Answer, Memory
from smtp2cf.spool.sqlite_errors import send_error
from smtp2cf.spool.sqlite_opening import Left
from smtp2cf.spool.writer import Kind, Writer

_log = structlog.get_logger(__name__)


class SqliteAnswers:
    """The answers of the process that serves a spool.

    rows: the job that writes pairs of a digest and a reply, "" for none yet, None to forget it, into the
    database. path: of the file. left: what the previous process left.
    """

    def __init__(self, writer: Writer, rows: Kind, clock: Clock, path: Path, left: Left) -> None:
        self._writer = writer
        self._rows = rows
        self._clock = clock
        self._known = later(left.in_rows, left.in_file)
        self._in_rows = set(left.in_rows)
        self._in_file = set(left.in_file)
        self._unwritten: list[bytes] = []
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._file = NotesFile(path, self._all_lines)

    def recall(self, digest: bytes, *, begin: bool) -> Memory | None:
        """See protocol.Spool."""
        now = self._clock.now()
        known = self._known.get(digest)
        if known is not None and known.until > now:
            return Memory(codec.decode_reply(known.reply))
        if begin:
            self._note(digest, Noted("", now + MEMORY))
            try:
                self._write()
            except OSError as error:
                raise send_error(error) from error
        return None

    def remember(self, digest: bytes, reply: Reply | None) -> None:
        """See protocol.Spool."""
        self._note(digest, Noted(codec.encode_reply(reply), self._clock.now() + MEMORY))

    def forget(self, digest: bytes) -> None:
        """See protocol.Spool."""
        self._known.pop(digest, None)
        if digest in self._in_file:
            self._in_file.discard(digest)
            self._write_soon(line_of(digest, None))
        if digest in self._in_rows:
            self._in_rows.discard(digest)
            self._writer.post(self._rows, (digest, None))

    def put(self, answer: Answer) -> None:
        """This one is in the database now, together with its mail."""
        self._known[answer.digest] = Noted(codec.encode_reply(answer.reply), self._clock.now() + MEMORY)
        self._in_rows.add(answer.digest)

    def look_after(self) -> None:
        """Forget what is too old, and see that all else is in the file."""
        now = self._clock.now()
        for digest in [digest for digest, noted in self._known.items() if noted.until <= now]:
            del self._known[digest]
            self._in_rows.discard(digest)
            self._in_file.discard(digest)
        self._file.look_after()

    async def move(self) -> None:
        """Move what is in the file into the database. Raises SendError: then it stays in the file."""
        digests = list(self._in_file)
        await asyncio.gather(*(self._writer.do(self._rows, (one, self._known[one].reply)) for one in digests))
        self._in_rows.update(digests)
        self._in_file.clear()
        self._file.clear()

    def close(self) -> None:
        """Write what is not yet written, and nothing more."""
        self._write_now()
        self._closed = True
        self._file.close()

    def _note(self, digest: bytes, noted: Noted) -> None:
        self._known[digest] = noted
        self._in_file.add(digest)
        self._write_soon(line_of(digest, noted))

    def _all_lines(self) -> Iterator[bytes]:
        return (line_of(digest, self._known[digest]) for digest in self._in_file)

    def _write_soon(self, line: bytes) -> None:
        """Write a line together with all others of this turn of the event loop."""
        if self._closed:
            return
        if not self._unwritten:
            self._loop.call_soon(self._write_now)
        self._unwritten.append(line)

    def _write_now(self) -> None:
        try:
            self._write()
        except OSError as error:
            _log.debug("spool.not_written", error=str(error))

    def _write(self) -> None:
        if self._unwritten:
            lines = b"".join(self._unwritten)
            self._unwritten.clear()
            self._file.append(lines)
