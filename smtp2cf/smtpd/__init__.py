"""The SMTP side: takes sessions from clients and hands their messages on (RFC 5321).

Knows no relay and no Cloudflare: `Server(accept, capacity)`, started with each `Listener`, is its whole
surface, and `judge(policy, …)` for mail that comes without a session.
"""

from smtp2cf.smtpd.descriptors import Files
from smtp2cf.smtpd.dropped import judge, over_quota
from smtp2cf.smtpd.listener import Listener, MailProtocol
from smtp2cf.smtpd.rules import Policy, Rules
from smtp2cf.smtpd.server import Server
from smtp2cf.smtpd.session_limits import SessionLimits
from smtp2cf.smtpd.sessions import Capacity

__all__ = [
    "Capacity",
    "Files",
    "Listener",
    "MailProtocol",
    "Policy",
    "Rules",
    "Server",
    "SessionLimits",
    "judge",
    "over_quota",
]
