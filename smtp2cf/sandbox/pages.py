"""Pages: what the sandbox shows people and scripts of the mail it accepted.

Knows nothing of the API.
"""

import re
from itertools import islice

import orjson
from aiohttp import web

from smtp2cf.sandbox.messages import Mailbox

_PAGE = """\
smtp2cf sandbox: a local stand-in for Cloudflare's Email Sending API. No mail leaves it.

  /messages        what it accepted, newest first (JSON; ?limit=10)
  /messages/{id}   one message, byte for byte
  DELETE /messages forgets them all
  /client/v4       the API: accounts/{id}/email/sending/send_raw, /suppressions and /limits,
                   accounts/{id}/tokens/verify, user/tokens/verify, zones and their email/sending/subdomains

A recipient's local part picks its fate, alone or after a + as in anna+bounce@example.com:

  bounce           refused for good by the recipient's server
  queued           accepted, to be delivered later
  unlisted         accepted, in no list of the answer
  dropped          dropped as suppressed
  suppressed       the whole call is refused: a recipient is suppressed
  throttle         the whole call is refused: rate limit (throttle-30s: come back in 30 s)
  error, auth      the whole call is refused: HTTP 500, HTTP 401
  unanswered       accepted, but the connection is closed without an answer
  slow-3s          delivered after that time (slow-250ms)

What becomes known only afterwards is published to a queue (accounts/{id}/queues, event_subscriptions):

  later-bounce, later-failed   queued in the answer, bounced or failed later
  later-delivered              queued in the answer, delivered later
  deferred-then-bounce         queued in the answer, deferred, then bounced
  complain                     delivered, then reported as spam

Everything else is delivered. Mail is refused if its sender's domain has one of these labels, as in
root@unconfigured.example.com, unless there is a list of the domains that may send:

  unconfigured     never set up for sending
  disabled         set up, and disabled
"""


class Pages:
    """Everything outside the API."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def routes(self) -> list[web.RouteDef]:
        """The pages by their paths."""
        return [
            web.get("/", self._page),
            web.get("/messages", self._list_messages),
            web.delete("/messages", self._forget_messages),
            web.get("/messages/{id}", self._show_message),
        ]

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text=_PAGE)

    async def _list_messages(self, request: web.Request) -> web.Response:
        limit = request.query.get("limit", str(len(self._mailbox.messages)))
        if not re.fullmatch("[0-9]{1,9}", limit):
            raise web.HTTPBadRequest(text="limit must be a number\n")
        newest = islice(reversed(self._mailbox.messages), int(limit))
        listing = {"count": self._mailbox.count, "messages": [message.summary() for message in newest]}
        return web.Response(body=orjson.dumps(listing), content_type="application/json")

    async def _show_message(self, request: web.Request) -> web.Response:
        message = self._mailbox.get(request.match_info["id"])
        if message is None:
            raise web.HTTPNotFound(text="no such message; it may have been removed to make room\n")
        return web.Response(body=message.mime_message, content_type="message/rfc822")

    async def _forget_messages(self, _request: web.Request) -> web.Response:
        self._mailbox.messages.clear()
        return web.Response(status=204)
