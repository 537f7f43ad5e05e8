"""Policies: what the settings mean to each room, as the plain values that it is built from.

Beside serve.py and the command line the only place that knows the settings.
"""

import socket

from smtp2cf.listen import open_relay
from smtp2cf.relay import BouncePolicy, DropPolicy, MessagePolicy, RetryPolicy
from smtp2cf.settings import fields
from smtp2cf.smtpd import Policy, Quota, Quotas


def message_policy(settings: fields.Settings) -> MessagePolicy:
    """What the settings say about messages."""
    return MessagePolicy(
        null_sender_address=settings.null_sender_address,
        partial_bounce=settings.partial_bounce,
        non_utf8=settings.non_utf8,
        bare_newline=settings.bare_newline,
        drop_headers=frozenset(settings.drop_headers),
        check_header_from=settings.check_header_from,
        mode=settings.mode,
        reply_timeout=settings.reply_timeout,
    )


def retry_policy(settings: fields.Settings) -> RetryPolicy:
    """When mail that waits is tried again."""
    return RetryPolicy(
        minimum=settings.retry_min,
        maximum=settings.retry_max,
        expire_after=settings.expire_after,
        # The other half of the calls is for new mail, which must not wait behind the old.
        parallel=max(1, settings.api_concurrency // 2),
    )


def spool_min_free(settings: fields.Settings) -> int:
    """Octets that must be free on the spool's disk: a message needs more than its size, for a moment."""
    return max(settings.spool_min_free, settings.max_message_size * 3 // 2)


def bounce_policy(settings: fields.Settings) -> BouncePolicy:
    """Who sends DSNs."""
    return BouncePolicy(
        hostname=settings.hostname, postmaster=settings.postmaster, expire_after=settings.expire_after
    )


def drop_policy(settings: fields.Settings) -> DropPolicy:
    """Where mail is taken in that sendmail left, and how."""
    return DropPolicy(
        directory=settings.sendmail_drop_dir,
        aside=settings.sendmail_drop_dir.parent / "refused",
        max_message_size=settings.max_message_size,
        retry_min=settings.retry_min,
        retry_max=settings.retry_max,
        expire_after=settings.expire_after,
    )


def smtp_policy(settings: fields.Settings) -> Policy:
    """Who may send over SMTP, and how much."""
    return Policy(
        hostname=settings.hostname,
        allow_networks=settings.allow_networks,
        max_message_size=settings.max_message_size,
        max_message_memory=settings.max_message_memory,
        max_recipients=settings.max_recipients,
        max_sessions=settings.max_sessions,
        session_timeout=settings.session_timeout,
        auth_without_tls=settings.auth_without_tls,
        proxy_networks=settings.proxy_networks,
        crlf_only=settings.bare_newline == "reject",
        postmaster=settings.postmaster,
    )


def quotas(settings: fields.Settings) -> Quotas:
    """How much one client address and one user may send."""
    return Quotas(
        Quota(
            settings.client_max_sessions,
            settings.client_messages_per_minute,
            settings.client_recipients_per_minute,
        ),
        Quota(
            settings.user_max_sessions,
            settings.user_messages_per_minute,
            settings.user_recipients_per_minute,
        ),
    )


def own_names(settings: fields.Settings) -> tuple[str, ...]:
    """Names by which people ask for our pages."""
    listening = (endpoint.host for endpoint in settings.admin_listen)
    return (settings.hostname, socket.gethostname(), *settings.admin_hosts, *listening)


def require_account(settings: fields.Settings) -> fields.Settings:
    """The settings, if they name an account and a token; raises fields.SettingsError."""
    if not settings.account_id:
        raise fields.SettingsError("SMTP2CF_ACCOUNT_ID is not set: whose account is to send?")
    if not settings.api_token.get_secret_value():
        raise fields.SettingsError(
            "SMTP2CF_API_TOKEN is not set: an API token with the permission Email Sending: Edit is needed"
        )
    return settings


def require_no_open_relay(settings: fields.Settings) -> fields.Settings:
    """The settings, unless they let everybody relay who does not say so; raises fields.SettingsError."""
    everybody = open_relay.everybody_in(settings.allow_networks)
    if everybody is not None and not settings.i_am_an_open_relay:
        raise fields.SettingsError(
            f"SMTP2CF_ALLOW_NETWORKS holds {everybody}: everybody who reaches the bridge could send with your"
            " account. Name your clients' networks, or use SMTP2CF_USERS_FILE; if this is what you want, set"
            " SMTP2CF_I_AM_AN_OPEN_RELAY=yes"
        )
    everybody = open_relay.everybody_in(settings.proxy_networks)
    if everybody is not None and not settings.i_am_an_open_relay:
        raise fields.SettingsError(
            f"SMTP2CF_PROXY_NETWORKS holds {everybody}: everybody who reaches the bridge could say to be in"
            " SMTP2CF_ALLOW_NETWORKS. Name your load balancers; if this is what you want, set"
            " SMTP2CF_I_AM_AN_OPEN_RELAY=yes"
        )
    return settings


def require_sense(settings: fields.Settings) -> fields.Settings:
    """The settings, unless one of them can't work with another; raises fields.SettingsError."""
    if settings.mode == "queue" and settings.spool_url.get_secret_value().lower() == "none":
        raise fields.SettingsError("SMTP2CF_MODE=queue needs a spool, and SMTP2CF_SPOOL_URL is none")
    if settings.users_file is not None and settings.tls_cert_file is None and not settings.auth_without_tls:
        raise fields.SettingsError(
            "SMTP2CF_USERS_FILE is set, but nobody could log in: AUTH is offered over TLS only. Set"
            " SMTP2CF_TLS_CERT_FILE, or SMTP2CF_AUTH_WITHOUT_TLS=yes"
        )
    return settings
