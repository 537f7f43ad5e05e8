"""What is counted of mail for /metrics (docs/metrics.md lists it all).

A label's values are few and fixed: nothing that a client or Cloudflare says becomes one. Those that have an
account are counted of each, where there are several.
"""

import time

from prometheus_client import Counter

from smtp2cf.envelope import Outcomes
from smtp2cf.journal.metrics import Counters, Histogram, Latest
from smtp2cf.reply import QUEUED, Reply

DEFERRED_FOR = (
    "rate_limit",
    "quota",
    "unreachable",
    "unanswered",
    "server_error",
    "account",
    "sender",
    "unclear",
    "spool",
    "bridge",
    "other",
)
"""Why a recipient has to be tried again."""

MESSAGES = Counters(
    "smtp2cf_messages_total",
    "Messages, by the class of the reply to the client",
    "answer",
    ("2xx", "4xx", "5xx"),
)
RECIPIENTS = Counters(
    "smtp2cf_recipients_total",
    "Recipients, each once, by what became of them here",
    "status",
    ("sent", "queued", "bounced", "suppressed", "expired"),
)
ATTEMPTS = Counters(
    "smtp2cf_recipient_attempts_total",
    "Recipients of attempts, by what the attempt came to",
    "status",
    ("sent", "queued", "deferred", "bounced", "suppressed"),
)
DEFERRALS = Counters(
    "smtp2cf_deferrals_total",
    "Recipients who have to be tried again after an attempt or by the client, by reason",
    "reason",
    DEFERRED_FOR,
)
LAST_SUCCESS = Latest(
    "smtp2cf_last_success_timestamp_seconds",
    "When Cloudflare last took a message for somebody, in seconds since the epoch",
)
POSSIBLE_DUPLICATES = Counter(
    "smtp2cf_possible_duplicates_total", "Messages whose call had no answer: they may have been sent"
)
UNMATCHED = Counter(
    "smtp2cf_unmatched_outcomes_total", "Addresses in Cloudflare's answers that match no recipient"
)
REPAIRED = Counter("smtp2cf_repaired_total", "Messages sent repaired, which Cloudflare had called invalid")
NOT_CONFIGURED = Counter(
    "smtp2cf_sender_not_configured_total",
    "Attempts that failed because Cloudflare does not send for the sender's domain",
)
DSNS = Counter("smtp2cf_dsns_total", "Delivery reports sent")
REPEATED = Counter(
    "smtp2cf_answers_repeated_total",
    "Messages that came again after their reply was lost, and were not sent again",
)
LOGINS = Counters(
    "smtp2cf_logins_total",
    "Logins, by outcome",
    "result",
    ("success", "failure", "refused", "unavailable"),
)
DELAY = Histogram(
    "smtp2cf_delivery_delay_seconds",
    "Seconds from taking a message to Cloudflare's answer",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 10000, 100000),
)
SIZE = Histogram(
    "smtp2cf_message_size_bytes", "Size of messages sent", buckets=(1e3, 1e4, 1e5, 1e6, 5e6, 25e6)
)


def begin(account: str) -> None:
    """Show an account's counts from the start, at 0."""
    for counters in (RECIPIENTS, ATTEMPTS, DEFERRALS):
        counters.of(account)


def status_of(reply: Reply) -> str:
    """What a recipient's outcome is called."""
    if reply.success:
        return "queued" if reply == QUEUED else "sent"
    if reply.transient:
        return "deferred"
    return "suppressed" if reply.suppressed else "bounced"


def attempted(outcomes: Outcomes, account: str, *, settled: bool) -> bool:
    """Count what an attempt came to; returns whether somebody is deferred.

    account: "" where there is only one. settled: it is the end for the others; if not, `ended` will say so.
    """
    deferred = taken = False
    attempts, recipients = ATTEMPTS.of(account), RECIPIENTS.of(account)
    for reply in outcomes.values():
        status = status_of(reply)
        attempts[status] += 1
        if status == "deferred":
            deferred = True
        elif settled:
            recipients[status] += 1
        taken = taken or reply.success
    if taken:
        LAST_SUCCESS.last[account] = time.time()
    return deferred


def ended(outcomes: Outcomes, account: str) -> None:
    """What an attempt came to is the end for all who are not deferred."""
    recipients = RECIPIENTS.of(account)
    for reply in outcomes.values():
        if not reply.transient:
            recipients[status_of(reply)] += 1


def given_up(outcomes: Outcomes, account: str) -> None:
    """Nobody will try again to send to these, although their replies are transient."""
    RECIPIENTS.of(account)["expired"] += len(outcomes)
