"""Settings: read once, from the environment, an env file, and secret files (pydantic-settings).

Every variable has the prefix SMTP2CF_. `python -m smtp2cf.settings.fields` prints config.example.env, made
of the descriptions here.
"""

import difflib
import io
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from smtp2cf.access.senders import Senders
from smtp2cf.listen import files
from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.settings.units import as_duration, as_size, octets, seconds

PREFIX = "SMTP2CF_"
SENDMAIL_PREFIX = "SMTP2CF_SENDMAIL_"
"""Variables of the sendmail command, which reads them itself."""
SECRETS = ("api_token", "spool_url")
"""Settings that may come from a file instead, named by the variable with _FILE behind it."""
FORMS = {
    "account_id": "letters, digits, - and _",
    "i_am_an_open_relay": "yes or no",
    "auth_without_tls": "yes or no",
    "check_header_from": "yes or no",
    "api_base_url": "a URL such as https://api.cloudflare.com/client/v4",
    "hostname": "a host's name such as mx1.example.com",
    "socket_mode": "permissions in octal, such as 0660",
}
"""What a setting may be, where pydantic's own words would be a pattern or none that help."""
UNCLEAR = ("string_pattern_mismatch", "bool_parsing")
"""Kinds of error with such words."""
_LABEL = r"[0-9A-Za-z_](?:[0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?"
_HOST_NAME = rf"^(?:{_LABEL}(?:\.{_LABEL}){{0,126}}\.?|\[(?:IPv6:)?[0-9A-Fa-f:.]{{2,45}}\])$"
"""A domain or an address literal: it stands in greetings, header fields and reports."""
SPOOLS = ("sqlite", "postgresql", "postgres")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_READ_DURATION = BeforeValidator(lambda value: seconds(value) if isinstance(value, str) else value)
_READ_SIZE = BeforeValidator(lambda value: octets(value) if isinstance(value, str) else value)
Duration = Annotated[float, _READ_DURATION]
"""Seconds, written as 90s, 36h or 5d."""
Size = Annotated[int, _READ_SIZE]
"""Bytes, written as 25MiB."""
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
"""The kinds of bounds that a setting may have, in words."""


