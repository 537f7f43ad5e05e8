"""Drop: the bridge's side of the drop directory, where sendmail(1) leaves mail while no bridge runs.

Anyone may put a file there, and only the bridge may look (mode 3733), so no file is trusted: each is judged
by the same rules as mail over SMTP, and then handed over. What fails for now is tried again. Only a file that
can never become mail is set aside, with a reason. No file stops the others.

Knows no SMTP session, no Cloudflare and no spool.
"""

import asyncio
import contextlib
import os
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import structlog

from smtp2cf.envelope import Accept, Answered, Envelope, Judged, Outcomes, new_queue_id, own_outcomes
from smtp2cf.journal import news
from smtp2cf.relay.drop_file import SUFFIX, BadDropError, Dropped, read_drop, write_drop
from smtp2cf.relay.retry import backoff
from smtp2cf.reply import Reply, SendError

Judge = Callable[[tuple[str, str], Sequence[tuple[str, str]], float], Judged]
"""(sender and MAIL's parameters, recipients and RCPT's parameters, seconds since the epoch) → what the rules
for SMTP make of them. Called in a thread."""
Bounce = Callable[[Envelope, bytes, Outcomes], Awaitable[None]]
OverQuota = Callable[[Envelope], Awaitable[Outcomes]]
"""Counts mail that is about to be handed over; returns the recipients who are too many now."""

PART_AGE = 3600.0
"""Seconds after which a file that was never finished is removed."""
CRASHES: Final = 3
"""Times our own code may fail on a message before it is set aside."""
SETTLING = 1.0
"""Seconds a directory's modification time may lag behind: file systems count it in ticks."""

_SAFE_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,80}")

log = structlog.stdlib.get_logger("smtp2cf.drop")


@dataclass(frozen=True, slots=True, kw_only=True)
class DropPolicy:
    """Where dropped mail is, and what is done with it.

    directory: scanned every `interval` seconds. aside: where files go that can't be sent; created when
    needed. max_message_size: octets. retry_min, retry_max, expire_after: seconds. concurrency: messages
    handed over at the same time.
    """

    directory: Path
    aside: Path
    max_message_size: int
    interval: float = 1.0
    retry_min: float = 60.0
    retry_max: float = 3600.0
    expire_after: float = 432_000.0
    concurrency: int = 10


@dataclass(slots=True)
class _Unfinished:
    """A file that is not finished: when it is tried again, and what is known about it.

    crashes: times our own code failed on it. born: when it was written, in time.monotonic() seconds, so that
    a clock that jumps makes nothing old. done: addresses that need nothing more. refused: those refused for
    good, whom the sender must still be told of.
    """

    attempts: int = 0
    crashes: int = 0
    next_attempt: float = 0.0
    born: float | None = None
    done: set[str] = field(default_factory=set)
    refused: Outcomes = field(default_factory=dict)

    def age(self, written_at: float) -> float:
        """Seconds since the file was written."""
        now = time.monotonic()
        if self.born is None:
            self.born = now - max(0.0, time.time() - written_at)
        return now - self.born


