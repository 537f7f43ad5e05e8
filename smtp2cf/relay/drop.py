"""Drop: the bridge's side of the drop directory, where sendmail(1) leaves mail while no bridge runs.

Anyone may put a file there and nobody but the bridge may look (mode 3733), so every file is a
stranger's: it is taken in when it is whole and valid, set aside with a reason when it isn't, and
never stops the rest. docs/sendmail.md describes the format, smtp2cf/sendmail.py writes it.

Knows no SMTP session, no Cloudflare and no spool.
"""

import asyncio
import contextlib
import json
import os
import re
import stat
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import structlog

from smtp2cf.envelope import Envelope, Outcomes, Verdict, new_queue_id
from smtp2cf.reply import Reply

Accept = Callable[[Envelope, bytes], Awaitable[Verdict]]
Bounce = Callable[[Envelope, bytes, Outcomes], Awaitable[None]]
Answered = Callable[[Envelope, bool], None]

VERSION: Final = 1
SUFFIX: Final = ".drop"
HEAD_LIMIT = 16 << 20
"""Octets of a file's first line: a list of 100,000 recipients is about three million."""
ADDRESS_LIMIT = 320
PART_AGE = 3600.0
"""Seconds after which the beginning of a file that was never finished is removed."""
CRASHES = 3
"""Times a message may make the program fail before it is set aside."""
SETTLING = 1.0
"""Seconds a directory's time may lag behind: file systems count it in ticks."""

TOO_BIG = Reply(552, "5.3.4", "the message is larger than SMTP2CF_MAX_MESSAGE_SIZE")
FAILED = Reply(451, "4.3.0", "the bridge failed on this message: see its log")

_SAFE_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,80}")

log = structlog.stdlib.get_logger("smtp2cf.drop")


class BadDropError(Exception):
    """A file that is no valid drop; its text says why."""


