"""The SMTP side: takes sessions from clients and hands their messages on (RFC 5321).

Knows no relay and no Cloudflare: `Server(accept, rules)` is its whole surface, and `judge(policy, …)` for
mail that comes without a session.
"""

from smtp2cf.smtpd.descriptors import Files
from smtp2cf.smtpd.dropped import judge
from smtp2cf.smtpd.listener import LMTP_LISTENER, SMTP_LISTENER, SMTPS_LISTENER, Listener
from smtp2cf.smtpd.quotas import Quota, Quotas
from smtp2cf.smtpd.rules import Policy, Rules
from smtp2cf.smtpd.server import Server

__all__ = [
    "LMTP_LISTENER",
    "SMTPS_LISTENER",
    "SMTP_LISTENER",
    "Files",
    "Listener",
    "Policy",
    "Quota",
    "Quotas",
    "Rules",
    "Server",
    "judge",
]
