"""Tables: the settings that have a structure, and that only the TOML file can set.

[senders] and [recipients] are tables of patterns; of [[account]] and [[listener]] there may be several, each
a model of its own here, whose fields are written as other settings are. Knows not how a file is read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from smtp2cf.cloudflare.tally import Rate
from smtp2cf.settings.values import (
    LOWER_CASE,
    ApiRate,
    BaseUrl,
    ClientNetworks,
    Endpoints,
    Limits,
    SenderPatterns,
    TableName,
    Token,
    UserNames,
    address_such_as,
)


class AccountTable(BaseModel):
    """[[account]]: another account that sends. The one that no table describes is the default."""

    model_config = ConfigDict(frozen=True)

    name: TableName = Field(
        description="What log lines, metrics and pages call the account.", examples=["second-brand"]
    )
    account_id: str = Field(
        pattern=r"^[\w-]+$",
        description="The Cloudflare account.",
        examples=["fedcba9876543210fedcba9876543210"],
    )
    api_token: Token = Field(
        SecretStr(""), description="An API token of this account, if it is not in a file (api_token_file)."
    )
    api_token_file: Path | None = Field(
        None,
        description="A file that holds the token. Re-read when it changes and on SIGHUP.",
        examples=["/etc/smtp2cf/second-brand.token"],
    )
    api_base_url: BaseUrl | None = Field(
        None,
        description="The URL of its API. Default: SMTP2CF_API_BASE_URL above the tables.",
        examples=["https://api.cloudflare.com/client/v4"],
    )
    sender_domains: SenderPatterns = Field(
        (),
        description="Mail from these domains goes through this account, separated by commas. *.example.com"
        " is only the subdomains.",
        examples=["example.net,*.example.net"],
    )
    users: UserNames = Field(
        (),
        description="Mail of these users goes through this account, whatever its sender.",
        examples=["shop"],
    )
    api_rate: ApiRate = Field(
        Rate(1200, 300.0), description="Maximum number of API calls in how many seconds; none: no limit."
    )
    events_queue_id: str = Field(
        "",
        pattern=r"^[\w-]*$",
        description="The Cloudflare Queue with this account's events.",
        examples=["0123456789abcdef0123456789abcdef"],
    )


class ListenerTable(BaseModel):
    """[[listener]]: another way in for mail, with rules of its own."""

    model_config = ConfigDict(frozen=True)

    name: TableName = Field(
        description="What log lines, metrics and pages call the listener, and the FileDescriptorName= of its"
        " sockets if systemd opens them. One named smtp, smtps or lmtp takes the place of"
        " SMTP2CF_SMTP_LISTEN and so on.",
        examples=["printers"],
    )
    listen: Endpoints = Field(
        (),
        description="Where to accept mail: host:port, [v6]:port or unix:/path, separated by commas. Can be"
        " left out if systemd opens the sockets.",
        examples=["0.0.0.0:25"],
    )
    protocol: Annotated[Literal["smtp", "smtps", "lmtp"], LOWER_CASE] = Field(
        "smtp", description="What is spoken: smtp, lmtp, or smtps for TLS from the first byte."
    )
    tls: Annotated[Literal["off", "offered", "required"], LOWER_CASE] = Field(
        "offered",
        description="STARTTLS: off, offered if there is a certificate, or required before any mail. smtps is"
        " always TLS.",
    )
    auth: Annotated[Literal["off", "offered", "required"], LOWER_CASE] = Field(
        "offered",
        description="Passwords: off, offered if there are users, or required of every client, whatever its"
        " network.",
    )
    tls_min_version: Literal["1.0", "1.1", "1.2", "1.3"] | None = Field(
        None,
        description="The oldest TLS version a client may use here. Default: SMTP2CF_TLS_MIN_VERSION.",
        examples=["1.0"],
    )
    allow_networks: ClientNetworks | None = Field(
        None,
        description="Networks whose clients may send without a password here. none: nobody. Default:"
        " SMTP2CF_ALLOW_NETWORKS.",
        examples=["10.0.7.11,10.0.7.12"],
    )
    sender_default: Annotated[str, address_such_as("printer@example.com")] = Field(
        "",
        description="Replaces a sender that may not send, for mail that came in here.",
        examples=["printer@example.com"],
    )
    allowed_senders: SenderPatterns = Field(
        (),
        description="Who may send here: addresses and domains, separated by commas. A user's own list counts"
        " too. Default: any.",
        examples=["printer@example.com"],
    )
    allowed_recipients: SenderPatterns = Field(
        (),
        description="To whom mail may go from here: addresses and domains, separated by commas. Default:"
        " any.",
        examples=["example.com"],
    )
    client_quota: Limits | None = Field(
        None,
        description="How much one client address may send here; none: no limit. Default:"
        " SMTP2CF_CLIENT_QUOTA.",
        examples=["30 messages/1m, 5000 recipients/1d"],
    )
    user_quota: Limits | None = Field(
        None,
        description="How much one user may send here, unless the users file says something else about the"
        " user. Default: SMTP2CF_USER_QUOTA.",
        examples=["1000 messages/1d"],
    )
    sender_quota: Limits | None = Field(
        None,
        description="How much may come from one sender address here. Default: SMTP2CF_SENDER_QUOTA.",
        examples=["100 messages/1h"],
    )


class TablesFields(BaseModel):
    """What only tables can say."""

    senders: Mapping[str, str] = Field(
        {},
        description="Who sends instead of whom: pattern = address. A pattern is an address, a domain, a name"
        " at any domain (root@*), a name alone, or * for all; the most specific one counts.",
        examples=[{"root": "cron@example.com", "*@web1.internal": "web1@example.com"}],
    )
    recipients: Mapping[str, tuple[str, ...]] = Field(
        {},
        description="Who gets mail instead of whom: pattern = address, or an array of addresses. Patterns"
        " are those of [senders].",
        examples=[{"root": "ops@example.com", "backup@*": ("ops@example.com", "storage@example.com")}],
    )
    accounts: tuple[AccountTable, ...] = Field(
        (), description="More accounts, chosen by a mail's user or else by its sender's domain."
    )
    listeners: tuple[ListenerTable, ...] = Field(
        (), description="More ways in for mail, each with rules of its own."
    )


class Table(NamedTuple):
    """What a table sets. row: the model of one, where there may be several; None for a table of patterns."""

    setting: str
    row: type[AccountTable | ListenerTable] | None


TABLES: Mapping[str, Table] = {
    "senders": Table("senders", None),
    "recipients": Table("recipients", None),
    "account": Table("accounts", AccountTable),
    "listener": Table("listeners", ListenerTable),
}
"""Every table, by its name in the file."""


def header_of(name: str) -> str:
    """How a table begins in the file."""
    return f"[{name}]" if TABLES[name].row is None else f"[[{name}]]"
