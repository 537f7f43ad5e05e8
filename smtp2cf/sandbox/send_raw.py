"""send_raw: what a request must look like, and the outcome that each recipient's address selects.

A request has exactly `from`, `recipients` (1 to 50) and `mime_message`, and is sent with a Content-Length.
Addresses are printable ASCII, internationalised domains A-labels; they follow RFC 5321 §4.1.2 loosely and
its sizes (§4.5.3.1) strictly.

Knows nothing of the sandbox's state: suppressions are asked for through a function.
"""

import asyncio
import math
import re
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from aiohttp import web

from smtp2cf.sandbox import api
from smtp2cf.sandbox.api import KIB, MIB, ApiError, malformed
from smtp2cf.sandbox.fates import LISTS, fate_of

MESSAGE_LIMIT = 5 * MIB
RECIPIENTS_LIMIT = 50
BODY_LIMIT = 6 * MESSAGE_LIMIT + 64 * KIB
"""The longest body a message within the limit can need: JSON may escape every octet as \\u00XX."""

_KEYS = frozenset({"from", "recipients", "mime_message"})
_ADDRESS = re.compile(
    r"""(?P<local>[^\s\x00-\x1f\x7f"(),:;<>@\[\\\]]+ | "(?:[^"\\\x00-\x1f\x7f]|\\[ -~])*")
        @
        (?P<domain>(?:[^\W_](?:[\w-]*[^\W_])?\.)*[^\W_](?:[\w-]*[^\W_])? | \[[0-9A-Za-z.:]+\])""",
    re.VERBOSE,
)
_REFUSED = {"throttle": api.THROTTLED, "error": api.INTERNAL_SERVER, "auth": api.UNAUTHORIZED}
"""Fates that refuse the whole call. `suppressed` does as well, like an address that is listed."""


class Submission(NamedTuple):
    """A send_raw request of the published form."""

    from_: str
    recipients: tuple[str, ...]
    mime_message: bytes


class Outcome(NamedTuple):
    """What becomes of an accepted message's recipients; a recipient may be in no list."""

    delivered: tuple[str, ...]
    queued: tuple[str, ...]
    permanent_bounces: tuple[str, ...]
    suppressed_recipients: tuple[str, ...]


async def read_submission(request: web.Request) -> Submission:
    """Read and check a request; raises ApiError."""
    if request.content_length is None:
        raise ApiError(api.NO_CONTENT_LENGTH)
    return _parse(request, await api.read_body(request, BODY_LIMIT))


def _parse(request: web.Request, body: bytearray) -> Submission:
    document = api.parse_object(request, body, _KEYS)
    for key in ("from", "mime_message"):
        if not isinstance(document.get(key), str):
            raise malformed(f"/{key}", "must be a string")
    if not is_address(document["from"]):
        raise malformed("/from", "not an address")
    recipients = _checked_recipients(document.get("recipients"))
    # Only one copy is to outlive this function, and no more than two to exist at any time.
    message = document.pop("mime_message").encode()
    if len(message) > MESSAGE_LIMIT:
        raise ApiError(api.TOO_BIG, f"{len(message)} bytes; the limit is {MESSAGE_LIMIT}")
    # What else Cloudflare takes for invalid is not published: a header may be missing here.
    if not message:
        raise ApiError(api.INVALID_EMAIL, "the message is empty", pointer="/mime_message")
    return Submission(document["from"], recipients, message)


def _checked_recipients(recipients: object) -> tuple[str, ...]:
    if not isinstance(recipients, list):
        raise malformed("/recipients", "must be an array of strings")
    if not 1 <= len(recipients) <= RECIPIENTS_LIMIT:
        raise malformed("/recipients", f"must have 1 to {RECIPIENTS_LIMIT} addresses, not {len(recipients)}")
    for index, recipient in enumerate(recipients):
        if not isinstance(recipient, str) or not is_address(recipient):
            raise malformed(f"/recipients/{index}", "not an address")
    return tuple(recipients)


def is_address(address: str) -> bool:
    """It looks like `local@domain`, in ASCII: no display name, no `<>`, no blanks outside quotes."""
    if len(address) > 320 or not address.isascii():  # before the pattern has a chance to be slow about it
        return False
    match = _ADDRESS.fullmatch(address)
    return match is not None and len(match["local"]) <= 64 and len(match["domain"]) <= 255


def domain_of(address: str) -> str:
    """The domain in lower case."""
    return address.rpartition("@")[2].lower()


def has_bounced(recipient: str) -> bool:
    """Its fate is to be on the suppression list, as if mail to it had bounced before."""
    return fate_of(recipient)[0] in ("suppressed", "dropped")


async def pause(recipients: tuple[str, ...], delay: float) -> None:
    """Wait as long as the slowest recipient asks for, in addition to `delay` seconds."""
    fates = map(fate_of, recipients)
    seconds = delay + max((seconds for fate, seconds in fates if fate == "slow"), default=0.0)
    if seconds > 0:
        await asyncio.sleep(seconds)


def decide(recipients: tuple[str, ...], *, listed: Callable[[str], bool], drop_suppressed: bool) -> Outcome:
    """The fate of each recipient.

    listed: whether an address is on the suppression list. drop_suppressed: suppressed recipients
    are dropped instead of refusing the call. Raises ApiError for the first recipient whose fate is
    the whole call's.
    """
    outcome: defaultdict[str | None, list[str]] = defaultdict(list)
    for recipient in recipients:
        fate, seconds = fate_of(recipient)
        if refusal := _REFUSED.get(fate):
            raise ApiError(refusal, retry_after=math.ceil(seconds) if fate == "throttle" else None)
        if fate == "suppressed" or (fate != "dropped" and listed(recipient)):
            if not drop_suppressed:
                raise ApiError(api.RECIPIENT_SUPPRESSED)
            fate = "dropped"
        outcome[LISTS.get(fate, "delivered")].append(recipient)
    return Outcome(*(tuple(outcome[name]) for name in Outcome._fields))
