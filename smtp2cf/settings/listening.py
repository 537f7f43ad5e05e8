"""Listening: the ways in for mail, each with rules of its own, and the sockets of all places.

A way in is a [[listener]] of the TOML file, or one of those that SMTP2CF_SMTP_LISTEN, …SMTPS_LISTEN and
…LMTP_LISTEN stand for: listeners named smtp, smtps and lmtp, with the rules of the other settings.
"""

import contextlib
import dataclasses
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from smtp2cf.access.senders import Senders
from smtp2cf.envelope import Network
from smtp2cf.listen import open_relay
from smtp2cf.listen.certificate import Certificate
from smtp2cf.listen.endpoint import Endpoint, group_id
from smtp2cf.listen.interfaces import container_gateways
from smtp2cf.listen.open_relay import Door
from smtp2cf.listen.places import Place, Places
from smtp2cf.listen.sockets import ListeningSockets
from smtp2cf.settings.fields import PREFIX, Settings
from smtp2cf.settings.fields.tables import ListenerTable
from smtp2cf.settings.trial import Trial
from smtp2cf.smtpd import Listener, MailProtocol, Policy, Rules

SHORTHANDS: tuple[MailProtocol, ...] = ("smtp", "smtps", "lmtp")
"""Listeners that a setting of their own stands for."""


class Way(NamedTuple):
    """A way in for mail. described: what is said about it. tabled: in a table, otherwise by a shorthand.

    networks: whose clients may send without a password.
    """

    described: ListenerTable
    tabled: bool
    networks: tuple[Network, ...]

    @property
    def name(self) -> str:
        """What it is called."""
        return self.described.name

    @property
    def setting(self) -> str:
        """What an operator looks for to change it."""
        return f"[[listener]] {self.name}" if self.tabled else f"{PREFIX}{self.name.upper()}_LISTEN"

    @property
    def networks_setting(self) -> str:
        """What an operator looks for to change its networks."""
        own = self.tabled and self.described.allow_networks is not None
        return f"allow_networks of {self.setting}" if own else f"{PREFIX}ALLOW_NETWORKS"

    @property
    def needs_certificate(self) -> bool:
        """Nobody could use it without TLS."""
        return self.described.protocol == "smtps" or self.described.tls == "required"

    @property
    def auth_required(self) -> bool:
        """Nobody may send without a password, from any network."""
        return self.described.auth == "required"


def ways_of(settings: Settings) -> tuple[Way, ...]:
    """Every way in, also those that have no place: systemd may have opened sockets for them."""
    tabled = {table.name: table for table in settings.listeners}
    shorthands = (
        ListenerTable.model_validate(
            {"name": name, "listen": getattr(settings, f"{name}_listen"), "protocol": name}
        )
        for name in SHORTHANDS
        if name not in tabled
    )
    return (
        *(Way(table, tabled=False, networks=settings.allow_networks) for table in shorthands),
        *(Way(table, tabled=True, networks=_networks(table, settings)) for table in tabled.values()),
    )


def places_of(settings: Settings, protocol: MailProtocol) -> list[Endpoint]:
    """Where a protocol is spoken: first where that needs neither STARTTLS nor a login."""
    ways = (way for way in ways_of(settings) if way.described.protocol == protocol)
    open_first = sorted(ways, key=lambda way: (way.auth_required, way.described.tls == "required"))
    return [endpoint for way in open_first for endpoint in way.described.listen]


def _networks(table: ListenerTable, settings: Settings) -> tuple[Network, ...]:
    return settings.allow_networks if table.allow_networks is None else table.allow_networks


def policy_at(way: Way, general: Policy) -> Policy:
    """The policy of one way in. general: of all those without a table."""
    if not way.tabled:
        return general
    return dataclasses.replace(
        general,
        allow_networks=way.networks,
        networks_named=way.networks_setting,
        tls_required=way.described.tls == "required",
        auth_required=way.auth_required,
    )


def senders_at(way: Way) -> Senders:
    """Who may send there, whoever else may."""
    return Senders.parse(way.described.allowed_senders)


def listeners(
    settings: Settings,
    places: Places,
    certificate: Certificate | None,
    rules: Callable[[Way], Rules],
) -> list[Listener]:
    """The listeners of all ways in that have a place. rules: makes those of one."""
    found = []
    for way in ways_of(settings):
        if (place := places.mail.get(way.name)) is not None:
            found.append(_listener(way, place, certificate, rules(way), trial=places.ca_file is not None))
        if way.name == "smtp" and places.starttls.sockets:
            made = _listener(way, places.starttls, certificate, rules(way), trial=False)
            found.append(made)
    return found


