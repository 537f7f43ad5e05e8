"""What happens in a world, as plain steps that hypothesis can draw and shrink; what clients do; the rule.

The rule: whoever was acknowledged is sent the message at least once, and at most once unless the log says
that it may be a duplicate, or its sender is told by a DSN.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hypothesis import strategies as st

from smtp2cf.envelope import Envelope, Outcomes
from smtp2cf.relay import MessagePolicy
from smtp2cf.spool.protocol import MEMORY
from tests.model.api import WEATHER, Fate, Report
from tests.model.simulation import EXPIRE_AFTER, DiedError, Life, Loop, SpoolMode, World, simulated

KINDS = ("good", "gone", "listed", "odd", "queued", "unlisted")
TRIES = 5
"""Times a client tries a message."""
REPEAT_AFTER = 30.0
"""Seconds until a client tries again."""
LONGEST = 40 * EXPIRE_AFTER
"""Seconds after which all must be over, where everything works again."""


@dataclass(frozen=True)
class Send:
    """A client hands in a message. vanishes: it goes away before its first answer, and comes back.
    repeats: it has its answer, and sends the very same message again because it means to."""

    kinds: tuple[str, ...]
    per_recipient: bool = False
    never: bool = False
    invalid: bool = False
    vanishes: bool = False
    repeats: bool = False


@dataclass(frozen=True)
class Weather:
    """What becomes of calls from here on."""

    fate: Fate


@dataclass(frozen=True)
class Next:
    """What becomes of the next calls."""

    fates: tuple[Fate, ...]


@dataclass(frozen=True)
class Disk:
    """How the spool does from here on."""

    mode: SpoolMode


@dataclass(frozen=True)
class Jump:
    """The host's clock is set."""

    seconds: float


@dataclass(frozen=True)
class Kill:
    """The bridge is killed after so many effects, and another started after a while."""

    after: int
    away: float
    reboot: bool


@dataclass(frozen=True)
class Stop:
    """The bridge is stopped, and another started after a while."""

    away: float


@dataclass(frozen=True)
class Pause:
    """The process gets no time (SIGSTOP, a paused VM)."""

    seconds: float


@dataclass(frozen=True)
class Wait:
    seconds: float


Step = Send | Weather | Next | Disk | Jump | Kill | Stop | Pause | Wait


@dataclass(frozen=True)
class Scenario:
    mode: Literal["direct", "queue"]
    steps: tuple[Step, ...]
    partial_bounce: Literal["accept", "reject"] = "accept"


seconds = st.sampled_from([0.0, 0.5, 5.0, 12.0, 30.0, 90.0, 700.0, 3000.0, EXPIRE_AFTER])
soon = st.sampled_from([0.0, 0.5, 5.0, 30.0])
fates = st.one_of(st.just(Fate.FINE), st.sampled_from([Fate.FINE, Fate.ERROR]), st.sampled_from(list(Fate)))
seldom = st.sampled_from([False, False, False, True])
sends = st.one_of(
    st.builds(
        Send,
        st.lists(st.sampled_from(KINDS), min_size=1, max_size=5).map(tuple),
        seldom,
        seldom,
        seldom,
        seldom,
    ),
    st.builds(
        Send,
        st.lists(st.just("good"), min_size=1, max_size=5).map(tuple),
        seldom,
        vanishes=seldom,
        repeats=seldom,
    ),
)
steps: st.SearchStrategy[Step] = st.one_of(
    sends,
    st.builds(Wait, seconds),
    st.builds(Next, st.lists(fates, min_size=1, max_size=8).map(tuple)),
    sends,
    st.builds(Kill, st.integers(0, 12), soon, st.just(False)),
    st.builds(Weather, st.sampled_from(WEATHER)),
    st.builds(Disk, st.sampled_from(["fine", "slow", "full", "away"])),
    st.builds(Kill, st.integers(0, 30), seconds, st.booleans()),
    st.builds(Stop, seconds),
    st.builds(Pause, seconds),
    st.builds(Jump, st.sampled_from([-864000.0, -86400.0, -3600.0, -5.0, 5.0, 3600.0, 86400.0, 864000.0])),
)
scenarios = st.builds(
    Scenario,
    st.sampled_from(["direct", "queue"]),
    st.lists(steps, min_size=1, max_size=25).map(tuple),
    st.sampled_from(["accept", "accept", "reject"]),
)


@dataclass
class Ledger:
    """What was promised to clients.

    acknowledged: by token and recipient, when it was first handed in. refused: told 5xx. named: the answer
    says that it was not sent to them. again: how often it was handed in again so late that the bridge need
    not remember, or on purpose. copies: how often on purpose, to a bridge that knew that its client had the
    answer. tokens: by queue id.
    """

    acknowledged: dict[tuple[str, str], float] = field(default_factory=dict)
    refused: set[tuple[str, str]] = field(default_factory=set)
    named: set[tuple[str, str]] = field(default_factory=set)
    again: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    sent_by: dict[str, Send] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)


