"""The SMTP side: takes sessions from clients and hands their messages on (RFC 5321).

Knows no relay and no Cloudflare: `Server(accept, policy)` is its whole surface, and `judge(policy, …)` for
mail that comes without a session.
"""

from smtp2cf.smtpd.descriptors import Files
from smtp2cf.smtpd.dropped import judge
from smtp2cf.smtpd.quotas import Quota, Quotas
from smtp2cf.smtpd.server import LMTP_DOOR, SMTP_DOOR, SMTPS_DOOR, Accept, Door, Policy, Server

__all__ = [
    "LMTP_DOOR",
    "SMTPS_DOOR",
    "SMTP_DOOR",
    "Accept",
    "Door",
    "Files",
    "Policy",
    "Quota",
    "Quotas",
    "Server",
    "judge",
]
