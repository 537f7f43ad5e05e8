"""The bridge: built and wired from the settings, started, drained and stopped. `process` runs it."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from smtp2cf import spool
from smtp2cf.access.counts import Counts
from smtp2cf.access.rules import Access
from smtp2cf.access.senders import also
from smtp2cf.envelope import Envelope, Outcomes, SenderRefusal
from smtp2cf.journal import maillog, metrics, tasks
from smtp2cf.listen.certificate import Certificate
from smtp2cf.listen.file_watch import Rereadable
from smtp2cf.listen.notify import Notifier
from smtp2cf.listen.places import Place
from smtp2cf.listen.signals import LeftBehind
from smtp2cf.relay import DropDirectory, Relay
from smtp2cf.relay.checks import RefusalAt
from smtp2cf.relay.drop import OverQuota
from smtp2cf.relay.sender_domains import NOBODY_KNOWN
from smtp2cf.reply import Reply
from smtp2cf.serve.accounts import AccountsInUse
from smtp2cf.serve.addresses import AddressesInUse
from smtp2cf.serve.events import EventsInUse
from smtp2cf.serve.outside import OutsideView
from smtp2cf.serve.rules import GENERAL, RulesInUse
from smtp2cf.serve.told import Told
from smtp2cf.settings import listening, quotas, rooms, trial
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.fields.tables import ListenerTable
from smtp2cf.settings.listening import Way
from smtp2cf.settings.reread import NOT_REREAD, Reread, SettingsFile
from smtp2cf.settings.secret_files import SecretFile
from smtp2cf.smtpd import Listener, Rules, Server, judge, memory, over_quota
from smtp2cf.spool import FollowingSpool, Spool
from smtp2cf.spool.health import SpoolHealth
from smtp2cf.spool.item_json import items_as_json
from smtp2cf.spool.mark import Mark
from smtp2cf.web import Admin

FIRST_LOOK = 1.0
"""Seconds for which the start waits for the spool's first answer; the bridge is not ready without it."""
LAST_LOOK = 0.5
"""Seconds for a last look at the spool, when the process is to end at once."""

log = structlog.stdlib.get_logger("smtp2cf.serve")