def _listener(
    way: Way, place: Place, certificate: Certificate | None, rules: Rules, *, trial: bool
) -> Listener:
    """trial: its certificate is made up, and offered elsewhere to clients that have a choice."""
    version = way.described.tls_min_version
    context = None
    if certificate is not None:
        context = lambda: certificate.at_least(version) if version else certificate.context  # noqa: E731
    tls = way.described.tls
    return Listener(
        rules=rules,
        name=way.name if way.tabled else "",
        protocol=way.described.protocol,
        certificate=context,
        starttls=tls == "required" or (tls == "offered" and not trial),
        sockets=place.sockets,
        endpoints=tuple(map(str, place.endpoints)),
        shared=place.shared,
    )


def relays_for(settings: Settings) -> dict[str, str]:
    """Whose clients may send without a password, for the status page: anywhere, and where that differs."""
    networks = {"relays for": settings.allow_networks}
    networks |= {
        f"relays for ({way.name})": () if way.auth_required else way.networks
        for way in ways_of(settings)
        if way.tabled and (way.auth_required or way.described.allow_networks is not None)
    }
    return {label: ", ".join(map(str, found)) or "users only" for label, found in networks.items()}


def doors(settings: Settings, listeners: Sequence[Listener]) -> list[Door]:
    """What is listened on, by who may send there: those without a table together, and each of the others."""
    sockets: dict[str, list[socket.socket]] = {}
    for listener in listeners:
        sockets.setdefault(listener.name, []).extend(listener.sockets)
    listens = {name: open_relay.reachable(found) for name, found in sockets.items()}
    return _doors(settings, listens, users=settings.users_file is not None)


def doors_of(settings: Settings, *, has_users: bool) -> list[Door]:
    """The same, of what would be listened on. has_users: somebody can log in."""
    listens: dict[str, list[str]] = {}
    for way in ways_of(settings):
        beyond = filter(open_relay.is_beyond_loopback, way.described.listen)
        listens.setdefault(way.name if way.tabled else "", []).extend(map(str, beyond))
    return _doors(settings, listens, users=has_users)


def _doors(settings: Settings, listens: Mapping[str, Sequence[str]], *, users: bool) -> list[Door]:
    """listens: where other hosts reach it, by the name of a table, and "" for all without one."""
    tabled = {way.name: way for way in ways_of(settings) if way.tabled}
    gateways = container_gateways()
    found = []
    for name, places in listens.items():
        if (way := tabled.get(name)) is None:
            found.append(Door(places, settings.allow_networks, users=users, gateways=gateways))
        else:
            networks = () if way.auth_required else way.networks
            may_log_in = users and way.described.auth != "off"
            found.append(Door(places, networks, way.networks_setting, may_log_in, gateways))
    return found


def listening_sockets(
    settings: Settings, handed_over: Mapping[str, list[socket.socket]], opened: contextlib.ExitStack
) -> ListeningSockets:
    """What opens the sockets to listen on. opened: what closes them."""
    return ListeningSockets(
        handed_over, opened, mode=int(settings.socket_mode, 8), group=group_id(settings.socket_group)
    )


def open_places(
    settings: Settings,
    handed_over: Mapping[str, list[socket.socket]],
    opened: contextlib.ExitStack,
    on_trial: Trial | None,
) -> Places:
    """Open every place to listen on. handed_over, opened: see listening_sockets. Raises OSError."""
    sockets = listening_sockets(settings, handed_over, opened)
    mail = {way.name: sockets.open(way.name, way.described.listen, way.setting) for way in ways_of(settings)}
    return Places(
        mail={name: place for name, place in mail.items() if place.sockets},
        admin=sockets.open("admin", settings.admin_listen, f"{PREFIX}ADMIN_LISTEN"),
        sandbox=sockets.open(
            "sandbox", (on_trial.listen,) if on_trial is not None else (), "--sandbox-listen"
        ),
        starttls=sockets.open(
            "starttls", on_trial.starttls if on_trial is not None else (), "--sandbox-tls-listen"
        ),
        ca_file=on_trial.ca_file if on_trial is not None else None,
    )


def settings_at(settings: Settings, places: Places) -> Settings:
    """The settings with the endpoints that are listened on: real ports, and the sockets of systemd."""

    def at(name: str) -> tuple[Endpoint, ...]:
        place = places.mail.get(name)
        return place.endpoints if place is not None else ()

    tables = (table.model_copy(update={"listen": at(table.name)}) for table in settings.listeners)
    tabled = {table.name for table in settings.listeners}
    return settings.model_copy(
        update={
            **{f"{name}_listen": at(name) for name in SHORTHANDS if name not in tabled},
            "listeners": tuple(tables),
            "admin_listen": places.admin.endpoints,
        }
    )
