"""Accounts: those that send, what the relay chooses from, and how they change while the bridge runs.

Tokens, and whose mail an account sends, are used as soon as the TOML file says otherwise. An account that
comes or goes, and anything else about one, waits for a restart.
"""

import functools
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path

from smtp2cf.cloudflare.account import Account
from smtp2cf.cloudflare.events import EventQueue
from smtp2cf.journal import mail_counts
from smtp2cf.journal.metrics import Gauge
from smtp2cf.journal.readiness import Readiness
from smtp2cf.relay import Queue
from smtp2cf.reply import few_in_words
from smtp2cf.settings import accounts
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.fields.tables import AccountTable
from smtp2cf.spool import Spool

LIVE = frozenset({"api_token", "api_token_file", "sender_domains", "users"})
"""Keys of [[account]] that are used without a restart."""
NAMED_LIMIT = 5
"""Accounts, senders or users that a line names."""


class AccountsInUse:
    """One bridge's accounts.

    written: the tables as they stand in the file. secrets: the files that hold secrets, by setting.
    """

    def __init__(
        self,
        settings: Settings,
        store: Spool | None,
        written: Sequence[AccountTable],
        secrets: Mapping[str, Path] = accounts.NO_FILES,
    ) -> None:
        self._accounts = accounts.build_all(settings, secrets, store)
        for account in self._accounts:
            mail_counts.begin(account.name)
        self._default = self._accounts[0] if settings.account_id else None
        self._written = written
        self._queue: Queue | None = None
        self.choice = accounts.choice(settings, self._accounts)
        self._events_api = accounts.events_api(settings, self._default)
        self._queues = accounts.event_queues(settings, self._accounts, self._events_api)

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts)

    def wake(self, queue: Queue) -> None:
        """Have waiting mail told when calls get through again."""
        self._queue = queue
        for account in self._accounts:
            account.health.recovered = functools.partial(queue.retry_all, account.name)
            account.health.changed = queue.wake

    def watches(self) -> Iterator[tuple[str, Callable[[], Coroutine[None, None, None]]]]:
        """What runs for as long as the bridge does, by name."""
        for account in self._accounts:
            yield "serve.watch_account", account.watch
            yield "serve.watch_quota", account.quota.watch

    @property
    def event_queues(self) -> Mapping[str, EventQueue]:
        """Where events come from, by the name of the account. Only those that have a queue."""
        return self._queues

    def use_events_token(self, token: str) -> None:
        """Another token for the default account's queue. Raises ValueError where it had none of its own."""
        if self._events_api is None:
            raise ValueError("the events' token is used only after a restart")
        self._events_api.use_token(token)

    def stop_waiting(self) -> None:
        """The process is to end: see Pacer.stop_waiting."""
        for account in self._accounts:
            account.pacer.stop_waiting()

    async def aclose(self) -> None:
        """Close all connections."""
        for account in self._accounts:
            await account.aclose()

    # ---- what changes

    def use_token(self, token: str) -> None:
        """Another token of the default account. Raises ValueError where there is none."""
        if self._default is None:
            raise ValueError("there is no default account until a restart")
        self._default.use_token(token)

    def use_tables(self, tables: Sequence[AccountTable]) -> None:
        """What the file says now. Raises ValueError if some of it waits for a restart: then it is only the
        tokens that are used, for whose mail is whose may depend on the rest."""
        fixed = [_fixed(table) for table in tables] == [_fixed(table) for table in self._written]
        before = {table.name: table for table in self._written}
        by_name = {account.name: account for account in self._accounts}
        for table in tables:
            old = before.get(table.name)
            if old is None or _fixed(old) != _fixed(table):
                continue
            token = table.api_token.get_secret_value()
            if token and token != old.api_token.get_secret_value():
                by_name[table.name].use_token(token)
                before[table.name] = old.model_copy(update={"api_token": table.api_token})
        self._written = tuple(before.values())
        if not fixed:
            raise ValueError("which accounts there are is set at the start")
        self._written = tables
        self.choice.use(accounts.shares(tables, self._accounts))
        if self._queue is not None:
            self._queue.retry_all()

    # ---- what is seen of them

    @property
    def _several(self) -> bool:
        return any(account.name for account in self._accounts)

    def can_send(self) -> Readiness:
        """Whether any of them can; who can't is the warning."""
        down = [account for account in self._accounts if account.health.down]
        who = [f"account {each.name}: " if self._several else "" for each in down]
        texts = [f"{name}{each.health.reply.text}" for name, each in zip(who, down, strict=True)]
        return Readiness(len(down) < len(self._accounts), few_in_words(texts, NAMED_LIMIT))

    def summary(self) -> Mapping[str, str]:
        """For the status page."""
        if not self._several:
            return self._accounts[0].summary()
        shown: dict[str, str] = {}
        for account in self._accounts:
            lines = {"sends for": self._sends_for(account.name), **account.summary()}
            shown |= {f"{account.name}: {name}": value for name, value in lines.items()}
        return shown

    def _sends_for(self, name: str) -> str:
        whose = [
            text
            for table in self._written
            if table.name == name
            for text in (*table.sender_domains, *(f"user {user}" for user in table.users))
        ]
        if not whose:
            return "all others" if name == accounts.DEFAULT else "nobody"
        return few_in_words(whose, NAMED_LIMIT)

    def in_words(self) -> str:
        """Whether calls get through: "up", or who is not."""
        if not self._several:
            return self._accounts[0].health.in_words()
        down = [f"{each.name} {each.health.in_words()}" for each in self._accounts if each.health.down]
        return few_in_words(down, NAMED_LIMIT) if down else "up"

    def gauges(self) -> list[Gauge]:
        """For /metrics."""
        found: dict[str, Gauge] = {}
        for account in self._accounts:
            for name, (text, value) in account.gauges().items():
                found.setdefault(name, Gauge(name, text, {})).values[account.name] = value
        return list(found.values())


def _fixed(table: AccountTable) -> dict[str, object]:
    return {name: value for name, value in table if name not in LIVE}
