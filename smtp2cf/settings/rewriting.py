"""Rewriting: what the settings say about addresses that become others, and what can't work there."""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from smtp2cf.access.address_map import AddressMap
from smtp2cf.access.sender_rewriting import SenderRewriting
from smtp2cf.access.senders import Senders
from smtp2cf.envelope import domain_of, is_public
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.fields.tables import ListenerTable

MAILNAME = Path("/etc/mailname")


def own_hosts(settings: Settings) -> tuple[str, ...]:
    """Host names at which a name alone counts in [senders] and [recipients]: those of this host, and the
    domain that sendmail on it writes behind a name.
    """
    names = [settings.hostname, socket.gethostname(), "localhost", "localhost.localdomain"]
    names.append(os.environ.get("SMTP2CF_SENDMAIL_DOMAIN", ""))
    try:
        names.append(MAILNAME.read_text(encoding="ascii").partition("\n")[0].strip())
    except (OSError, ValueError):
        parent = socket.gethostname().partition(".")[2]
        names.append(parent if "." in parent else "")
    return tuple(filter(None, dict.fromkeys(names)))


def sender_map(settings: Settings, table: Mapping[str, str]) -> AddressMap[str]:
    """[senders]."""
    return AddressMap(table, own_hosts(settings))


def defaults_at(tables: Sequence[ListenerTable]) -> dict[str, str]:
    """The default senders of listeners, by name."""
    return {table.name: table.sender_default for table in tables if table.sender_default}


def sender_rewriting(settings: Settings) -> SenderRewriting:
    """What becomes of senders."""
    return SenderRewriting(
        sender_map(settings, settings.senders),
        settings.sender_default,
        Senders.parse(settings.allowed_sender_domains),
        defaults_at(settings.listeners),
    )


def contradictions(settings: Settings) -> Iterator[str]:
    """A line for each default sender that may not send itself."""
    named = {"SMTP2CF_SENDER_DEFAULT": settings.sender_default}
    named |= {
        f"sender_default of [[listener]] {name}": who for name, who in defaults_at(settings.listeners).items()
    }
    yield from _not_allowed(settings, named)
    for name, address in named.items():
        if address and not is_public(domain_of(address)) and not settings.allowed_sender_domains:
            yield f"{name}={address} can't send: Cloudflare can't know its domain"


def mistakes(settings: Settings) -> Iterator[str]:
    """A line for each sender of [senders] that may not send."""
    if not settings.sender_default:
        named = {f'[senders] "{pattern}"': who for pattern, who in settings.senders.items()}
        yield from _not_allowed(settings, named)


def _not_allowed(settings: Settings, named: Mapping[str, str]) -> Iterator[str]:
    allowed = Senders.parse(settings.allowed_sender_domains)
    for name, address in named.items():
        if address and not allowed.allow(address):
            yield f"{name}={address} may not send: SMTP2CF_ALLOWED_SENDER_DOMAINS allows {allowed}"
