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
from smtp2cf.settings import listening
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.listening import Way, ways_of

PATIENCE = 3.0
"""Seconds for whoever has a place already."""
OPEN_TO_OTHERS = (
    "other hosts may reach it, and whoever does can read the status page, the queue and the metrics, with"
    " senders and recipients: listen on 127.0.0.1, or let only those through who may (SECURITY.md)"
)
BANNER_LIMIT = 512
"""Octets of what it says first."""


def listeners(settings: Settings, *, has_users: bool) -> Iterator[Finding]:
    """Every place to listen, and whether anybody may use it. has_users: somebody can log in."""
    ways = ways_of(settings)
    if not any(way.described.listen for way in ways):
        yield warning(
            "listeners",
            "no address to take mail on is set, so only sockets from systemd can: set SMTP2CF_SMTP_LISTEN",
        )
    with contextlib.ExitStack() as opened:  # all of them at once, as serve opens them
        sockets = _sockets(settings, opened)
        for way in ways:
            for endpoint in way.described.listen:
                if sockets is not None:
                    yield _can_listen(sockets, way.described.protocol, way.setting, endpoint)
                if why := _nobody(settings, way, endpoint, has_users=has_users):
                    where = _named(way.setting, endpoint)
                    yield error("listeners", f"nobody may send through {where}: {why}")
        for endpoint in settings.admin_listen:
            if sockets is not None:
                yield _can_listen(sockets, "admin", "SMTP2CF_ADMIN_LISTEN", endpoint)
            if open_relay.is_beyond_loopback(endpoint):
                yield warning("listeners", f"{_named('SMTP2CF_ADMIN_LISTEN', endpoint)}: {OPEN_TO_OTHERS}")
    yield from _warnings(settings, has_users=has_users)


def _warnings(settings: Settings, *, has_users: bool) -> Iterator[Finding]:
    for door in listening.doors_of(settings, has_users=has_users):
        for event, note in open_relay.relay_warnings(door):
            if event == "serve.open_relay" and not settings.i_am_an_open_relay:
                continue  # the settings' check has said so
            yield warning("listeners", f"{', '.join(door.listens) or 'every listener'}: {note}")


def _nobody(settings: Settings, way: Way, endpoint: Endpoint, *, has_users: bool) -> str:
    may_log_in = has_users and way.described.auth != "off"
    if settings.proxy_networks or (may_log_in and (way.auth_required or not endpoint.path)):
        return ""
    if way.auth_required:
        return "it requires a login, and there are no users: see SMTP2CF_USERS_FILE"
    why = open_relay.refused_to_all(
        endpoint, way.networks, way.networks_setting, socket_mode=int(settings.socket_mode, 8)
    )
    return (
        f"{why}. Name its clients' networks there, or set SMTP2CF_USERS_FILE"
        if why and not endpoint.path
        else why
    )


def _sockets(settings: Settings, opened: contextlib.ExitStack) -> ListeningSockets | None:
    """What opens them; None where their group is unknown, which the settings' check has said."""
    try:
        return listening.listening_sockets(settings, {}, opened)
    except ValueError:
        return None


def _can_listen(sockets: ListeningSockets, protocol: str, setting: str, endpoint: Endpoint) -> Finding:
    named = _named(setting, endpoint)
    try:
        sockets.open(setting, (endpoint,), setting)
    except NamedTwiceError as wrong:
        return error("listeners", wrong.strerror or str(wrong))
    except OSError as wrong:
        if wrong.errno == errno.EADDRINUSE and _is_a_bridge(protocol, endpoint.from_here):
            return ok("listeners", f"{named}: a bridge is listening there")
        return error("listeners", wrong.strerror or str(wrong))
    return ok("listeners", f"{named}: free to listen on")


def _named(setting: str, endpoint: Endpoint) -> str:
    return f"{setting}, {endpoint}"


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
