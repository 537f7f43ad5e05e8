"""Fields: every setting, with its default, its bounds and its description (pydantic-settings).

Knows how a value is written only by its kind (values.py), and not where values come from (loading.py).
"""

import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from smtp2cf.cloudflare.tally import Rate
from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.settings.values import (
    HOST_NAME,
    LOOPBACK,
    LOWER_CASE,
    ApiRate,
    BaseUrl,
    Duration,
    Endpoints,
    FieldNames,
    HostNames,
    Networks,
    SenderPatterns,
    Size,
    SpoolUrl,
    Token,
    address_such_as,
    default_state_dir,
)

PREFIX = "SMTP2CF_"


class SettingsError(Exception):
    """The settings are wrong; each argument is a line for the operator."""

    def __str__(self) -> str:
        return "\n".join(self.args)


class Settings(BaseSettings):
    """Everything an operator can set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    account_id: str = Field(
        "",
        validation_alias=AliasChoices("SMTP2CF_ACCOUNT_ID", "CLOUDFLARE_ACCOUNT_ID"),
        pattern=r"^[\w-]*$",
        description="The Cloudflare account that sends. CLOUDFLARE_ACCOUNT_ID works too.",
        examples=["0123456789abcdef0123456789abcdef"],
    )
    api_token: Token = Field(
        SecretStr(""),
        validation_alias=AliasChoices("SMTP2CF_API_TOKEN", "CLOUDFLARE_API_TOKEN"),
        description="An API token with the permission Email Sending: Edit. CLOUDFLARE_API_TOKEN works too. Or"
        " name a file that holds the token in SMTP2CF_API_TOKEN_FILE, which is re-read when it changes and on"
        " SIGHUP.",
    )
    api_base_url: BaseUrl = Field(
        "https://api.cloudflare.com/client/v4",
        pattern=r"^https?://[^\s/]+.*$",
        description="The URL of Cloudflare's API. HTTPS_PROXY and NO_PROXY of the environment apply.",
    )
    api_timeout: Duration = Field(60, gt=0, le=600, description="Maximum time for one API call.")
    api_concurrency: int = Field(100, ge=1, le=10000, description="Maximum number of simultaneous API calls.")
    api_rate: ApiRate = Field(
        Rate(1200, 300.0),
        description="Maximum number of API calls in how many seconds, for all bridges on one spool together."
        " Cloudflare's limit is 1200/300 for each token, and who exceeds it is refused for five minutes: set"
        " less if other programs use the same token. none: no limit but what Cloudflare's answers say;"
        " the default of a sandbox.",
    )

    smtp_listen: Endpoints = Field(
        (Endpoint("127.0.0.1", 2525),),
        description="Where to accept mail: host:port, [v6]:port or unix:/path, separated by commas.",
    )
    smtps_listen: Endpoints = Field(
        (),
        description="Where to accept mail over SMTP with TLS from the first byte (port 465 elsewhere). Needs"
        " SMTP2CF_TLS_CERT_FILE.",
        examples=["0.0.0.0:2465"],
    )
    lmtp_listen: Endpoints = Field(
        (),
        description="Where to accept mail over LMTP, which answers for each recipient separately.",
        examples=["unix:/run/smtp2cf/lmtp"],
    )
    socket_mode: str = Field(
        "0660",
        pattern=r"^0?[0-7]{3}$",
        description="Permissions of the bridge's unix sockets, in octal. Who may write to a socket may"
        " connect.",
    )
    socket_group: str = Field(
        "",
        description="The group of the bridge's unix sockets, a name or a number. Default: the process's"
        " group.",
        examples=["mail"],
    )
    hostname: str = Field(
        default_factory=lambda: socket.gethostname(),
        validate_default=True,
        pattern=HOST_NAME,
        description="The name in the SMTP greeting. Default: this host's name.",
    )
    allow_networks: Networks = Field(
        LOOPBACK,
        description="Networks whose clients may send without a password, separated by commas. none: nobody.",
    )
    proxy_networks: Networks = Field(
        (),
        description="Networks of load balancers that speak the PROXY protocol. Every connection from there"
        " must begin with a PROXY header, which names the client.",
        examples=["10.0.0.0/24"],
    )
    tls_cert_file: Path | None = Field(
        None,
        description="The server's certificate with its chain, in PEM. Turns on STARTTLS. Re-read when it"
        " changes and on SIGHUP.",
        examples=["/etc/smtp2cf/tls/fullchain.pem"],
    )
    tls_key_file: Path | None = Field(
        None,
        description="The certificate's private key, in PEM, not encrypted. Default: in"
        " SMTP2CF_TLS_CERT_FILE.",
        examples=["/etc/smtp2cf/tls/privkey.pem"],
    )
    tls_ca_file: Path | None = Field(
        None,
        description="The CA that your clients trust, in PEM, if it is not a public one. Only used to warn at"
        " the start about a certificate that clients will refuse.",
        examples=["/etc/smtp2cf/tls/ca.pem"],
    )
    tls_min_version: Literal["1.0", "1.1", "1.2", "1.3"] = Field(
        "1.2",
        description="The oldest TLS version a client may use. 1.0 and 1.1 are broken: use them only for old"
        " devices.",
    )
    i_am_an_open_relay: bool = Field(
        False,
        description="If SMTP2CF_ALLOW_NETWORKS or SMTP2CF_PROXY_NETWORKS contains every address, the bridge"
        " starts only if this is yes.",
    )
    users_file: Path | None = Field(
        None,
        description="Users who may log in and send from anywhere, with hashes of their passwords, as written"
        " by `smtp2cf user add`. Re-read when it changes and on SIGHUP. See docs/access.md.",
        examples=["/etc/smtp2cf/users"],
    )
    auth_without_tls: bool = Field(
        False,
        description="yes offers AUTH without TLS: anybody on the network can then read passwords.",
    )
    allowed_sender_domains: SenderPatterns = Field(
        (),
        description="Domains that anybody may send from, separated by commas. example.com does not include"
        " its subdomains; *.example.com is only its subdomains. Default: any.",
        examples=["example.com,*.example.com"],
    )
    check_header_from: bool = Field(
        False,
        description="yes checks From and Sender in the header, not only MAIL FROM, against a user's allowed"
        " senders and SMTP2CF_ALLOWED_SENDER_DOMAINS.",
    )
    null_sender_address: Annotated[str, address_such_as("bounces@example.com")] = Field(
        "",
        description="Replaces the null sender <> of bounces, which Cloudflare does not accept. Without it"
        " such mail gets 550 5.1.7.",
        examples=["bounces@example.com"],
    )
    max_message_size: Size = Field(
        5 * 1024 * 1024,
        ge=1024,
        description="The largest message. 5MiB is Cloudflare's limit, or 25MiB if every recipient is a"
        " verified destination address.",
    )
    max_message_memory: Size = Field(
        512 * 1024 * 1024,
        ge=1024 * 1024,
        description="Memory for messages that are arriving or waiting for an answer, in all sessions"
        " together. Messages beyond it get 452.",
    )
    max_recipients: int = Field(
        1000,
        ge=1,
        le=100000,
        description="Maximum number of recipients of one message. Further ones get 452, and the client sends"
        " to them in another message.",
    )
    max_sessions: int = Field(
        1000,
        ge=1,
        le=100000,
        description="Maximum number of simultaneous SMTP sessions. Further ones get 421.",
    )
    session_timeout: Duration = Field(
        300,
        gt=0,
        le=86400,
        description="How long a client may be silent, or take for one command, before it gets 421. A message"
        " may take this long, plus one second for every 500 octets.",
    )
    client_max_sessions: int = Field(
        0,
        ge=0,
        le=100000,
        description="Maximum number of simultaneous SMTP sessions of one client address. 0: no limit.",
    )
    client_messages_per_minute: int = Field(
        0,
        ge=0,
        le=1000000,
        description="Maximum number of messages a minute from one client address. Further ones get 450. 0: no"
        " limit.",
    )
    client_recipients_per_minute: int = Field(
        0,
        ge=0,
        le=1000000,
        description="Maximum number of recipients a minute from one client address. Further ones get 450. 0:"
        " no limit.",
    )
    user_max_sessions: int = Field(
        0,
        ge=0,
        le=100000,
        description="Maximum number of simultaneous SMTP sessions of one user. 0: no limit.",
    )
    user_messages_per_minute: int = Field(
        0,
        ge=0,
        le=1000000,
        description="Maximum number of messages a minute from one user. Further ones get 450. 0: no limit.",
    )
    user_recipients_per_minute: int = Field(
        0,
        ge=0,
        le=1000000,
        description="Maximum number of recipients a minute from one user. Further ones get 450. 0: no limit.",
    )

    mode: Annotated[Literal["direct", "queue"], LOWER_CASE] = Field(
        "direct",
        description="direct answers a client after Cloudflare has answered. queue answers 250 as soon as the"
        " message is safe in the spool.",
    )
    reply_timeout: Duration = Field(
        10,
        gt=0,
        le=3600,
        description="How long a client waits in direct mode. If Cloudflare has not answered by then, the"
        " message is kept in the spool and the client gets 250; at once if it is known that no call can be"
        " made. Without a spool: how long a message may wait for the account's rate limit before its client"
        " gets 451.",
    )
    partial_bounce: Annotated[Literal["accept", "reject"], LOWER_CASE] = Field(
        "accept",
        description="If some recipients bounced and others got the mail: accept answers 250, names the"
        " bounced ones and sends a DSN. reject answers 5xx; many clients then report every"
        " recipient as unsent.",
    )
    non_utf8: Annotated[Literal["convert", "reject"], LOWER_CASE] = Field(
        "convert",
        description="Message parts that are not UTF-8: convert re-encodes them so that they read the same,"
        " reject refuses the message.",
    )
    bare_newline: Annotated[Literal["normalize", "reject"], LOWER_CASE] = Field(
        "normalize",
        description="A bare CR or LF in a message: normalize makes it CRLF in a body and a space in a header"
        " (unless all lines end with LF alone). reject answers 550, and 500 to a command that ends"
        " with LF alone.",
    )
    on_invalid: Annotated[Literal["repair", "reject"], LOWER_CASE] = Field(
        "repair",
        description="A message that Cloudflare calls invalid: repair tries it once more without the header"
        " fields that Cloudflare claims as its own and with quotes where From needs them (docs/invalid.md)."
        " reject answers 554.",
    )
    drop_headers: FieldNames = Field(
        (),
        description="Header fields to remove from every message, separated by commas. Default: none.",
        examples=["bcc,return-path"],
    )

    spool_url: SpoolUrl = Field(
        SecretStr(""),
        description="Where mail waits that can't be sent yet: sqlite:///path,"
        " postgresql://user:password@host/db, or none, which leaves it to the client. Default:"
        " SQLite in SMTP2CF_STATE_DIR. Or name a file that holds the URL in SMTP2CF_SPOOL_URL_FILE: another"
        " user or password there is used without a restart.",
        examples=["sqlite:////var/lib/smtp2cf/spool.sqlite3"],
    )
    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="Where the bridge keeps its files. Default: $STATE_DIRECTORY, which systemd sets, or else"
        " /var/lib/smtp2cf for root and ~/.local/state/smtp2cf for others.",
        examples=["/var/lib/smtp2cf"],
    )
    spool_min_free: Size = Field(
        64 * 1024 * 1024,
        ge=0,
        description="New mail gets 452 while the SQLite spool's disk has less free space than this; waiting"
        " mail is still sent. Always at least 1.5 times SMTP2CF_MAX_MESSAGE_SIZE.",
    )
    retry_min: Duration = Field(
        60, gt=0, le=86400, description="Time until the second attempt. It doubles after each attempt."
    )
    retry_max: Duration = Field(3600, gt=0, le=604800, description="Maximum time between two attempts.")
    expire_after: Duration = Field(
        432000,
        gt=0,
        le=2592000,
        description="How long mail is retried. Then its sender gets a DSN.",
    )
    warn_after: Duration = Field(
        14400,
        gt=0,
        description="How long the oldest mail may wait before /readyz and the status page warn about it, and"
        " /readyz?sending is 503.",
    )
    sendmail_drop_dir: Path = Field(
        Path("/var/spool/smtp2cf/drop"),
        description="Where smtp2cf-sendmail leaves mail while no bridge is running, and where the bridge"
        " picks it up. The other SMTP2CF_SENDMAIL_ settings belong to the sendmail command: see"
        " docs/sendmail.md.",
    )
    postmaster: Annotated[str, address_such_as("mailer-daemon@example.com")] = Field(
        "",
        description="The sender of DSNs, in a domain set up at Cloudflare. Default: mailer-daemon@ the"
        " original sender's domain, or another domain that has sent. Mail to <Postmaster> (no domain) goes"
        " there too; without this setting it is refused.",
        examples=["mailer-daemon@example.com"],
    )

    admin_listen: Endpoints = Field(
        (Endpoint("127.0.0.1", 8025),),
        description="Where the status page, /livez, /readyz and /metrics are. none: nowhere.",
    )
    admin_hosts: HostNames = Field(
        (),
        description="Host names by which the status page, /metrics and /queue may be reached, separated by"
        " commas. localhost, IP addresses, this host's name and SMTP2CF_HOSTNAME always work."
        " Other names are refused, because a web page could point them here.",
        examples=["smtp2cf.internal,smtp2cf"],
    )
    drain_timeout: Duration = Field(
        30, ge=0, le=3600, description="How long transactions in progress may take to finish after SIGTERM."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LOWER_CASE] = Field(
        "info", description="The lowest level that is logged."
    )
    log_format: Annotated[Literal["auto", "console", "json"], LOWER_CASE] = Field(
        "auto", description="auto is console on a terminal, otherwise json."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the env file; secrets from files come in as arguments."""
        return (init_settings, env_settings, dotenv_settings)

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value
