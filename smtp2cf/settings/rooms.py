"""Rooms: what the settings mean to each room, as the plain values and objects that it is built from.

Each function names the settings of one room, and raises SettingsError, with a setting's name, if
one can't be used.
"""

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator

from smtp2cf import spool
from smtp2cf.access.rules import Access, open_access
from smtp2cf.access.sender_rewriting import SenderRewriting
from smtp2cf.journal import maillog
from smtp2cf.journal.record import Journal
from smtp2cf.journal.recorder import Recorder
from smtp2cf.journal.store import open_journal
from smtp2cf.listen import trust
from smtp2cf.listen.certificate import Certificate, CertificateError
from smtp2cf.message.facts import facts
from smtp2cf.relay import BouncePolicy, DropPolicy, MessagePolicy, RetryPolicy
from smtp2cf.relay.bounces import OverQuota
from smtp2cf.settings.fields import Settings, SettingsError
from smtp2cf.settings.listening import ways_of
from smtp2cf.smtpd import Capacity, Policy
from smtp2cf.smtpd.path import TakesName
from smtp2cf.spool import FollowingSpool, Spool
from smtp2cf.spool.mark import Mark, Use


def message_policy(settings: Settings) -> MessagePolicy:
    """What the settings say about messages."""
    return MessagePolicy(
        null_sender_address=settings.null_sender_address,
        partial_bounce=settings.partial_bounce,
        non_utf8=settings.non_utf8,
        bare_newline=settings.bare_newline,
        on_invalid=settings.on_invalid,
        drop_headers=frozenset(settings.drop_headers),
        add_missing_headers=settings.add_missing_headers,
        hostname=settings.hostname,
        check_header_from=settings.check_header_from,
        mode=settings.mode,
        reply_timeout=settings.reply_timeout,
    )


def retry_policy(settings: Settings) -> RetryPolicy:
    """When waiting mail is retried."""
    return RetryPolicy(
        minimum=settings.retry_min,
        maximum=settings.retry_max,
        expire_after=settings.expire_after,
        # The other half of the calls is for new mail, which must not wait behind old mail.
        parallel=max(1, settings.api_concurrency // 2),
    )


def spool_min_free(settings: Settings) -> int:
    """Octets that must be free on the spool's disk: for a moment, a message needs more than its size."""
    return max(settings.spool_min_free, settings.max_message_size * 3 // 2)


def bounce_policy(settings: Settings, over_quota: OverQuota | None = None) -> BouncePolicy:
    """Who sends DSNs, and who gets them. over_quota: None for as many as there are."""
    return BouncePolicy(
        hostname=settings.hostname,
        postmaster=settings.postmaster,
        expire_after=settings.expire_after,
        redirect=settings.redirect_all_to,
        copies_to=settings.operator if settings.operator_gets_bounces else "",
        over_quota=over_quota,
    )


def drop_policy(settings: Settings) -> DropPolicy:
    """Where mail that sendmail left is picked up, and how."""
    return DropPolicy(
        directory=settings.sendmail_drop_dir,
        aside=settings.sendmail_drop_dir.parent / "refused",
        max_message_size=settings.max_message_size,
        retry_min=settings.retry_min,
        retry_max=settings.retry_max,
        expire_after=settings.expire_after,
    )


def smtp_policy(settings: Settings, takes_sender: TakesName | None = None) -> Policy:
    """Who may send over SMTP, and how much. takes_sender: see Policy."""
    return Policy(
        hostname=settings.hostname,
        allow_networks=settings.allow_networks,
        max_message_size=settings.max_message_size,
        max_recipients=settings.max_recipients,
        session_timeout=settings.session_timeout,
        auth_without_tls=settings.auth_without_tls,
        proxy_networks=settings.proxy_networks,
        crlf_only=settings.bare_newline == "reject",
        postmaster=settings.postmaster,
        takes_sender=takes_sender,
    )


def capacity(settings: Settings) -> Capacity:
    """How many sessions there may be at once, and how much of messages in memory."""
    return Capacity(settings.max_sessions, settings.max_message_memory)


def own_names(settings: Settings) -> tuple[str, ...]:
    """Host names by which people request our pages."""
    listening = (endpoint.host for endpoint in settings.admin_listen)
    return (settings.hostname, socket.gethostname(), *settings.admin_hosts, *listening)


def access(settings: Settings, rewriting: SenderRewriting | None = None) -> Access:
    """Who may send. rewriting: what becomes of senders, None if nothing ever does."""
    try:
        return open_access(settings.users_file, settings.allowed_sender_domains, maillog.login, rewriting)
    except ValueError as error:
        raise SettingsError(f"SMTP2CF_USERS_FILE: {error}") from None


def certificate(settings: Settings) -> Certificate | None:
    """The certificate that clients are shown, None for no TLS."""
    if settings.tls_cert_file is None:
        return None
    try:
        return Certificate(
            settings.tls_cert_file,
            settings.tls_key_file,
            settings.tls_min_version,
            others={table.tls_min_version for table in settings.listeners if table.tls_min_version},
        )
    except CertificateError as error:
        raise SettingsError(str(error)) from None


def certificate_complaints(settings: Settings, certificate: Certificate | None) -> list[str]:
    """What clients will reject in the certificate, a line each."""
    if certificate is None:
        return []
    ways = (way.described for way in ways_of(settings))
    places = [place for way in ways if way.protocol == "smtps" or way.tls != "off" for place in way.listen]
    try:
        with public_cas():
            return list(trust.complaints(certificate, places, settings.hostname, settings.tls_ca_file))
    except CertificateError as error:
        raise SettingsError(str(error)) from None


async def open_spool(settings: Settings) -> FollowingSpool | None:
    """The spool that this process serves, None for none. Raises smtp2cf.spool.SpoolError."""
    url = settings.spool_url.get_secret_value()
    if url.lower() == "none":
        return None
    return await spool.open_spool(url, state_dir=settings.state_dir, min_free=spool_min_free(settings))


def journal(settings: Settings, *, create: bool) -> Journal | None:
    """The record of what became of mail, None for none. create: make it where there is none yet.

    Raises JournalError.
    """
    url = settings.spool_url.get_secret_value()
    if url.lower() == "none" or not settings.journal_days:
        return None
    # What is needed for mail is out of bounds, and as much again.
    min_free = 2 * spool_min_free(settings)
    at = spool.sqlite_path(url, settings.state_dir) if spool.is_sqlite(url) else url
    return open_journal(at, spool.place(url, settings.state_dir), create=create, min_free=min_free)


def recorder(settings: Settings) -> Recorder | None:
    """What keeps the journal, None where there is none. Raises JournalError."""
    record = journal(settings, create=True)
    if record is None:
        return None
    return Recorder(record, facts, days=settings.journal_days, subjects=settings.journal_subjects)


def mark(settings: Settings, store: Spool, *, sandbox: bool) -> Mark:
    """What says whose the spool is."""
    url = settings.spool_url.get_secret_value()
    place = spool.place(url, settings.state_dir)
    return Mark(store, Use.SANDBOX if sandbox else Use.REAL, place, shared=url.startswith("postgres"))


@contextlib.contextmanager
def public_cas() -> Iterator[None]:
    """Name the variable of the environment whose CA certificates can't be loaded."""
    try:
        yield
    except OSError as error:  # ssl.SSLError is one: for an empty file
        variable = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
        why = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(f"{variable}: {os.environ.get(variable, '')}: {why}") from None