class TooBigError(Exception):
    """A valid drop of a message that is too large; carries its envelope."""

    def __init__(self, envelope: Envelope) -> None:
        super().__init__(TOO_BIG.text)
        self.envelope = envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class DropPolicy:
    """Where dropped mail is and how it is treated.

    directory: looked at every `interval` seconds. aside: where files go that can't be sent; made
    when it is needed. max_message_size: octets. retry_min, retry_max, expire_after: seconds.
    concurrency: messages handed over at the same time.
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
class _Waiting:
    """A file that was deferred: when it is tried again, and whose fate is settled already."""

    attempts: int = 0
    crashes: int = 0
    next_attempt: float = 0.0
    settled: Outcomes = field(default_factory=dict)


class DropDirectory:
    """Hands dropped mail to `accept`, at the start and whenever something appears.

    A file is kept until accept has answered with success. A transient answer is tried again, with
    doubling delays, until expire_after. Whoever is refused for good is handed to `bounce`; where
    there is none, the file is set aside under a name that shows the reply. `answered` is told of every
    message when its answer has been acted upon. While `closed` gives a reply the files stay where they are.
    """

    def __init__(
        self,
        policy: DropPolicy,
        accept: Accept,
        bounce: Bounce | None = None,
        answered: Answered | None = None,
        closed: Callable[[], Reply | None] | None = None,
    ) -> None:
        self._policy = policy
        self._accept = accept
        self._bounce = bounce
        self._answered = answered
        self._closed = closed
        self._ready: deque[str] = deque()
        self._waiting: dict[str, _Waiting] = {}
        self._immovable: set[str] = set()
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._seen_at = 0.0
        self._seen_mtime = -1

    async def run(self) -> None:
        """Take mail in until `stop`, or until cancelled; files in flight are finished at a stop."""
        try:
            while not self._stopping:
                self._wake.clear()
                if self._changed():
                    await self._scan()
                self._start_due()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._policy.interval)
            await asyncio.gather(*self._in_flight.values())
        finally:
            for task in self._in_flight.values():
                task.cancel()

    def stop(self) -> None:
        """Start no more files; `run` returns when those in flight are done."""
        self._stopping = True
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Files that are there and not handed over yet."""
        return len(self._ready) + len(self._waiting) + len(self._in_flight)

    def _changed(self) -> bool:
        """The directory is another one than at the last look, as far as its time can tell."""
        try:
            mtime = self._policy.directory.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("drop.unreadable", directory=str(self._policy.directory), reason=str(error))
            return False
        return mtime != self._seen_mtime or self._seen_at - mtime / 1e9 < SETTLING

    async def _scan(self) -> None:
        """Find out what there is. The time is read first: what comes later makes it newer."""
        try:
            self._seen_at = time.time()
            self._seen_mtime = self._policy.directory.stat().st_mtime_ns
            names = await asyncio.to_thread(self._list)
        except OSError as error:
            log.warning("drop.unreadable", directory=str(self._policy.directory), reason=str(error))
            return
        known = self._in_flight.keys() | self._waiting.keys() | self._immovable
        self._ready = deque(name for name in names if name not in known)
        for gone in self._waiting.keys() - set(names):
            del self._waiting[gone]

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
            return  # it is looked at again after `interval`, and whoever closed says why
        now = time.monotonic()
        for name in [name for name, waiting in self._waiting.items() if waiting.next_attempt <= now]:
            if name not in self._in_flight and name not in self._ready:
                self._ready.append(name)
        while self._ready and len(self._in_flight) < self._policy.concurrency:
            name = self._ready.popleft()
            task = asyncio.create_task(self._take(name))
            self._in_flight[name] = task
            task.add_done_callback(lambda _, name=name: self._done(name))  # type: ignore[misc]

    def _done(self, name: str) -> None:
        task = self._in_flight.pop(name)
        if not task.cancelled() and task.exception() is not None:
            self._immovable.add(name)  # trying it again at once would fail the same way, for ever
            log.error("drop.failed", file=name, exc_info=task.exception())
        self._wake.set()

    async def _take(self, name: str) -> None:
        """Hand over one file, and see to what becomes of it."""
        path = self._policy.directory / name
        try:
            envelope, message = await asyncio.to_thread(read_drop, path, self._policy.max_message_size)
        except FileNotFoundError:
            self._waiting.pop(name, None)
        except BadDropError as error:
            await self._set_aside(name, str(error))
        except TooBigError as error:
            await self._refused(
                name, error.envelope, b"", dict.fromkeys(error.envelope.forward_paths, TOO_BIG)
            )
        else:
            try:
                await self._hand_over(name, envelope, message)
            finally:
                if self._answered is not None:
                    # A file that could not be removed comes again, with the next process.
                    self._answered(envelope, name not in self._immovable)

    async def _hand_over(self, name: str, envelope: Envelope, message: bytes) -> None:
        waiting = self._waiting.setdefault(name, _Waiting())
        left = tuple(path for path in envelope.forward_paths if path not in waiting.settled)
        try:
            verdict = await self._accept(_only(envelope, left), message)
        except Exception:
            log.exception("drop.failed", file=name, queue_id=envelope.queue_id)
            waiting.crashes += 1
            if waiting.crashes < CRASHES:
                self._defer(name, waiting, FAILED)
            else:
                await self._set_aside(name, f"the bridge failed on it {CRASHES} times: see its log")
            return
        outcomes = {path: verdict.outcomes.get(path, verdict.reply) for path in left}
        waiting.settled |= {path: reply for path, reply in outcomes.items() if not reply.transient}
        age = time.time() - envelope.received_at
        if verdict.reply.transient and age < self._policy.expire_after:
            self._defer(name, waiting, verdict.reply)
            return
        log.info("drop.taken", file=name, queue_id=envelope.queue_id, reply=str(verdict.reply))
        # Where the answer is success, whoever gave it sees to the recipients it does not cover.
        answered = left if verdict.reply.success else ()
        refused = {
            path: reply
            for path, reply in (outcomes | waiting.settled).items()
            if not reply.success and path not in answered
        }
        if refused:
            await self._refused(name, _only(envelope, tuple(refused)), message, refused)
        else:
            await self._remove(name)

    def _defer(self, name: str, waiting: _Waiting, reply: Reply) -> None:
        delay = min(self._policy.retry_max, self._policy.retry_min * 2**waiting.attempts)
        waiting.attempts = min(waiting.attempts + 1, 60)
        waiting.next_attempt = time.monotonic() + delay
        log.info("drop.deferred", file=name, reply=str(reply), attempts=waiting.attempts, next_attempt=delay)

    async def _refused(self, name: str, envelope: Envelope, message: bytes, outcomes: Outcomes) -> None:
        """Tell the sender, or keep the file where a person finds it."""
        if self._bounce is None:
            reply = next(iter(outcomes.values()))
            reason = "\n".join(f"<{path}>: {answer}" for path, answer in outcomes.items())
            await self._set_aside(name, reason, f"{reply.code}-{reply.status}")
            return
        try:
            await self._bounce(envelope, message, outcomes)
        except Exception:
            log.exception("drop.bounce_failed", file=name, queue_id=envelope.queue_id)
            await self._set_aside(name, "its sender could not be told")
        else:
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        self._waiting.pop(name, None)
        try:
            await asyncio.to_thread((self._policy.directory / name).unlink, missing_ok=True)
        except OSError as error:
            # Sent, and it can't be removed: sending it again would be worse than leaving it there.
            self._immovable.add(name)
            log.error("drop.not_removed", file=name, reason=str(error))  # noqa: TRY400 - the reason is enough

    async def _set_aside(self, name: str, reason: str, mark: str = "") -> None:
        self._waiting.pop(name, None)
        stem = name.removesuffix(SUFFIX) if _SAFE_NAME.fullmatch(name) else new_queue_id()
        kept = self._policy.aside / (f"{stem}.{mark}{SUFFIX}" if mark else f"{stem}{SUFFIX}")
        try:
            await asyncio.to_thread(_move, self._policy.directory / name, kept, reason)
        except OSError as error:
            self._immovable.add(name)
            log.error("drop.not_set_aside", file=name, reason=reason, error=str(error))  # noqa: TRY400 - as above
        else:
            log.warning("drop.set_aside", file=name, reason=reason, to=str(kept))


