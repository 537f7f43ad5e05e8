"""Healthcheck: does the bridge in this container answer /livez? For the image's HEALTHCHECK.

`python -m smtp2cf.healthcheck` exits 0 or, with one line that says why, 1. It starts often and has to
be quick: the standard library only, and no setting but SMTP2CF_ADMIN_LISTEN, from the environment.
"""

import http.client
import os
import socket
import sys

from smtp2cf.endpoint import Endpoint

DEFAULT = "127.0.0.1:8025"
TIMEOUT = 4.0
"""Seconds; the image's HEALTHCHECK gives up after 5."""


class _Connection(http.client.HTTPConnection):
    """HTTP to an endpoint, which may be a unix socket."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint.host or "localhost", endpoint.port or 80, timeout=TIMEOUT)
        self._path = endpoint.path

    def connect(self) -> None:
        if not self._path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def main() -> int:
    """Ask, and return the exit status."""
    listen = os.environ.get("SMTP2CF_ADMIN_LISTEN", "").strip() or DEFAULT
    if listen.lower() == "none":
        return _unhealthy("SMTP2CF_ADMIN_LISTEN is none: there is nobody to ask, use --no-healthcheck")
    try:
        status = _ask(Endpoint.parse(listen.split(",")[0]).from_here)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _unhealthy(f"/livez on {listen}: {error}")
    return 0 if status == http.HTTPStatus.OK else _unhealthy(f"/livez on {listen}: HTTP {status}")


def _ask(endpoint: Endpoint) -> int:
    connection = _Connection(endpoint)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status
    finally:
        connection.close()


def _unhealthy(why: str) -> int:
    sys.stdout.write(f"{why}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
