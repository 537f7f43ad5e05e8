"""Check: settings held against each other, before anything is opened.

Each setting by itself is checked when it is read (values.py); here is what can't work together, or is
missing for what was asked for. Contradictions stop the start. Mistakes and doubts don't: the start logs them,
and for `smtp2cf check` a mistake is an error, a doubt a warning.
"""

import ipaddress
import re
from collections.abc import Collection, Iterator

import httpx

from smtp2cf.listen import open_relay
from smtp2cf.listen.endpoint import group_id
from smtp2cf.listen.systemd import PROTOCOLS
from smtp2cf.settings import accounts, recipients, rewriting
from smtp2cf.settings.fields import Settings, SettingsError
from smtp2cf.settings.listening import Way, ways_of
from smtp2cf.settings.quotas import set_twice
from smtp2cf.settings.units import as_duration, as_size

LARGEST_MESSAGE = 25 * 1024 * 1024
"""Octets that Cloudflare accepts, and only where every recipient is a verified address."""
_ACCOUNT_ID = re.compile("[0-9a-f]{32}")


def check(settings: Settings, *, sandbox: bool = False, handed_over: Collection[str] | None = None) -> None:
    """Raise SettingsError with a line for each contradiction.

    sandbox: a stand-in takes Cloudflare's place: it needs no account, and makes a certificate.
    handed_over: places for which systemd has opened sockets, None where that is not known.
    """
    if not sandbox:
        require_account(settings)
    if wrong := contradictions(settings, sandbox=sandbox, handed_over=handed_over):
        raise SettingsError(*wrong)


def contradictions(
    settings: Settings, *, sandbox: bool = False, handed_over: Collection[str] | None = None
) -> list[str]:
    """A line for each contradiction, apart from a missing account. The arguments are as for `check`."""
    return [
        *_open_relay(settings),
        *rewriting.contradictions(settings),
        *_certificate(settings, sandbox=sandbox, handed_over=handed_over or ()),
        *_listeners(settings, handed_over),
        *_spool_and_users(settings, sandbox=sandbox),
        *_socket_group(settings),
        *recipients.contradictions(settings),
        *_webhook(settings),
    ]


def _webhook(settings: Settings) -> Iterator[str]:
    if settings.webhook_url and not settings.webhook_secret.get_secret_value():
        yield (
            "SMTP2CF_WEBHOOK_URL needs SMTP2CF_WEBHOOK_SECRET, with which events are signed: make one with"
            ' echo "whsec_$(openssl rand -base64 32)"'
        )


def mistakes(settings: Settings, *, sandbox: bool = False) -> Iterator[str]:
    """A line for each thing that can't work as it was meant, although the bridge starts."""
    yield from rewriting.mistakes(settings)
    if settings.retry_min > settings.retry_max:
        yield (
            f"SMTP2CF_RETRY_MIN={as_duration(settings.retry_min)} is more than"
            f" SMTP2CF_RETRY_MAX={as_duration(settings.retry_max)}, so it has no effect: lower it, or raise"
            " SMTP2CF_RETRY_MAX"
        )
    first_retry = min(settings.retry_min, settings.retry_max)
    if first_retry >= settings.expire_after:
        yield (
            f"SMTP2CF_EXPIRE_AFTER={as_duration(settings.expire_after)} is over before the first retry, after"
            f" {as_duration(first_retry)}: raise it, or lower SMTP2CF_RETRY_MIN"
        )
    if settings.max_message_memory < settings.max_message_size:
        yield (
            f"SMTP2CF_MAX_MESSAGE_MEMORY={as_size(settings.max_message_memory)} has no room for one message"
            f" of SMTP2CF_MAX_MESSAGE_SIZE={as_size(settings.max_message_size)}: raise it, or lower the size"
        )
    if not sandbox:
        yield from _clear_text(settings)


def doubts(settings: Settings, *, sandbox: bool = False) -> Iterator[str]:
    """A line for each thing that is hardly meant so."""
    if not sandbox:
        yield from _wrong_ids(settings)
    if settings.max_message_size > LARGEST_MESSAGE:
        yield (
            f"SMTP2CF_MAX_MESSAGE_SIZE={as_size(settings.max_message_size)} is more than Cloudflare accepts:"
            f" 5MiB, or {as_size(LARGEST_MESSAGE)} if every recipient is a verified destination address"
        )
    if settings.warn_after > settings.expire_after:
        yield (
            f"SMTP2CF_WARN_AFTER={as_duration(settings.warn_after)} has no effect: mail is given up earlier,"
            f" after SMTP2CF_EXPIRE_AFTER={as_duration(settings.expire_after)}"
        )
    yield from set_twice(settings)
    yield from accounts.doubts(settings)
    yield from recipients.doubts(settings)
    yield from _without_effect(settings)