def _state_dir() -> Path:
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    return (
        platformdirs.site_state_path("smtp2cf")
        if os.geteuid() == 0
        else platformdirs.user_state_path("smtp2cf")
    )


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
    api_token: SecretStr = Field(
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

    smtp_listen: Annotated[tuple[Endpoint, ...], NoDecode] = Field(
        (Endpoint("127.0.0.1", 2525),),
        description="Where to take mail: host:port, [v6]:port or unix:/path, several with commas.",
    )
    smtps_listen: Annotated[tuple[Endpoint, ...], NoDecode] = Field(
        (),
        description="Where to take mail over SMTP with TLS from the first byte (port 465 elsewhere); needs"
        " SMTP2CF_TLS_CERT_FILE.",
        examples=["0.0.0.0:2465"],
    )
    lmtp_listen: Annotated[tuple[Endpoint, ...], NoDecode] = Field(
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
        pattern=_HOST_NAME,
        description="The name in the SMTP greeting; this host's name by default.",
    )
    allow_networks: Annotated[tuple[Network, ...], NoDecode] = Field(
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")),
        description="Networks whose clients may relay without a password, several with commas; none for"
        " nobody.",
    )
    proxy_networks: Annotated[tuple[Network, ...], NoDecode] = Field(
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
    allowed_sender_domains: Annotated[tuple[str, ...], NoDecode] = Field(
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
    null_sender_address: str = Field(
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

    mode: Literal["direct", "queue"] = Field(
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
    partial_bounce: Literal["accept", "reject"] = Field(
        "accept",
        description="Some recipients bounced and others got the mail: accept answers 250, names them and"
        " sends a DSN; reject answers 5xx, on which many clients report every recipient as unsent.",
    )
    non_utf8: Literal["convert", "reject"] = Field(
        "convert",
        description="Bytes that are not UTF-8: convert those parts so that they read the same, or reject.",
    )
    bare_newline: Literal["normalize", "reject"] = Field(
        "normalize",
        description="A bare CR or LF in a message: normalize makes it CRLF in a body and a space in a header"
        " (unless all lines end with LF alone), reject answers 550, and 500 to a command that ends with LF"
        " alone.",
    )
    drop_headers: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Header fields to take out of every message, several with commas;"
        " nothing is taken out by default.",
        examples=["bcc,return-path"],
    )

    spool_url: SecretStr = Field(
        SecretStr(""),
        description="Where mail waits that can't go out now: sqlite:///path, postgresql://user:password@host/db,"
        " or none, which leaves it with the client. SQLite in SMTP2CF_STATE_DIR by default."
        " SMTP2CF_SPOOL_URL_FILE names a file that holds it.",
        examples=["sqlite:////var/lib/smtp2cf/spool.sqlite3"],
    )
    state_dir: Path = Field(
        default_factory=_state_dir,
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
    postmaster: str = Field(
        "",
        description="The address that delivery reports come from, in a domain set up at Cloudflare;"
        " mailer-daemon@ the sender's domain by default. Mail to <Postmaster>, without a domain, goes there"
        " too; it is refused where this is not set.",
        examples=["mailer-daemon@example.com"],
    )

    admin_listen: Annotated[tuple[Endpoint, ...], NoDecode] = Field(
        (Endpoint("127.0.0.1", 8025),),
        description="Where /livez, /readyz, /metrics and the status page are; none for nowhere.",
    )
    admin_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names by which the status page, /metrics and /queue may be asked for, several with"
        " commas; localhost, literal addresses, this host's name and SMTP2CF_HOSTNAME may be used anyway."
        " Other names are refused: a web page could have them point here.",
        examples=["smtp2cf.internal,smtp2cf"],
    )
    drain_timeout: Duration = Field(
        30, ge=0, le=3600, description="How long transactions under way have to finish after SIGTERM."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much is logged.")
    log_format: Literal["auto", "console", "json"] = Field(
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

    @field_validator("smtp_listen", "smtps_listen", "lmtp_listen", "admin_listen", mode="before")
    @classmethod
    def _endpoints(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return () if value.lower() in ("", "none") else tuple(Endpoint.parse(part) for part in _listed(value))

    @field_validator("null_sender_address", "postmaster")
    @classmethod
    def _address(cls, value: str, info: ValidationInfo) -> str:
        """What goes into an envelope and a header is judged as what a client says at MAIL is."""
        from smtp2cf.smtpd.path import PathError, parse_path

        try:
            good = not value or parse_path(f"<{value}>") == (value, "")
        except PathError:
            good = False
        if not good:
            example = (cls.model_fields[str(info.field_name)].examples or [""])[0]
            raise ValueError(f"it must be an address such as {example}")
        return value

    @field_validator("api_token")
    @classmethod
    def _token(cls, token: SecretStr) -> SecretStr:
        text = token.get_secret_value()
        if text and not (text.isascii() and text.isprintable() and " " not in text):
            raise ValueError("an API token is one word of ASCII letters, digits, - and _")
        return token

    @field_validator("spool_url")
    @classmethod
    def _spool_url(cls, url: SecretStr) -> SecretStr:
        scheme, separator, _ = url.get_secret_value().partition("://")
        if scheme.lower() not in ("", "none") and not (separator and scheme in SPOOLS):
            raise ValueError("it must be sqlite:///path, postgresql://host/database or none")
        return url

    @field_validator("allow_networks", "proxy_networks", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lower() == "none":
            return ()
        try:
            return tuple(_unmapped(ipaddress.ip_network(part, strict=False)) for part in _listed(value))
        except ValueError as error:
            raise ValueError(f"{error}: networks such as 10.0.0.0/8 or fd00::/8 are meant") from None

    @field_validator("allowed_sender_domains", mode="before")
    @classmethod
    def _senders(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        patterns = () if value.lower() == "any" else tuple(_listed(value))
        Senders.parse(patterns)
        return patterns

    @field_validator("drop_headers", mode="before")
    @classmethod
    def _field_names(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        names = tuple(name.lower() for name in _listed(value))
        if wrong := [name for name in names if not re.fullmatch(r"[!-9;-~]+", name)]:
            raise ValueError(f"{wrong[0]!r} is no header field's name")
        return names

    @field_validator("admin_hosts", mode="before")
    @classmethod
    def _host_names(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        names = tuple(_listed(value))
        if wrong := [name for name in names if not re.fullmatch(r"[\w.-]+", name)]:
            raise ValueError(f"{wrong[0]!r} is no host's name: names without a port are meant")
        return names

    @field_validator(
        "log_level", "log_format", "mode", "partial_bounce", "non_utf8", "bare_newline", mode="before"
    )
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


def _unmapped(network: Network) -> Network:
    """IPv4 written as IPv6 (RFC 4291 §2.5.5.2) is IPv4: that is how clients are compared."""
    first = network.network_address
    mapped = first.ipv4_mapped if isinstance(first, ipaddress.IPv6Address) else None
    return (
        ipaddress.IPv4Network((mapped, network.prefixlen - 96))
        if mapped and network.prefixlen >= 96
        else network
    )


def load(env_file: Path | None = None) -> Settings:
    """Read the settings; the environment wins over the file. Raises SettingsError."""
    given = _given(env_file)
    secrets = _secrets_from_files(given)
    try:
        return Settings(_env_file=env_file, **secrets)  # type: ignore[arg-type, call-arg]
    except ValidationError as error:
        raise SettingsError(*(_line(problem, given) for problem in error.errors())) from None


def users_file(env_file: Path | None = None) -> Path | None:
    """SMTP2CF_USERS_FILE alone, whatever the other settings are. Raises SettingsError for the env file."""
    given = _given(env_file).get(f"{PREFIX}USERS_FILE", "").strip()
    return Path(given) if given else None


def unknown_variables(env_file: Path | None = None) -> list[str]:
    """A line for each SMTP2CF_ variable that is none, with the nearest that is."""
    known = [name.upper() for name in Settings.model_fields] + [f"{name.upper()}_FILE" for name in SECRETS]
    lines = []
    for variable in sorted(_given(env_file)):
        name = variable.removeprefix(PREFIX)
        if name in (variable, *known) or variable.startswith(SENDMAIL_PREFIX):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.65)
        lines.append(f"{variable} is no setting{f': is {PREFIX}{near[0]} meant?' if near else ''}")
    return lines


def example_env() -> str:
    """The text of config.example.env: every setting with its description and default."""
    lines = [
        "# smtp2cf's settings with their defaults, for `smtp2cf serve --env-file` or the environment.",
        "# Made from the settings' own descriptions by `make config`.",
        "# Durations are written 90s, 15m, 36h or 5d (a number alone is seconds), sizes 25MiB (bytes).",
    ]
    for name, field in Settings.model_fields.items():
        lines += ["", *_wrapped(field.description or "")]
        variable = f"{PREFIX}{name.upper()}"
        if field.default_factory is not None or field.default in (None, "", (), SecretStr("")):
            lines.append(f"#{variable}={field.examples[0] if field.examples else ''}")
        else:
            lines.append(f"#{variable}={_shown(field.default, field)}")
    return "\n".join(lines) + "\n"


def _listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _given(env_file: Path | None) -> dict[str, str]:
    """Every variable of the env file and the environment."""
    return {**(_env_file_values(env_file) if env_file is not None else {}), **os.environ}


def _env_file_values(path: Path) -> dict[str, str]:
    """The variables of an env file; raises SettingsError with a line for each that is none."""
    try:
        text = files.read_text(path)
    except files.FileError as error:
        raise SettingsError(f"--env-file {error}") from None
    wrong = []
    for binding in parse_stream(io.StringIO(text)):
        # What was found is not shown: it may be a secret.
        line = (
            binding.original.line + len(binding.original.string) - len(binding.original.string.lstrip("\n"))
        )
        if binding.error:
            wrong.append(f"--env-file {path}, line {line}: this is not NAME=value; is a quote left open?")
        elif binding.key is not None and binding.key.startswith(PREFIX) and binding.value is None:
            wrong.append(f"--env-file {path}, line {line}: {binding.key} has no = and no value")
    if wrong:
        raise SettingsError(*wrong)
    return {name: value or "" for name, value in dotenv_values(stream=io.StringIO(text)).items()}


def _secrets_from_files(given: Mapping[str, str]) -> dict[str, str]:
    secrets = {}
    for name in SECRETS:
        variable = f"{PREFIX}{name.upper()}"
        path = given.get(f"{variable}_FILE", "")
        if not path:
            continue
        if given.get(variable):
            raise SettingsError(f"{variable} and {variable}_FILE are both set: set one of them")
        try:
            secrets[name] = files.read_text(Path(path)).strip()
        except files.FileError as error:
            raise SettingsError(f"{variable}_FILE: {error}") from None
        if not secrets[name]:
            raise SettingsError(f"{variable}_FILE: {path} is empty")
    return secrets


def _line(problem: Mapping[str, Any], given: Mapping[str, str]) -> str:
    """One line for the operator: the variable, what it was, what it may be."""
    name = str(problem["loc"][0])
    variable = name if name.isupper() else f"{PREFIX}{name.upper()}"
    setting = variable.split("_", 1)[1].lower()
    field = Settings.model_fields.get(setting)
    if not given.get(variable) and given.get(f"CLOUDFLARE_{setting.upper()}"):
        variable = f"CLOUDFLARE_{setting.upper()}"
    was = (
        "its value"
        if field is None or field.annotation is SecretStr
        else repr(given.get(variable, problem["input"]).strip())
    )
    why = problem["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
    why = why.replace("Input should be", "it must be")
    if problem["type"] in UNCLEAR:
        why = f"it must be {FORMS[setting]}"
    for bound, words in BOUNDS.items():
        if field is not None and bound in problem.get("ctx", {}):
            why = f"it must be {words} {_shown(problem['ctx'][bound], field)}"
    return f"{variable}: {was} is wrong: {why}"


def _shown(value: object, field: FieldInfo) -> str:
    """A value as it is written."""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _READ_DURATION in field.metadata:
        return as_duration(float(str(value)))
    return as_size(int(str(value))) if _READ_SIZE in field.metadata else str(value)


def _wrapped(text: str) -> list[str]:
    words, lines = text.split(), ["#"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > 100:
            lines.append("#")
        lines[-1] += f" {word}"
    return lines


if __name__ == "__main__":
    sys.stdout.write(example_env())
