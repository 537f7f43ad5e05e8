"""Refusals: what a session says no to before a message is relayed, counted by a few fixed reasons.

Told by our own replies (`replies`, and what the rules answer), never by what a client sent. What becomes of
messages is counted by the relay, logins by the log.
"""

from smtp2cf.journal.metrics import Counters
from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies

REASONS = (
    "sessions",
    "proxy",
    "tls",
    "not_smtp",
    "relaying",
    "sender",
    "recipient",
    "quota",
    "too_many_recipients",
    "too_big",
    "memory",
    "spool",
    "address",
    "command",
    "bridge",
)
REFUSALS = Counters(
    "smtp2cf_refusals_total",
    "Sessions, commands and messages refused before anything was relayed, by reason",
    "reason",
    REASONS,
)

_BY_EVENT = {
    "session.refused": "sessions",
    "session.not_smtp": "not_smtp",
    "session.relaying_denied": "relaying",
    "session.sender_refused": "sender",
    "session.recipient_refused": "recipient",
}
_BY_STATUS = {
    "5.7.0": "relaying",  # TLS first
    "5.7.1": "recipient",
    "5.3.4": "too_big",
    "4.5.3": "too_many_recipients",
    "4.3.1": "spool",
    "4.3.0": "spool",
    **dict.fromkeys(("5.1.1", "5.1.3", "5.6.7"), "address"),
}
_QUOTA = (450, "4.7.1")
_LOGIN = "AUTH"


def count(verb: str, reply: Reply, event: str = "") -> None:
    """Count a refusal. verb: the command, "" for the session itself. event: what the log says of it."""
    if verb != _LOGIN or event:
        REFUSALS.counted[reason_of(verb, reply, event)] += 1


def reason_of(verb: str, reply: Reply, event: str = "") -> str:
    """Why this was refused."""
    if reply == replies.INTERNAL_ERROR:
        return "bridge"
    if reply == replies.NO_ROOM:
        return "memory"
    if (reply.code, reply.status) == _QUOTA:
        return "quota"
    if event in _BY_EVENT:
        return _BY_EVENT[event]
    return _BY_STATUS.get(reply.status, "command") if verb else "sessions"
