"""Targets: what Cloudflare's API answers, and what its headers say about the account's limits."""

from fuzz.octets import number, split
from smtp2cf.cloudflare import limit_fields, pacing
from smtp2cf.cloudflare.client import sent_in
from smtp2cf.cloudflare.errors import error_of
from smtp2cf.cloudflare.outcomes import MESSAGE_ID_LIMIT
from smtp2cf.cloudflare.transport import Answer
from smtp2cf.reply import UNPRINTABLE

RECIPIENTS = ("b@example.net", "C@EXAMPLE.net", "ü@example.net")


def answer(octets: bytes) -> None:
    """A body is outcomes of the recipients that were asked about, or an error in words."""
    http, body = split(octets, 2)
    status = 100 + number(http) % 900
    sent = sent_in(Answer(status, {}, body), RECIPIENTS)
    if sent is None:
        error = error_of(status, body, None)
        assert not error.reply.success
        assert error.reply.code // 100 == int(error.reply.status[0])
        assert not UNPRINTABLE.search(error.reply.text)
        assert len(error.reply.text) < 500
        return
    assert 200 <= status < 300
    assert tuple(sent.outcomes) == RECIPIENTS
    assert len(sent.message_id) <= MESSAGE_ID_LIMIT
    assert not UNPRINTABLE.search(sent.message_id)


def limits(octets: bytes) -> None:
    """No header makes us wait for longer than there is a limit for, or for less than nothing."""
    retry_after, ratelimit, policy = (part.decode("latin-1") for part in split(octets, 3))
    least, most = limit_fields.RETRY_AFTER_LIMITS
    seconds = limit_fields.retry_after_of(retry_after, ratelimit)
    assert seconds is None or least <= seconds <= most
    pacer = pacing.Pacer(10, clock=lambda: 1000.0)
    turn = pacing.Turn(0, 0)
    pacer.in_flight = 1
    pacer.observe(turn, ratelimit, policy)
    assert 0 <= pacer.blocked_for <= most + 1
    pacer.block(turn, seconds)
    assert 0 <= pacer.blocked_for <= most + 1
