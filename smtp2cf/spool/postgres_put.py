"""New mail as the values of the statement that puts it into a PostgreSQL spool.

Knows nothing of connections.
"""

import secrets
from collections.abc import Sequence

from smtp2cf.spool import codec
from smtp2cf.spool.protocol import MEMORY, NewMail


def put_values(letters: Sequence[NewMail], owner: str, lease: float) -> list[object]:
    """The values of postgres_sql.PUT, for this request however often it is repeated.

    owner, lease: whose the claimed ones are, and for how many seconds.
    """
    columns = zip(*map(_row, letters), strict=True)
    request = secrets.token_bytes(16)
    return [*columns, owner, lease, MEMORY, request, _unless_noted(letters)]


def _unless_noted(letters: Sequence[NewMail]) -> list[bytes]:
    """The digests under which mail is kept only if no other's answer is noted."""
    answers = [mail.answer for mail in letters if mail.answer is not None]
    kept_anyway = {answer.digest for answer in answers if not answer.unless_noted}
    return [answer.digest for answer in answers if answer.digest not in kept_anyway]


def _row(mail: NewMail) -> tuple[object, ...]:
    """What postgres_sql.PUT takes for one message."""
    envelope = mail.envelope
    return (
        envelope.queue_id,
        codec.initial_status(mail),
        float(mail.delay),
        float(mail.expires_in),
        codec.age(envelope),
        mail.attempts,
        mail.claimed,
        mail.is_dsn,
        len(mail.message),
        codec.lookup((envelope.reverse_path,)),
        codec.lookup(envelope.forward_paths),
        codec.encode_envelope(envelope),
        codec.encode_outcomes(mail.outcomes),
        mail.message,
        mail.answer.digest if mail.answer else None,
        codec.encode_reply(mail.answer.reply) if mail.answer else None,
    )
