"""What is written to an SQLite spool: put, claim, settle and the rest, as jobs for its writer.

Each job function runs in the writer's thread, inside its transaction, on all the jobs of its kind.

Knows nothing of the event loop, nor of how the file is made.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from smtp2cf.reply import printable
from smtp2cf.spool import codec, reserve, sqlite_counts, sqlite_postings
from smtp2cf.spool.clock import Clock
from smtp2cf.spool.postings import KEPT_FOR
from smtp2cf.spool.protocol import (
    MEMORY,
    PAGE,
    Action,
    Change,
    Filter,
    NewMail,
    Period,
    Recount,
    SpoolItem,
    SpoolUnavailable,
)
from smtp2cf.spool.sqlite_sql import (
    ACTIONS,
    GIVEN_BACK,
    INSERT_MAIL,
    INSERT_MESSAGE,
    MAIL_ROW,
    MESSAGE_ROW,
    conditions,
)
from smtp2cf.spool.turns import Turns
from smtp2cf.spool.writer import Kind

T = TypeVar("T")

FREE_PAGES = 4096
"""Free pages (16 MB) the file may keep for new mail; any more go back to the disk."""

TIDY_PAGES = 512
"""Pages (2 MB) given back at a time, so that new mail waits for it for about 20 ms at most."""


class Settlement(NamedTuple):
    """The argument of `Store.settle`: as the spool's method, encoded."""

    queue_id: str
    outcomes: str
    retry_in: float | None
    untried: bool
    hold: str
    failures: int
    dsns: Sequence[NewMail]


class Wanted(NamedTuple):
    """The argument of `Store.claim`: as the spool's method."""

    limit: int
    expired: bool


class Page(NamedTuple):
    """The argument of `Store.apply`: which mail behind `after`, and what to do to it, and when."""

    action: Action
    which: Filter
    reason: str
    after: str
    within: Period


class Inside(NamedTuple):
    """What `Store.check` finds: octets of free pages, and whether the reserve is there."""

    free: int
    reserve: bool


