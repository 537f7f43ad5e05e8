"""Zones: where a domain that sends belongs, as far as the sandbox has them.

A zone is the last two labels of a name. `GET /zones?name=` finds it; the calls about its sending subdomains
are in `subdomains`. Shapes are those of the SDK's `zones`.
"""

from aiohttp import web

from smtp2cf.sandbox import api
from smtp2cf.sandbox.senders import Senders, zone_of


class Zones:
    """The call about zones."""

    def __init__(self, senders: Senders) -> None:
        self._senders = senders

    async def list(self, request: web.Request) -> web.Response:
        """GET /zones: those of the domains that are set up, or the one that is named."""
        wanted = request.query.get("name", "").lower()
        names = self._senders.zones()
        if wanted:
            known = wanted in names if names else zone_of(wanted) == wanted
            names = [wanted] if known and "." in wanted else []
        if request.query.get("page", "1") != "1":
            names = []
        result = [{"id": zone_id(name), "name": name, "status": "active", "type": "full"} for name in names]
        pages = {"page": 1, "per_page": 50, "count": len(names), "total_count": len(names), "total_pages": 1}
        return api.success(result, pages)


def zone_id(name: str) -> str:
    """The id of a zone: its name in hexadecimal, so that nothing has to be remembered."""
    return name.encode().hex()


def zone_named(zone: str) -> str:
    """The name of the zone with this id, "" if it is no zone of ours."""
    try:
        return bytes.fromhex(zone).decode("ascii")
    except ValueError:
        return ""
