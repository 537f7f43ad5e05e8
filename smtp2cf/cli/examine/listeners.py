"""Listeners: whether each place to listen can be had, and who may send through it.

They are opened for a moment, by the code that serves. Where another process has it already, it is asked
whether it is a bridge.
"""

import contextlib
import errno
import http.client
import socket
import ssl
from collections.abc import Iterator

from smtp2cf.cli.examine.finding import Finding, error, ok, warning
from smtp2cf.cli.healthcheck import ask
from smtp2cf.listen import open_relay
from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.listen.sockets import ListeningSockets, NamedTwiceError
from smtp2cf.settings import rooms
from smtp2cf.settings.fields import Settings

PATIENCE = 3.0
"""Seconds for whoever has a place already."""
BANNER_LIMIT = 512
"""Octets of what it says first."""


def listeners(settings: Settings, *, has_users: bool) -> Iterator[Finding]:
    """Every place to listen, and whether anybody may use it. has_users: somebody can log in."""
    mail = {
        "smtp": settings.smtp_listen,
        "smtps": settings.smtps_listen,
        "lmtp": settings.lmtp_listen,
    }
    if not any(mail.values()):
        yield warning(
            "listeners",
            "no address to take mail on is set, so only sockets from systemd can: set SMTP2CF_SMTP_LISTEN",
        )
    with contextlib.ExitStack() as opened:  # all of them at once, as serve opens them
        sockets = _sockets(settings, opened)
        for protocol, endpoints in (*mail.items(), ("admin", settings.admin_listen)):
            for endpoint in endpoints:
                if sockets is not None:
                    yield _can_listen(sockets, protocol, endpoint)
                if protocol != "admin" and (why := _nobody(settings, endpoint, has_users=has_users)):
                    yield error("listeners", f"nobody may send through {_named(protocol, endpoint)}: {why}")
    beyond = [str(endpoint) for endpoint in sum(mail.values(), ()) if open_relay.is_beyond_loopback(endpoint)]
    for _, note in open_relay.relay_warnings(beyond, settings.allow_networks, has_users=has_users):
        yield warning("listeners", f"{', '.join(beyond) or 'every listener'}: {note}")


def _nobody(settings: Settings, endpoint: Endpoint, *, has_users: bool) -> str:
    if settings.proxy_networks or (has_users and not endpoint.path):
        return ""
    why = open_relay.refused_to_all(
        endpoint, settings.allow_networks, socket_mode=int(settings.socket_mode, 8)
    )
    return (
        f"{why}. Name its clients' networks there, or set SMTP2CF_USERS_FILE"
        if why and not endpoint.path
        else why
    )


def _sockets(settings: Settings, opened: contextlib.ExitStack) -> ListeningSockets | None:
    """What opens them; None where their group is unknown, which the settings' check has said."""
    try:
        return rooms.listening_sockets(settings, {}, opened)
    except ValueError:
        return None


def _can_listen(sockets: ListeningSockets, protocol: str, endpoint: Endpoint) -> Finding:
    named = _named(protocol, endpoint)
    try:
        sockets.open(protocol, (endpoint,))
    except NamedTwiceError as wrong:
        return error("listeners", wrong.strerror or str(wrong))
    except OSError as wrong:
        if wrong.errno == errno.EADDRINUSE and _is_a_bridge(protocol, endpoint.from_here):
            return ok("listeners", f"{named}: a bridge is listening there")
        return error("listeners", wrong.strerror or str(wrong))
    return ok("listeners", f"{named}: free to listen on")


def _named(protocol: str, endpoint: Endpoint) -> str:
    return f"SMTP2CF_{protocol.upper()}_LISTEN, {endpoint}"


def _is_a_bridge(protocol: str, endpoint: Endpoint) -> bool:
    """Whether what listens there greets as we do."""
    try:
        if protocol == "admin":
            return ask(endpoint, "/livez")[0] == http.HTTPStatus.OK
        with _connected(endpoint) as connection:
            if protocol != "smtps":
                return b" smtp2cf" in connection.recv(BANNER_LIMIT)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(connection) as encrypted:
                return b" smtp2cf" in encrypted.recv(BANNER_LIMIT)
    except (OSError, http.client.HTTPException):
        return False


def _connected(endpoint: Endpoint) -> socket.socket:
    if not endpoint.path:
        return socket.create_connection((endpoint.host, endpoint.port), PATIENCE)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(PATIENCE)
    try:
        connection.connect(endpoint.path)
    except OSError:
        connection.close()
        raise
    return connection
