"""What is counted of recipients: each once, by what became of it; each attempt; and why one was put off."""

from collections.abc import Sequence

import pytest

from smtp2cf.cloudflare import Sent
from smtp2cf.cloudflare.errors import TABLE
from smtp2cf.cloudflare.quota import USED_UP
from smtp2cf.envelope import Envelope
from smtp2cf.journal.mail_counts import ATTEMPTS, DEFERRALS, DEFERRED_FOR, RECIPIENTS
from smtp2cf.journal.metrics import Counters
from smtp2cf.relay import MessagePolicy, Relay, RetryPolicy
from smtp2cf.relay.calls import INTERNAL_ERROR, NOT_FOUND_OUT, Attempt
from smtp2cf.relay.deferrals import reason_of
from smtp2cf.relay.lease import TAKEN_OVER
from smtp2cf.reply import DELIVERED, Reply
from tests.relay.world import AWAY, MESSAGE, Api, by_name, first, world
from tests.spool.conftest import Backend

THROTTLED = Reply(451, "4.7.1", "later")


class Rise:
    """How far counters rose since this was made; those that did not are left out."""

    def __init__(self, counters: Counters) -> None:
        self._counted, self._before = counters.counted, dict(counters.counted)

    def __call__(self) -> dict[str, int]:
        rose = {label: count - self._before[label] for label, count in self._counted.items()}
        return {label: count for label, count in rose.items() if count}


async def test_who_is_tried_three_times_became_something_once(sqlite: Backend, api: Api) -> None:
    recipients, attempts, deferrals = Rise(RECIPIENTS), Rise(ATTEMPTS), Rise(DEFERRALS)
    api.answer = first(AWAY, 2, by_name)
    retry = RetryPolicy(minimum=0.02, maximum=0.02, expire_after=3600)
    async with world(await sqlite.open(), api, retry=retry) as here:
        assert (await here.accept("ok@example.org", "bounce@example.org")).startswith("250 ")
        assert recipients() == {}, "they wait"
        await here.until_empty()
    # With the DSN about the one that bounced.
    assert recipients() == {"sent": 2, "bounced": 1}
    assert attempts() == {"deferred": 4, "sent": 2, "bounced": 1}
    assert deferrals() == {"server_error": 4}


async def test_who_is_given_up_has_expired(sqlite: Backend, api: Api) -> None:
    recipients = Rise(RECIPIENTS)
    api.answer = first(AWAY, 2)  # then the DSN about it
    retry = RetryPolicy(minimum=0.02, maximum=0.02, expire_after=0)
    async with world(await sqlite.open(), api, retry=retry) as here:
        await here.accept("ok@example.org")
        await here.until_empty()
    assert recipients() == {"expired": 1, "sent": 1}


@pytest.mark.parametrize(("others", "expected"), [((), {}), (("a@x",), {"sent": 2, "expired": 1})])
async def test_without_a_spool_only_who_was_left_behind_a_250_is_given_up(
    others: Sequence[str], expected: dict[str, int]
) -> None:
    """Else its client tries again. The second who gets something is the sender, with the DSN."""

    async def send_raw(_: str, recipients: Sequence[str], **__: object) -> Sent:
        return Sent({who: THROTTLED if who == "later@x" else DELIVERED for who in recipients}, "<1@cf>")

    recipients, deferrals = Rise(RECIPIENTS), Rise(DEFERRALS)
    relay = Relay(send_raw, MessagePolicy())
    mail = Envelope(reverse_path="a@example.com", forward_paths=("later@x", *others))
    await relay.accept(mail, MESSAGE)
    await relay.drain(5)
    assert recipients() == expected
    assert deferrals() == {"rate_limit": 1}


SENDER = Reply(451, "4.3.5", "Cloudflare does not send for the sender's domain")
REASONS = [
    (THROTTLED, {}, "rate_limit"),
    (Reply(451, "4.7.1", f"{USED_UP} used up, try again in 60 s"), {}, "quota"),
    (Reply(451, "4.4.1", "cannot reach api"), {}, "unreachable"),
    (Reply(451, "4.3.0", "no answer from api"), {"unanswered": True}, "unanswered"),
    (Reply(451, "4.3.0", "Cloudflare had an internal error"), {}, "server_error"),
    (Reply(451, "4.3.5", "Cloudflare refuses the API token"), {}, "account"),
    (SENDER, {"sender_refusal": SENDER}, "sender"),
    (NOT_FOUND_OUT, {}, "unclear"),
    (INTERNAL_ERROR, {"unanswered": True}, "bridge"),
    (TAKEN_OVER, {}, "bridge"),
    (Reply(450, "4.2.2", "no reason that anybody knows"), {}, "other"),
]


@pytest.mark.parametrize(("reply", "circumstances", "reason"), REASONS)
def test_each_deferral_has_one_of_a_few_reasons(
    reply: Reply, circumstances: dict[str, object], reason: str
) -> None:
    unanswered = bool(circumstances.get("unanswered"))
    refusal = circumstances.get("sender_refusal")
    attempt = Attempt(sender_refusal=refusal if isinstance(refusal, Reply) else None)
    assert reason_of(reply, attempt, unanswered=unanswered) == reason


def test_every_reason_is_known_and_cloudflares_errors_have_better_ones_than_other() -> None:
    given = {reason for _, _, reason in REASONS}
    assert given | {"spool"} == set(DEFERRED_FOR)  # the spool's: a refusal, without an attempt
    transient = [row.reply for row in TABLE if row.reply.transient]
    assert len(transient) > 10
    assert not [reply for reply in transient if reason_of(reply, Attempt(), unanswered=False) == "other"]