class Client:
    """One client with one message, until it is acknowledged or refused, or gives up."""

    def __init__(self, world: World, ledger: Ledger, token: str, send: Send) -> None:
        self.world = world
        self.ledger = ledger
        self.token = token
        self.send = send
        self.began = world.now
        self.recipients = tuple(f"{kind}+{number}@example.org" for number, kind in enumerate(send.kinds))
        ledger.sent_by[token] = send

    async def run(self) -> None:
        life = await self.hand_in()
        if self.send.repeats and life is not None and not life.dead:
            self.ledger.again[self.token] += 1
            if life is await self.hand_in():
                self.ledger.copies[self.token] += 1

    async def hand_in(self) -> Life | None:
        """Try until all are answered for; the bridge that has acknowledged it, None for none."""
        left = self.recipients
        vanishes = self.send.vanishes
        began: float | None = None
        for _ in range(TRIES):
            await self.world.up.wait()
            before, began = began, self.world.now
            life = self.world.life
            assert life is not None
            envelope = self.envelope(left)
            try:
                verdict = await life.accept(envelope, self.message())
            except DiedError:
                await asyncio.sleep(REPEAT_AFTER)
                continue
            finally:
                # It is recognised only for so long, and the bridge may have looked as late as now.
                if before is not None and self.world.now - before >= MEMORY - REPEAT_AFTER:
                    self.ledger.again[self.token] += 1
            life.answered(envelope, received=not vanishes)
            if vanishes:
                vanishes = False
                # A 5xx is not repeated: who is refused in part, and asks again, has it sent again.
                self.ledger.again[self.token] += verdict.reply.permanent
            elif self.send.per_recipient:
                left = self.take_each(verdict.outcomes)
            elif verdict.reply.success:
                named = verdict.reply.text.partition("not sent to")[2]
                self.ledger.named |= {(self.token, who) for who in left if f"<{who}>" in named}
                self.acknowledge(left)
                return life
            elif verdict.reply.permanent:
                named = verdict.reply.text.partition("; ")[0]
                whole = self.world.policy.partial_bounce == "accept"
                self.refuse(who for who in left if whole or f"<{who}>" in named)
                return None
            if not left:
                return None
            await asyncio.sleep(REPEAT_AFTER)
        return None

    def envelope(self, recipients: tuple[str, ...]) -> Envelope:
        envelope = Envelope(
            reverse_path=f"s{self.token}@example.com",
            forward_paths=recipients,
            notify=dict.fromkeys(recipients, "NEVER") if self.send.never else {},
            per_recipient=self.send.per_recipient,
        )
        self.ledger.tokens[envelope.queue_id] = self.token
        return envelope

    def message(self) -> bytes:
        invalid = b"X-Invalid: yes\r\n" if self.send.invalid else b""
        return b"X-Token: %b\r\n%bSubject: model\r\n\r\nhello\r\n" % (self.token.encode(), invalid)

    def take_each(self, outcomes: Outcomes) -> tuple[str, ...]:
        """LMTP: each recipient's own answer; those that are left are tried again."""
        self.acknowledge(who for who, reply in outcomes.items() if reply.success)
        self.refuse(who for who, reply in outcomes.items() if reply.permanent)
        return tuple(who for who, reply in outcomes.items() if reply.transient)

    def acknowledge(self, recipients: Iterable[str]) -> None:
        for who in recipients:
            self.ledger.acknowledged[self.token, who] = self.began

    def refuse(self, recipients: Iterable[str]) -> None:
        for who in recipients:
            self.ledger.refused.add((self.token, who))