class DropDirectory:
    """Hands dropped mail to `accept`, at the start and whenever something appears.

    A file stays until its mail has gone to every recipient, or the sender was told who did not get it. After
    a transient answer it is tried again, with doubling delays, until expire_after. Recipients who are refused
    for good, or given up, are passed to `bounce`; without one, or with nobody to tell, they are set aside
    under a name that shows the reply. `answered` is called for every message once its answer has been acted
    on. While `closed` returns a reply, no file is touched. `over_quota` is asked before each handing over.
    """

    def __init__(
        self,
        policy: DropPolicy,
        judge: Judge,
        accept: Accept,
        bounce: Bounce | None = None,
        answered: Answered | None = None,
        closed: Callable[[], Reply | None] | None = None,
        over_quota: OverQuota | None = None,
    ) -> None:
        self._policy = policy
        self._judge = judge
        self._accept = accept
        self._bounce = bounce
        self._answered = answered
        self._closed = closed
        self._over_quota = over_quota
        self._was_closed = False
        self._ready: deque[str] = deque()
        self._unfinished: dict[str, _Unfinished] = {}
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._seen_at = 0.0
        self._seen_mtime = -1

    async def run(self) -> None:
        """Take mail in until `stop` is called, which lets files in flight finish, or until cancelled."""
        try:
            while not self._stopping:
                self._wake.clear()
                if self._changed():
                    await self._scan()
                self._start_due()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._policy.interval):
                        await self._wake.wait()
            await asyncio.gather(*self._in_flight.values())
        finally:
            for task in self._in_flight.values():
                task.cancel()

    def stop(self) -> None:
        """Start no more files; `run` returns once those in flight are done."""
        self._stopping = True
        self._wake.set()

    def _changed(self) -> bool:
        """Whether the directory may have changed since the last scan, by its modification time."""
        try:
            mtime = self._policy.directory.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("drop.unreadable", directory=str(self._policy.directory), reason=str(error))
            return False
        return mtime != self._seen_mtime or self._seen_at - mtime / 1e9 < SETTLING

    async def _scan(self) -> None:
        """List the files. The modification time is read first: a file that comes later makes it newer."""
        try:
            seen_at = time.time()
            mtime = self._policy.directory.stat().st_mtime_ns
            names = await asyncio.to_thread(self._list)
        except OSError as error:
            log.warning("drop.unreadable", directory=str(self._policy.directory), reason=str(error))
            return
        self._seen_at, self._seen_mtime = seen_at, mtime
        known = self._in_flight.keys() | self._unfinished.keys()
        self._ready = deque(name for name in names if name not in known)
        for gone in self._unfinished.keys() - set(names) - self._in_flight.keys():
            del self._unfinished[gone]

    def _list(self) -> list[str]:
        names = []
        with os.scandir(self._policy.directory) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    names.append(entry.name)
                elif entry.name.endswith(".part"):
                    _remove_if_old(Path(entry.path))
        return sorted(names)

    def _start_due(self) -> None:
        if self._closed is not None and self._closed() is not None:
            self._was_closed = True
            return  # asked again after `interval`; the spool logs why it is closed
        now = time.monotonic()
        if self._was_closed:
            # What was deferred for the same reason need not wait for its next attempt.
            self._was_closed = False
            for unfinished in self._unfinished.values():
                unfinished.next_attempt = now
        for name in [name for name, unfinished in self._unfinished.items() if unfinished.next_attempt <= now]:
            if name not in self._in_flight and name not in self._ready:
                self._ready.append(name)
        while self._ready and len(self._in_flight) < self._policy.concurrency:
            name = self._ready.popleft()
            task = asyncio.create_task(self._take(name, self._unfinished.setdefault(name, _Unfinished())))
            self._in_flight[name] = task
            task.add_done_callback(lambda _, name=name: self._done(name))  # type: ignore[misc]

    def _done(self, name: str) -> None:
        del self._in_flight[name]
        self._wake.set()

    async def _take(self, name: str, unfinished: _Unfinished) -> None:
        """Hand over one file, and act on the answer. What fails for now is tried again."""
        try:
            try:
                mail, judged = await asyncio.to_thread(self._read, name)
            except FileNotFoundError:
                self._unfinished.pop(name, None)
                return
            await self._hand_over(name, unfinished, mail, judged)
        except BadDropError as error:
            await self._set_aside(name, unfinished, str(error))
        except (SendError, OSError, MemoryError) as error:
            # Not the mail's fault: no file descriptor left, the spool is away, the disk is full.
            self._defer(name, unfinished, str(error) or type(error).__name__)
        except Exception:
            log.exception("drop.failed", file=name)
            unfinished.crashes += 1
            if unfinished.crashes < CRASHES:
                self._defer(name, unfinished, "the bridge failed on it")
            else:
                await self._set_aside(
                    name, unfinished, f"the bridge failed on it {CRASHES} times: see its log"
                )

    def _read(self, name: str) -> tuple[Dropped, Judged]:
        mail = read_drop(self._policy.directory / name, self._policy.max_message_size)
        return mail, self._judge(mail.mail, mail.recipients, mail.written_at)

    async def _hand_over(self, name: str, unfinished: _Unfinished, mail: Dropped, judged: Judged) -> None:
        age = unfinished.age(mail.written_at)
        envelopes = [replace(envelope, received_at=time.time() - age) for envelope in judged.envelopes]
        try:
            deferred = await self._accept_all(unfinished, envelopes, mail.message)
            refused = {**mail.refused, **judged.refused, **unfinished.refused}
            untold = {who: reply for who, reply in refused.items() if who not in unfinished.done}
            if age >= self._policy.expire_after:
                untold |= deferred
                deferred = {}
            left = [who for who, to in judged.given.items() if to in deferred]
            if untold:
                if unfinished.done:
                    await self._keep(name, mail, left, untold)
                report = replace(judged.about(untold.keys()), received_at=time.time() - age)
                await self._report(name, mail, report, untold, everybody=not unfinished.done and not deferred)
                unfinished.done |= untold.keys()
            if deferred:
                await self._keep(name, mail, left, {})
                self._defer(name, unfinished, str(next(iter(deferred.values()))))
            else:
                await self._remove(name)
        finally:
            if self._answered is not None:
                for envelope in envelopes:
                    # The next process takes a file that could not be removed for a new one.
                    self._answered(envelope, name not in self._unfinished)

    async def _accept_all(
        self, unfinished: _Unfinished, envelopes: list[Envelope], message: bytes
    ) -> Outcomes:
        """Hand over the mail for those without a final outcome. Returns who was deferred."""
        deferred: Outcomes = {}
        for envelope in envelopes:
            known = unfinished.done | unfinished.refused.keys()
            left = tuple(path for path in envelope.forward_paths if path not in known)
            if left and self._over_quota is not None:
                over = await self._over_quota(_only(envelope, left))
                deferred |= over
                left = tuple(path for path in left if path not in over)
            if not left:
                continue
            envelope = _only(envelope, left)
            verdict = await self._accept(envelope, message)
            outcomes = own_outcomes(verdict, envelope)
            unfinished.done |= {path for path, reply in outcomes.items() if reply.success}
            unfinished.refused |= {path: reply for path, reply in outcomes.items() if reply.permanent}
            deferred |= {path: reply for path, reply in outcomes.items() if reply.transient}
            log.info("drop.taken", queue_id=envelope.queue_id, reply=str(verdict.reply))
        return deferred

    async def _report(
        self, name: str, mail: Dropped, report: Envelope, untold: Outcomes, *, everybody: bool
    ) -> None:
        """Tell the sender who did not get it, or set it aside for a person. Raises SendError, OSError."""
        if self._bounce is not None and report.reverse_path:
            await self._bounce(report, mail.message, untold)
            return
        reply = next(iter(untold.values()))
        reason = "\n".join(f"<{path}>: {answer}" for path, answer in untold.items())
        kept = self._place_aside(name, f"{reply.code}-{reply.status}")
        if everybody:
            await asyncio.to_thread(_move, self._policy.directory / name, kept, reason)
        else:
            await asyncio.to_thread(_copy, mail, tuple(untold), kept, reason)
        _say_aside(name, reason, kept)

    async def _keep(self, name: str, mail: Dropped, left: Sequence[str], untold: Outcomes) -> None:
        """Rewrite the file with only the recipients still open, so that a restart sends to nobody twice."""
        if len(left) == len(mail.recipients) and untold == mail.refused:
            return
        try:
            await asyncio.to_thread(write_drop, self._policy.directory / name, mail, left, untold)
        except OSError as error:
            # This process remembers who is done.
            log.warning("drop.not_rewritten", file=name, reason=str(error))

    def _defer(self, name: str, unfinished: _Unfinished, reason: str) -> None:
        unfinished.attempts += 1
        delay = backoff(self._policy.retry_min, self._policy.retry_max, unfinished.attempts)
        unfinished.next_attempt = time.monotonic() + delay
        log.info("drop.deferred", file=name, reply=reason, attempts=unfinished.attempts, next_attempt=delay)

    async def _remove(self, name: str) -> None:
        """Remove a finished file. If that fails it is tried again, and nobody gets the mail twice."""
        await asyncio.to_thread((self._policy.directory / name).unlink, missing_ok=True)
        self._unfinished.pop(name, None)

    async def _set_aside(self, name: str, unfinished: _Unfinished, reason: str) -> None:
        kept = self._place_aside(name)
        try:
            await asyncio.to_thread(_move, self._policy.directory / name, kept, reason)
        except OSError as error:
            log.error("drop.not_set_aside", file=name, reason=reason, error=str(error))  # noqa: TRY400 - it says all
            self._defer(name, unfinished, reason)
        else:
            self._unfinished.pop(name, None)
            _say_aside(name, reason, kept)

    def _place_aside(self, name: str, mark: str = "") -> Path:
        stem = name.removesuffix(SUFFIX) if _SAFE_NAME.fullmatch(name) else new_queue_id()
        kept = self._policy.aside / (f"{stem}.{mark}{SUFFIX}" if mark else f"{stem}{SUFFIX}")
        return kept.with_name(f"{new_queue_id()}.{kept.name}") if os.path.lexists(kept) else kept


