"""Mail news: what is told of a message, beside its line in the log.

The facts are the line's fields, with all recipients. Knows no log, and costs next to nothing where nobody
listens.
"""

from collections.abc import Mapping, Sequence

from smtp2cf.envelope import Envelope
from smtp2cf.journal import news
from smtp2cf.reply import DELIVERED, Reply, few_in_words

NAMED_LIMIT = 3
"""Recipients that a sentence names."""

OF_ATTEMPTS = ("mail.delivered", "mail.bounced")
"""What an attempt may come to that is told."""
_BY_EVENT = {
    "delivered": "mail.delivered",
    "bounced": "mail.bounced",
    "failed": "mail.bounced",
    "rejected": "mail.bounced",
    "complained": "mail.complained",
}


def attempted(reply: Reply, recipients: Sequence[str], line: Mapping[str, object]) -> None:
    """An attempt came to this for some recipients; of those who are queued or deferred, more will be told.

    line: what the log says.
    """
    if reply == DELIVERED:
        _tell("mail.delivered", "was delivered to {to}", recipients, line)
    elif reply.permanent:
        _tell("mail.bounced", "could not be delivered to {to}: {reply}", recipients, line)


def event(kind: str, reply: Reply, recipients: Sequence[str], line: Mapping[str, object]) -> None:
    """An event told of some recipients; of those that a later one will tell of, nothing is said."""
    told = _BY_EVENT.get(kind)
    if told == "mail.complained":
        _tell(told, "was marked as unwanted by {to}", recipients, line)
    elif told is not None:
        words = "was delivered to {to}" if reply.success else "could not be delivered to {to}: {reply}"
        _tell(told, words, recipients, line)


def expired(recipients: Sequence[str], line: Mapping[str, object]) -> None:
    """Mail was given up."""
    _tell("mail.expired", "was given up, and did not reach {to}: {reply}", recipients, line)


def held(envelope: Envelope, reason: str) -> None:
    """Mail waits for an operator."""
    words = "to {to} is held, because the bridge failed on it: {reason}"
    _tell("mail.held", words, envelope.forward_paths, {**_of(envelope), "reason": reason})


def nobody_told(envelope: Envelope) -> None:
    """A DSN, or other mail without a sender, could not be delivered."""
    words = "could not be delivered to {to}, and there is nobody to tell"
    _tell("mail.dsn_undeliverable", words, envelope.forward_paths, _of(envelope))


def over_quota(envelope: Envelope, address: str, setting: str) -> None:
    """A DSN was one too many for its address."""
    words = "is not reported to <{address}>: that would be more than {setting}"
    _tell("dsn.over_quota", words, (), {**_of(envelope), "address": address, "setting": setting})


def _of(envelope: Envelope) -> dict[str, object]:
    about = {"dsn_for": envelope.dsn_for} if envelope.dsn_for else {}
    return {"queue_id": envelope.queue_id, "from": envelope.reverse_path, **about}


def _tell(kind: str, words: str, recipients: Sequence[str], line: Mapping[str, object]) -> None:
    if not news.is_wanted(kind):
        return
    to = few_in_words([f"<{who}>" for who in recipients], NAMED_LIMIT)
    said = words.format_map({"reply": "", "reason": "", **line, "to": to})
    about, sender = line.get("dsn_for"), line.get("from", "")
    text = f"the report about {about} {said}" if about else f"mail from <{sender}> {said}"
    news.tell(kind, text, **{**line, "to": list(recipients)})