class Bridge:
    """Everything that runs in one `smtp2cf serve`.

    store: the spool, None for none. secrets: the files that hold secrets, by the name of the setting.
    file: the settings' own, None for none. mark: says that the spool is this bridge's.
    """

    def __init__(
        self,
        settings: Settings,
        store: FollowingSpool | None,
        certificate: Certificate | None = None,
        secrets: Mapping[str, Path] | None = None,
        file: SettingsFile | None = None,
        mark: Mark | None = None,
    ) -> None:
        self._settings = settings
        self.mark = mark
        self.certificate = certificate
        self.spool = store
        self.spool_health = SpoolHealth(store, settings.warn_after) if store is not None else None
        self.recorder = rooms.recorder(settings)
        self.addresses = AddressesInUse(settings, may_change=file is not None)
        self.access = rooms.access(settings, self.addresses.of_senders)
        self.addresses.recipients.use_users(self.access.recipients_of)
        from_file = file.first.settings if file is not None else settings
        self.accounts = AccountsInUse(settings, store, from_file.accounts, secrets or {})
        self._counts = quotas.counts_in(store, settings)
        self._bounce = rooms.bounce_policy(settings, quotas.dsn_quota(settings, self._counts))
        self._events = EventsInUse(settings, store, self.accounts, self._bounce)
        self.relay = _relay(
            settings, store, self.accounts, self.access, self._sender_refusal_at, self.addresses, self._events
        )
        self._closed = functools.partial(_spool_refusal, store, mark) if store is not None else None
        self._sessions = quotas.session_limits(settings)
        self._told = Told(settings, store, self._bounce)
        self.server = Server(
            self.relay.accept, rooms.capacity(settings), self.relay.answered if store is not None else None
        )
        self.rules = RulesInUse(settings, from_file.listeners, self._rules_at)
        self.outside = OutsideView(
            settings,
            self.accounts,
            self.relay.sender_domains,
            self.server,
            self.spool_health,
            certificate,
            self.rules.relays_for,
            self._closed,
        )
        self.admin = _admin(settings, self.outside, store)
        self.drop = _drop(settings, self.relay, self._closed, self._over_quota, self.addresses)
        self._has_file = file is not None
        self._read_from_files = [*self._settings_files(secrets or {}, file), *self._other_files()]
        self._drop_run: asyncio.Task[None] | None = None
        self._watches: list[asyncio.Task[None]] = []
        self._fatal: list[asyncio.Task[None]] = []

    def _rules_at(self, settings: Settings, way: Way) -> Rules:
        """Who may do what at one way in. What is counted is counted for all of them together."""
        listener = way.name if way.tabled else ""
        refusal = self.access.refusal_at(listener) if listener else self.access.sender_refusal
        return Rules(
            self.addresses.policy_at(settings, way),
            authenticate=self.access.authenticate_at(listener) if way.described.auth != "off" else None,
            sender_refusal=also(refusal, listening.senders_at(way), way.setting),
            sessions=self._sessions,
            quotas=quotas.quotas_at(settings, way, self._counts, self.access.quota_of),
            closed=self._closed,
        )

    async def _over_quota(self, envelope: Envelope) -> Outcomes:
        """The recipients of dropped mail who are too many now."""
        found = quotas.general_quotas(self.rules.settings, self._counts)
        return await over_quota(found, envelope) if found is not None else {}

    def _sender_refusal_at(self, listener: str) -> SenderRefusal | None:
        return self.rules.sender_refusal(listener)

    def _settings_files(self, secrets: Mapping[str, Path], file: SettingsFile | None) -> Iterator[Rereadable]:
        uses: dict[str, Callable[[Any], None]] = {
            "api_token": self.accounts.use_token,
            "accounts": self.accounts.use_tables,
            "spool_url": self._use_spool_url,
            "events_api_token": self.accounts.use_events_token,
            "webhook_secret": self._told.use_webhook_secret,
            **{name: functools.partial(self.rules.use, name) for name in GENERAL},
            "listeners": self._use_listeners,
            **self.addresses.uses(self.access),
        }
        for name, path in secrets.items():
            yield SecretFile(self._settings, name, path, uses[name])
        if file is not None:
            yield Reread(file, uses)

    def _use_listeners(self, tables: Sequence[ListenerTable]) -> None:
        self.rules.use_listeners(tables)
        self.addresses.use_listeners(tables)

    def _use_spool_url(self, url: str) -> None:
        """Connect with another login. Raises ValueError if that is another spool."""
        if self.spool is None:
            raise ValueError(spool.ANOTHER_SPOOL)
        self.spool.use_url(url)
        if self.recorder is not None:
            self.recorder.journal.use_url(url)

    def _other_files(self) -> Iterator[Rereadable]:
        yield from filter(None, (self.certificate, self.access.users, self.addresses.recipients.file))

    async def start(self, listeners: Sequence[Listener], admin: Place) -> None:
        """Take mail and answer probes on listening sockets."""
        self._told.listen()
        await self.admin.start(admin.sockets)
        if isinstance(self._counts, Counts):
            await self._counts.read()
            self._watch(self._counts.keep, "serve.keep_counts")
        for listener in listeners:
            await self.server.start(listener)
        labelled = [*self.accounts.gauges(), *self.outside.at_listeners()]
        metrics.export({**self.outside.gauges(), **self._told.gauges()}, labelled)
        self._keep_journal()
        watches = (*self.accounts.watches(), *self._told.watches(), *self._events.watches())
        for name, watch in watches:
            self._watch(watch, name)
        self._watch(memory.give_back, "serve.give_back_memory")
        for thing in self._read_from_files:
            self._watch(thing.watch, "serve.watch_file")
        if self.mark is not None and self.relay.queue is not None:
            keep = functools.partial(self.mark.keep, self.relay.queue.start)
            self._fatal.append(tasks.keep_running(keep, "serve.keep_mark", fatal=spool.SpoolError))
        self._drop_run = tasks.keep_running(self.drop.run, "drop.run")
        if self.spool_health is not None:
            await self._start_to_watch_spool(self.spool_health)

    def _keep_journal(self) -> None:
        maillog.record_with(self.recorder)
        if self.recorder is not None:
            self.recorder.start()

    def say_who_reports(self) -> None:
        """Warn, once that is known, if nobody is known whom DSNs could come from."""
        if not self._settings.postmaster:
            self._watch(self._say_who_reports, "serve.say_who_reports")

    async def _say_who_reports(self) -> None:
        await self.relay.sender_domains.read()
        if not await self.relay.sender_domains.that_have_sent():
            log.warning("dsn.no_sender", note=NOBODY_KNOWN)

    def _watch(self, work: Callable[[], Coroutine[None, None, None]], name: str) -> None:
        self._watches.append(tasks.keep_running(work, name))

    async def _start_to_watch_spool(self, health: SpoolHealth) -> None:
        self._fatal.append(tasks.keep_running(health.watch, "serve.watch_spool", fatal=spool.SpoolError))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                await health.looked.wait()

    def tell(self, notifier: Notifier) -> None:
        """Tell systemd that mail is taken, and from now on what waits and whether calls get through."""
        notifier.ready()
        self._watch(functools.partial(notifier.watch, self.outside.in_a_line), "serve.notify")

    async def until(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set; raises SpoolError if the spool turns out to be unusable."""
        stopped = asyncio.create_task(stop.wait())
        try:
            for ended in (await asyncio.wait((stopped, *self._fatal), return_when=asyncio.FIRST_COMPLETED))[
                0
            ]:
                ended.result()
        finally:
            stopped.cancel()

    async def stop(self) -> None:
        """Give what is under way DRAIN_TIMEOUT to finish, then close everything."""
        deadline = time.monotonic() + self._settings.drain_timeout
        self.drop.stop()
        if self.relay.queue is not None:
            await self.relay.queue.stop_claiming()
        self.accounts.stop_waiting()
        await self.server.drain(self._settings.drain_timeout)
        if self._drop_run is not None:
            await asyncio.wait((self._drop_run,), timeout=max(0.0, deadline - time.monotonic()))
            self._drop_run.cancel()
        await self.relay.drain(max(0.0, deadline - time.monotonic()))
        watches = (*self._watches, *self._fatal)
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        await self.admin.stop()
        if isinstance(self._counts, Counts):
            await self._counts.write()
        await self.accounts.aclose()
        await self._told.close()
        self.access.close()
        if self.spool is not None:
            await self.spool.close()
        if self.recorder is not None:
            maillog.record_with(None)
            await self.recorder.close()

    async def left_behind(self) -> LeftBehind:
        """What would not be finished if the process ended now."""
        waiting, place = 0, ""
        if self.spool_health is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_LOOK):
                    await self.spool_health.look()
            waiting = self.spool_health.messages
            place = spool.place(self._settings.spool_url.get_secret_value(), self._settings.state_dir)
        sessions = self.server.sessions
        under_way = sum(1 for session in sessions if session.held)
        kept = not trial.is_temporary(self._settings.state_dir)
        return LeftBehind(len(sessions), under_way, waiting, place, kept)

    def reload(self, notifier: Notifier) -> None:
        """Re-read settings, certificate, users and secrets; ask Cloudflare again about senders' domains."""
        self.relay.sender_domains.ask_again()
        if self.recorder is not None:
            self.recorder.act("operator.reload", "SIGHUP", {})
        tasks.start(self._reread(notifier), "serve.reread")

    async def _reread(self, notifier: Notifier) -> None:
        with notifier.reloading():
            if not self._has_file:
                log.info("settings.not_reread", note=NOT_REREAD)
            for thing in self._read_from_files:
                await thing.reread()


def _relay(
    settings: Settings,
    store: FollowingSpool | None,
    accounts: AccountsInUse,
    access: Access,
    refusal_at: RefusalAt,
    addresses: AddressesInUse,
    events: EventsInUse,
) -> Relay:
    """The relay, whose waiting mail is told when calls get through again."""
    relay = Relay(
        accounts.choice,
        rooms.message_policy(settings),
        spool=store,
        retry=rooms.retry_policy(settings),
        bounce=events.bounce,
        sender_refusal=access.sender_refusal,
        refusal_at=refusal_at,
        following=events.following,
        lost=events.lost,
        rewriting=addresses.rewriting,
        senders=addresses.senders,
    )
    if relay.queue is not None:
        accounts.wake(relay.queue)
    return relay


def _drop(
    settings: Settings,
    relay: Relay,
    closed: Callable[[], Reply | None] | None,
    too_many: OverQuota,
    addresses: AddressesInUse,
) -> DropDirectory:
    """The directory where sendmail(1) leaves mail, which is judged by the same policy as over SMTP."""
    return DropDirectory(
        rooms.drop_policy(settings),
        functools.partial(judge, addresses.policy(settings)),
        relay.accept,
        relay.bounce,
        relay.answered,
        closed=closed,
        over_quota=too_many,
    )


def _admin(settings: Settings, outside: OutsideView, store: Spool | None) -> Admin:
    """What is shown over HTTP."""
    return Admin(
        outside.readiness,
        outside.can_send,
        outside.status,
        functools.partial(items_as_json, store) if store is not None else None,
        hosts=rooms.own_names(settings),
    )


def _spool_refusal(store: Spool, mark: Mark | None) -> Reply | None:
    """The reply to new mail while the spool takes none."""
    refusal = store.refusal() or (mark.refusal() if mark is not None else None)
    return refusal.reply if refusal is not None else None
