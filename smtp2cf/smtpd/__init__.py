"""The SMTP side: takes sessions from clients and hands their messages on (RFC 5321).

Knows no relay and no Cloudflare: `Server(accept, policy)` is its whole surface, and `judge(policy, …)` for
mail that comes without a session.
"""

from smtp2cf.smtpd.descriptors import Files
from smtp2cf.smtpd.dropped import judge
from smtp2cf.smtpd.quotas import Quota, Quotas
from smtp2cf.smtpd.server import (
    LMTP_LISTENER,
    SMTP_LISTENER,
    SMTPS_LISTENER,
    Accept,
    Listener,
    Policy,
    Server,
)

__all__ = [
    "LMTP_LISTENER",
    "SMTPS_LISTENER",
    "SMTP_LISTENER",
    "Accept",
    "Files",
    "Listener",
    "Policy",
    "Quota",
    "Quotas",
    "Server",
    "judge",
]
