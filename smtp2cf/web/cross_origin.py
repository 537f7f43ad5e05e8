"""The cross-origin guard: keeps other sites' pages, in a browser on this host, away from our HTTP.

A browser can reach loopback for any page it shows. Such a page has two ways to us: a cross-origin request
(stopped by Fetch Metadata, and by CORS, which we never grant), and DNS rebinding, where the page's own host
name is made to resolve to our address. That one is stopped by its Host (RFC 9110 §7.2): an IP address can't
be rebound, and any other name has to be in the list.

Used for the admin's pages and the sandbox's. Knows nothing of what is on them.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Server": "smtp2cf",
}
"""On every answer: it may not be embedded, loaded by other sites, sniffed or cached, and Server names no
versions."""

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]\s]+))(?::\d*)?")


class Hosts:
    """The host names that requests may use: IP addresses, localhost, and `names`, in any letter case."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {"localhost"} | {_folded(name) for name in names if name}

    def allow(self, host: str) -> bool:
        """Whether a request with this Host is for us. Any port will do, it may have been mapped."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        if match["name"] and _folded(match["name"]) in self._names:
            return True
        try:
            ipaddress.ip_address(match["v6"] or match["name"])
        except ValueError:
            return False
        return True


def guard(hosts: Hosts, *, open_to_all: Callable[[str], bool]) -> Middleware:
    """Refuse what another site's page could have sent. open_to_all: paths that hold no secret."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not open_to_all(request.path):
            _check_host(request, hosts)
            _check_site(request)
        return await handler(request)

    return guarded


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add HEADERS to an answer that doesn't set them itself: for an application's on_response_prepare."""
    for name, value in HEADERS.items():
        if name == "Server" or name not in response.headers:
            response.headers[name] = value


def _check_host(request: web.Request, hosts: Hosts) -> None:
    named = request.headers.getall("Host", [])
    # A browser can't reach a unix socket, and always sends Host.
    if isinstance(_own_address(request), str) or not named:
        return
    if len(named) > 1 or not hosts.allow(named[0]) or not request.raw_path.startswith("/"):
        raise web.HTTPMisdirectedRequest(
            text=f"{named[0][:255]!a} is not a known name of this host: add it to SMTP2CF_ADMIN_HOSTS\n"
        )


def _own_address(request: web.Request) -> object:
    return request.transport.get_extra_info("sockname") if request.transport else None


def _check_site(request: web.Request) -> None:
    """Another site's page may link to us: then the person sees the answer, and the page does not."""
    site, origin = request.headers.get("Sec-Fetch-Site", "none"), request.headers.get("Origin")
    followed_link = (
        request.headers.get("Sec-Fetch-Mode") == "navigate"
        and request.headers.get("Sec-Fetch-Dest") == "document"
        and request.method == "GET"
    )
    if site not in ("none", "same-origin") and not followed_link:
        raise web.HTTPForbidden(text="requests from other sites' pages are refused\n")
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
        raise web.HTTPForbidden(text="requests from other origins' pages are refused\n")


def _folded(name: str) -> str:
    return name.lower().removesuffix(".")
