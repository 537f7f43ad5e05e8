"""Listener: what belongs to one way in: where it is, what is spoken there, TLS, and who may do what.

Several that differ in any of this are a list of these, and one server. Knows no settings and no session.
"""

import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from smtp2cf.smtpd.rules import Rules

MailProtocol = Literal["smtp", "smtps", "lmtp"]
"""smtps: SMTP with TLS from the first octet on."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Listener:
    """One way in.

    rules: who may do what here. name: what log lines call it, "" for nothing. certificate: gives the context
    for the next handshake, None for no TLS. starttls: offered if there is a certificate. sockets: listening
    ones. endpoints: what clients connect to, for people. shared: another process has the sockets too
    (systemd), so clients that wait there wait for the next bridge.
    """

    rules: Rules
    name: str = ""
    protocol: MailProtocol = "smtp"
    certificate: Callable[[], ssl.SSLContext] | None = None
    starttls: bool = True
    sockets: Sequence[socket.socket] = ()
    endpoints: tuple[str, ...] = ()
    shared: bool = False

    def __post_init__(self) -> None:
        if self.tls_first and self.certificate is None:
            raise ValueError("a listener with TLS needs a certificate")
        if self.rules.policy.tls_required and not (self.tls_first or self.offers_starttls):
            raise ValueError("a listener that requires TLS must offer it")

    @property
    def lmtp(self) -> bool:
        """LMTP is spoken (RFC 2033)."""
        return self.protocol == "lmtp"

    @property
    def tls_first(self) -> bool:
        """TLS from the first octet on."""
        return self.protocol == "smtps"

    @property
    def offers_starttls(self) -> bool:
        """STARTTLS may be said."""
        return self.starttls and not self.tls_first and self.certificate is not None
