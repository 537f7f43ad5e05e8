"""One function for each mail event: the log line, in Postfix's terms, the counters, and the journal's steps.

No message content and no token goes through here.
Knows no SMTP session and no HTTP.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import structlog

from smtp2cf.envelope import Envelope, Outcomes
from smtp2cf.journal import mail_news, news, quotas
from smtp2cf.journal.mail_counts import (
    DEFERRALS,
    DELAY,
    DSNS,
    LOGINS,
    MESSAGES,
    NOT_CONFIGURED,
    POSSIBLE_DUPLICATES,
    RECIPIENTS,
    REPAIRED,
    REPEATED,
    SIZE,
    UNMATCHED,
    given_up,
    status_of,
)
from smtp2cf.journal.record import Step
from smtp2cf.journal.recorder import Recorder
from smtp2cf.journal.steps import Kind
from smtp2cf.reply import Reply, few_in_words, first_few

RECENT = 50
"""Lines kept for the status page."""
NAMED_LIMIT = 50
"""Recipients a log line names; the rest are counted."""
DSN_QUOTA = "SMTP2CF_DSN_QUOTA"
NOT_REPORTED = f"further DSNs to this address are not sent ({DSN_QUOTA})"
USER_LIMIT = 100
"""Characters of a user name that a log line shows: a stranger may give any."""

_recent: "deque[tuple[Envelope, str, Reply, Sequence[str], float]]" = deque(maxlen=RECENT)
_LOGIN_EVENTS = {"failure": "auth.failed", "refused": "auth.refused", "unavailable": "auth.unavailable"}

log = structlog.stdlib.get_logger("smtp2cf.mail")

_recorder: Recorder | None = None


def record_with(recorder: Recorder | None) -> None:
    """Keep a journal from now on; None for none."""
    global _recorder
    _recorder = recorder


class Dsn(Protocol):
    """A delivery report that goes out."""

    @property
    def envelope(self) -> Envelope: ...
    @property
    def message(self) -> bytes: ...


class Recent(NamedTuple):
    """A line of the status page."""

    time: str
    queue_id: str
    sender: str
    recipients: str
    status: str
    reply: str


def recent() -> list[Recent]:
    """What became of the latest mail, newest first."""
    return [
        Recent(
            time.strftime("%H:%M:%S", time.localtime(at)),
            envelope.queue_id,
            envelope.reverse_path,
            few_in_words(recipients, 3),
            status,
            str(reply),
        )
        for envelope, status, reply, recipients, at in reversed(_recent)
    ]


def attempted(
    envelope: Envelope,
    outcomes: Outcomes,
    message_ids: Mapping[str, str],
    *,
    original_id: str,
    size: int,
    attempts: int = 1,
    account: str = "",
    message: bytes = b"",
) -> None:
    """An attempt to send has ended: one line for each different reply and call.

    message_ids: Cloudflare's, by recipient, of calls that were accepted. original_id: the message's own,
    which Cloudflare replaces; "" for none. account: "" where there is only one. message: for the journal,
    which reads its header.
    """
    now = time.time()
    delay = now - envelope.received_at
    DELAY.observe(delay)
    SIZE.observe(size)
    groups: dict[tuple[Reply, str], list[str]] = {}
    for recipient, reply in outcomes.items():
        groups.setdefault((reply, message_ids.get(recipient, "")), []).append(recipient)
    for (reply, message_id), recipients in groups.items():
        status = status_of(reply)
        _recent.append((envelope, status, reply, recipients, now))
        fields: dict[str, object] = {
            "queue_id": envelope.queue_id,
            "from": envelope.reverse_path,
            "to": first_few(recipients, NAMED_LIMIT),
            "status": status,
            "reply": str(reply),
            "delay": round(delay, 3),
            "size": size,
            "client": envelope.client,
            "attempts": attempts,
        }
        if envelope.is_rewritten:
            fields |= _as_given(envelope, recipients)
        known = ("listener", envelope.listener), ("account", account), ("user", envelope.auth_user)
        ids = ("message_id", message_id), ("original_message_id", original_id), ("dsn_for", envelope.dsn_for)
        fields |= {name: value for name, value in (*known, *ids) if value}
        log.info("mail.attempt", **fields)
        if news.is_wanted(*mail_news.OF_ATTEMPTS):
            mail_news.attempted(reply, recipients, fields)
    if _recorder is not None:
        _recorder.note(envelope, *_steps(groups, now, attempts), message=message, size=size, account=account)


def _steps(groups: Mapping[tuple[Reply, str], Sequence[str]], now: float, attempts: int) -> list[Step]:
    """What the journal has of an attempt. groups: recipients by reply and Cloudflare's message id."""
    return [
        Step(now, Kind(status_of(reply)), recipients, str(reply), message_id, attempts)
        for (reply, message_id), recipients in groups.items()
    ]


