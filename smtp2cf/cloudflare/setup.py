"""Setup: what Cloudflare says of the token's permissions and of the domains that are to send.

`/zones`, `/zones/{id}/email/sending/subdomains` and their `/dns`, and `/zones/{id}/dns_records`. A token
needs Zone: Read for them, and DNS: Read for the last. Changes nothing, and knows no settings.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from smtp2cf.cloudflare.api import Api, ApiAnswer
from smtp2cf.reply import Scope, SendError, one_line

ZONES_LIMIT = 20
"""Zones whose domains are listed."""
LABELS_LIMIT = 5
"""Labels of a name, from the right, among which its zone is looked for."""
NAMES_LIMIT = 10
"""Names whose records are looked up for one domain."""
TEXT_LIMIT = 255
"""Characters of a name from Cloudflare that are shown."""


class Zone(NamedTuple):
    """A zone that the token may read. status: `active`, `pending` and so on."""

    id: str
    name: str
    status: str


class SendingDomain(NamedTuple):
    """A name that is set up for sending, or was: `example.com`, or `*.example.com`."""

    zone: Zone
    id: str
    name: str
    enabled: bool

    def covers(self, domain: str) -> bool:
        """Mail from this domain, or from the domains that a wildcard stands for, may be sent by it."""
        return self.name == domain or (
            self.name.startswith("*.") and not domain.startswith("*.") and domain.endswith(self.name[1:])
        )


async def sending_refusal(api: Api) -> SendError | None:
    """Why the token may not send at all, None if it may as far as can be told. Raises SendError.

    A live token that lacks the permission still verifies as active. So send_raw is called with nothing in it:
    whoever may call it is told that the request is malformed, and nothing is sent.
    """
    answer = await api.ask("POST", f"{api.account}/email/sending/send_raw", json={})
    return answer.error if answer.error is not None and answer.error.scope is Scope.ACCOUNT else None


async def zone_of(api: Api, domain: str) -> Zone | None:
    """The zone that a domain is in, None where the token sees none. Raises SendError."""
    labels = domain.removeprefix("*.").split(".")[-LABELS_LIMIT:]
    for first in range(len(labels) - 1):
        for zone in await zones(api, ".".join(labels[first:])):
            return zone
    return None


async def zones(api: Api, name: str = "") -> list[Zone]:
    """The first zones that the token sees, or the one of this name. Raises SendError."""
    params: dict[str, str | int] = {"per_page": 50, "account.id": api.account.rpartition("/")[2]}
    answer = await api.call("GET", "/zones", params=params | ({"name": name} if name else {}))
    return [
        Zone(str(entry["id"]), _text(entry, "name").lower(), _text(entry, "status"))
        for entry in _entries(answer)
        if entry.get("id") and (not name or _text(entry, "name").lower() == name)
    ][:ZONES_LIMIT]


async def sending_domains(api: Api, zone: Zone) -> list[SendingDomain]:
    """The names of a zone that are set up for sending. Raises SendError."""
    answer = await api.call("GET", f"/zones/{zone.id}/email/sending/subdomains")
    return [
        SendingDomain(
            zone,
            str(entry.get("tag") or entry.get("id") or ""),
            _text(entry, "name").lower(),
            entry.get("enabled") is not False,
        )
        for entry in _entries(answer)
    ]


async def missing_records(api: Api, domain: SendingDomain) -> list[str]:
    """The records, such as `MX cf-bounce.example.com`, that a domain needs and its zone lacks.

    Raises SendError. What a TXT says is not compared: its parts may be quoted in many ways.
    """
    answer = await api.call("GET", f"/zones/{domain.zone.id}/email/sending/subdomains/{domain.id}/dns")
    needed = list(
        dict.fromkeys((_text(entry, "name").lower(), _text(entry, "type")) for entry in _entries(answer))
    )
    names = list(dict.fromkeys(name for name, _ in needed))[:NAMES_LIMIT]
    present = {name: await _types_at(api, domain.zone, name) for name in names}
    return [f"{kind} {name}" for name, kind in needed if name in present and kind not in present[name]]


async def _types_at(api: Api, zone: Zone, name: str) -> set[str]:
    answer = await api.call("GET", f"/zones/{zone.id}/dns_records", params={"name": name})
    return {_text(entry, "type") for entry in _entries(answer)}


def _entries(answer: ApiAnswer) -> Iterator[dict[str, Any]]:
    for entry in answer.result if isinstance(answer.result, list) else ():
        if isinstance(entry, dict):
            yield entry


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    return one_line(value, TEXT_LIMIT) if isinstance(value, str) else ""
