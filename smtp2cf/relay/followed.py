"""Followed: whose mail an attempt's calls were accepted for, so that events can be matched with it."""

from smtp2cf.envelope import Envelope
from smtp2cf.message.header import message_id
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.senders import as_sent
from smtp2cf.spool import Followed
from smtp2cf.spool.following import alone


def followed_by(envelope: Envelope, attempt: Attempt, message: bytes) -> list[Followed]:
    """Those for whom an attempt's calls were accepted."""
    taken = [who for who, reply in attempt.outcomes.items() if reply.success and who in attempt.message_ids]
    if not taken:
        return []
    envelope = as_sent(envelope, attempt.sent_as)
    original = message_id(message)
    ids = attempt.message_ids
    return [Followed(ids[who].strip("<> "), alone(envelope, who), original) for who in taken]
