"""Origin: our HTTP answers whoever asks for it, and no page of another site in somebody's browser.

A browser on this host reaches loopback for any page it shows. Two ways lead from such a page to ours: a
request across origins (Fetch Metadata; the Fetch standard's CORS, which we never grant), and a name of
the page's own that the DNS turns to our address meanwhile (DNS rebinding), seen by its Host (RFC 9110
§7.2): a literal address can't be turned, any other name has to be known here.

For the admin's pages and the sandbox's. Knows nothing of what is on them.
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
"""On every answer: nobody embeds it, loads from it, guesses at its type, or keeps it; and what runs here is
not told to the minor version."""

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]\s]+))(?::\d*)?")


class Hosts:
    """The names we are asked for by: literal addresses, localhost, and those given, in any letter case."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {"localhost"} | {_folded(name) for name in names if name}

    def know(self, host: str) -> bool:
        """Is this the Host of somebody who means us? The port may be any, it may have been mapped."""
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
    """Refuse what another site's page could have sent. open_to_all: paths, not looked at, with no secret."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not open_to_all(request.path):
            _check_host(request, hosts)
            _check_site(request)
        return await handler(request)

    return guarded


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """HEADERS, where the answer has none of its own: for an application's on_response_prepare."""
    for name, value in HEADERS.items():
        if name == "Server" or name not in response.headers:
            response.headers[name] = value


def _check_host(request: web.Request, hosts: Hosts) -> None:
    named = request.headers.getall("Host", [])
    # A browser reaches no unix socket, and never leaves Host out.
    if isinstance(_own_address(request), str) or not named:
        return
    if len(named) > 1 or not hosts.know(named[0]) or not request.raw_path.startswith("/"):
        raise web.HTTPMisdirectedRequest(
            text=f"{named[0][:255]!a} is not known as a name of this host: SMTP2CF_ADMIN_HOSTS lists more\n"
        )


def _own_address(request: web.Request) -> object:
    return request.transport.get_extra_info("sockname") if request.transport else None


def _check_site(request: web.Request) -> None:
    """Another site's page may lead a person here, who sees the answer while the page does not."""
    site, origin = request.headers.get("Sec-Fetch-Site", "none"), request.headers.get("Origin")
    led_here = (
        request.headers.get("Sec-Fetch-Mode") == "navigate"
        and request.headers.get("Sec-Fetch-Dest") == "document"
        and request.method == "GET"
    )
    if site not in ("none", "same-origin") and not led_here:
        raise web.HTTPForbidden(text="not for pages of other sites\n")
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
        raise web.HTTPForbidden(text="not for pages of other origins\n")


def _folded(name: str) -> str:
    return name.lower().removesuffix(".")
