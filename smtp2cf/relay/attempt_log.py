"""Attempt log: what an attempt came to, as lines of the log."""

from smtp2cf.envelope import Envelope
from smtp2cf.journal import mail_counts, maillog
from smtp2cf.message.header import message_id
from smtp2cf.relay import deferrals
from smtp2cf.relay.attempt import Attempt
from smtp2cf.relay.senders import as_sent


def log_attempt(
    envelope: Envelope,
    attempt: Attempt,
    message: bytes,
    *,
    attempts: int = 1,
    settled: bool = True,
    all_of_it: bool = True,
) -> None:
    """Log and count what an attempt came to. attempts: made so far. settled: nobody else has the mail, and
    makes another. all_of_it: False if somebody else says what follows from calls that had no answer."""
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
        if mail_counts.attempted(attempt.outcomes, attempt.account, settled=settled):
            deferrals.count(attempt)
    if attempt.repaired:
        maillog.repaired(envelope, attempt.repaired)
    if attempt.unmatched:
        maillog.unmatched(envelope, attempt.unmatched)
    if attempt.unanswered and all_of_it:
        maillog.possible_duplicate(envelope, attempt.unanswered)