def play(scenario: Scenario, directory: Path) -> list[str]:
    """Everything that was broken, a line each, nothing where all promises held."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(_play(scenario, directory))


async def _play(scenario: Scenario, directory: Path) -> list[str]:
    world = World(
        directory / "spool.sqlite3",
        MessagePolicy(mode=scenario.mode, reply_timeout=10.0, partial_bounce=scenario.partial_bounce),
    )
    ledger = Ledger()
    clients: list[asyncio.Task[None]] = []
    with simulated(world):
        await world.start()
        for step in scenario.steps:
            await _take(step, world, ledger, clients)
            await _restart_if_dead(world)
        late = await _come_to_rest(world, clients)
        await world.kill(reboot=False)
    return [*late, *broken(world, ledger)]


async def _take(step: Step, world: World, ledger: Ledger, clients: list[asyncio.Task[None]]) -> None:
    match step:
        case Send():
            client = Client(world, ledger, f"t{len(clients)}", step)
            clients.append(asyncio.get_running_loop().create_task(client.run()))
            await asyncio.sleep(0)
        case Weather(fate):
            world.api.weather = fate
        case Next(fates):
            world.api.script.extend(fates)
        case Disk(mode):
            world.spool_mode = mode
        case Jump(seconds):
            world.skew += seconds
        case Wait(seconds):
            await _let_pass(world, seconds)
        case Pause(seconds):
            world.loop.now += seconds
        case Kill(after, away, reboot):
            if world.life is not None:
                world.life.left = after
                await _let_pass(world, 60.0)
            await world.kill(reboot=reboot)
            await asyncio.sleep(away)
        case Stop(away):
            if world.life is not None and not world.life.dead:
                with contextlib.suppress(DiedError):
                    await world.life.stop()
            await world.bury()
            await asyncio.sleep(away)


async def _let_pass(world: World, seconds: float) -> None:
    """Let time go on, until the bridge dies."""
    life = world.life
    if life is None:
        await asyncio.sleep(seconds)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await life.ended.wait()


async def _restart_if_dead(world: World) -> None:
    if world.life is None or world.life.dead:
        await world.start()


async def _come_to_rest(world: World, clients: list[asyncio.Task[None]]) -> list[str]:
    """Everything works again: until nothing waits any more."""
    world.api.weather, world.spool_mode = Fate.FINE, "fine"
    world.api.script.clear()
    if world.life is not None:
        world.life.left = None
    await _restart_if_dead(world)
    deadline = world.now + LONGEST
    life: Life | None = world.life
    assert life is not None
    assert life.spool is not None
    while world.now < deadline:
        await asyncio.sleep(120.0)
        if all(client.done() for client in clients) and not await life.spool.count():
            for client in clients:
                client.result()
            await asyncio.sleep(60.0)
            return []
    left = [item async for item in life.spool.items()]
    return [f"stuck: {item}" for item in left] or [f"clients that wait for ever: {clients}"]


FOR_THE_OPERATOR = ("api.token_refused", "sender.not_configured")
"""Errors that are not ours."""


def broken(world: World, ledger: Ledger) -> list[str]:
    """What was not kept of the rule."""
    errors = [line for line in world.log if line["level"] in ("error", "exception")]
    found = [f"an error of ours: {line}" for line in errors if line["event"] not in FOR_THE_OPERATOR]
    duplicates: Counter[tuple[str, str]] = Counter()
    for line in world.log:
        if line["event"] == "mail.possible_duplicate":
            for who in line["to"]:
                duplicates[ledger.tokens.get(line["queue_id"], "dsn"), who] += 1
        elif line["event"] == "mail.not_remembered":
            # The spool can't be told of the call. Who dies over it then, and is asked again, can't know.
            ledger.again[ledger.tokens[line["queue_id"]]] += 1
    failures: dict[tuple[str, str], list[Report]] = defaultdict(list)
    for report in world.api.reports:
        if report.status:
            failures[report.token, report.recipient].append(report)
    for key, began in ledger.acknowledged.items():
        found += _broken_promise(key, began, world, ledger, failures[key], duplicates[key])
    for key, times in world.api.delivered.items():
        if times > 1 + duplicates[key] + ledger.again[key[0]]:
            found.append(f"sent {times} times, {duplicates[key]} possible duplicates logged: {key}")
    for key in ledger.refused - ledger.acknowledged.keys():
        if world.api.delivered[key] > duplicates[key]:
            found.append(f"sent though its client was told 5xx: {key}")
    for key in ledger.refused:
        if _is_good(key, ledger):
            found.append(f"refused though nothing is wrong with it: {key}")
    for key, reports in failures.items():
        if _is_good(key, ledger) and any(report.status != "4.4.7" for report in reports):
            found.append(f"reported though nothing is wrong with it: {reports}")
        sender = f"s{key[0]}@example.com"
        if len(reports) > 1 + duplicates["dsn", sender] + duplicates[key] + ledger.again[key[0]]:
            found.append(f"reported {len(reports)} times: {reports}")
    return found


def _is_good(key: tuple[str, str], ledger: Ledger) -> bool:
    token, recipient = key
    return not ledger.sent_by[token].invalid and not recipient.startswith(("gone", "listed", "odd"))


def _could_not_keep(token: str, world: World, ledger: Ledger) -> bool:
    """A DSN that the spool did not take is sent once, if the bridge lives that long."""
    return any(
        line["event"] == "spool.unavailable" and ledger.tokens.get(line.get("queue_id", "")) == token
        for line in world.log
    )


def _broken_promise(
    key: tuple[str, str], began: float, world: World, ledger: Ledger, failures: list[Report], duplicates: int
) -> list[str]:
    token, recipient = key
    send = ledger.sent_by[token]
    sent = world.api.delivered[key]
    if sent and failures and not duplicates and not ledger.again[token]:
        return [f"sent, and reported as failed: {key} {failures}"]
    if any(report.status == "4.4.7" for report in failures):
        if world.now - began < EXPIRE_AFTER:
            return [f"given up early: {key} {failures}"]
        if not world.api.named[key] and not any(line["event"] == "mail.attempt" for line in world.log):
            return [f"given up without an attempt: {key} {failures}"]
    if _is_good(key, ledger) and 0 < sent + len(failures) <= ledger.copies[token]:
        return [f"sent again on purpose, and taken for a repeat: {key}"]
    if sent or failures or (key in ledger.named and _could_not_keep(token, world, ledger)):
        return []
    if any(
        line["event"] == "mail.dsn_undeliverable" and f"s{token}@example.com" in line["to"]
        for line in world.log
    ):
        return []  # it was tried for as long as mail is
    if send.never and not _is_good(key, ledger):
        return []
    if send.never and any(line["event"] == "mail.expired" and recipient in line["to"] for line in world.log):
        return []
    return [f"acknowledged, not sent and not reported: {key}"]
