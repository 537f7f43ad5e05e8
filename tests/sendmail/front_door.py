"""The rules by which SMTP judges mail, for mail that was dropped."""

import functools
from pathlib import Path

from smtp2cf.envelope import Envelope
from smtp2cf.relay import drop_file
from smtp2cf.relay.drop import Judge
from smtp2cf.smtpd import Policy, judge


def front_door(max_message_size: int = 10_000, max_recipients: int = 1000) -> Judge:
    """What a bridge with these limits makes of dropped mail."""
    policy = Policy(
        hostname="bridge.example",
        allow_networks=(),
        max_message_size=max_message_size,
        max_recipients=max_recipients,
        session_timeout=10,
    )
    return functools.partial(judge, policy)


def read_drop(path: Path, max_message_size: int) -> tuple[Envelope, bytes]:
    """The envelope and the message that a bridge takes from a dropped file; all of it must be good."""
    mail = drop_file.read_drop(path, max_message_size)
    judged = front_door(max_message_size, 100_000)(mail.mail, mail.recipients, mail.written_at)
    assert judged.refused == {}
    [envelope] = judged.envelopes
    return envelope, mail.message
