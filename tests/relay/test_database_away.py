"""A PostgreSQL that goes away in each of its ways, under load: a pause, and not one message more or less."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.relay.harness import Harness, Zygote
from tests.spool.conftest import Backend
from tests.spool.cutting_proxy import CuttingProxy, in_a_thread, tagged
from tests.spool.postgres_server import PostgresServer
from tests.support.sandbox import running_sandbox
from tests.support.waiting import PATIENCE, free_port, wait_until

COUNT = 200
MODES = {
    "direct": {"MODE": "direct"},
    "late": {"MODE": "direct", "REPLY_TIMEOUT": "0.02"},  # most are kept while their call goes on
    "queue": {"MODE": "queue"},
}
TIMES = 2
"""How often the database goes away while they are sent."""


def ask(url: str, statement: str) -> list[Any]:
    """What a statement gives, asked by a session of its own."""

    async def once() -> list[Any]:
        import asyncpg

        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    found: list[Any] = []
    # The test's own event loop runs in this thread.
    thread = threading.Thread(target=lambda: found.extend(asyncio.run(once())))
    thread.start()
    thread.join(PATIENCE)
    return found


def restart_fast(server: PostgresServer) -> None:
    server.stop("fast")
    server.start()


def restart_immediate(server: PostgresServer) -> None:
    server.stop("immediate")
    server.start()


def end_sessions(server: PostgresServer) -> None:
    ask(
        server.url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'smtp2cf%'",
    )


def allow_few_sessions(server: PostgresServer) -> None:
    """Three, so that most of what a bridge would open is refused; then none; then as many as it likes."""
    for limit in (3, 0, -1):
        ask(server.url, f"ALTER ROLE bridge CONNECTION LIMIT {limit}")
        end_sessions(server)
        time.sleep(0.3)


def freeze(server: PostgresServer) -> None:
    """Every process of the server stops for longer than a statement may take."""
    pids = server.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2.0)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "go_away", [restart_fast, restart_immediate, end_sessions, allow_few_sessions, freeze]
)
def test_no_message_more_or_less(
    bridges: Zygote,
    postgres: Backend,
    tmp_path: Path,
    mode: str,
    go_away: Callable[[PostgresServer], None],
) -> None:
    server = postgres.server
    assert server is not None
    ask(
        server.url,
        "DO $$ BEGIN CREATE ROLE bridge LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
    )
    ask(server.url, f"ALTER SCHEMA {postgres.url.rpartition('=')[2]} OWNER TO bridge")
    url = postgres.url.replace("//postgres@", "//bridge@")
    with sent_under_load(bridges, postgres, url, tmp_path, mode) as harness:
        for turn in range(1, TIMES + 1):
            part = COUNT * turn // (TIMES + 2)
            wait_until(lambda part=part: len(harness.confirmed) > part, f"{part} are sent")
            go_away(server)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_closes_in_the_middle_of_commits(
    bridges: Zygote, postgres: Backend, tmp_path: Path, mode: str
) -> None:
    directory = postgres.url.partition("host=")[2].partition("&")[0]
    done = tagged("INSERT 0", "UPDATE ", "DELETE ", "SELECT ", "COMMIT")
    answers = 0

    def cut(octets: bytes) -> bool:
        nonlocal answers
        answers += done(octets)
        return done(octets) and answers % 20 == 0

    with in_a_thread(CuttingProxy(Path(directory), cut)) as proxy:
        url = postgres.url.replace(directory, str(proxy.directory))
        with sent_under_load(bridges, postgres, url, tmp_path, mode):
            pass
        assert proxy.lost >= 5


@contextlib.contextmanager
def sent_under_load(
    bridges: Zygote, postgres: Backend, url: str, tmp_path: Path, mode: str
) -> Iterator[Harness]:
    """Messages go through a bridge while something happens to its database; after, all is counted."""
    with running_sandbox(token=None, keep=10_000) as (sandbox, api):
        settings = {"SPOOL_URL": url, **MODES[mode], "TEST_LEASE": "60", "TEST_COMMAND_TIMEOUT": "1"}
        harness = Harness(bridges, sandbox, api, tmp_path, **settings)
        port = free_port()
        pid = harness.start(port)
        harness.send_all(port, clients=8, count=COUNT)
        yield harness
        harness.wait_for_clients()
        harness.wait_until_all_arrived()
        # Nothing is held, nothing stays active for the minute of its lease.
        wait_until(lambda: not waiting(postgres), f"nothing waits: {waiting(postgres)}")
        harness.terminate(pid)
    arrivals = harness.arrivals()
    assert set(arrivals) == set(range(COUNT))
    twice = {number for number, times in arrivals.items() if times > 1}
    assert twice <= harness.possible_duplicates()
    for event in ("queue.error", "relay.error", "session.error", "task.failed"):
        assert harness.events(event) == []
    answers = Counter(line["status"] for line in harness.events("mail.attempt"))
    print(f"{len(arrivals)} sent, {len(twice)} twice, all named; {answers}")


def waiting(postgres: Backend) -> list[Any]:
    return ask(postgres.url, "SELECT queue_id, status, owner, hold_reason, outcomes FROM smtp2cf_mail")
