"""A bridge that stood still for longer than its lease sends nothing that another has by then.

Two bridges share a PostgreSQL spool, with a lease of a second. The first is stopped (SIGSTOP) somewhere
between its claim and its call, the second takes over what it had, and then the first goes on.
"""

import os
import signal
import smtplib
from collections import Counter
from pathlib import Path

import pytest

from smtp2cf.relay import RetryPolicy
from smtp2cf.sandbox import Sandbox
from tests.relay.harness import Harness, Zygote, is_stopped
from tests.relay.killable import STOPS
from tests.relay.test_deadline import Gate
from tests.relay.world import Api, World, world
from tests.spool.clocks import Host
from tests.spool.conftest import Backend
from tests.support.sandbox import running_sandbox
from tests.support.waiting import PATIENCE, free_port, wait_until


def send(port: int, *recipients: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, "client", timeout=PATIENCE) as server:
        assert server.sendmail("sender@example.com", recipients, "Subject: x\r\n\r\nhello\r\n") == {}


def stop_and_go_on(harness: Harness, sandbox: Sandbox, stop_at: str, *recipients: str) -> Counter[str]:
    """How often each recipient got the mail that a bridge had while it was stopped."""
    port = free_port()
    paused = harness.start(port, stop_at=stop_at)
    try:
        send(port, *recipients)
        wait_until(lambda: is_stopped(paused), f"it is stopped when {stop_at}")
        other = harness.start(free_port())
        wait_until(lambda: set(recipients) <= set(arrived(sandbox)), "the other bridge has sent it")
        os.kill(paused, signal.SIGCONT)
        wait_until(lambda: harness.events("queue.taken_over"), "the first one has noticed")
        harness.terminate(other)
    finally:
        os.kill(paused, signal.SIGCONT)
        harness.terminate(paused)
    return arrived(sandbox)


def arrived(sandbox: Sandbox) -> Counter[str]:
    return Counter(who for accepted in tuple(sandbox.messages) for who in accepted.recipients)


@pytest.mark.parametrize("point", STOPS)
def test_what_another_has_is_not_sent(bridges: Zygote, postgres: Backend, tmp_path: Path, point: str) -> None:
    with running_sandbox(token=None) as (sandbox, api):
        harness = Harness(bridges, sandbox, api, tmp_path, SPOOL_URL=postgres.url, MODE="queue")
        came = stop_and_go_on(harness, sandbox, f"{point}:1", "ben@example.org")
        assert came == {"ben@example.org": 1}
        assert not harness.events("queue.error")


@pytest.mark.parametrize("mode", ["queue", "direct"])
def test_between_two_calls_for_one_message_it_may_have_become_anothers(
    bridges: Zygote, postgres: Backend, tmp_path: Path, mode: str
) -> None:
    """Direct: the client was told 250, kept, while the first call took its time."""
    recipients = [f"n{number}+slow-400ms@example.org" for number in range(75)]
    with running_sandbox(token=None) as (sandbox, api):
        settings = {"SPOOL_URL": postgres.url, "MODE": mode, "REPLY_TIMEOUT": "0.1"}
        harness = Harness(bridges, sandbox, api, tmp_path, **settings)
        came = stop_and_go_on(harness, sandbox, "a call has its turn:2", *recipients)
        # The first fifty were sent before: the log says that they may get it twice.
        assert {who for who, times in came.items() if times > 1} == set(recipients[:50])
        assert set(came.values()) == {1, 2}
        assert harness.events("mail.possible_duplicate")


async def other_takes_over(backend: Backend, host: Host, here: World) -> None:
    """The host stands still for longer than the lease of all that is claimed; another bridge has it then."""
    assert here.relay.queue is not None
    await here.relay.queue.stop_claiming()  # it would find its own mail due, and renew its lease
    other = await backend.open(lease=60)
    await host.sleep(100)
    claimed = await other.claim(10)
    assert len(claimed) == 1
    assert len(await here.items()) == 1


@pytest.mark.parametrize("policy", [{"mode": "queue"}, {"mode": "direct", "reply_timeout": 0.1}])
async def test_a_host_that_stood_still_between_two_calls_makes_no_third(
    postgres: Backend, api: Api, monkeypatch: pytest.MonkeyPatch, policy: dict[str, object]
) -> None:
    host = Host(monkeypatch, postgres)
    gate = Gate(api)
    async with world(await postgres.open(lease=60), api, retry=RetryPolicy(minimum=60), **policy) as here:
        reply = await here.accept(*(f"n{number}@example.org" for number in range(120)))
        assert reply.startswith("250")
        await api.wait_for(1)
        await other_takes_over(postgres, host, here)
        gate.open.set()
        await here.relay.queue.drain(PATIENCE)
        assert len(api.calls) == 1


async def test_a_message_that_was_deleted_while_its_call_waited_is_not_sent(
    backend: Backend, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smtp2cf.spool import Action, Filter

    host = Host(monkeypatch, backend)
    gate = Gate(api)
    async with world(await backend.open(), api, mode="queue") as here:
        await here.accept(*(f"n{number}@example.org" for number in range(120)))
        await api.wait_for(1)
        await host.sleep(2)
        async for _ in here.spool.apply(Action.DELETE, Filter()):
            pass
        gate.open.set()
        await here.relay.queue.drain(PATIENCE)
        assert len(api.calls) == 1
