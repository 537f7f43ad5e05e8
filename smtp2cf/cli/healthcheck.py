"""Healthcheck: does the bridge in this container answer /livez? For the image's HEALTHCHECK.

Not /readyz: a restart would bring neither the API nor a disk back, and interrupt what works.

`python -m smtp2cf.cli.healthcheck` exits 0 or, with one line that says why, 1. It starts often and has to
be quick: the standard library only, and no setting but SMTP2CF_ADMIN_LISTEN, from the environment.
"""

import http.client
import os
import socket
import sys

from smtp2cf.listen.endpoint import Endpoint

DEFAULT = "127.0.0.1:8025"
TIMEOUT = 4.0
"""Seconds; the image's HEALTHCHECK gives up after 5."""

BODY_LIMIT = 1 << 20
"""Octets of an answer that are read."""


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
        return _unhealthy("SMTP2CF_ADMIN_LISTEN is none, so nothing can be checked: use --no-healthcheck")
    try:
        status, _ = ask(Endpoint.parse(listen.split(",")[0]).from_here, "/livez")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _unhealthy(f"/livez on {listen}: {error}")
    return 0 if status == http.HTTPStatus.OK else _unhealthy(f"/livez on {listen}: HTTP {status}")


def ask(endpoint: Endpoint, path: str, accept: str = "*/*") -> tuple[int, bytes]:
    """The status and body of a page of the admin's. Raises OSError and http.client.HTTPException."""
    connection = _Connection(endpoint)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.read(BODY_LIMIT)
    finally:
        connection.close()


def _unhealthy(why: str) -> int:
    sys.stdout.write(f"{why}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
