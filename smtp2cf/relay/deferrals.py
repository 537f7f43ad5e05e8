"""Deferrals: why an attempt left recipients to be tried again, as one of a few fixed reasons.

Told by what our own replies are, never by Cloudflare's words. Pure but for the counting.
"""

from smtp2cf.cloudflare.quota import USED_UP
from smtp2cf.journal.mail_counts import DEFERRALS
from smtp2cf.relay.calls import INTERNAL_ERROR, Attempt
from smtp2cf.relay.lease import TAKEN_OVER
from smtp2cf.relay.sender_domains import NOT_CONFIGURED
from smtp2cf.reply import Reply

_OURS = (INTERNAL_ERROR, TAKEN_OVER)
_BY_STATUS = {
    "4.7.1": "rate_limit",
    "4.4.1": "unreachable",
    "4.3.0": "server_error",
    "4.3.5": "account",
    "4.5.3": "unclear",
}


def count(attempt: Attempt) -> None:
    """Count those whom an attempt left to be tried again."""
    counted, unanswered = DEFERRALS.of(attempt.account), frozenset(attempt.unanswered)
    for who, reply in attempt.outcomes.items():
        if reply.transient:
            counted[reason_of(reply, attempt, unanswered=who in unanswered)] += 1


def reason_of(reply: Reply, attempt: Attempt, *, unanswered: bool) -> str:
    """Why a recipient with this reply has to be tried again. unanswered: no call had an answer for it."""
    if reply in _OURS:
        return "bridge"
    if unanswered:
        return "unanswered"
    if reply == attempt.sender_refusal and reply.status == NOT_CONFIGURED:
        return "sender"
    if reply.text.startswith(USED_UP):
        return "quota"
    return _BY_STATUS.get(reply.status, "other")