def _only(envelope: Envelope, forward_paths: tuple[str, ...]) -> Envelope:
    """The envelope with some of its recipients."""
    kept = set(forward_paths)
    notify = {path: value for path, value in envelope.notify.items() if path in kept}
    orcpt = {path: value for path, value in envelope.orcpt.items() if path in kept}
    return replace(envelope, forward_paths=forward_paths, notify=notify, orcpt=orcpt)


def _move(path: Path, kept: Path, reason: str) -> None:
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.rename(kept)
    _write_reason(kept, reason)


def _copy(mail: Dropped, recipients: Sequence[str], kept: Path, reason: str) -> None:
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_drop(kept, mail, recipients, {})
    _write_reason(kept, reason)


def _say_aside(name: str, reason: str, kept: Path) -> None:
    log.warning("drop.set_aside", file=name, reason=reason, moved_to=str(kept))
    text = f"mail that sendmail left can't be sent, and is kept in {kept}: {reason}"
    news.tell("drop.set_aside", text, file=name, reason=reason, kept=str(kept))


def _write_reason(kept: Path, reason: str) -> None:
    try:
        kept.with_name(kept.name + ".reason").write_text(reason + "\n")
    except OSError as error:  # for example a full disk; the reason is in the log, too
        log.warning("drop.reason_not_written", file=kept.name, error=str(error))


def _remove_if_old(path: Path) -> None:
    """Remove a file that its writer never finished, if it is old."""
    try:
        if time.time() - path.lstat().st_mtime > PART_AGE:
            path.unlink()
    except FileNotFoundError:
        return  # finished meanwhile
    except OSError as error:
        log.warning("drop.part_not_removed", file=path.name, reason=str(error))
