"""Recall: a client that vanished before our 250 sends its message again, and must not send it twice.

Every transaction is noted before its call and its answer after it, until the client has shown that
it got the answer. The same envelope and bytes within ten minutes then get the same answer without a
call. A transaction that was begun and never answered, by a process that died, may have been sent:
the second one is sent, and logged as a possible duplicate. Knows no SMTP session.
"""

import hashlib
from collections import Counter

from smtp2cf import maillog
from smtp2cf.envelope import Envelope
from smtp2cf.reply import Reply
from smtp2cf.spool import Spool


class Recall:
    """Knows the transactions whose clients have not shown that they got their answer."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._digests: dict[str, bytes] = {}
        self._under_way: Counter[bytes] = Counter()

    async def begin(self, envelope: Envelope, message: bytes) -> Reply | None:
        """Note a transaction; the answer of an earlier one whose client did not get it.

        Raises SendError when the spool can't be asked.
        """
        digest = _digest(envelope, message)
        known = None if self._under_way[digest] else await self._spool.recall(digest)
        if known is not None and known.reply is not None:
            maillog.answer_repeated(envelope, known.reply)
            return known.reply
        if known is not None:
            maillog.possible_duplicate(envelope, envelope.forward_paths)
        self._under_way[digest] += 1
        self._digests[envelope.queue_id] = digest
        return None

    def end(self, envelope: Envelope, reply: Reply) -> None:
        """Note the answer: from here on a repetition gets it, should the client not."""
        digest = self._digests.get(envelope.queue_id)
        if digest is None:
            return
        self._done(digest)
        if reply.success:
            self._spool.remember(digest, reply)
        else:
            # Refused mail is the client's to send again.
            del self._digests[envelope.queue_id]
            if not self._under_way[digest]:
                self._spool.forget(digest)

    def answered(self, envelope: Envelope, *, received: bool) -> None:
        """The client has shown that it got its answer, or has gone without it."""
        digest = self._digests.pop(envelope.queue_id, None)
        if digest is not None and received and not self._under_way[digest]:
            self._spool.forget(digest)

    def _done(self, digest: bytes) -> None:
        self._under_way[digest] -= 1
        if self._under_way[digest] <= 0:
            del self._under_way[digest]


def _digest(envelope: Envelope, message: bytes) -> bytes:
    """What makes two transactions the same: sender, recipients in their order, every byte."""
    digest = hashlib.blake2b(digest_size=24)
    for part in (envelope.reverse_path, *envelope.forward_paths, ""):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(message)
    return digest.digest()