def login(
    client: str,
    user: str,
    result: Literal["success", "failure", "refused", "unavailable"],
    reason: str,
    listener: str = "",
) -> None:
    """Somebody tried to authenticate. client: the peer's address. user: the name as it was given. listener:
    where, "" where that has no name."""
    where = {"listener": listener} if listener else {}
    LOGINS.counted[result] += 1
    if result == "success":
        log.debug("auth.success", client=client, user=user, **where)
    else:
        log.warning(_LOGIN_EVENTS[result], client=client, user=user[:USER_LIMIT], reason=reason, **where)
        if _recorder is not None:
            _recorder.login_failed(
                _LOGIN_EVENTS[result], user[:USER_LIMIT], {"client": client, "reason": reason, **where}
            )


def answered(reply: Reply) -> None:
    """The client was told what became of its message."""
    MESSAGES.counted[f"{reply.code // 100}xx"] += 1


def refused(envelope: Envelope, reply: Reply, message: bytes = b"") -> None:
    """A message was refused before anything was sent. message: for the journal, which reads its header."""
    status = status_of(reply)
    if reply.transient:
        DEFERRALS.counted["spool"] += len(envelope.forward_paths)
    else:
        RECIPIENTS.counted[status] += len(envelope.forward_paths)
    _recent.append((envelope, status, reply, envelope.forward_paths, time.time()))
    log.warning(
        "mail.refused",
        **named(envelope),
        to=first_few(envelope.forward_paths, NAMED_LIMIT),
        status=status,
        reply=str(reply),
        client=envelope.client,
        **({"user": envelope.auth_user} if envelope.auth_user else {}),
    )
    record(envelope, Kind(status), envelope.forward_paths, reply=str(reply), message=message)


def kept(envelope: Envelope, why: str, *, message: bytes) -> None:
    """A message is safe in the spool, and its client has been told."""
    log.info(
        "mail.kept",
        **named(envelope),
        to=first_few(envelope.forward_paths, NAMED_LIMIT),
        status="kept",
        reason=why,
        size=len(message),
        client=envelope.client,
        **_as_given(envelope, envelope.forward_paths),
    )
    record(envelope, Kind.KEPT, detail=why, message=message)


def expired(envelope: Envelope, outcomes: Outcomes, *, size: int, attempts: int, account: str = "") -> None:
    """Mail was given up after EXPIRE_AFTER. account: which made the last attempt."""
    given_up(outcomes, account)
    reply = next(iter(outcomes.values()))
    _recent.append((envelope, "expired", reply, list(outcomes), time.time()))
    fields: dict[str, object] = {
        **named(envelope),
        "to": first_few(list(outcomes), NAMED_LIMIT),
        "status": "expired",
        "reply": str(reply),
        "delay": round(time.time() - envelope.received_at, 3),
        "size": size,
        "attempts": attempts,
        **({"account": account} if account else {}),
        **_as_given(envelope, list(outcomes)),
    }
    log.warning("mail.expired", **fields)
    mail_news.expired(list(outcomes), fields)
    record(envelope, Kind.EXPIRED, list(outcomes), reply=str(reply), attempt=attempts)


def held(envelope: Envelope, reason: str) -> None:
    """A message waits for an operator, because our own code failed on it."""
    log.error("mail.held", **named(envelope), reason=reason)
    mail_news.held(envelope, reason)
    record(envelope, Kind.HELD, detail=reason)


def reported(envelope: Envelope, *, dsns: Sequence[Dsn], undeliverable: bool = False) -> None:
    """DSNs about a message were queued, or nobody can be told that it could not be delivered."""
    if dsns:
        DSNS.inc(len(dsns))
        to = dict.fromkeys(dsn.envelope.forward_paths[0] for dsn in dsns)
        told = {"to": list(to), "count": len(dsns)}
        log.info("mail.dsn", **named(envelope), **told)
        record(envelope, Kind.REPORTED, detail=" ".join(dsn.envelope.queue_id for dsn in dsns))
        for dsn in dsns:
            about = f"a DSN about {envelope.queue_id}"
            record(dsn.envelope, Kind.KEPT, detail=about, message=dsn.message)
    if undeliverable:
        log.warning(
            "mail.dsn_undeliverable",
            **named(envelope),
            to=first_few(envelope.forward_paths, NAMED_LIMIT),
        )
        mail_news.nobody_told(envelope)
        record(envelope, Kind.UNREPORTED)


def dsn_over_quota(envelope: Envelope, to: str, limit: str, seconds: float) -> None:
    """A DSN about a message was one too many for its address, and is not sent. seconds: of the limit."""
    quotas.refused(DSN_QUOTA)
    if quotas.over(f"<{to}>", seconds):
        log.warning("dsn.over_quota", **named(envelope), to=[to], limit=limit, note=NOT_REPORTED)
        mail_news.over_quota(envelope, to, f"{DSN_QUOTA}={limit}")
    record(envelope, Kind.UNREPORTED, detail=f"{DSN_QUOTA}={limit}")


