"""Checks: may this message go out, and as which bytes? Knows no spool and no Cloudflare."""

from collections.abc import Callable

from smtp2cf.access.senders import SHOWN_LIMIT
from smtp2cf.envelope import Envelope, SenderRefusal
from smtp2cf.message.eightbit import is_utf8, to_utf8
from smtp2cf.message.header import drop_headers, received_count
from smtp2cf.message.missing_fields import add_missing
from smtp2cf.message.newlines import has_bare_newlines, normalize_newlines
from smtp2cf.message.originators import originators
from smtp2cf.relay.policy import MessagePolicy
from smtp2cf.reply import Reply, one_line

MAX_RECEIVED = 100
"""Received fields a message may have before it is taken for a loop (RFC 5321 §6.3)."""

LOOP = Reply(554, "5.4.6", f"more than {MAX_RECEIVED} Received fields: a mail loop")
BARE_NEWLINE = Reply(550, "5.6.11", "the message contains a bare CR or LF (SMTP2CF_BARE_NEWLINE=reject)")
NOT_UTF8 = Reply(554, "5.6.3", "the message is not UTF-8 (SMTP2CF_NON_UTF8=reject)")
HEADER_FROM = Reply(
    550,
    "5.7.1",
    "the header has no From, or a From or Sender that mail readers may read differently"
    " (SMTP2CF_CHECK_HEADER_FROM)",
)
NULL_SENDER = Reply(
    550, "5.1.7", "Cloudflare takes no mail from the null sender <>: set SMTP2CF_NULL_SENDER_ADDRESS"
)
NOT_REWRITTEN = (
    "in the header: sending as <{who}> is not allowed, and it can't be replaced the way it is written: use a"
    " short name and <address>, no comment (SMTP2CF_CHECK_HEADER_FROM, SMTP2CF_ALLOWED_SENDER_DOMAINS)"
)
ANYBODY = "@"
"""Matches no pattern of allowed senders: only somebody who may send as anybody may send as this."""


RefusalAt = Callable[[str], SenderRefusal | None]
"""Who may send as whom at the listener with a name."""


class Checks:
    """sender_refusal: who may send as whom; None if everybody may send as anybody. refusal_at: the same at
    listeners with a name, where it may differ. goes_out: whether mail may go out from an address, whoever
    sends it; None if it may from all.
    """

    def __init__(
        self,
        policy: MessagePolicy,
        sender_refusal: SenderRefusal | None,
        refusal_at: RefusalAt | None = None,
        goes_out: Callable[[str], bool] | None = None,
    ) -> None:
        self._policy = policy
        self._sender_refusal = sender_refusal
        self._refusal_at = refusal_at
        self._goes_out = goes_out

    def fit(self, envelope: Envelope, message: bytes) -> bytes | Reply:
        """The message as send_raw can take it, the very same bytes if they are fit; or why it is refused."""
        policy = self._policy
        if not (envelope.reverse_path or policy.null_sender_address):
            return NULL_SENDER
        if has_bare_newlines(message):
            if policy.bare_newline == "reject":
                return BARE_NEWLINE
            message = normalize_newlines(message)
        # Most headers have fewer colons than that, and need no closer look.
        end = message.find(b"\r\n\r\n")
        colons = message.count(b":", 0, end if end >= 0 else len(message))
        if colons > MAX_RECEIVED and received_count(message) > MAX_RECEIVED:
            return LOOP
        if policy.drop_headers:
            message = drop_headers(message, policy.drop_headers)
        if policy.add_missing_headers:
            message = add_missing(
                message,
                sender=envelope.reverse_path or policy.null_sender_address,
                received_at=envelope.received_at,
                hostname=policy.hostname,
            )
        if not message.isascii() and not is_utf8(message):
            if policy.non_utf8 == "reject":
                return NOT_UTF8
            message = to_utf8(message)
        sender_refusal = self._sender_refusal
        if envelope.listener and self._refusal_at is not None:
            sender_refusal = self._refusal_at(envelope.listener)
        if sender_refusal is not None:
            return self._refusal_of_sender(sender_refusal, envelope, message) or message
        return message

    def left_in_header(self, message: bytes) -> Reply | None:
        """Why a message may not go out as it was rewritten; None if it may.

        `fit` takes an address in From or Sender for what it is to become. It stays where it is written in an
        unusual way, or its line is too long.
        """
        goes_out = self._goes_out
        if goes_out is None or not self._policy.check_header_from or goes_out(ANYBODY):
            return None
        named = originators(message, names=False)
        if named is None:
            return HEADER_FROM
        for address in named:
            if not goes_out(address):
                who = one_line(address, SHOWN_LIMIT)
                return Reply(550, "5.7.1", NOT_REWRITTEN.format(who=who))
        return None

    def _refusal_of_sender(
        self, sender_refusal: SenderRefusal, envelope: Envelope, message: bytes
    ) -> Reply | None:
        """Why the client may not send as the addresses in the envelope and the header; None if it may.

        message: as it would go out.
        """
        user = envelope.auth_user
        refusal = sender_refusal(user, envelope.reverse_path)
        if refusal is not None or not self._policy.check_header_from:
            return refusal
        if sender_refusal(user, ANYBODY) is None:
            return None  # somebody who may send as anybody may write what they like
        named = originators(message)
        if named is None:
            return HEADER_FROM
        refusals = (sender_refusal(user, address) for address in named)
        refusal = next((found for found in refusals if found is not None), None)
        return refusal and refusal._replace(text=f"in the header: {refusal.text} (SMTP2CF_CHECK_HEADER_FROM)")
