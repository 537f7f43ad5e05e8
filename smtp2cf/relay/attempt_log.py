"""Attempt log: what an attempt came to, as lines of the log."""

from smtp2cf.envelope import Envelope
from smtp2cf.journal import maillog
from smtp2cf.message.header import message_id
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.senders import as_sent


def log_attempt(envelope: Envelope, attempt: Attempt, message: bytes, *, attempts: int = 1) -> None:
    """Log what an attempt came to. attempts: made so far."""
    envelope = as_sent(envelope, attempt.sent_as)
    if attempt.outcomes:
        maillog.attempted(
            envelope,
            attempt.outcomes,
            attempt.message_ids,
            original_id=message_id(message),
            size=len(message),
            attempts=attempts,
            account=attempt.account,
            message=message,
        )
    if attempt.repaired:
        maillog.repaired(envelope, attempt.repaired)
    if attempt.unmatched:
        maillog.unmatched(envelope, attempt.unmatched)
    if attempt.unanswered:
        maillog.possible_duplicate(envelope, attempt.unanswered)