def read_drop(path: Path, max_message_size: int) -> tuple[Envelope, bytes]:
    """Envelope and message of a dropped file.

    Raises BadDropError with the reason, TooBigError, or FileNotFoundError where it is gone. The
    file is its owner's until now, so nothing about it is taken on trust: no link is followed, and
    its length must be what its first line says.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadDropError(f"cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise BadDropError("no regular file")
        if found.st_nlink != 1:
            raise BadDropError("has another name elsewhere (a hard link)")
        if path.suffix != SUFFIX:
            raise BadDropError(f"its name does not end in {SUFFIX}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return _read(file, found, max_message_size)
    except OSError as error:
        raise BadDropError(f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _read(file: BinaryIO, found: os.stat_result, max_message_size: int) -> tuple[Envelope, bytes]:
    line = file.readline(HEAD_LIMIT)
    if not line.endswith(b"\n"):
        raise BadDropError("its first line has no end")
    head = _head(line)
    size = found.st_size - len(line)
    if head.get("size") != size:
        raise BadDropError(f"is not whole: {size} octets of {head.get('size')!r:.80}")
    envelope = _envelope(head, found.st_mtime)
    if size > max_message_size:
        raise TooBigError(envelope)
    message = file.read(size + 1)
    if len(message) != size:
        raise BadDropError("changed while it was read")
    return envelope, message


def _head(line: bytes) -> dict[str, Any]:
    try:
        head = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadDropError("its first line is no JSON") from error
    if not isinstance(head, dict):
        raise BadDropError("its first line is no JSON object")
    if head.get("version") != VERSION:
        raise BadDropError(f"version {head.get('version')!r:.80}; this bridge reads version {VERSION}")
    return head


def _envelope(head: dict[str, Any], modified: float) -> Envelope:
    sender, recipients = head.get("reverse_path"), head.get("forward_paths")
    if sender != "" and not _is_address(sender):
        raise BadDropError(f"reverse_path {sender!r:.80} is no address")
    if not isinstance(recipients, list) or not recipients:
        raise BadDropError("no forward_paths")
    for recipient in recipients:
        if not _is_address(recipient):
            raise BadDropError(f"forward path {recipient!r:.80} is no address")
    body, ret, envid, notify = (head.get(key) for key in ("body", "ret", "envid", "notify"))
    if body not in ("7BIT", "8BITMIME") or ret not in (None, "FULL", "HDRS"):
        raise BadDropError(f"body {body!r:.80} or ret {ret!r:.80} is unknown")
    for name, value in (("envid", envid), ("notify", notify)):
        if value is not None and not _is_parameter(value):
            raise BadDropError(f"{name} {value!r:.80} is no parameter")
    return Envelope(
        reverse_path=str(sender),
        forward_paths=tuple(recipients),
        body=body,
        smtputf8=head.get("smtputf8") is True,
        ret=ret,
        envid=envid,
        notify=dict.fromkeys(recipients, str(notify)) if notify else {},
        received_at=min(modified, time.time()),
    )


def _is_address(value: object) -> bool:
    if not isinstance(value, str) or not value.isprintable() or len(value) > ADDRESS_LIMIT:
        return False
    local, at, domain = value.rpartition("@")
    return bool(local and at and domain) and not set(domain) & set('<>" ')


def _is_parameter(value: object) -> bool:
    """An esmtp-value (RFC 5321 §4.1.2): printable, no space, no equals sign."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= 500
        and value.isascii()
        and not set(value) & _NO_PARAMETER
    )


_NO_PARAMETER = {chr(code) for code in (*range(33), 127, ord("="))}


def _only(envelope: Envelope, forward_paths: tuple[str, ...]) -> Envelope:
    """The envelope with some of its recipients."""
    kept = set(forward_paths)
    notify = {path: value for path, value in envelope.notify.items() if path in kept}
    return replace(envelope, forward_paths=forward_paths, notify=notify)


def _move(path: Path, kept: Path, reason: str) -> None:
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if kept.exists() or kept.is_symlink():
        kept = kept.with_name(f"{new_queue_id()}.{kept.name}")
    path.rename(kept)
    try:
        kept.with_name(kept.name + ".reason").write_text(reason + "\n")
    except OSError as error:  # a full disk takes no reason, and the log has it
        log.warning("drop.reason_not_written", file=kept.name, error=str(error))


def _remove_if_old(path: Path) -> None:
    """The beginning of a file whose writer was killed."""
    try:
        if time.time() - path.lstat().st_mtime > PART_AGE:
            path.unlink()
    except FileNotFoundError:
        return  # it was finished meanwhile
    except OSError as error:
        log.warning("drop.part_not_removed", file=path.name, reason=str(error))