def _without_effect(settings: Settings) -> Iterator[str]:
    no_users, no_operator = settings.users_file is None, not settings.operator
    has_spool = settings.spool_url.get_secret_value().lower() != "none"
    mail = (endpoint for way in ways_of(settings) for endpoint in way.described.listen)
    unix = any(endpoint.path for endpoint in (*mail, *settings.admin_listen))
    for given, name, missing in (
        (settings.auth_without_tls and no_users, "AUTH_WITHOUT_TLS", "SMTP2CF_USERS_FILE"),
        (
            settings.check_header_from and no_users and not settings.allowed_sender_domains,
            "CHECK_HEADER_FROM",
            "SMTP2CF_USERS_FILE or SMTP2CF_ALLOWED_SENDER_DOMAINS",
        ),
        (
            settings.tls_ca_file is not None and settings.tls_cert_file is None,
            "TLS_CA_FILE",
            "SMTP2CF_TLS_CERT_FILE",
        ),
        (
            bool(settings.events_queue_id) and not has_spool,
            "EVENTS_QUEUE_ID",
            "a spool (SMTP2CF_SPOOL_URL)",
        ),
        (not no_operator and not has_spool, "OPERATOR", "a spool (SMTP2CF_SPOOL_URL)"),
        (bool(settings.webhook_url) and not has_spool, "WEBHOOK_URL", "a spool (SMTP2CF_SPOOL_URL)"),
        (
            bool(settings.webhook_secret.get_secret_value()) and not settings.webhook_url,
            "WEBHOOK_SECRET",
            "SMTP2CF_WEBHOOK_URL",
        ),
        (settings.operator_gets_bounces and no_operator, "OPERATOR_GETS_BOUNCES", "SMTP2CF_OPERATOR"),
        (
            bool(settings.events_api_token.get_secret_value()) and not settings.events_queue_id,
            "EVENTS_API_TOKEN",
            "SMTP2CF_EVENTS_QUEUE_ID",
        ),
        (bool(settings.socket_group) and not unix, "SOCKET_GROUP", "a unix: socket in an SMTP2CF_…_LISTEN"),
    ):
        if given:
            yield f"SMTP2CF_{name} has no effect without {missing}"


def _wrong_ids(settings: Settings) -> Iterator[str]:
    ids = {"SMTP2CF_ACCOUNT_ID": settings.account_id}
    ids |= {f"[[account]] {table.name}: account_id": table.account_id for table in settings.accounts}
    for setting, value in ids.items():
        if value and not _ACCOUNT_ID.fullmatch(value):
            yield (
                f"{setting}={value} is not an account id, which is 32 hexadecimal digits: copy it from the"
                " account's overview in Cloudflare's dashboard"
            )


def _clear_text(settings: Settings) -> Iterator[str]:
    urls = {"SMTP2CF_API_BASE_URL": settings.api_base_url}
    urls |= {
        f"[[account]] {table.name}: api_base_url": table.api_base_url or "" for table in settings.accounts
    }
    for setting, url in urls.items():
        if url and (host := _clear_text_host(url)):
            yield (
                f"{setting}={url} sends the API token to {host} unencrypted, so others on the network can"
                " read it: use https://"
            )


def _clear_text_host(url: str) -> str:
    """The host to which a token would go unencrypted, "" for this host or an encrypted way."""
    try:
        parsed = httpx.URL(url)
        host = parsed.host
        is_here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except httpx.InvalidURL:
        return ""  # the start says so
    except ValueError:
        is_here = host.endswith(".localhost")
    return "" if is_here or parsed.scheme != "http" else host


def require_account(settings: Settings) -> None:
    """Raise SettingsError unless the settings name an account and a token, or tables do."""
    if settings.accounts and not settings.account_id and not settings.api_token.get_secret_value():
        return
    if not settings.account_id:
        raise SettingsError(
            "SMTP2CF_ACCOUNT_ID is not set: set it to the id of the Cloudflare account that sends"
        )
    if not settings.api_token.get_secret_value():
        raise SettingsError(
            "SMTP2CF_API_TOKEN is not set: use a token with the permission Email Sending: Edit"
        )


