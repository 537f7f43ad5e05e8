"""A world in one event loop and no real time: bridges that are killed, between clients and an API.

The Relay, its queue, the Client and the SQLite spool are the real ones. Simulated are the API behind httpx's
transport interface, the thread that writes the spool (its jobs run at once, in the loop, so that two runs are
the same), the clocks, and the process: a kill takes all its tasks and what they had not yet written, and the
next bridge opens the same file.
"""

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import structlog

from smtp2cf.cloudflare import Client
from smtp2cf.cloudflare.pacing import Pacer
from smtp2cf.envelope import Envelope, Verdict
from smtp2cf.relay import BouncePolicy, MessagePolicy, Relay, RetryPolicy, attempt, calls, sender_domains
from smtp2cf.spool import clock, sqlite, writer
from smtp2cf.spool.protocol import SpoolFull, SpoolUnavailable
from smtp2cf.spool.sqlite import SqliteSpool
from tests.cloudflare.virtual_time import VirtualTimeLoop
from tests.model.api import Api
from tests.spool.inside import let_go

EPOCH = 1_700_000_000.0
"""What the host's clock shows when the loop's shows 0."""
EXPIRE_AFTER = 7200.0
RETRY = RetryPolicy(minimum=60, maximum=600, expire_after=EXPIRE_AFTER)
API_TIMEOUT = 20.0
SLOW = 1.0
"""Seconds that a slow spool takes for a transaction."""
CALL_SIZE = 2
"""Recipients that a call takes: few, so that a message of few has several calls."""

SpoolMode = Literal["fine", "slow", "full", "away"]

_LIFE: contextvars.ContextVar["Life | None"] = contextvars.ContextVar("life", default=None)


class Loop(VirtualTimeLoop):
    """What a thread would do is done at once; tasks are noted with the bridge they belong to."""

    def __init__(self) -> None:
        super().__init__()
        self.set_task_factory(_make_task)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        life = _LIFE.get()
        if life is not None and life.dead:
            return future  # never
        try:
            if getattr(func, "__name__", "") == "use":
                _fail_where_away(life)
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future


def _fail_where_away(life: "Life | None") -> None:
    """For who reads the spool: it is the function of that name which does."""
    if life is not None and life.world.spool_mode == "away":
        raise OSError(5, "simulated", "spool")


def _make_task(loop: Any, coro: Any, context: contextvars.Context | None = None) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, context=context)
    life = (context or contextvars.copy_context()).get(_LIFE)
    if life is not None:
        life.tasks.add(task)
        task.add_done_callback(life.tasks.discard)
    return task


class _Inbox:
    """Jobs for the writer; whoever puts one in has them done soon."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._jobs: deque[Any] = deque()
        self._wake = wake

    def put(self, job: Any) -> None:
        self._jobs.append(job)
        self._wake()

    def get_nowait(self) -> Any:
        if not self._jobs:
            raise queue.Empty
        return self._jobs.popleft()

    get = get_nowait

    def __bool__(self) -> bool:
        return bool(self._jobs)


class _InlineWriter(writer.Writer):
    """The real writer without its thread. Where the bridge dies, it dies before or after a transaction."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with mock.patch.object(threading.Thread, "start"):
            super().__init__(*args, **kwargs)
        life = _LIFE.get()
        assert life is not None
        self.life = life
        life.writer = self
        self._inbox = self._jobs = _Inbox(self._wake)
        self._awake = False

    async def do(self, kind: Any, argument: Any, size: int = 0) -> Any:
        await self.life.alive()
        return await super().do(kind, argument, size)

    def post(self, kind: Any, argument: Any) -> None:
        if not self.life.dead:
            super().post(kind, argument)

    async def close(self) -> None:
        self._closed = True
        while self._inbox and not self.life.dead:
            self._work()
        self.drop()

    def drop(self) -> None:
        """The connection is gone, as the process is; what was not committed is undone."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            delay = SLOW if self.life.world.spool_mode == "slow" else 0.0
            self._loop.call_later(delay, self._work)

    def _work(self) -> None:
        self._awake = False
        if not self._inbox or self.life.dead or self.life.point():
            return
        batch, _ = self._next_batch()
        mode = self.life.world.spool_mode
        refused: list[Any] = []
        if mode == "away":
            refused = [(job, SpoolUnavailable("simulated")) for job in batch]
        elif mode == "full":
            refused = [(job, SpoolFull("simulated")) for job in batch if job.kind.rank == 0]  # put
        left = [job for job in batch if mode != "away" and (mode != "full" or job.kind.rank != 0)]
        done = self._do(left) if left else []
        if not self.life.point():
            writer.resolve([*refused, *done])
        if self._inbox:
            self._wake()


class DiedError(Exception):
    """The bridge was killed while its client waited."""


class Life:
    """One bridge from its start to its end.

    left: effects (transactions, calls, answers) until it dies; None for not at all.
    """

    def __init__(self, world: "World") -> None:
        self.world = world
        self.dead = False
        self.left: int | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.writer: _InlineWriter | None = None
        self.spool: SqliteSpool | None = None
        self.relay: Relay | None = None
        self.ended = asyncio.Event()

    async def start(self) -> None:
        """Open the spool and begin to send; returns early where it died over it."""
        await self._run(self._start())

    async def _start(self) -> None:
        self.spool = await SqliteSpool.open(self.world.path)
        if not self.world.has_sent:  # mail from a domain that never sent bounces if Cloudflare refuses it
            await self.spool.amend(sender_domains.NOTE, lambda *_: ('["example.com"]', None))
            self.world.has_sent = True
        client = Client(
            base_url="https://api.example/client/v4",
            account_id="1",
            token="t",
            timeout=API_TIMEOUT,
            concurrency=10,
            transport=self.world.api.of(self),
        )
        client.pacer = Pacer(10, clock=self.world.loop.time)
        relay = Relay(
            client.send,
            self.world.policy,
            spool=self.spool,
            retry=RETRY,
            bounce=BouncePolicy(hostname="bridge.example", expire_after=EXPIRE_AFTER),
            pace=client.pacer,
        )
        assert relay.queue is not None
        relay.queue.start()
        self.relay = relay

    async def accept(self, envelope: Envelope, message: bytes) -> Verdict:
        """What a client is told; raises DiedError."""
        assert self.relay is not None
        verdict: Verdict = await self._run(self.relay.accept(envelope, message))
        return verdict

    def answered(self, envelope: Envelope, *, received: bool) -> None:
        assert self.relay is not None
        if not self.dead:
            context = contextvars.copy_context()
            context.run(_LIFE.set, self)
            context.run(self.relay.answered, envelope, received)

    async def stop(self) -> None:
        """SIGTERM."""
        await self._run(self._stop())

    async def _stop(self) -> None:
        assert self.relay is not None
        assert self.relay.queue is not None
        assert self.spool is not None
        await self.relay.queue.stop_claiming()
        await self.relay.drain(5.0)
        with contextlib.suppress(SpoolUnavailable):
            await self.spool.close()
        self.spool = None
        self._dies()

    def point(self) -> bool:
        """Something is about to take effect; True if the bridge is dead before it does."""
        if self.left is not None and not self.dead:
            self.left -= 1
            if self.left < 0:
                self._dies()
        return self.dead

    async def alive(self) -> None:
        """For ever where it is dead: until its task is cancelled."""
        if self.dead:
            await asyncio.get_running_loop().create_future()

    def _dies(self) -> None:
        self.dead = True
        self.ended.set()

    async def kill(self) -> None:
        """SIGKILL, or what is left of a bridge that died at some point."""
        self._dies()
        me = asyncio.current_task()
        for _ in range(100):
            left = self.tasks - {me} if me is not None else self.tasks
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.sleep(0)
        else:
            raise AssertionError(f"tasks that don't end: {self.tasks}")
        if self.writer is not None:
            self.writer.drop()
        if self.spool is not None:
            let_go(self.spool)

    async def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something as this bridge; raises DiedError."""
        context = contextvars.copy_context()
        context.run(_LIFE.set, self)
        task = asyncio.get_running_loop().create_task(work, context=context)
        ended = asyncio.get_running_loop().create_task(self.ended.wait())
        await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if task.done() and not task.cancelled():
            return task.result()
        raise DiedError


