"""Listener: what is spoken at a listening socket. Knows no socket."""

from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Listener:
    """What is spoken at a listening socket: LMTP or SMTP.

    tls: from the first octet on. starttls: offered if there is a certificate.
    """

    lmtp: bool = False
    tls: bool = False
    starttls: bool = True


SMTP_LISTENER = Listener()
SMTPS_LISTENER = Listener(tls=True)
LMTP_LISTENER = Listener(lmtp=True)