class Store:
    """The jobs of one process, which is `owner` of what it claims."""

    def __init__(self, owner: str, lease: float, clock: Clock) -> None:
        self._owner = owner
        self._lease = lease
        self._clock = clock
        self._turns = Turns()
        # Notes go first: a put notes an answer too, which an earlier forget must not take away.
        # Then mail goes in, and is claimed last, so that what comes in may leave in the same go.
        self.memorize = Kind(0, self._memorize, durable=False)
        self.put = Kind(1, self._put, fills=True)
        self.settle = Kind(2, self._settle, drains=True)
        self.begin = Kind(3, self._begin, durable=False, drains=True)
        self.renew = Kind(4, self._renew, durable=False, drains=True)
        self.give_back = Kind(5, self._give_back, durable=False, drains=True)
        self.apply = Kind(6, self._apply, drains=True)
        self.check = Kind(7, self._check)
        self.tidy = Kind(8, self._tidy, durable=False)
        self.claim = Kind(9, self._claim, durable=False, drains=True)
        self.set_aside = Kind(10, self._set_aside)
        self.amend = Kind(11, self._amend, durable=False)
        self.recount = Kind(12, self._recount, durable=False)

    def _put(
        self, connection: sqlite3.Connection, jobs: list[Sequence[NewMail]]
    ) -> list[SpoolUnavailable | None]:
        letters = {mail.envelope.queue_id: mail for together in jobs for mail in together}
        connection.execute("SAVEPOINT put")
        try:
            self.insert(connection, tuple(letters.values()))
        except sqlite3.IntegrityError:
            connection.execute("ROLLBACK TO put")  # part of it may have been written
            return self._put_again(connection, jobs, letters)
        return [None] * len(jobs)

    def _put_again(
        self, connection: sqlite3.Connection, jobs: list[Sequence[NewMail]], letters: dict[str, NewMail]
    ) -> list[SpoolUnavailable | None]:
        """Put what is not there yet. What is there was kept, but its caller was told of a failure or was
        cancelled, and asks again; or other mail has the queue id, which is no success."""
        known = dict(
            connection.execute(
                "SELECT queue_id, envelope FROM mail WHERE queue_id IN (SELECT value FROM json_each(?))",
                (json.dumps(tuple(letters)),),
            )
        )
        refused = [
            any(
                known.get(mail.envelope.queue_id) not in (None, codec.encode_envelope(mail.envelope))
                for mail in together
            )
            for together in jobs
        ]
        left = [mail for together, no in zip(jobs, refused, strict=True) if not no for mail in together]
        self.insert(
            connection,
            tuple({key: mail for mail in left if (key := mail.envelope.queue_id) not in known}.values()),
        )
        return [SpoolUnavailable("its queue id belongs to other mail") if no else None for no in refused]

    def insert(self, connection: sqlite3.Connection, letters: Sequence[NewMail]) -> None:
        """Put in mail that is not there yet."""
        now = self._clock.now()
        (first,) = connection.execute("SELECT ifnull(max(id), 0) + 1 FROM message").fetchone()
        for start, end in _powers_of_two(len(letters)):
            row: list[object] = []
            content: list[object] = []
            for key, mail in enumerate(letters[start:end], first + start):
                row += (key, *self._columns(mail, now))
                content += (key, mail.message)
            connection.execute(INSERT_MAIL + ",".join([MAIL_ROW] * (end - start)), row)
            connection.execute(INSERT_MESSAGE + ",".join([MESSAGE_ROW] * (end - start)), content)
        answers = [mail.answer for mail in letters if mail.answer is not None]
        self._memorize(connection, [(answer.digest, codec.encode_reply(answer.reply)) for answer in answers])

    def _columns(self, mail: NewMail, now: float) -> tuple[object, ...]:
        envelope = mail.envelope
        next_attempt, expires = now + mail.delay, now + mail.expires_in
        due = min(next_attempt, expires) if mail.attempts else next_attempt
        return (
            envelope.queue_id,
            codec.initial_status(mail),
            now + self._lease if mail.claimed else due,
            next_attempt,
            expires,
            now - codec.age(envelope),
            mail.attempts,
            mail.claimed,
            mail.is_dsn,
            len(mail.message),
            self._owner if mail.claimed else "",
            codec.lookup((envelope.reverse_path,)),
            codec.lookup(envelope.forward_paths),
            codec.encode_envelope(envelope),
            codec.encode_outcomes(mail.outcomes),
        )

    def _settle(self, connection: sqlite3.Connection, jobs: list[Settlement]) -> list[bool]:
        return [self._settle_one(connection, job) for job in jobs]

    def _settle_one(self, connection: sqlite3.Connection, job: Settlement) -> bool:
        ours = (job.queue_id, self._owner)
        if job.hold:
            cursor = connection.execute(
                "UPDATE mail SET status = 'held', due = NULL, owner = '', unanswered = 0, outcomes = ?, "
                "failures = ?, hold_reason = ? WHERE queue_id = ? AND owner = ?",
                (job.outcomes, job.failures, printable(job.hold), *ours),
            )
        elif job.retry_in is not None:
            next_attempt = self._clock.now() + job.retry_in
            cursor = connection.execute(
                "UPDATE mail SET attempts = attempts - ?, next_attempt = ?, unanswered = 0, outcomes = ?, "
                "failures = ? WHERE queue_id = ? AND owner = ?",
                (job.untried, next_attempt, job.outcomes, job.failures, *ours),
            )
            connection.execute(f"UPDATE mail SET {GIVEN_BACK} WHERE queue_id = ? AND owner = ?", ours)  # noqa: S608 - a constant
        else:
            cursor = connection.execute("DELETE FROM mail WHERE queue_id = ? AND owner = ?", ours)
        settled = cursor.rowcount > 0
        if settled and job.dsns:
            self.insert(connection, job.dsns)
        return settled

    def _begin(self, connection: sqlite3.Connection, jobs: list[str]) -> list[bool]:
        lease_over = self._clock.now() + self._lease
        return [
            connection.execute(
                "UPDATE mail SET attempts = attempts + 1, unanswered = 1, due = ? "
                "WHERE queue_id = ? AND owner = ?",
                (lease_over, queue_id, self._owner),
            ).rowcount
            > 0
            for queue_id in jobs
        ]

    def _renew(self, connection: sqlite3.Connection, jobs: list[Sequence[str]]) -> list[list[str]]:
        """For each job, the queue ids that are ours."""
        renewed = []
        for queue_ids in jobs:
            rows = connection.execute(
                "UPDATE mail SET due = ? WHERE owner = ? AND queue_id IN (SELECT value FROM json_each(?)) "
                "RETURNING queue_id",
                (self._clock.now() + self._lease, self._owner, json.dumps(queue_ids)),
            )
            renewed.append([queue_id for (queue_id,) in rows])
        return renewed

    def _give_back(self, connection: sqlite3.Connection, jobs: list[Sequence[str] | None]) -> list[None]:
        """None stands for all claims of this process, because it ends."""
        for queue_ids in jobs:
            if queue_ids is None:
                self._note_time(connection)
                connection.execute(f"UPDATE mail SET {GIVEN_BACK} WHERE owner = ?", (self._owner,))  # noqa: S608 - constants
            else:
                connection.execute(
                    f"UPDATE mail SET {GIVEN_BACK} "  # noqa: S608 - a constant
                    "WHERE owner = ? AND queue_id IN (SELECT value FROM json_each(?))",
                    (self._owner, json.dumps(queue_ids)),
                )
        return [None] * len(jobs)

    def _memorize(self, connection: sqlite3.Connection, jobs: list[tuple[bytes, str | None]]) -> list[None]:
        """Pairs of a digest and a reply: "" if there is none yet, None to forget it."""
        last = dict(jobs)
        until = self._clock.now() + MEMORY
        connection.executemany(
            "INSERT OR REPLACE INTO memory (digest, reply, until) VALUES (?, ?, ?)",
            [(digest, reply, until) for digest, reply in last.items() if reply is not None],
        )
        connection.executemany(
            "DELETE FROM memory WHERE digest = ?",
            [(digest,) for digest, reply in last.items() if reply is None],
        )
        return [None] * len(jobs)

    def _apply(self, connection: sqlite3.Connection, jobs: list[Page]) -> list[list[str]]:
        return [self._apply_one(connection, job) for job in jobs]

    def _apply_one(self, connection: sqlite3.Connection, job: Page) -> list[str]:
        now = self._clock.now()
        where, values = conditions(job.which, now)
        able, change = ACTIONS[job.action]
        values |= {
            "now": now,
            "after": job.after,
            "reason": printable(job.reason),
            "page": PAGE,
            "first": now + job.within.first,
            "span": job.within.last - job.within.first,
        }
        rows = connection.execute(
            f"{change} WHERE id IN (SELECT id FROM mail WHERE queue_id > :after AND {able} AND {where} "  # noqa: S608 - constants
            "ORDER BY queue_id LIMIT :page) RETURNING queue_id",
            values,
        )
        return sorted(queue_id for (queue_id,) in rows)

    def _check(self, connection: sqlite3.Connection, jobs: list[None]) -> list[Inside]:
        """What is inside the file: free room, and the reserve."""
        connection.execute("UPDATE checked SET at = ?", (self._clock.now(),))
        self._note_time(connection)
        (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        return [Inside(pages * page_size, reserve.is_set_aside_inside(connection))] * len(jobs)

    def _set_aside(self, connection: sqlite3.Connection, jobs: list[None]) -> list[None]:
        reserve.set_aside_inside(connection)
        return jobs

    def _amend(self, connection: sqlite3.Connection, jobs: list[tuple[str, Change[Any]]]) -> list[Any]:
        return [self._amend_one(connection, name, change) for name, change in jobs]

    def _amend_one(self, connection: sqlite3.Connection, name: str, change: Change[T]) -> T:
        row = connection.execute("SELECT text FROM note WHERE name = ?", (name,)).fetchone()
        text, result = change("" if row is None else row[0], self._clock.now())
        connection.execute("INSERT OR REPLACE INTO note (name, text) VALUES (?, ?)", (name, text))
        return result

    def _recount(
        self, connection: sqlite3.Connection, jobs: list[tuple[Sequence[str], Recount[Any]]]
    ) -> list[Any]:
        now = self._clock.now()
        return [sqlite_counts.recount(connection, now, names, change) for names, change in jobs]

    def _note_time(self, connection: sqlite3.Connection) -> None:
        """For the next process, in case the host is off in between."""
        connection.execute("UPDATE clock SET boot = ?, passed = ?, now = ?", self._clock.mark())

    def _tidy(self, connection: sqlite3.Connection, jobs: list[None]) -> list[bool]:
        """Forget what is too old, and give some free room back; True if there is more to give back."""
        now = self._clock.now()
        connection.execute("DELETE FROM memory WHERE until < ?", (now,))
        connection.execute("DELETE FROM followed WHERE until < ?", (now,))
        sqlite_counts.forget(connection, self._clock.now())
        sqlite_postings.forget(connection, now, KEPT_FOR)
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        if free <= FREE_PAGES:
            return [False] * len(jobs)
        # One step of the pragma gives one page back, so it has to be read to its end.
        connection.execute(f"PRAGMA incremental_vacuum({TIDY_PAGES})").fetchall()
        # A file made without auto_vacuum gives nothing back; don't try forever.
        (left,) = connection.execute("PRAGMA freelist_count").fetchone()
        return [left < free] * len(jobs)

    def _claim(self, connection: sqlite3.Connection, jobs: list[Wanted]) -> list[list[SpoolItem]]:
        return [self._claim_one(connection, job) for job in jobs]

    def _claim_one(self, connection: sqlite3.Connection, job: Wanted) -> list[SpoolItem]:
        now = self._clock.now()

        def first(which: str) -> list[tuple[int]]:
            return connection.execute(
                f"SELECT id FROM mail WHERE {which} AND due <= :now ORDER BY due, queue_id LIMIT :limit",  # noqa: S608 - constants
                {"now": now, "limit": job.limit},
            ).fetchall()

        if job.expired:
            due = first("attempts > 0 AND expires <= :now")
        else:
            due = self._turns.merge(first("attempts = 0"), first("attempts > 0"), job.limit)
        chosen = [key for (key,) in due]
        if not chosen:
            return []
        rows = connection.execute(
            "UPDATE mail SET status = 'active', owner = ?, due = ? "  # noqa: S608 - a constant
            f"WHERE id IN (SELECT value FROM json_each(?)) RETURNING id, {codec.ITEM_COLUMNS}",
            (self._owner, now + self._lease, json.dumps(chosen)),
        )
        items = {key: codec.decode_item(columns, now) for key, *columns in rows}
        return [items[key] for key in chosen]


def _powers_of_two(total: int) -> Iterator[tuple[int, int]]:
    """Cut 0…total into pieces of 32, 16, … 1, so that few different statements do for any number.

    One statement for many rows, because the interpreter lock is let go and fought for at each.
    """
    start = 0
    for piece in (32, 16, 8, 4, 2, 1):
        while total - start >= piece:
            yield start, start + piece
            start += piece
