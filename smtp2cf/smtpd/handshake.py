"""Handshake: how long TLS may take to begin, and what is logged if it does not. Knows no connection."""

from smtp2cf.reply import one_line
from smtp2cf.smtpd.log_limit import LimitedLog
from smtp2cf.smtpd.refusals import REFUSALS

HANDSHAKE_TIMEOUT = 30.0
"""Seconds a TLS handshake may take, and what a proxy says before it."""


def handshake_timeout(session_timeout: float) -> float:
    """Seconds for a handshake: never more than a client may be silent."""
    return min(HANDSHAKE_TIMEOUT, session_timeout)


def tls_failed(limited_log: LimitedLog, client: str, error: BaseException) -> None:
    """Log a failed handshake: a client that doesn't trust our certificate, a scanner, plain SMTP."""
    REFUSALS.counted["tls"] += 1
    reason = one_line(str(error) or type(error).__name__, 200)
    limited_log.info("session.tls_failed", client=client, reason=reason)