class World:
    """The spool's file, the API and the clocks, which outlive every bridge.

    skew: seconds by which the host's clock is wrong. has_sent: the spool knows that the senders' domain has.
    log: the lines of all bridges.
    """

    def __init__(self, path: Path, policy: MessagePolicy) -> None:
        self.path = path
        self.policy = policy
        self.loop = asyncio.get_running_loop()
        self.api = Api(self)
        self.skew = 0.0
        self.boots = 0
        self.has_sent = False
        self.spool_mode: SpoolMode = "fine"
        self.log: list[dict[str, Any]] = []
        self.life: Life | None = None
        self.up = asyncio.Event()

    @property
    def now(self) -> float:
        return self.loop.time()

    async def start(self) -> None:
        """A bridge, unless there is one."""
        if self.life is not None and not self.life.dead:
            return
        await self.bury()
        self.life = life = Life(self)
        with contextlib.suppress(DiedError):
            await life.start()
            self.up.set()

    async def bury(self) -> None:
        """What is left of a bridge that died."""
        self.up.clear()
        if self.life is not None:
            await self.life.kill()
            self.life = None

    async def kill(self, *, reboot: bool) -> None:
        await self.bury()
        self.boots += reboot

    def note(self, _: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        """structlog's processor: a dead bridge logs nothing."""
        life = _LIFE.get()
        if life is None or not life.dead:
            self.log.append({**event, "level": method, "at": self.now})
        raise structlog.DropEvent


@contextlib.contextmanager
def simulated(world: World) -> Iterator[None]:
    """While it lasts, everybody's clocks are the world's, and so is the log."""

    def wall() -> float:
        return EPOCH + world.now + world.skew

    def now() -> float:
        return world.now

    def boot() -> str:
        return str(world.boots)

    processors = structlog.get_config()["processors"]
    before = processors.copy()
    with (
        mock.patch("time.time", wall),
        mock.patch("time.time_ns", lambda: int(wall() * 1e9)),  # noqa: PT008 - it changes
        mock.patch("time.monotonic", now),
        mock.patch.object(clock, "passed", now),
        mock.patch.object(clock, "boot", boot),
        mock.patch.object(sqlite, "Writer", _InlineWriter),
        mock.patch.object(sqlite, "POLL", 20.0),
        mock.patch.object(attempt, "MAX_RECIPIENTS_PER_CALL", CALL_SIZE),
        mock.patch.object(calls, "MAX_RECIPIENTS_PER_CALL", CALL_SIZE),
    ):
        processors.clear()
        processors.append(world.note)
        structlog.configure(processors=processors)
        try:
            yield
        finally:
            processors.clear()
            processors.extend(before)
            structlog.configure(processors=processors)
