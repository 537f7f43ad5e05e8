"""Places: where the bridge can be reached, and the listening sockets there.

Knows only the names of what is spoken there.
"""

import socket
from pathlib import Path
from typing import NamedTuple

from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.listen.systemd import HandedOver


class Place(NamedTuple):
    """Where one protocol is spoken: listening sockets, and the endpoints that clients connect to."""

    sockets: list[socket.socket]
    endpoints: tuple[Endpoint, ...]

    @property
    def shared(self) -> bool:
        """Another process has the sockets too: whoever waits there waits for the next bridge."""
        return any(isinstance(sock, HandedOver) for sock in self.sockets)


class Places(NamedTuple):
    """Where the bridge can be reached, by what is spoken there.

    starttls: where a trial takes mail with TLS, for clients that trust ca_file; its `smtp` is without TLS.
    ca_file: the CA of a certificate that was made for a trial.
    """

    smtp: Place
    starttls: Place
    smtps: Place
    lmtp: Place
    admin: Place
    sandbox: Place
    ca_file: Path | None = None

    def described(self) -> dict[str, object]:
        """Every place, for the log; those that are seldom set up only if they are."""
        named: dict[str, object] = {
            name: [str(endpoint) for endpoint in place.endpoints]
            for name, place in self._asdict().items()
            if isinstance(place, Place) and (place.endpoints or name in ("smtp", "admin"))
        }
        if self.sandbox.endpoints:
            named["sandbox"] = str(self.sandbox.endpoints[0])
        if self.ca_file is not None:
            named["ca_file"] = str(self.ca_file)
        return named
