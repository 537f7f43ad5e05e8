"""Check: settings held against each other, before anything is opened.

Each setting by itself is checked when it is read (values.py); here is what can't work together, or is
missing for what was asked for.
"""

from collections.abc import Collection, Iterator

from smtp2cf.listen import open_relay
from smtp2cf.listen.endpoint import group_id
from smtp2cf.settings.fields import Settings, SettingsError


def check(settings: Settings, *, sandbox: bool = False, handed_over: Collection[str] = ()) -> None:
    """Raise SettingsError with a line for each contradiction.

    sandbox: a stand-in takes Cloudflare's place: it needs no account, and makes a certificate.
    handed_over: protocols for which systemd has opened sockets.
    """
    if not sandbox:
        require_account(settings)
    wrong = [
        *_open_relay(settings),
        *_certificate(settings, sandbox=sandbox, handed_over=handed_over),
        *_spool_and_users(settings, sandbox=sandbox),
        *_socket_group(settings),
    ]
    if wrong:
        raise SettingsError(*wrong)


def require_account(settings: Settings) -> None:
    """Raise SettingsError unless the settings name an account and a token."""
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
    if (everybody := open_relay.everybody_in(settings.allow_networks)) is not None:
        yield (
            f"SMTP2CF_ALLOW_NETWORKS contains {everybody}: anybody who reaches it could send with your"
            " account. Name your clients' networks, or use SMTP2CF_USERS_FILE; if this is what you want, set"
            " SMTP2CF_I_AM_AN_OPEN_RELAY=yes"
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
    elif sandbox:
        return
    elif "smtps" in handed_over:
        yield "SMTPS needs a certificate: SMTP2CF_TLS_CERT_FILE is not set"
    elif settings.smtps_listen:
        yield "SMTP2CF_SMTPS_LISTEN needs a certificate: SMTP2CF_TLS_CERT_FILE is not set"


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
