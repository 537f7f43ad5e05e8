"""Dropped mail is judged as SMTP judges it: what can't be done now waits, nobody's mistake is another's."""

import asyncio
import errno
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from smtp2cf.envelope import Envelope, Outcomes, Verdict
from smtp2cf.relay import MessagePolicy, Relay, drop_file
from smtp2cf.relay import drop as drop_module
from smtp2cf.relay.drop import DropDirectory, DropPolicy
from smtp2cf.reply import Reply, Scope, SendError
from smtp2cf.smtpd.transaction import Transaction
from tests.sendmail.front_door import front_door
from tests.sendmail.test_pickup import (
    BOUNCED,
    LATER,
    MESSAGE,
    SENT,
    Accept,
    files,
    policy,
    put,
    taking,
    until,
)

__all__ = ["policy"]

SIX_DAYS = 6 * 86400
AWAY = SendError(Reply(451, "4.3.0", "the spool is away"), Scope.MESSAGE)


class Told:
    """Stands in for the relay's bounce: fails as often as it is told to, then notes who was told what."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.reports: list[tuple[Envelope, Outcomes]] = []

    async def __call__(self, envelope: Envelope, message: bytes, outcomes: Outcomes) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.reports.append((envelope, outcomes))

    @property
    def outcomes(self) -> Outcomes:
        return {who: reply for _, outcomes in self.reports for who, reply in outcomes.items()}


def age(path: Path, seconds: float) -> Path:
    os.utime(path, (time.time() - seconds,) * 2)
    return path


async def gone(policy: DropPolicy, accept: Any, told: Told, **how: Any) -> list[Any]:
    """The log, once the directory is empty."""
    with structlog.testing.capture_logs() as lines:
        async with taking(policy, accept, told, **how):
            await until(lambda: not files(policy.directory))
    return lines


BAD_RECIPIENTS = [
    'c@"x y"', "who@[zz]", "nobody", "", "a@b@c", "b@y\r\nDATA", "b@y> NOTIFY=NEVER", "b@y..z",
    "b@-y", "x" * 400 + "@y", "b@y, c@y", "\udcff@y", "b@y\x00", "a b@y", "b@y RSET",
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_RECIPIENTS)
async def test_bad_recipient_costs_the_others_nothing_and_the_sender_is_told(
    policy: DropPolicy, bad: str
) -> None:
    put(policy, forward_paths=["ok1@y", bad, "ok2@y"])
    accept, told = Accept(SENT), Told()
    await gone(policy, accept, told)

    assert [envelope.forward_paths for envelope, _ in accept.taken] == [("ok1@y", "ok2@y")]
    assert files(policy.aside) == []
    assert list(told.outcomes) == [bad]
    assert told.outcomes[bad].permanent
    if ">" not in bad:  # behind which over SMTP a parameter would begin
        assert Transaction().rcpt(f"TO:<{bad}>", limit=10) == told.outcomes[bad]


async def test_recipient_that_is_no_text_is_one_bad_recipient(policy: DropPolicy) -> None:
    put(policy, forward_paths=["ok@y", 7, None, {"a": 1}])
    accept, told = Accept(SENT), Told()
    await gone(policy, accept, told)

    assert [envelope.forward_paths for envelope, _ in accept.taken] == [("ok@y",)]
    assert list(told.outcomes) == ["7", "null", '{"a": 1}']


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ({"ret": "NONE"}, "5.5.4"),
        ({"envid": "x" * 600}, "5.5.4"),
        ({"envid": "a b"}, "5.5.4"),
        ({"body": "BINARYMIME"}, "5.5.4"),
        ({"body": ["7BIT"]}, "5.5.4"),
        ({"notify": "SOMETIMES"}, "5.5.4"),
        ({"notify": "FAILURE SIZE=1"}, "5.5.4"),
        ({"notify": ["NEVER"]}, "5.5.4"),
        ({"orcpt": {"b@y": "nonsense"}}, "5.5.4"),
    ],
)
async def test_parameters_that_smtp_refuses_are_refused_and_the_sender_is_told(
    policy: DropPolicy, head: dict[str, Any], status: str
) -> None:
    put(policy, **head)
    accept, told = Accept(SENT), Told()
    await gone(policy, accept, told)

    [(report, outcomes)] = told.reports
    assert (accept.taken, files(policy.aside)) == ([], [])
    assert (report.reverse_path, outcomes["b@y"].code, outcomes["b@y"].status) == ("a@x", 501, status)


async def test_each_recipients_parameters_are_its_own(policy: DropPolicy) -> None:
    notify = {"b@y": "NEVER", "c@y": "SUCCESS,FAILURE"}
    put(policy, forward_paths=["b@y", "c@y", "d@y"], notify=notify, orcpt={"c@y": "rfc822;C@y"}, ret="HDRS")
    accept = Accept(SENT)
    await gone(policy, accept, Told())

    [(envelope, _)] = accept.taken
    assert (envelope.notify, envelope.orcpt) == (notify, {"c@y": "rfc822;C@y"})
    assert (envelope.ret, envelope.per_recipient) == ("HDRS", True)


async def test_sender_that_is_no_address_can_be_told_nothing(policy: DropPolicy) -> None:
    put(policy, reverse_path="nobody")
    put(policy, "B.drop")
    accept, told = Accept(SENT), Told()
    await gone(policy, accept, told)

    assert (len(accept.taken), told.reports) == (1, [])
    assert files(policy.aside) == ["A.553-5.1.3.drop", "A.553-5.1.3.drop.reason"]


async def test_refused_mail_of_the_null_sender_is_kept_for_a_person(policy: DropPolicy) -> None:
    put(policy, reverse_path="", forward_paths=["ok@y", "bad@y", "c@[zz]"])
    mixed = Verdict(SENT, {"ok@y": SENT, "bad@y": BOUNCED})
    await gone(policy, Accept(mixed), Told())

    [kept] = policy.aside.glob("*.drop")
    mail = drop_file.read_drop(kept, 10_000)
    assert {who for who, _ in mail.recipients} == {"bad@y", "c@[zz]"}
    assert mail.message == MESSAGE
    assert "<bad@y>: 550 5.1.1 bounced" in kept.with_name(kept.name + ".reason").read_text()


PASSING = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EACCES, errno.ESTALE, errno.EINTR]


@pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.get)
async def test_file_that_cannot_be_read_now_is_read_later(
    policy: DropPolicy, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    put(policy)
    real, left = os.open, 3

    def failing(path: Any, *rest: Any) -> int:
        nonlocal left
        if str(path).endswith(".drop") and left:
            left -= 1
            raise OSError(number, os.strerror(number))
        return real(path, *rest)

    monkeypatch.setattr(drop_file.os, "open", failing)
    accept = Accept(SENT)
    await gone(policy, accept, Told())

    assert (len(accept.taken), left, files(policy.aside)) == (1, 0, [])


async def test_directory_that_cannot_be_listed_now_is_listed_later(
    policy: DropPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(put(policy), 60)
    os.utime(policy.directory, (time.time() - 60,) * 2)  # nothing changes, so only the failure brings it back
    real, left = os.scandir, 3

    def failing(path: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path)

    monkeypatch.setattr(drop_module.os, "scandir", failing)
    accept = Accept(SENT)
    await gone(policy, accept, Told())
    assert len(accept.taken) == 1


@pytest.mark.parametrize("error", [AWAY, OSError(errno.EMFILE, "Too many open files"), MemoryError()])
async def test_relay_that_cannot_take_it_now_takes_it_later(policy: DropPolicy, error: Exception) -> None:
    put(policy)
    accept = Accept(*[error] * 5, SENT)
    await gone(policy, accept, Told())

    assert (len(accept.taken), files(policy.aside)) == (6, [])


@pytest.mark.parametrize("error", [AWAY, OSError(errno.ENOSPC, "No space left on device")])
async def test_sender_who_cannot_be_told_now_is_told_later_and_nothing_is_sent_again(
    policy: DropPolicy, error: Exception
) -> None:
    put(policy, forward_paths=["ok@y", "bad@y"])
    accept, told = Accept(Verdict(SENT, {"ok@y": SENT, "bad@y": BOUNCED})), Told(*[error] * 5)
    await gone(policy, accept, told)

    assert len(accept.taken) == 1
    assert told.outcomes == {"bad@y": BOUNCED}
    assert files(policy.aside) == []


@pytest.mark.parametrize("errors", [(), (AWAY,) * 5])
async def test_mail_that_expires_is_reported_before_it_is_removed(
    policy: DropPolicy, errors: tuple[Exception, ...]
) -> None:
    path = age(put(policy), SIX_DAYS)
    told = Told(*errors)
    seen = []

    async def watching(envelope: Envelope, message: bytes, outcomes: Outcomes) -> None:
        seen.append(path.exists())
        await told(envelope, message, outcomes)

    await gone(policy, Accept(LATER), watching)  # type: ignore[arg-type]
    assert seen == [True] * (len(errors) + 1)
    assert told.outcomes == {"b@y": LATER}


async def test_mail_is_tried_once_however_old_it_is(policy: DropPolicy) -> None:
    age(put(policy), SIX_DAYS)
    accept, told = Accept(SENT), Told()
    await gone(policy, accept, told)

    assert (len(accept.taken), told.reports) == (1, [])


async def test_clock_that_jumps_makes_nothing_old(
    policy: DropPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(policy)
    accept, told = Accept(LATER, LATER, LATER, SENT), Told()
    real = time.time

    async def jumping(envelope: Envelope, message: bytes) -> Verdict:
        verdict = await accept(envelope, message)
        monkeypatch.setattr(drop_module.time, "time", lambda: real() + SIX_DAYS)
        return verdict

    await gone(policy, jumping, told)
    assert (len(accept.taken), told.reports) == (4, [])


async def without_spool(
    policy: DropPolicy, answer: Callable[[str], Awaitable[Outcomes]], *reached: str
) -> list[tuple[str, list[str]]]:
    """A real relay that keeps nothing takes what is there: the calls, as sender and recipients."""
    calls = []

    async def send_raw(sender: str, recipients: Any, message: bytes, deadline: float) -> Any:
        from smtp2cf.cloudflare import Sent

        calls.append((sender, list(recipients)))
        return Sent(await answer(sender), "")

    relay = Relay(send_raw, MessagePolicy())
    drops = DropDirectory(policy, front_door(), relay.accept, relay.bounce, relay.answered)
    task = asyncio.create_task(drops.run())
    await until(lambda: not files(policy.directory))
    drops.stop()
    await task
    return calls


async def test_without_a_spool_the_file_stays_until_its_report_is_out(policy: DropPolicy) -> None:
    """The account is refused, for the mail and at first for the report as well."""
    age(put(policy, reverse_path="a@x.example"), SIX_DAYS)
    reports = 0

    async def answer(sender: str) -> Outcomes:
        nonlocal reports
        if sender == "mailer-daemon@x.example":
            reports += 1
            if reports > 3:
                return {"a@x.example": SENT}
        raise SendError(Reply(451, "4.3.5", "the token is refused"), Scope.ACCOUNT)

    calls = await without_spool(policy, answer)
    assert [to for sender, to in calls if sender == "mailer-daemon@x.example"] == [["a@x.example"]] * 4
    assert files(policy.aside) == []


async def test_restart_sends_to_nobody_again(policy: DropPolicy) -> None:
    """What is known of a file is in the file."""
    path = put(policy, forward_paths=["ok@y", "bad@y", "later@y", "c@[zz]"], notify={"later@y": "NEVER"})
    before = os.stat(path).st_mtime
    mixed = Verdict(LATER, {"ok@y": SENT, "bad@y": BOUNCED, "later@y": LATER})
    told = Told()
    slow = replace(policy, retry_min=1000.0, retry_max=1000.0)
    async with taking(slow, Accept(mixed), told):
        await until(
            lambda: told.reports and json.loads(path.read_bytes().partition(b"\n")[0])["refused"] == {}
        )

    assert set(told.outcomes) == {"bad@y", "c@[zz]"}
    assert os.stat(path).st_mtime == pytest.approx(before, abs=0.001)
    accept = Accept(SENT)
    await gone(policy, accept, Told())
    [(envelope, message)] = accept.taken
    assert (envelope.forward_paths, envelope.notify, message) == (("later@y",), {"later@y": "NEVER"}, MESSAGE)


async def test_restart_before_the_sender_was_told_tells_it(policy: DropPolicy) -> None:
    path = put(policy, forward_paths=["ok@y", "bad@y"])
    mixed = Verdict(SENT, {"ok@y": SENT, "bad@y": BOUNCED})
    slow = replace(policy, retry_min=1000.0, retry_max=1000.0)
    away = Told(*[AWAY] * 100)
    async with taking(slow, Accept(mixed), away):
        await until(lambda: len(away.errors) < 100)

    assert path.exists()
    accept, told = Accept(SENT), Told()
    await gone(policy, accept, told)
    assert (accept.taken, told.outcomes) == ([], {"bad@y": BOUNCED})


async def test_those_who_were_refused_over_smtp_are_reported(policy: DropPolicy) -> None:
    refused = {"bad@y": "550 5.1.1 unknown", "odd\r\n@y": "nonsense\x1b\r\n", "later@y": "450 4.2.1 busy"}
    put(policy, refused=refused)
    put(policy, "B.drop", forward_paths=[], refused={"who@y": "553 5.1.3 not an address"})
    put(policy, "C.drop", forward_paths=["c@y"], refused={"who@z": "550 5.1.1 x"}, notify="NEVER")
    accept, told = Accept(SENT), Told()
    await gone(policy, accept, told)

    assert {envelope.forward_paths for envelope, _ in accept.taken} == {("b@y",), ("c@y",)}
    assert told.outcomes == {
        "bad@y": Reply(550, "5.1.1", "unknown"), "odd @y": Reply(550, "5.0.0", "nonsense"),
        "later@y": Reply(550, "5.0.0", "450 4.2.1 busy"), "who@y": Reply(553, "5.1.3", "not an address"),
    }  # fmt: skip


async def test_list_longer_than_a_transaction_takes_is_several(policy: DropPolicy) -> None:
    put(policy, forward_paths=[f"r{number}@y" for number in range(25)])
    accept = Accept(SENT)
    drops = DropDirectory(policy, front_door(max_recipients=10), accept, Told())
    task = asyncio.create_task(drops.run())
    await until(lambda: not files(policy.directory))
    drops.stop()
    await task

    assert [len(envelope.forward_paths) for envelope, _ in accept.taken] == [10, 10, 5]
    assert len({envelope.queue_id for envelope, _ in accept.taken}) == 3


async def test_message_that_is_too_large_is_reported_with_its_header(policy: DropPolicy) -> None:
    put(policy, message=b"Subject: large\r\n\r\n" + b"x" * 10_001)
    seen = []

    async def bounce(envelope: Envelope, message: bytes, outcomes: Outcomes) -> None:
        seen.append((message, outcomes["b@y"].code))

    await gone(policy, Accept(SENT), bounce)  # type: ignore[arg-type]
    assert seen == [(b"Subject: large\r\n\r\n", 552)]


async def test_file_that_cannot_be_removed_is_not_sent_again(
    policy: DropPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(policy)
    real, left = Path.unlink, 5

    def failing(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        if left:
            left -= 1
            raise OSError(errno.EROFS, "Read-only file system")
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", failing)
    accept = Accept(SENT)
    await gone(policy, accept, Told())
    assert (len(accept.taken), left) == (1, 0)
