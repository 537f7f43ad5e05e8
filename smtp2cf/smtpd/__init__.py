"""The SMTP side: takes sessions from clients and hands their messages on (RFC 5321).

Knows no relay and no Cloudflare: `Server(accept, policy)` is its whole surface.
"""

from smtp2cf.smtpd.server import Accept, Policy, Server

__all__ = ["Accept", "Policy", "Server"]
