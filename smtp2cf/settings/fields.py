"""Fields: every setting, with its default, its bounds and its description (pydantic-settings).

Knows how a value is written only by its kind (values.py), and not where values come from (loading.py).
"""

import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.settings.values import (
    HOST_NAME,
    LOOPBACK,
    LOWER_CASE,
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
SECRETS = ("api_token", "spool_url")
"""Settings that can be read from a file instead: the variable's name with _FILE appended names it."""


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
        description="The Cloudflare account that sends. CLOUDFLARE_ACCOUNT_ID is read too.",
        examples=["0123456789abcdef0123456789abcdef"],
    )
    api_token: Token = Field(
        SecretStr(""),
        validation_alias=AliasChoices("SMTP2CF_API_TOKEN", "CLOUDFLARE_API_TOKEN"),
        description="An API token with the permission Email Sending: Edit. CLOUDFLARE_API_TOKEN is read too;"
        " SMTP2CF_API_TOKEN_FILE names a file that holds it.",
    )
    api_base_url: str = Field(
        "https://api.cloudflare.com/client/v4",
        pattern=r"^https?://[^\s/]+.*$",
        description="Where Cloudflare's API is. HTTPS_PROXY and NO_PROXY are heeded.",
    )
    api_timeout: Duration = Field(60, gt=0, le=600, description="How long one call to the API may take.")
    api_concurrency: int = Field(100, ge=1, le=10000, description="Calls to the API in flight at most.")

    smtp_listen: Endpoints = Field(
        (Endpoint("127.0.0.1", 2525),),
        description="Where to take mail: host:port, [v6]:port or unix:/path, several with commas.",
    )
    smtps_listen: Endpoints = Field(
        (),
        description="Where to take mail over SMTP with TLS from the first byte (port 465 elsewhere); needs"
        " SMTP2CF_TLS_CERT_FILE.",
        examples=["0.0.0.0:2465"],
    )
    lmtp_listen: Endpoints = Field(
        (),
        description="Where to take mail over LMTP, which answers for each recipient by itself.",
        examples=["unix:/run/smtp2cf/lmtp"],
    )
    socket_mode: str = Field(
        "0660",
        pattern=r"^0?[0-7]{3}$",
        description="Permissions of the unix sockets that are listened on, in octal: who may write may"
        " connect.",
    )
    socket_group: str = Field(
        "",
        description="The group that unix sockets are given, by name or number; the process's own by default.",
        examples=["mail"],
    )
    hostname: str = Field(
        default_factory=lambda: socket.gethostname(),
        validate_default=True,
        pattern=HOST_NAME,
        description="The name in the SMTP greeting; this host's name by default.",
    )
    allow_networks: Networks = Field(
        LOOPBACK,
        description="Networks whose clients may relay without a password, several with commas; none for"
        " nobody.",
    )
    proxy_networks: Networks = Field(
        (),
        description="Networks of load balancers that speak the PROXY protocol: every connection from there"
        " has to begin with its header, and the client is the one that it names.",
        examples=["10.0.0.0/24"],
    )
    tls_cert_file: Path | None = Field(
        None,
        description="The certificate that clients are shown, with its chain, in PEM; with one, STARTTLS"
        " is offered. Read anew when it changes and on SIGHUP.",
        examples=["/etc/smtp2cf/tls/fullchain.pem"],
    )
    tls_key_file: Path | None = Field(
        None,
        description="The certificate's private key, in PEM, not encrypted; in SMTP2CF_TLS_CERT_FILE too by"
        " default.",
        examples=["/etc/smtp2cf/tls/privkey.pem"],
    )
    tls_ca_file: Path | None = Field(
        None,
        description="The CA that your clients trust, in PEM, if it is not a public one. Only looked at: the"
        " start warns of a certificate that clients will refuse.",
        examples=["/etc/smtp2cf/tls/ca.pem"],
    )
    tls_min_version: Literal["1.0", "1.1", "1.2", "1.3"] = Field(
        "1.2",
        description="The oldest TLS a client may speak; 1.0 and 1.1 are broken, and for old devices that know"
        " nothing newer.",
    )
    i_am_an_open_relay: bool = Field(
        False,
        description="Networks that hold every address there is stop the start unless this is yes.",
    )
    users_file: Path | None = Field(
        None,
        description="Who may relay from anywhere after AUTH: a file of users with their passwords' hashes, as"
        " written by `smtp2cf user add`. Read anew when it changes. See docs/access.md.",
        examples=["/etc/smtp2cf/users"],
    )
    auth_without_tls: bool = Field(
        False,
        description="Whether AUTH is offered without TLS, where everybody on the way can read passwords.",
    )
    allowed_sender_domains: SenderPatterns = Field(
        (),
        description="The domains of senders that anybody may use, several with commas; example.com does not"
        " mean its subdomains, *.example.com means them alone. any, the default, is any.",
        examples=["example.com,*.example.com"],
    )
    check_header_from: bool = Field(
        False,
        description="Whether From and Sender in a message's header are held against a user's allowed senders"
        " and SMTP2CF_ALLOWED_SENDER_DOMAINS too, and not just MAIL FROM.",
    )
    null_sender_address: Annotated[str, address_such_as("bounces@example.com")] = Field(
        "",
        description="Stands in for the null sender <> of bounces, which Cloudflare does not take;"
        " without it such mail gets 550 5.1.7.",
        examples=["bounces@example.com"],
    )
    max_message_size: Size = Field(
        5 * 1024 * 1024,
        ge=1024,
        description="The largest message, such as 5MiB, which is Cloudflare's limit;"
        " 25MiB where every recipient is a verified destination address.",
    )
    max_message_memory: Size = Field(
        512 * 1024 * 1024,
        ge=1024 * 1024,
        description="Memory for messages that come in or wait for their answer, of all sessions together;"
        " a message for which there is none left gets 452.",
    )
    max_recipients: int = Field(
        1000, ge=1, le=100000, description="Recipients of one message; a client sends the rest in another."
    )
    max_sessions: int = Field(1000, ge=1, le=100000, description="SMTP sessions at once; more get 421.")
    session_timeout: Duration = Field(
        300,
        gt=0,
        le=86400,
        description="How long a client may be silent, or take for one command, before it gets 421. A"
        " message has this and a second more for every 500 octets of it.",
    )
    client_max_sessions: int = Field(
        0, ge=0, le=100000, description="SMTP sessions at once of one client address; 0 for any number."
    )
    client_messages_per_minute: int = Field(
        0,
        ge=0,
        le=1000000,
        description="Messages that one client address may send in a minute; more get 450, 0 for any number.",
    )
    client_recipients_per_minute: int = Field(
        0,
        ge=0,
        le=1000000,
        description="Recipients that one client address may name in a minute; more get 450,"
        " 0 for any number.",
    )
    user_max_sessions: int = Field(
        0, ge=0, le=100000, description="SMTP sessions at once of one authenticated user; 0 for any number."
    )
    user_messages_per_minute: int = Field(
        0,
        ge=0,
        le=1000000,
        description="Messages that one user may send in a minute; more get 450, 0 for any number.",
    )
    user_recipients_per_minute: int = Field(
        0,
        ge=0,
        le=1000000,
        description="Recipients that one user may name in a minute; more get 450, 0 for any number.",
    )

    mode: Annotated[Literal["direct", "queue"], LOWER_CASE] = Field(
        "direct",
        description="direct answers a client after Cloudflare has; queue answers 250 as soon as the message"
        " is safe in the spool.",
    )
    reply_timeout: Duration = Field(
        30,
        gt=0,
        le=3600,
        description="How long direct mode makes a client wait: a message that Cloudflare has not answered by"
        " then is kept in the spool and its client gets 250. Without a spool: how long it may wait for its"
        " turn under the account's rate limit before its client gets 451.",
    )
    partial_bounce: Annotated[Literal["accept", "reject"], LOWER_CASE] = Field(
        "accept",
        description="Some recipients bounced and others got the mail: accept answers 250, names them and"
        " sends a DSN; reject answers 5xx, on which many clients report every recipient as unsent.",
    )
    non_utf8: Annotated[Literal["convert", "reject"], LOWER_CASE] = Field(
        "convert",
        description="Bytes that are not UTF-8: convert those parts so that they read the same, or reject.",
    )
    bare_newline: Annotated[Literal["normalize", "reject"], LOWER_CASE] = Field(
        "normalize",
        description="A bare CR or LF in a message: normalize makes it CRLF in a body and a space in a header"
        " (unless all lines end with LF alone), reject answers 550, and 500 to a command that ends with LF"
        " alone.",
    )
    drop_headers: FieldNames = Field(
        (),
        description="Header fields to take out of every message, several with commas;"
        " nothing is taken out by default.",
        examples=["bcc,return-path"],
    )

    spool_url: SpoolUrl = Field(
        SecretStr(""),
        description="Where mail waits that can't go out now: sqlite:///path, postgresql://user:password@host/db,"
        " or none, which leaves it with the client. SQLite in SMTP2CF_STATE_DIR by default."
        " SMTP2CF_SPOOL_URL_FILE names a file that holds it.",
        examples=["sqlite:////var/lib/smtp2cf/spool.sqlite3"],
    )
    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="Where the bridge keeps its files: $STATE_DIRECTORY as systemd sets it, else"
        " /var/lib/smtp2cf for root and ~/.local/state/smtp2cf for others.",
        examples=["/var/lib/smtp2cf"],
    )
    spool_min_free: Size = Field(
        64 * 1024 * 1024,
        ge=0,
        description="New mail gets 452 while less than this is free on the disk of the SQLite spool; what is"
        " in the spool goes out all the same. Never less than 1.5 times SMTP2CF_MAX_MESSAGE_SIZE.",
    )
    retry_min: Duration = Field(
        60, gt=0, le=86400, description="How long until the second attempt; it doubles with each."
    )
    retry_max: Duration = Field(3600, gt=0, le=604800, description="How long between two attempts at most.")
    expire_after: Duration = Field(
        432000,
        gt=0,
        le=2592000,
        description="How long until undelivered mail is given up and its sender told.",
    )
    warn_after: Duration = Field(
        14400,
        gt=0,
        description="How long the oldest mail may wait before /readyz and the status page warn of it.",
    )
    sendmail_drop_dir: Path = Field(
        Path("/var/spool/smtp2cf/drop"),
        description="Where smtp2cf-sendmail leaves mail while no bridge runs; taken in from there. The other"
        " SMTP2CF_SENDMAIL_ settings are the sendmail command's own: see docs/sendmail.md.",
    )
    postmaster: Annotated[str, address_such_as("mailer-daemon@example.com")] = Field(
        "",
        description="The address that delivery reports come from, in a domain set up at Cloudflare;"
        " mailer-daemon@ the sender's domain by default. Mail to <Postmaster>, without a domain, goes there"
        " too; it is refused where this is not set.",
        examples=["mailer-daemon@example.com"],
    )

    admin_listen: Endpoints = Field(
        (Endpoint("127.0.0.1", 8025),),
        description="Where /livez, /readyz, /metrics and the status page are; none for nowhere.",
    )
    admin_hosts: HostNames = Field(
        (),
        description="Names by which the status page, /metrics and /queue may be asked for, several with"
        " commas; localhost, literal addresses, this host's name and SMTP2CF_HOSTNAME may be used anyway."
        " Other names are refused: a web page could have them point here.",
        examples=["smtp2cf.internal,smtp2cf"],
    )
    drain_timeout: Duration = Field(
        30, ge=0, le=3600, description="How long transactions under way have to finish after SIGTERM."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LOWER_CASE] = Field(
        "info", description="How much is logged."
    )
    log_format: Annotated[Literal["auto", "console", "json"], LOWER_CASE] = Field(
        "auto", description="auto is console on a terminal and JSON lines elsewhere."
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
