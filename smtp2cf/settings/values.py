"""Values: how each kind of setting is written, and what is wrong with one that isn't.

Each kind is a type for a field: pydantic calls its reader, which raises ValueError with what the value must
be. Knows no setting by name.
"""

import base64
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

import platformdirs
from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from smtp2cf.access import limit
from smtp2cf.access.limit import Limit, OfReports
from smtp2cf.access.senders import Senders
from smtp2cf.cloudflare.tally import Rate
from smtp2cf.envelope import Network, sent_form
from smtp2cf.journal import news
from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.listen.interfaces import connected
from smtp2cf.settings.units import octets, seconds
from smtp2cf.spool.url import can_be_read

_LABEL = r"[0-9A-Za-z_](?:[0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?"
HOST_NAME = rf"^(?:{_LABEL}(?:\.{_LABEL}){{0,126}}\.?|\[(?:IPv6:)?[0-9A-Fa-f:.]{{2,45}}\])$"
"""A domain or an address literal: it appears in greetings, header fields and reports."""
RATE = re.compile(r"([0-9]{1,9})\s*/\s*(.{1,40})")
DATABASES = ("postgresql", "postgres")
SPOOLS = ("sqlite", *DATABASES)
LOOPBACK: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

PRIVATE: tuple[Network, ...] = (
    *LOOPBACK,
    *(ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")),
    *(ipaddress.ip_network(text) for text in ("169.254.0.0/16", "fe80::/10")),
)
"""Networks that no route of the Internet leads to (RFC 1918, RFC 4193, RFC 3927, RFC 4291), and this host."""


def default_state_dir() -> Path:
    """Where systemd says, or else the platform's usual place."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return platformdirs.site_state_path("smtp2cf")
    return platformdirs.user_state_path("smtp2cf")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _endpoints(value: object) -> object:
    if not isinstance(value, str):
        return value
    return () if value.lower() in ("", "none") else tuple(Endpoint.parse(part) for part in _listed(value))


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    return () if value.lower() == "none" else tuple(_network(part) for part in _listed(value))


def _network(text: str, others: str = "") -> Network:
    """others: what else could stand there, for the message."""
    try:
        return _unmapped(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        use = "10.0.0.0/8, fd00::/8" if others else "10.0.0.0/8 or fd00::/8"
        raise ValueError(f"{error}: use networks such as {use}{others}") from None


def _client_networks(value: object) -> object:
    """With words for networks that nobody wants to list."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none":
        return ()
    found: list[Network] = []
    for part in _listed(value):
        if part.lower() == "private":
            found += PRIVATE
        elif part.lower() == "connected":
            found += _connected()
        else:
            found.append(_network(part, ", connected or private"))
    return tuple(dict.fromkeys(found))


def _connected() -> tuple[Network, ...]:
    try:
        return connected()
    except OSError as error:
        raise ValueError(f"the networks of this host's interfaces are not known: {error}") from None


def _unmapped(network: Network) -> Network:
    """IPv4 written as IPv6 (RFC 4291 §2.5.5.2) is IPv4: that is how clients are compared."""
    first = network.network_address
    mapped = first.ipv4_mapped if isinstance(first, ipaddress.IPv6Address) else None
    if mapped and network.prefixlen >= 96:
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _sender_patterns(value: object) -> object:
    if not isinstance(value, str):
        return value
    patterns = () if value.lower() == "any" else tuple(_listed(value))
    Senders.parse(patterns)
    return patterns


def _denied_patterns(value: object) -> object:
    return () if isinstance(value, str) and value.lower() == "none" else _listed_patterns(value)


def _listed_patterns(value: object) -> object:
    if isinstance(value, str) and value.lower() == "any":
        raise ValueError("it must be addresses and domains, or none: any would refuse all mail")
    return _sender_patterns(value)


def _mail_addresses(value: object) -> object:
    return tuple(_listed(value)) if isinstance(value, str) else value


def _field_names(value: object) -> object:
    if not isinstance(value, str):
        return value
    names = tuple(name.lower() for name in _listed(value))
    if wrong := [name for name in names if not re.fullmatch(r"[!-9;-~]+", name)]:
        raise ValueError(f"{wrong[0]!r} is not the name of a header field")
    return names


def _host_names(value: object) -> object:
    if not isinstance(value, str):
        return value
    names = tuple(_listed(value))
    if wrong := [name for name in names if not re.fullmatch(r"[\w.-]+", name)]:
        raise ValueError(f"{wrong[0]!r} is not a host name: use names without a port")
    return names


def _user_names(value: object) -> object:
    return tuple(_listed(value)) if isinstance(value, str) else value


def _table_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", name):
        raise ValueError("it must be up to 32 letters, digits, - and _")
    return name


def checked_pattern(pattern: str) -> str:
    """A pattern of [senders] or [recipients]; raises ValueError with what it may be."""
    if pattern != "*" and not _NAME.fullmatch(pattern.removesuffix("@*")):
        try:
            Senders.parse((pattern,))
        except ValueError:
            raise ValueError(
                "it must be anna@example.com, example.com, *.example.com, root, root@* or *"
            ) from None
    return pattern


_NAME = re.compile(r"""[^\s@*<>()\[\]\\,;:"]{1,64}""")
"""The local part of an address, without quotes."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,1024}")
"""What may follow `Bearer` (RFC 6750 §2.1); Cloudflare's are shorter."""


def checked_token(token: SecretStr) -> SecretStr:
    """The token, "" for none; raises ValueError, without it, if it can't be one."""
    text = token.get_secret_value()
    if text and not _TOKEN.fullmatch(text):
        raise ValueError("an API token is one word of ASCII letters, digits, - and _, without quotes")
    return token


def checked_base_url(url: str) -> str:
    """The URL of an API; raises ValueError if it is none, or has more in it than the way there."""
    if "@" in url:
        raise ValueError("it must not contain a user name or a password: the API takes a token")
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:  # a port that is none
        good = False
    if not good:
        raise ValueError("it must be a URL such as https://api.cloudflare.com/client/v4")
    return url


def checked_spool_url(url: SecretStr) -> SecretStr:
    """The URL, "" for the default; raises ValueError, without it, if it names no spool."""
    scheme, separator, rest = url.get_secret_value().partition("://")
    names_nothing = scheme == "sqlite" and bool(rest) and not PurePosixPath(rest).name
    if scheme.lower() not in ("", "none") and not (separator and scheme in SPOOLS and not names_nothing):
        raise ValueError("it must be sqlite:///path, postgresql://host/database or none")
    if scheme in DATABASES and not can_be_read(url.get_secret_value()):
        raise ValueError(
            "it can't be read as a URL: write special characters of a password as %XX, such as %2F for /"
        )
    return url


def checked_webhook_url(url: str) -> str:
    """The receiver's URL, "" for none; raises ValueError if it is none, or others could read along."""
    if not url:
        return url
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0 and not parts.fragment and url.isascii()
    except ValueError:  # a port that is none
        good = False
    if not good or parts.scheme not in ("http", "https") or any(char <= " " for char in url):
        raise ValueError("it must be a URL such as https://hooks.example.com/mail")
    if "@" in parts.netloc:
        raise ValueError("it must not contain a user name or a password: what is posted is signed instead")
    if parts.scheme == "http" and not _is_near(parts.hostname or ""):
        raise ValueError(
            "it must begin with https://: only a host in your own network is posted to by http://"
        )
    return url


def _is_near(host: str) -> bool:
    """It is this host or in a private network, as far as its name tells."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal", ".home.arpa"))
    return any(address in network for network in PRIVATE)


_SECRET = re.compile(r"whsec_([A-Za-z0-9+/]+={0,2})")


def checked_webhook_secret(secret: SecretStr) -> SecretStr:
    """The secret or secrets, "" for none; raises ValueError, without them, if one can't sign."""
    for word in secret.get_secret_value().split():
        found = _SECRET.fullmatch(word)
        try:
            octets_in = len(base64.b64decode(found[1], validate=True)) if found is not None else 0
        except ValueError:
            octets_in = 0
        if not 24 <= octets_in <= 64:
            raise ValueError(
                "it must be whsec_ and 24 to 64 octets in base64: make one with"
                ' echo "whsec_$(openssl rand -base64 32)"'
            )
    return secret


def _webhook_events(value: object) -> object:
    if not isinstance(value, str):
        return value
    patterns = tuple(_listed(value))
    for pattern in patterns:
        if not kinds_in((pattern,)):
            raise ValueError(f"{pattern!r} is no event: use {', '.join(news.KINDS)}, or mail.*")
    return patterns


def kinds_in(patterns: Iterable[str]) -> tuple[str, ...]:
    """The kinds of events that are named, as they are or as mail.*."""
    wanted = tuple(patterns)
    families = tuple(pattern[:-1] for pattern in wanted if pattern.endswith(".*"))
    return tuple(kind for kind in news.KINDS if kind in wanted or kind.startswith(families))


def _rate(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lower() == "none":
        return None
    if (found := RATE.fullmatch(value.strip())) is not None:
        try:
            rate = Rate(int(found[1]), seconds(found[2]))
        except ValueError:
            pass
        else:
            if rate.calls >= 1 and 1 <= rate.seconds <= 86400:
                return rate
    raise ValueError("it must be calls/seconds such as 1200/300, or none")


def address_such_as(example: str) -> AfterValidator:
    """A mail address, "" for none: valid in an envelope and in a header, by the same rules as MAIL FROM.
    It becomes the form in which it is sent."""

    def checked(value: str) -> str:
        from smtp2cf.smtpd.path import PathError, parse_path

        try:
            good = not value or parse_path(f"<{value}>") == (value, "")
        except PathError:
            good = False
        if not good:
            raise ValueError(f"it must be an address such as {example}")
        return sent_form(value)

    return AfterValidator(checked)


READ_DURATION = BeforeValidator(lambda value: seconds(value) if isinstance(value, str) else value)
READ_SIZE = BeforeValidator(lambda value: octets(value) if isinstance(value, str) else value)
LOWER_CASE = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)

Duration = Annotated[float, READ_DURATION]
"""Seconds, written as 90s, 36h or 5d."""
Size = Annotated[int, READ_SIZE]
"""Bytes, written as 25MiB."""
Endpoints = Annotated[tuple[Endpoint, ...], NoDecode, BeforeValidator(_endpoints)]
"""Places to listen, separated by commas; none for nowhere."""
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]
"""Networks, separated by commas; none for nobody."""
SenderPatterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_sender_patterns)]
"""Patterns of senders (access.senders), separated by commas; any for all."""
DeniedPatterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_denied_patterns)]
"""Such patterns, of whom is refused; none for nobody."""
ClientNetworks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_client_networks)]
"""The same, or connected for those of this host's interfaces, or private; in any order."""
FieldNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_field_names)]
"""Names of header fields, separated by commas."""
HostNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_host_names)]
"""Host names without a port, separated by commas."""
UserNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_user_names)]
"""Names of users, separated by commas."""
MailAddress = Annotated[str, address_such_as("anna@example.com")]
"""A mail address, in the form in which it is sent."""
MailAddresses = Annotated[tuple[MailAddress, ...], NoDecode, BeforeValidator(_mail_addresses)]
"""Mail addresses, separated by commas."""
TableName = Annotated[str, AfterValidator(_table_name)]
"""What one of several tables is called."""
BaseUrl = Annotated[str, AfterValidator(checked_base_url)]
"""The URL of an API, up to and without what it is asked."""
Token = Annotated[SecretStr, AfterValidator(checked_token)]
"""An API token."""
Limits = Annotated[
    tuple[Limit, ...],
    NoDecode,
    BeforeValidator(lambda value: limit.parse(value) if isinstance(value, str) else value),
]
"""A quota: how much in how long, separated by commas; none for no limit."""
ReportLimits = Annotated[
    tuple[OfReports, ...],
    NoDecode,
    BeforeValidator(lambda value: limit.parse_reports(value) if isinstance(value, str) else value),
]
"""The same of reports, which are counted alone: 100/1h."""
ApiRate = Annotated[Rate | None, NoDecode, BeforeValidator(_rate)]
"""Calls in so many seconds; none for any number."""
SpoolUrl = Annotated[SecretStr, AfterValidator(checked_spool_url)]
"""Where mail waits; "" for the default."""
WebhookUrl = Annotated[str, AfterValidator(checked_webhook_url)]
"""Where events are posted; "" for nowhere."""
WebhookSecret = Annotated[SecretStr, AfterValidator(checked_webhook_secret)]
"""What events are signed with, one or more."""
WebhookEvents = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_webhook_events)]
"""Kinds of events (journal.news), separated by commas; mail.* for all that begin so."""
