"""Dropped mail with a real relay and spool behind it."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smtp2cf.access.counts import Counts
from smtp2cf.access.limit import Limit, Named
from smtp2cf.access.quotas import Allowance, Quotas, ruling
from smtp2cf.envelope import Envelope, Outcomes
from smtp2cf.relay import DropDirectory, DropPolicy
from smtp2cf.relay.drop import OverQuota
from smtp2cf.reply import Reply, Scope, SendError
from smtp2cf.smtpd import over_quota
from tests.relay.world import MESSAGE, Api, Call, World, failure, sorted_into, world
from tests.sendmail.front_door import front_door
from tests.spool.conftest import Backend
from tests.support.waiting import PATIENCE


@pytest.fixture
def drops(tmp_path: Path) -> Path:
    return tmp_path / "drop"


def drop(directory: Path, *recipients: str, **head: object) -> Path:
    fields = {"version": 1, "size": len(MESSAGE), "reverse_path": "anna@example.com", "body": "7BIT", **head}
    fields["forward_paths"] = recipients
    directory.mkdir(exist_ok=True)
    part = directory / ".one.part"
    part.write_bytes(json.dumps(fields).encode() + b"\n" + MESSAGE)
    return part.rename(directory / "A.drop")


@contextlib.asynccontextmanager
async def taken_in(here: World, directory: Path, over_quota: OverQuota | None = None) -> AsyncIterator[None]:
    policy = DropPolicy(
        directory=directory,
        aside=directory.parent / "aside",
        max_message_size=10_000,
        interval=0.02,
        retry_min=0.02,
    )
    taker = DropDirectory(
        policy,
        front_door(),
        here.relay.accept,
        here.relay.bounce,
        here.relay.answered,
        over_quota=over_quota,
    )
    running = asyncio.create_task(taker.run())
    try:
        yield
    finally:
        taker.stop()
        await running


async def until_gone(path: Path) -> None:
    async with asyncio.timeout(PATIENCE):
        while path in list(path.parent.iterdir()):  # noqa: ASYNC110 - files tell nobody
            await asyncio.sleep(0.01)


async def test_report_with_partial_bounce_reject_names_only_who_is_refused(
    sqlite: Backend, api: Api, drops: Path
) -> None:
    async def answer(call: Call) -> object:
        bounced = [who for who in call.recipients if who.startswith("bounce")]
        if any(who.startswith("busy") for who in call.recipients):
            return await failure(500, 10002, "email.sending.error.internal_server")(call)
        return sorted_into(
            permanent_bounces=bounced, delivered=[w for w in call.recipients if w not in bounced]
        )

    api.answer = answer  # type: ignore[assignment]
    groups = [f"ok{number}@example.org" for number in range(49)]
    recipients = (*groups, "bounce@example.org", "busy@example.org")
    async with world(await sqlite.open(), api, partial_bounce="reject") as here, taken_in(here, drops):
        await until_gone(drop(drops, *recipients))
        [item] = [item for item in await here.items() if not item.is_dsn]
        assert list(item.unresolved) == ["busy@example.org"]
        calls = [call for call in api.calls if call.sender == "mailer-daemon@example.com"]
        while not calls:
            await api.wait_for(len(api.calls) + 1)
            calls = [call for call in api.calls if call.sender == "mailer-daemon@example.com"]

    assert b"bounce@example.org" in calls[0].message
    assert b"busy@example.org" not in calls[0].message
    assert len(calls) == 1


async def test_mail_beyond_a_quota_waits_for_its_end(sqlite: Backend, api: Api, drops: Path) -> None:
    now = 1000.0
    limits = (Named(Limit(5, "messages", 60), "S"), Named(Limit(2, "recipients", 60), "S"))
    quotas = Quotas(Allowance(sender=ruling(*limits)), Counts(clock=lambda: now))
    tries = asyncio.Event()

    async def over(envelope: Envelope) -> Outcomes:
        found = await over_quota(quotas, envelope)
        if len(found) == len(envelope.forward_paths):
            tries.set()
        return found

    async with world(await sqlite.open(), api) as here, taken_in(here, drops, over):
        path = drop(drops, "a@example.org", "b@example.org", "c@example.org")
        async with asyncio.timeout(PATIENCE):
            await tries.wait()
        assert [call.recipients for call in api.calls] == [["a@example.org", "b@example.org"]]
        assert json.loads(path.read_bytes().partition(b"\n")[0])["forward_paths"] == ["c@example.org"]
        now += 62
        await until_gone(path)
    assert [call.recipients for call in api.calls][1:] == [["c@example.org"]]


async def test_old_mail_outlives_a_spool_that_is_away(sqlite: Backend, api: Api, drops: Path) -> None:
    """Six days old, the account refused, the spool not there: it is neither lost nor set aside."""
    api.answer = failure(401, 10000, "Authentication error")
    spool = await sqlite.open()
    real = spool.put
    away = 6

    async def put(*mail: object) -> None:
        nonlocal away
        if away:
            away -= 1
            raise SendError(Reply(452, "4.3.1", "the spool is full"), Scope.MESSAGE)
        await real(*mail)  # type: ignore[arg-type]

    async with world(spool, api) as here:
        spool.put = put  # type: ignore[method-assign]
        path = drop(drops, "ben@example.org")
        os.utime(path, (time.time() - 6 * 86400,) * 2)
        async with taken_in(here, drops):
            await until_gone(path)
        items = await here.items()

    assert away == 0
    assert [(item.is_dsn, item.envelope.forward_paths) for item in items] in (
        [(True, ("anna@example.com",))],
        [(False, ("ben@example.org",))],
    )
    assert not (drops.parent / "aside").exists()


async def test_repetition_of_what_was_answered_is_sent_once(sqlite: Backend, api: Api, drops: Path) -> None:
    """A client is lost before its 250 and drops the mail: the same recipients and bytes are known."""
    async with world(await sqlite.open(), api) as here:
        from smtp2cf.envelope import Envelope

        envelope = Envelope(
            reverse_path="anna@example.com", forward_paths=("ben@example.org", "c@example.org")
        )
        await here.relay.accept(envelope, MESSAGE)
        here.relay.answered(envelope, False)
        refused = {"bad@[zz]": "553 5.1.3 not an address"}
        path = drop(drops, "ben@example.org", "c@example.org", refused=refused)
        async with taken_in(here, drops):
            await until_gone(path)
        await here.until_empty()

    assert [call.sender for call in api.calls] == ["anna@example.com", "mailer-daemon@example.com"]
    assert b"bad@[zz]" in api.calls[1].message
