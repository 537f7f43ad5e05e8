"""Sending subdomains: whether send_raw drops suppressed recipients or refuses the call.

A zone's list has the names that are set up in it. Every id is a sending subdomain that exists, in any zone:
one that is a domain, or a leftmost wildcard such as `*.example.com`, stands for that, any other for every
sender's domain. Shapes are those of the SDK's `email_sending.subdomains`.

Knows nothing of send_raw.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web

from smtp2cf.sandbox import api
from smtp2cf.sandbox.api import KIB, malformed
from smtp2cf.sandbox.senders import Senders
from smtp2cf.sandbox.zones import zone_named

SUBDOMAINS_LIMIT = 1000

_DOMAIN = re.compile(r"(?:\*\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)+")
_SETTINGS = frozenset({"drop_suppressed_recipients", "preview_enabled"})


@dataclass(slots=True)
class Subdomain:
    """One sending subdomain. name: a domain, `*.domain`, or `*` for all."""

    tag: str
    name: str
    drop_suppressed_recipients: bool = False
    preview_enabled: bool = False
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def base(self) -> str:
        """The name without its wildcard: what signs and takes bounces."""
        return self.name.removeprefix("*").removeprefix(".")

    def covers(self, domain: str) -> bool:
        """Mail from this domain is sent through it."""
        if self.name.startswith("*"):
            return domain.endswith(self.name[1:])
        return domain == self.name

    def entry(self) -> dict[str, object]:
        """What the API answers."""
        return {
            "tag": self.tag,
            "name": self.name,
            "enabled": "disabled" not in self.name.split("."),
            "created": self.created,
            "modified": self.modified,
            "dkim_selector": "sandbox",
            "return_path_domain": f"cf-bounce.{self.base}" if self.base else None,
            "drop_suppressed_recipients": self.drop_suppressed_recipients,
            "preview_enabled": self.preview_enabled,
        }


class Subdomains:
    """The sending subdomains somebody changed, and the calls about them."""

    def __init__(self, senders: Senders) -> None:
        self._senders = senders
        self.missing: set[str] = set()
        """Names whose DNS records are not there, although they are needed."""
        self._changed: dict[str, Subdomain] = {}

    def drops_suppressed(self, domain: str) -> bool:
        """Mail from this domain loses its suppressed recipients instead of being refused."""
        return any(s.drop_suppressed_recipients and s.covers(domain) for s in self._changed.values())

    async def list(self, request: web.Request) -> web.Response:
        """GET …/subdomains: the names that are set up in a zone."""
        names = self._senders.below(zone_named(request.match_info["zone_id"]))
        return api.success([(self._changed.get(name) or Subdomain(name, name)).entry() for name in names])

    async def dns(self, request: web.Request) -> web.Response:
        """GET …/subdomains/{id}/dns: the records that the name needs."""
        base = self._subdomain(request).base
        return api.success([{"ttl": 1, **record} for record in _records(base)] if base else [])

    async def dns_records(self, request: web.Request) -> web.Response:
        """GET /zones/{id}/dns_records: those that the zone's sending domains need, but `missing`."""
        names = self._senders.below(zone_named(request.match_info["zone_id"]))
        records = {str(record): record for name in names for record in _records(name.removeprefix("*."))}
        wanted = request.query.get("name", "").lower()
        return api.success(
            [
                {"id": record["name"], "ttl": 1, **record}
                for record in records.values()
                if record["name"] not in self.missing and (not wanted or record["name"] == wanted)
            ]
        )

    async def get(self, request: web.Request) -> web.Response:
        """GET …/subdomains/{id}."""
        return api.success(self._subdomain(request).entry())

    async def edit(self, request: web.Request) -> web.Response:
        """PATCH …/subdomains/{id}; raises ApiError."""
        changes = api.parse_object(request, await api.read_body(request, 64 * KIB), _SETTINGS)
        for key, value in changes.items():
            if not isinstance(value, bool):
                raise malformed(f"/{key}", "must be true or false")
        subdomain = self._subdomain(request)
        if subdomain.tag not in self._changed and len(self._changed) >= SUBDOMAINS_LIMIT:
            raise malformed("", f"the sandbox keeps at most {SUBDOMAINS_LIMIT} subdomains")
        for key, value in changes.items():
            setattr(subdomain, key, value)
        subdomain.modified = datetime.now(UTC)
        self._changed[subdomain.tag] = subdomain
        return api.success(subdomain.entry())

    def _subdomain(self, request: web.Request) -> Subdomain:
        tag = request.match_info["subdomain_id"].lower()
        return self._changed.get(tag) or Subdomain(tag, tag if _DOMAIN.fullmatch(tag) else "*")


def _records(base: str) -> Iterator[dict[str, object]]:
    for number in (1, 2):
        mx = f"route{number}.mx.cloudflare.net"
        yield {"type": "MX", "name": f"cf-bounce.{base}", "content": mx, "priority": 10 * number}
    yield {
        "type": "TXT",
        "name": f"cf-bounce.{base}",
        "content": "v=spf1 include:_spf.mx.cloudflare.net ~all",
    }
    yield {"type": "TXT", "name": f"sandbox._domainkey.{base}", "content": "v=DKIM1; h=sha256; k=rsa; p="}
    yield {"type": "TXT", "name": f"_dmarc.{base}", "content": "v=DMARC1; p=none;"}
