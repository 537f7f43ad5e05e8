"""Accept: a new message from its envelope to its verdict, in a straight line.

Check it, make it fit for JSON where it isn't, send it, find the one answer. Knows no SMTP session
and no HTTP.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from smtp2cf import maillog
from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import Envelope, Verdict, unique_addresses
from smtp2cf.message.eightbit import to_utf8
from smtp2cf.message.header import drop_headers, received_count
from smtp2cf.message.newlines import has_bare_newlines, normalize_newlines
from smtp2cf.relay.deliver import deliver
from smtp2cf.relay.settle import settle
from smtp2cf.reply import Reply

MAX_RECEIVED = 100
"""Received fields a message may have before it is taken for a loop (RFC 5321 §6.3)."""

SendRaw = Callable[[str, Sequence[str], bytes, float], Awaitable[Sent]]
"""(reverse path, at most 50 recipients, message, deadline in time.monotonic() seconds) → Sent."""

LOOP = Reply(554, "5.4.6", f"more than {MAX_RECEIVED} Received fields: a mail loop")
BARE_NEWLINE = Reply(550, "5.6.11", "a bare CR or LF is in the message (SMTP2CF_BARE_NEWLINE=reject)")
NOT_UTF8 = Reply(554, "5.6.3", "the message is not UTF-8 (SMTP2CF_NON_UTF8=reject)")
NULL_SENDER = Reply(
    550, "5.1.7", "Cloudflare takes no mail from the null sender <>: see SMTP2CF_NULL_SENDER_ADDRESS"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePolicy:
    """What is done with a message before it goes out.

    null_sender_address: who stands in for `<>`, "" for nobody. drop_headers: field names in lower
    case. reply_timeout: seconds a client may wait for the account's limits.
    """

    null_sender_address: str = ""
    partial_bounce: Literal["accept", "reject"] = "accept"
    non_utf8: Literal["convert", "reject"] = "convert"
    bare_newline: Literal["normalize", "reject"] = "normalize"
    drop_headers: frozenset[str] = frozenset()
    reply_timeout: float = 30.0


class Relay:
    """Takes messages and answers what became of them."""

    def __init__(self, send_raw: SendRaw, policy: MessagePolicy) -> None:
        self._send_raw = send_raw
        self._policy = policy

    async def accept(self, envelope: Envelope, message: bytes) -> Verdict:
        """Relay one message: every recipient's outcome, and the answer to the client."""
        verdict = await self._relay(envelope, message)
        maillog.answered(verdict.reply)
        return verdict

    async def _relay(self, envelope: Envelope, message: bytes) -> Verdict:
        sender = envelope.reverse_path or self._policy.null_sender_address
        fit = self._fit(message) if sender else NULL_SENDER
        if isinstance(fit, Reply):
            maillog.refused(envelope, fit)
            return Verdict(fit, dict.fromkeys(envelope.forward_paths, fit))
        deadline = time.monotonic() + self._policy.reply_timeout
        attempt = await deliver(
            lambda recipients: self._send_raw(sender, recipients, fit, deadline),
            unique_addresses(envelope.forward_paths),
        )
        maillog.attempted(envelope, attempt.outcomes, attempt.message_ids, size=len(fit))
        if attempt.unanswered:
            maillog.possible_duplicate(envelope, attempt.outcomes)
        reply = settle(
            attempt.outcomes,
            envelope.queue_id,
            attempt.message_ids,
            partial_bounce=self._policy.partial_bounce,
        )
        return Verdict(reply, attempt.outcomes)

    def _fit(self, message: bytes) -> bytes | Reply:
        """The message as send_raw can take it, the very same bytes where they are fit; or why not."""
        policy = self._policy
        if received_count(message) > MAX_RECEIVED:
            return LOOP
        if has_bare_newlines(message):
            if policy.bare_newline == "reject":
                return BARE_NEWLINE
            message = normalize_newlines(message)
        if policy.drop_headers:
            message = drop_headers(message, policy.drop_headers)
        if not message.isascii() and not _is_utf8(message):
            if policy.non_utf8 == "reject":
                return NOT_UTF8
            message = to_utf8(message)
        return message


def _is_utf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True
