"""Accounts: those that the settings describe, and whose mail each of them sends."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import SecretStr

from smtp2cf.access.senders import Senders
from smtp2cf.cloudflare.account import Account
from smtp2cf.cloudflare.api import Api
from smtp2cf.cloudflare.budget import Budget
from smtp2cf.cloudflare.events import EventQueue
from smtp2cf.relay.accounts import Accounts, Outlet, Share
from smtp2cf.settings.fields import Settings, SettingsError
from smtp2cf.settings.fields.tables import AccountTable
from smtp2cf.settings.rooms import public_cas
from smtp2cf.spool import Spool

DEFAULT = "default"
"""What the account is called that no table describes, where there are others."""
NO_FILES: Mapping[str, Path] = {}


def tables(settings: Settings, secrets: Mapping[str, Path] = NO_FILES) -> tuple[AccountTable, ...]:
    """A table for each account, each with the URL of its API; the default is called DEFAULT.

    secrets: the files that hold secrets, by the name of the setting.
    """
    default = AccountTable.model_construct(
        name=DEFAULT,
        account_id=settings.account_id,
        api_token=settings.api_token,
        api_token_file=secrets.get("api_token"),
        api_base_url=settings.api_base_url,
        api_rate=settings.api_rate,
        events_queue_id=settings.events_queue_id,
    )
    others = (
        table.model_copy(update={"api_base_url": table.api_base_url or settings.api_base_url})
        for table in settings.accounts
    )
    return (*((default,) if settings.account_id else ()), *others)


def build(settings: Settings, table: AccountTable, store: Spool | None = None) -> Account:
    """One account. store: where its calls are counted. Raises SettingsError."""
    names, shared = _names(settings, table), settings.spool_url.get_secret_value().startswith("postgres")
    budget = None
    if (rate := table.api_rate) is not None:
        where = names.get("SMTP2CF_API_RATE", "SMTP2CF_API_RATE")
        budget = Budget(rate, table.account_id, store, shared=shared, setting=where)
    try:
        with public_cas():
            return Account(
                base_url=table.api_base_url or settings.api_base_url,
                account_id=table.account_id,
                token=table.api_token.get_secret_value(),
                timeout=settings.api_timeout,
                concurrency=settings.api_concurrency,
                name=table.name if settings.accounts else "",
                budget=budget,
                names=names,
            )
    except ValueError as error:
        raise SettingsError(str(error)) from None


def build_all(
    settings: Settings, secrets: Mapping[str, Path] = NO_FILES, store: Spool | None = None
) -> list[Account]:
    """Every account, the default first. Raises SettingsError."""
    return [build(settings, table, store) for table in tables(settings, secrets)]


def named(settings: Settings, secrets: Mapping[str, Path] = NO_FILES, name: str = "") -> Account:
    """One account, for a command; without a name, the default or the only one. Raises SettingsError."""
    found = tables(settings, secrets)
    for table in found:
        if table.name == name or (not name and (table.name == DEFAULT or len(found) == 1)):
            return build(settings, table)
    known = ", ".join(table.name for table in found)
    if name:
        raise SettingsError(f"there is no account {name}: name one of {known}")
    raise SettingsError(f"there are several accounts: name one of {known} with --account")


def shares(described: Sequence[AccountTable], accounts: Sequence[Account]) -> list[Share]:
    """Whose mail each account sends that has a table."""
    by_name = {account.name: account for account in accounts}
    return [
        Share(outlet_of(by_name[table.name]), Senders.parse(table.sender_domains), table.users)
        for table in described
    ]


def choice(settings: Settings, accounts: Sequence[Account]) -> Accounts:
    """What the relay chooses from. accounts: as `build_all` made them."""
    default = outlet_of(accounts[0]) if settings.account_id else None
    return Accounts(default, shares(settings.accounts, accounts))


def events_api(settings: Settings, default: Account | None) -> Api | None:
    """The default account's API with the token for events; None if that has none of its own."""
    token = settings.events_api_token.get_secret_value()
    names = {"SMTP2CF_API_TOKEN": "SMTP2CF_EVENTS_API_TOKEN"}
    return default.client.api_with(token, names) if token and default is not None else None


def event_queues(
    settings: Settings, accounts: Sequence[Account], api: Api | None = None
) -> dict[str, EventQueue]:
    """The queue of events of each account that has one, by the account's name. api: see events_api."""
    queues = {}
    for table, account in zip(tables(settings), accounts, strict=True):
        if table.events_queue_id:
            its_api = api if api is not None and table.name == DEFAULT else account.client.api
            queues[account.name] = EventQueue(its_api, table.events_queue_id)
    return queues


def outlet_of(account: Account) -> Outlet:
    """An account as the relay uses it."""
    return Outlet(account.client.send, account.name, account, account.suppression_reasons.replies)


def _names(settings: Settings, table: AccountTable) -> dict[str, str]:
    """What messages about an account call its settings, by the names in the environment."""
    token = "api_token_file" if table.api_token_file is not None else "api_token"
    if table.name == DEFAULT:
        return {"SMTP2CF_API_TOKEN": f"SMTP2CF_{token.upper()}"}
    own_url = any(each.name == table.name and each.api_base_url for each in settings.accounts)
    keys = ("account_id", "api_rate", *(("api_base_url",) if own_url else ()))
    names = {f"SMTP2CF_{key.upper()}": f"[[account]] {table.name}: {key}" for key in keys}
    return names | {"SMTP2CF_API_TOKEN": f"[[account]] {table.name}: {token}"}


def doubts(settings: Settings) -> Iterator[str]:
    """A line for each account that sends nothing, and each sender of ours whose mail none sends."""
    for table in settings.accounts:
        if not table.sender_domains and not table.users:
            yield f"[[account]] {table.name} sends no mail: name its sender_domains or its users"
    if settings.account_id or not settings.accounts:
        return
    covered = [Senders.parse(table.sender_domains) for table in settings.accounts if table.sender_domains]
    ours = {
        "SMTP2CF_POSTMASTER": settings.postmaster,
        "SMTP2CF_NULL_SENDER_ADDRESS": settings.null_sender_address,
    }
    for setting, address in ours.items():
        if address and not any(senders.allow(address) for senders in covered):
            yield (
                f"{setting}={address} can't send, for no account does: name its domain in the sender_domains"
                " of an [[account]]"
            )


def without_tokens(settings: Settings) -> Settings:
    """For a sandbox, which needs none."""
    blank: dict[str, object] = {"api_token": SecretStr(""), "api_token_file": None}
    accounts = tuple(table.model_copy(update=blank) for table in settings.accounts)
    return settings.model_copy(update={"api_token": SecretStr(""), "accounts": accounts})


def token_files(settings: Settings) -> dict[str, Path]:
    """The files that hold accounts' tokens, by what names them."""
    return {
        f"[[account]] {table.name}: api_token_file": table.api_token_file
        for table in settings.accounts
        if table.api_token_file is not None
    }