def _open_relay(settings: Settings) -> Iterator[str]:
    """Nobody becomes an open relay without saying so."""
    if settings.i_am_an_open_relay:
        return
    networks = {"SMTP2CF_ALLOW_NETWORKS": settings.allow_networks}
    networks |= {way.networks_setting: way.networks for way in ways_of(settings) if not way.auth_required}
    for setting, allowed in networks.items():
        if (everybody := open_relay.everybody_in(allowed)) is not None:
            yield (
                f"{setting} contains {everybody}: anybody who reaches it could send with your"
                " account. Name your clients' networks, or use SMTP2CF_USERS_FILE; if this is what you want,"
                " set SMTP2CF_I_AM_AN_OPEN_RELAY=yes"
            )
    if (everybody := open_relay.everybody_in(settings.proxy_networks)) is not None:
        yield (
            f"SMTP2CF_PROXY_NETWORKS contains {everybody}: anybody who reaches it could claim to be in"
            " SMTP2CF_ALLOW_NETWORKS. Name your load balancers; if this is what you want, set"
            " SMTP2CF_I_AM_AN_OPEN_RELAY=yes"
        )


def _certificate(settings: Settings, *, sandbox: bool, handed_over: Collection[str]) -> Iterator[str]:
    if settings.tls_cert_file is not None:
        return
    if settings.tls_key_file is not None:
        yield "SMTP2CF_TLS_KEY_FILE is set, but SMTP2CF_TLS_CERT_FILE is not"
        return
    if sandbox:
        return
    for way in ways_of(settings):
        if way.needs_certificate and (way.name in handed_over or way.described.listen):
            who = "SMTPS" if not way.tabled and way.name in handed_over else way.setting
            yield f"{who} needs a certificate: SMTP2CF_TLS_CERT_FILE is not set"


def _listeners(settings: Settings, handed_over: Collection[str] | None) -> Iterator[str]:
    """What each table of a listener says, against everything else."""
    tabled = [way for way in ways_of(settings) if way.tabled]
    for way in tabled:
        if way.name in PROTOCOLS and f"{way.name}_listen" in settings.model_fields_set:
            yield f"{way.setting} and SMTP2CF_{way.name.upper()}_LISTEN are both set: set only one of them"
        if way.auth_required:
            yield from _nobody_can_log_in(settings, way)
        if handed_over is not None and not way.described.listen and way.name not in handed_over:
            yield f"{way.setting} has no listen, and systemd has opened no socket named {way.name}"
    names = [*PROTOCOLS, *(way.name for way in tabled if way.name not in PROTOCOLS)]
    for name in handed_over or ():
        if name not in names:
            yield (
                f"FileDescriptorName={name} of a socket from systemd must be one of {', '.join(names)}, or"
                " the name of a [[listener]]"
            )


def _nobody_can_log_in(settings: Settings, way: Way) -> Iterator[str]:
    if settings.users_file is None:
        yield f'{way.setting} has auth = "required", but SMTP2CF_USERS_FILE is not set'
    unencrypted = way.described.protocol != "smtps" and way.described.tls == "off"
    if unencrypted and not settings.auth_without_tls:
        yield (
            f'{way.setting} has auth = "required" and tls = "off", but AUTH is offered over TLS only: set'
            ' tls = "required"'
        )


def _spool_and_users(settings: Settings, *, sandbox: bool) -> Iterator[str]:
    if settings.mode == "queue" and settings.spool_url.get_secret_value().lower() == "none":
        yield "SMTP2CF_MODE=queue needs a spool, but SMTP2CF_SPOOL_URL is none"
    has_tls = sandbox or settings.tls_cert_file is not None
    if settings.users_file is not None and not has_tls and not settings.auth_without_tls:
        yield (
            "SMTP2CF_USERS_FILE is set, but nobody could log in: AUTH is offered over TLS only. Set"
            " SMTP2CF_TLS_CERT_FILE, or SMTP2CF_AUTH_WITHOUT_TLS=yes"
        )


def _socket_group(settings: Settings) -> Iterator[str]:
    try:
        group_id(settings.socket_group)
    except ValueError as error:
        yield f"SMTP2CF_SOCKET_GROUP: {error}"
