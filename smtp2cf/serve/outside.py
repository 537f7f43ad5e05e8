"""The outside view: what probes, the status page and the gauges say of a bridge, asked of its parts."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from smtp2cf import __version__
from smtp2cf.journal import maillog, quotas
from smtp2cf.journal.metrics import Gauge
from smtp2cf.journal.readiness import Readiness
from smtp2cf.listen.certificate import Certificate
from smtp2cf.relay.sender_domains import SenderDomains
from smtp2cf.reply import Reply
from smtp2cf.serve.accounts import AccountsInUse
from smtp2cf.settings.fields import Settings
from smtp2cf.smtpd import Server
from smtp2cf.spool.health import SpoolHealth


class OutsideView:
    """One bridge's. spool: None for no spool. certificate: None for no TLS. relays_for: whose clients may
    send without a password.
    """

    def __init__(
        self,
        settings: Settings,
        accounts: AccountsInUse,
        sender_domains: SenderDomains,
        server: Server,
        spool: SpoolHealth | None,
        certificate: Certificate | None,
        relays_for: Callable[[], Mapping[str, str]],
        closed: Callable[[], Reply | None] | None = None,
    ) -> None:
        self._settings = settings
        self._accounts = accounts
        self._sender_domains = sender_domains
        self._server = server
        self._spool = spool
        self._certificate = certificate
        self._relays_for = relays_for
        self._closed = closed
        self._started = time.time()

    def readiness(self) -> Readiness:
        """Whether mail can be taken: the spool can be written, or without one, mail can be sent."""
        if self._spool is None:
            return self.can_send()
        found = self._spool.readiness()
        refusal = self._closed() if found.ready and self._closed is not None else None
        return found if refusal is None else Readiness(False, refusal.text)

    def can_send(self) -> Readiness:
        """Whether mail can be taken and sent: nor has any waited for too long."""
        sending = self._accounts.can_send()
        if not sending.ready or self._spool is None:
            return sending
        well = self._spool.all_well()
        return well if well.reason else sending

    def status(self) -> Mapping[str, object]:
        """What the status page shows."""
        return {
            "version": __version__,
            "running since": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._started)),
            **self._server.where_mail_is_taken(),
            **self._accounts.summary(),
            **({"does not send for": troubles} if (troubles := self._sender_domains.summary()) else {}),
            **self._relays_for(),
            "sessions": f"{len(self._server.sessions)} of {self._settings.max_sessions}",
            **({"waiting mail": self._spool.summary()} if self._spool is not None else {}),
            **({"near a quota": "; ".join(near)} if (near := quotas.near()) else {}),
            "recent": maillog.recent(),
        }

    def in_a_line(self) -> str:
        """What waits, and whether calls get through: what systemd shows."""
        waiting = f"{self._spool.messages} waiting, " if self._spool is not None else ""
        return f"{waiting}API {self._accounts.in_words()}"

    def at_listeners(self) -> Iterator[Gauge]:
        """What /metrics has of each listener with a name."""
        if sessions := self._server.sessions_at():
            yield Gauge("smtp2cf_listener_sessions", "SMTP sessions at a listener", sessions, "listener")

    def gauges(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """For /metrics: by name, a text and what returns the value."""
        certificate = self._certificate
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "smtp2cf_sessions": ("SMTP sessions", lambda: len(self._server.sessions)),
            "smtp2cf_ready": ("1 when mail can be taken", lambda: self.readiness().ready),
            "smtp2cf_ready_to_send": ("1 when mail can be taken and sent", lambda: self.can_send().ready),
            **self._limits(),
        }
        if certificate is not None:
            gauges["smtp2cf_tls_certificate_expires_timestamp"] = (
                "When the certificate expires, in seconds since the epoch",
                lambda: certificate.expires,
            )
        return gauges

    def _limits(self) -> Mapping[str, tuple[str, Callable[[], float]]]:
        """The limits that are set, in the same form."""
        settings = self._settings
        limits: dict[str, tuple[str, float]] = {
            "smtp2cf_max_sessions": ("SMTP2CF_MAX_SESSIONS", settings.max_sessions),
            "smtp2cf_max_recipients": ("SMTP2CF_MAX_RECIPIENTS", settings.max_recipients),
            "smtp2cf_max_message_size_bytes": ("SMTP2CF_MAX_MESSAGE_SIZE", settings.max_message_size),
            "smtp2cf_max_message_memory_bytes": ("SMTP2CF_MAX_MESSAGE_MEMORY", settings.max_message_memory),
        }
        if self._spool is not None:
            limits |= {
                "smtp2cf_spool_min_free_bytes": ("SMTP2CF_SPOOL_MIN_FREE", settings.spool_min_free),
                "smtp2cf_expire_after_seconds": ("SMTP2CF_EXPIRE_AFTER", settings.expire_after),
                "smtp2cf_warn_after_seconds": ("SMTP2CF_WARN_AFTER", settings.warn_after),
            }
        return {
            name: (f"The limit {setting}", partial(float, value)) for name, (setting, value) in limits.items()
        }