def answer_repeated(envelope: Envelope, reply: Reply) -> None:
    """A client repeated a message that had been sent, because our answer did not reach it."""
    REPEATED.inc()
    log.warning("mail.answer_repeated", **named(envelope), client=envelope.client, reply=str(reply))
    record(envelope, Kind.REPEATED, reply=str(reply))


def repaired(envelope: Envelope, changed: Sequence[str]) -> None:
    """A message was taken only after it was repaired, or one of its sender's before it."""
    REPAIRED.inc()
    log.info(
        "mail.repaired",
        **named(envelope),
        changed=list(changed),
    )
    record(envelope, Kind.REPAIRED, detail=", ".join(changed))


def header_rewritten(envelope: Envelope, changed: Sequence[str], signatures: Sequence[str]) -> None:
    """From or Sender was changed with the sender. signatures: domains whose DKIM signatures that breaks."""
    fields = {**named(envelope), **_as_given(envelope, ())}
    if signatures:
        log.warning("mail.rewritten", **fields, changed=list(changed), breaks_signature_of=list(signatures))
    else:
        # With the sender, which the line about the attempt names, it says nothing new.
        note = log.info if envelope.given_reverse_path is None else log.debug
        note("mail.rewritten", **fields, changed=list(changed))


def possible_duplicate(envelope: Envelope, recipients: Sequence[str]) -> None:
    """A call got no answer: its mail may have been sent, and a retry may send it twice."""
    POSSIBLE_DUPLICATES.inc()
    log.warning("mail.possible_duplicate", **named(envelope), to=first_few(recipients, NAMED_LIMIT))
    record(envelope, Kind.UNANSWERED, detail=few_in_words(recipients, 3))


def waits_for_event(envelope: Envelope, recipients: Sequence[str]) -> None:
    """A call got no answer. It is not repeated for now, since an event may show that it went through."""
    log.warning("mail.unanswered", **named(envelope), to=first_few(recipients, NAMED_LIMIT))
    record(envelope, Kind.UNANSWERED, detail=f"waiting for an event: {few_in_words(recipients, 3)}")


def sent_twice(queue_id: str, recipients: Sequence[str], message_id: str) -> None:
    """An event shows, too late, that a call went through that had no answer and was repeated."""
    log.warning(
        "mail.sent_twice", queue_id=queue_id, to=first_few(recipients, NAMED_LIMIT), message_id=message_id
    )


def unmatched(envelope: Envelope, entries: Sequence[str]) -> None:
    """Cloudflare's answer names addresses that are none of the recipients, and leaves some recipients out."""
    UNMATCHED.inc(len(entries))
    log.warning("mail.unmatched_outcome", **named(envelope), entries=first_few(entries, NAMED_LIMIT))


def sender_not_configured(domain: str, reply: Reply, *, is_news: bool, sent_as: str = "") -> None:
    """Cloudflare does not send for a sender's domain. is_news: it is to be logged. sent_as: who stands in."""
    NOT_CONFIGURED.inc()
    if is_news:
        stands_in = {"sent_as": sent_as} if sent_as else {}
        log.error("sender.not_configured", domain=domain, reply=str(reply), **stands_in)


def sender_failing(domain: str, reply: Reply) -> None:
    """Cloudflare fails, again and again, to send for this domain."""
    log.warning("sender.failing", domain=domain, reply=str(reply))


def sender_recovered(domain: str) -> None:
    """Cloudflare sends for this domain again."""
    log.info("sender.recovered", domain=domain)


def named(envelope: Envelope) -> dict[str, str]:
    """Which message it is; of a DSN of ours, also what that is about."""
    named = {"queue_id": envelope.queue_id, "from": envelope.reverse_path}
    return {**named, "dsn_for": envelope.dsn_for} if envelope.dsn_for else named


def _as_given(envelope: Envelope, recipients: Sequence[str]) -> dict[str, object]:
    """What the client said, where something else goes out; Postfix has `orig_to` for it."""
    fields: dict[str, object] = {}
    if envelope.given_reverse_path is not None:
        fields["orig_from"] = envelope.given_reverse_path
    if rewritten := envelope.given_forward_paths:
        given = [who for path in recipients if path in rewritten for who in rewritten[path]]
        if given:
            fields["orig_to"] = first_few(given, NAMED_LIMIT)
    return fields


def record(
    envelope: Envelope,
    kind: Kind,
    recipients: Sequence[str] = (),
    *,
    reply: str = "",
    detail: str = "",
    attempt: int = 0,
    message: bytes = b"",
) -> None:
    """Put a step into the journal, if one is kept."""
    if _recorder is not None:
        step = Step(time.time(), kind, recipients, reply, "", attempt, detail)
        _recorder.note(envelope, step, message=message)
