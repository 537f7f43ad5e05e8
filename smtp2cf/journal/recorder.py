"""Recorder: passes what happens on to the journal, off the way of the mail.

What is noted waits in memory and is written at most INTERVAL later, all of it in one transaction. A journal
that can't be written to is told of once, and tried again: what waits is kept up to MOST notes, and the rest
is counted. Nobody who notes something waits, and nothing here ever fails for him.

Knows nothing of a database, and messages only as bytes that it passes on.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import structlog

from smtp2cf.envelope import Envelope
from smtp2cf.journal import tasks
from smtp2cf.journal.record import Action, Entry, Journal, JournalError, Message, Step
from smtp2cf.journal.rows import milliseconds
from smtp2cf.journal.steps import Kind
from smtp2cf.reply import few_in_words

INTERVAL = 0.4
"""Seconds between two transactions."""
MOST = 20_000
"""Notes that wait, where nothing can be written."""
MOST_OCTETS = 32 * 2**20
"""Octets of headers that wait with them."""
AT_ONCE = 500
"""Notes in one transaction."""
PATIENCE = 5.0
"""Seconds until a journal that could not be written to is tried again."""
HEAD_LIMIT = 16 * 1024
"""Octets of a message in which its header is looked for."""
PRUNE_EVERY = 600.0
"""Seconds between two looks for what is too old."""
BREATH = 0.05
"""Seconds between two steps of deleting."""
ACTIONS_KEPT = 365 * 86400.0
"""Seconds for which it is known what operators did."""
OPERATORS_EVERY = 2.0
"""Seconds between two looks for what operators did with commands."""
MEMORY = 60.0
"""Seconds for which it is remembered that this was logged."""
LOGINS_A_MINUTE = 10
"""Failed logins that are recorded."""
_DAY = 86400.0
_NAMED = 5

_log = structlog.get_logger(__name__)


class Facts(NamedTuple):
    """What the journal has of a message's header. Message-ID without brackets; subject: decoded."""

    header_from: str = ""
    original_id: str = ""
    subject: str = ""


class Note(NamedTuple):
    """Steps of a message that wait to be written. head: where its header is, b"" if that is not at hand."""

    envelope: Envelope
    steps: Sequence[Step]
    head: bytes
    size: int
    account: str


