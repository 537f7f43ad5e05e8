"""Places: where the bridge can be reached, and the listening sockets there.

Knows only the names of what is spoken there.
"""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.listen.systemd import PROTOCOLS, HandedOver


class Place(NamedTuple):
    """Where one thing is spoken: listening sockets, and the endpoints that clients connect to."""

    sockets: list[socket.socket]
    endpoints: tuple[Endpoint, ...]

    @property
    def shared(self) -> bool:
        """Another process has the sockets too: whoever waits there waits for the next bridge."""
        return any(isinstance(sock, HandedOver) for sock in self.sockets)


class Places(NamedTuple):
    """Where the bridge can be reached.

    mail: by the listener's name, those that have sockets. starttls: where a trial takes mail with TLS, for
    clients that trust ca_file, the CA of a certificate that was made for the trial.
    """

    mail: Mapping[str, Place]
    starttls: Place
    admin: Place
    sandbox: Place
    ca_file: Path | None = None

    def described(self) -> dict[str, object]:
        """Every place, for the log; those that are seldom set up only if they are."""
        named: dict[str, object] = {"smtp": [], "admin": _listed(self.admin)}
        named |= {name: _listed(place) for name, place in self.mail.items() if name in PROTOCOLS}
        others = {name: _listed(place) for name, place in self.mail.items() if name not in PROTOCOLS}
        if others:
            named["listeners"] = others
        if self.starttls.endpoints:
            named["starttls"] = _listed(self.starttls)
        if self.sandbox.endpoints:
            named["sandbox"] = str(self.sandbox.endpoints[0])
        if self.ca_file is not None:
            named["ca_file"] = str(self.ca_file)
        return named


def _listed(place: Place) -> list[str]:
    return [str(endpoint) for endpoint in place.endpoints]