class Recorder:
    """Keeps a journal.

    read: finds the facts in a message, of which the first HEAD_LIMIT octets are given. days: how long things
    are kept. subjects: whether a message's subject is.
    """

    def __init__(
        self, journal: Journal, read: Callable[[bytes], Facts], *, days: int, subjects: bool = False
    ) -> None:
        self.journal = journal
        self._read = read
        self._days = days
        self._subjects = subjects
        self._notes: list[Note] = []
        self._octets = 0
        self._actions: list[Action] = []
        self._left_out = 0
        self._failed = False
        self._something = asyncio.Event()
        self._closing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._logins = 0, 0
        self._logged: set[tuple[int, str, str]] = set()

    def note(
        self,
        envelope: Envelope,
        *steps: Step,
        message: bytes = b"",
        size: int = 0,
        account: str = "",
    ) -> None:
        """Record steps of a message. size: of the message."""
        if len(self._notes) >= MOST or self._octets >= MOST_OCTETS:
            self._left_out += 1
            return
        end = message.find(b"\r\n\r\n", 0, HEAD_LIMIT)
        head = message[: end + 2 if end >= 0 else HEAD_LIMIT]
        self._octets += len(head)
        self._notes.append(Note(envelope, steps, head, size or len(message), account))
        self._something.set()

    def act(self, name: str, who: str, fields: Mapping[str, object]) -> None:
        """Record and log what an operator did here."""
        self._act(name, who, fields)
        _log.info(name, who=who, **fields)

    def _act(self, name: str, who: str, fields: Mapping[str, object]) -> None:
        if len(self._actions) < MOST:
            action = Action(time.time(), name, who, fields)
            self._logged.add(_key(action))
            self._actions.append(action)
            self._something.set()

    def login_failed(self, event: str, who: str, fields: Mapping[str, object]) -> None:
        """Record that somebody could not log in, as far as these are not too many."""
        minute, count = self._logins
        now = int(time.time()) // 60
        count = count + 1 if minute == now else 1
        self._logins = now, count
        if count <= LOGINS_A_MINUTE:
            self._act(event, who, fields)

    def start(self) -> None:
        """Write what is noted, and delete what is too old, until closed."""
        self._tasks = [
            tasks.keep_running(self._run, "journal.write"),
            tasks.keep_running(self._prune, "journal.prune"),
            tasks.keep_running(self._log_operators, "journal.log_operators"),
        ]

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._something.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL if not self._failed else PATIENCE):
                    await self._closing.wait()
            await self.write()

    async def write(self) -> None:
        """Write what waits now, as far as that can be done. What comes meanwhile waits for the next time."""
        left = max(len(self._notes), len(self._actions))
        while left > 0:
            left -= AT_ONCE
            notes, actions = self._notes[:AT_ONCE], self._actions[:AT_ONCE]
            try:
                entries = await asyncio.to_thread(self._entries, notes)
                await self.journal.record(entries, actions)
            except JournalError as error:
                self._tell_failure(str(error))
                return
            except Exception:  # noqa: BLE001 - whatever it is, mail goes on
                # It would stand in the way of all that comes.
                _log.exception("journal.error", left_out=len(notes))
            self._octets -= sum(len(note.head) for note in notes)
            del self._notes[: len(notes)], self._actions[: len(actions)]
            self._tell_success()
        if not (self._notes or self._actions):
            self._something.clear()

    async def _prune(self) -> None:
        while True:
            try:
                now = time.time()
                while await self.journal.prune(now - self._days * _DAY, now - ACTIONS_KEPT):  # noqa: ASYNC110
                    await asyncio.sleep(BREATH)  # between two steps; there is no event to wait for
            except JournalError as error:
                _log.debug("journal.not_pruned", reason=str(error))
            await asyncio.sleep(PRUNE_EVERY)

    async def _log_operators(self) -> None:
        """Log what operators do with commands, which write that into the journal."""
        began = time.time()
        while True:
            await asyncio.sleep(OPERATORS_EVERY)
            since = max(began, time.time() - MEMORY)
            try:
                found = await self.journal.actions(since, AT_ONCE)
            except JournalError as error:
                _log.debug("journal.not_read", reason=str(error))
                continue
            for action in reversed(found):
                if action.name.startswith("operator.") and _key(action) not in self._logged:
                    _log.info(action.name, who=action.who, **action.fields)
            self._logged = {key for key in self._logged if key[0] > (since - MEMORY) * 1000}
            self._logged.update(map(_key, found))

    async def close(self) -> None:
        """Write what waits, if that takes no longer than PATIENCE, and let go of the journal."""
        self._closing.set()
        self._something.set()
        try:
            async with asyncio.timeout(PATIENCE):
                if self._tasks:
                    await self._tasks[0]
                await self.write()
                await self.journal.close()
        except (JournalError, TimeoutError) as error:
            _log.warning("journal.not_closed", reason=str(error) or "it takes too long")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _tell_failure(self, reason: str) -> None:
        if not self._failed:
            _log.error("journal.not_written", reason=reason, note="mail goes on; this is tried again")
        self._failed = True

    def _tell_success(self) -> None:
        if self._failed or self._left_out:
            _log.warning("journal.written_again", left_out=self._left_out)
        self._failed, self._left_out = False, 0

    def _entries(self, notes: Sequence[Note]) -> list[Entry]:
        """The notes, those of one message together."""
        together: dict[str, list[Note]] = {}
        for note in notes:
            together.setdefault(note.envelope.queue_id, []).append(note)
        return [
            Entry(self._message(same), [step for note in same for step in note.steps])
            for same in together.values()
        ]

    def _message(self, notes: Sequence[Note]) -> Message:
        envelope = notes[-1].envelope  # as it goes out, if it was rewritten meanwhile
        head = next((note.head for note in notes if note.head), b"")
        facts = self._read(head) if head else Facts()
        sender = envelope.sender_as_given
        return Message(
            envelope.queue_id,
            envelope.received_at,
            sender,
            envelope.forward_paths,
            envelope.client,
            envelope.auth_user,
            envelope.helo,
            next((note.account for note in notes if note.account), ""),
            max(note.size for note in notes),
            facts.header_from if facts.header_from != sender else "",
            facts.original_id,
            envelope.dsn_for,
            facts.subject if self._subjects else "",
            _rewritten(envelope),
        )


def _key(action: Action) -> tuple[int, str, str]:
    """What an action is known by, after it was stored as well."""
    return milliseconds(action.at), action.name, action.who


def _rewritten(envelope: Envelope) -> str:
    """What the addresses became, "" for nothing else than what the client said."""
    said = []
    if envelope.given_reverse_path is not None:
        said.append(f"sent as <{envelope.reverse_path}> instead of <{envelope.given_reverse_path}>")
    for path, given in envelope.given_forward_paths.items():
        said.append(f"to <{path}> instead of {few_in_words([f'<{who}>' for who in given], _NAMED)}")
    return few_in_words(said, _NAMED)


def by_hand(kind: Kind, queue_id: str, who: str) -> Entry:
    """What an operator did to a message; recorded if the journal has that."""
    return Entry(Message(queue_id, 0.0, "", ()), [Step(time.time(), kind, detail=f"by {who}")])
