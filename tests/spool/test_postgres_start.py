"""A PostgreSQL that isn't ready at the start is waited for, unready; what never passes ends it with 78."""

import asyncio
import contextlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.spool import Spool, SpoolError, SpoolUnavailable, open_spool, postgres_database
from tests.spool.conftest import Backend, new_mail
from tests.spool.postgres_server import PostgresServer
from tests.support.bridge import running_bridge
from tests.support.waiting import PATIENCE

asyncpg = pytest.importorskip("asyncpg", reason="not installed: asyncpg")


async def tell(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def crowded(postgres: Backend) -> AsyncIterator[Backend]:
    """A spool whose role may have no connection at all, at first."""
    schema = postgres.url.rpartition("=")[2]
    role = f"role_{schema}"
    await tell(
        postgres.url, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0", f"ALTER SCHEMA {schema} OWNER TO {role}"
    )
    yield Backend(postgres.url.replace("//postgres@", f"//{role}@"), postgres.state_dir, postgres.server)
    await tell(postgres.url, f"DROP SCHEMA {schema} CASCADE", f"DROP ROLE {role}")


def role_of(backend: Backend) -> str:
    return backend.url.partition("//")[2].partition("@")[0]


async def until_it_works(spool: Spool) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await spool.check()
            except SpoolUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


async def test_no_connection_left_at_the_start_passes(
    crowded: Backend, postgres: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp2cf.spool.postgres_database.PATIENCE", 0.1)
    spool = await crowded.open()
    with pytest.raises(
        SpoolUnavailable, match=r"the spool can't be reached: .*too many connections"
    ) as raised:
        await spool.put(new_mail())
    assert not raised.value.unanswered
    await tell(postgres.url, f"ALTER ROLE {role_of(crowded)} CONNECTION LIMIT -1")
    await until_it_works(spool)
    await spool.put(new_mail())
    assert await spool.count() == 1
    await crowded.close(spool)


async def test_no_connection_left_later_is_a_pause(crowded: Backend, postgres: Backend) -> None:
    role = role_of(crowded)
    await tell(postgres.url, f"ALTER ROLE {role} CONNECTION LIMIT 1")
    spool = await crowded.open(serve=False)
    # Eight at a time and one connection: the others wait for their turn.
    await asyncio.gather(*(spool.put(new_mail()) for _ in range(40)), *(spool.count() for _ in range(40)))
    assert await spool.count() == 40
    await crowded.close(spool)


async def test_another_login_is_used_for_every_new_connection(crowded: Backend, postgres: Backend) -> None:
    role = role_of(crowded)
    await tell(postgres.url, f"ALTER ROLE {role} CONNECTION LIMIT -1")
    spool = await crowded.open()
    await tell(postgres.url, f"CREATE ROLE {role}_new LOGIN IN ROLE {role}")
    try:
        spool.use_url(crowded.url.replace(f"//{role}@", f"//{role}_new:new%2Fword@"))
        await tell(
            postgres.url,
            f"ALTER ROLE {role} NOLOGIN",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'",
        )
        await until_it_works(spool)
        await spool.put(new_mail())
        assert await spool.count() == 1
    finally:
        await crowded.close(spool)
        await tell(postgres.url, f"REASSIGN OWNED BY {role}_new TO {role}", f"DROP ROLE {role}_new")


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("postgresql://anna:other@db.example/mail?sslmode=require", True),
        ("postgresql://ben@db.example/mail?sslmode=require", True),
        ("postgres://db.example/mail?user=ben&password=x&sslmode=require", True),
        ("postgresql://anna@db2.example/mail?sslmode=require", False),
        ("postgresql://anna@db.example:5433/mail?sslmode=require", False),
        ("postgresql://anna@db.example/other?sslmode=require", False),
        ("postgresql://anna@db.example/mail?sslmode=require&search_path=other", False),
    ],
)
async def test_a_url_of_another_database_needs_a_restart(url: str, same: bool) -> None:
    database = postgres_database.Database(None, "postgresql://anna:first@db.example/mail?sslmode=require")
    refused = contextlib.nullcontext() if same else pytest.raises(ValueError, match="restart the bridge")
    with refused:
        database.use_url(url)


async def test_a_login_that_is_replaced_while_the_spool_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (f"postgresql://{login}@db.example/mail" for login in ("anna:first", "anna:second"))
    used: list[str] = []

    class Pool:
        def set_connect_args(self, url: str, **_: object) -> None:
            used.append(url)

    async def open_pool(url: str) -> Pool:
        used.append(url)
        if len(used) == 1:
            raise OSError("away")
        database.use_url(second)
        return Pool()

    monkeypatch.setattr(postgres_database, "OPEN_EVERY", 0.0)
    monkeypatch.setattr(postgres_database, "_open_pool", open_pool)
    database = await postgres_database.Database.open(first, patient=True)
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert used == [first, first, second]


async def test_a_server_that_is_started_later(tmp_path: Path) -> None:
    try:
        server = PostgresServer()
    except LookupError as missing:
        pytest.skip(str(missing))
    try:
        server.stop()
        spool = await open_spool(server.url, state_dir=tmp_path)
        server.start()
        await until_it_works(spool)
        await spool.put(new_mail())
        assert [item.queue_id for item in await spool.claim(5)]
        await spool.close()
    finally:
        server.close()


async def refused(url: str, tmp_path: Path) -> str:
    with pytest.raises(SpoolError) as raised:
        await open_spool(url, state_dir=tmp_path)
    return str(raised.value)


async def test_a_database_of_another_encoding_is_refused(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    await tell(
        postgres_server.url,
        "DROP DATABASE IF EXISTS latin",
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0",
    )
    url = postgres_server.url.replace("/postgres?", "/latin?")
    message = await refused(url, tmp_path)
    assert "has the encoding LATIN1" in message
    assert "ENCODING 'UTF8'" in message
    assert "SMTP2CF_SPOOL_URL" in message
    connection = await asyncpg.connect(url)
    assert not await connection.fetchval("SELECT to_regclass('smtp2cf_spool') IS NOT NULL")
    await connection.close()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("/postgres?", "/nowhere?", 'database "nowhere" does not exist'),
        ("//postgres@", "//nobody@", 'role "nobody" does not exist'),
        ("?host=", "?sslmode=perhaps&host=", "sslmode"),
    ],
)
async def test_what_never_passes_is_an_error_at_once(
    postgres_server: PostgresServer, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    assert reason in await refused(postgres_server.url.replace(old, new), tmp_path)


async def test_what_never_passes_may_show_late(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """The server can't be reached at first; then it turns out that the database is none."""
    hidden, url = tmp_path / "elsewhere", postgres_server.url.replace("/postgres?", "/nowhere?")
    directory = Path(url.partition("host=")[2])
    spool = await open_spool(url.replace(str(directory), str(hidden)), state_dir=tmp_path)
    with pytest.raises(SpoolUnavailable):
        await spool.check()
    hidden.symlink_to(directory)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(SpoolError, match="does not exist"):  # noqa: PT012 - until it does
            while True:
                try:
                    await spool.check()
                except SpoolUnavailable:
                    await asyncio.sleep(0.05)
    await spool.close()


def probe(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_a_bridge_waits_unready_for_its_database(
    crowded: Backend, postgres: Backend, tmp_path: Path
) -> None:
    def run() -> None:
        often = {"smtp2cf.spool.postgres_database:CROWDED": 0.5, "smtp2cf.spool.health:INTERVAL": 0.2}
        with running_bridge(tmp_path, constants=often, SPOOL_URL=crowded.url, MODE="queue") as bridge:
            wait_for(lambda: "too many connections" in probe(f"{bridge.admin_url}/readyz")[1])
            assert probe(f"{bridge.admin_url}/readyz")[0] == 503
            waits = bridge.wait_for_log("spool.not_open_yet")
            assert "too many connections" in waits["reason"]
            with bridge.client() as client:
                client.ehlo()
                assert client.mail("a@example.com")[0] == 451
                asyncio.run(tell(postgres.url, f"ALTER ROLE {role_of(crowded)} CONNECTION LIMIT -1"))
                wait_for(lambda: probe(f"{bridge.admin_url}/readyz")[0] == 200)
                client.sendmail("a@example.com", "b@example.org", b"Subject: x\r\n\r\nx\r\n")
            bridge.wait_for(1)
            assert bridge.stop() == 0

    await asyncio.to_thread(run)


async def test_a_bridge_ends_when_its_database_turns_out_to_be_none(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    hidden, url = tmp_path / "elsewhere", postgres_server.url.replace("/postgres?", "/nowhere?")
    directory = Path(url.partition("host=")[2])

    def run() -> None:
        with running_bridge(tmp_path, SPOOL_URL=url.replace(str(directory), str(hidden))) as bridge:
            hidden.symlink_to(directory)
            assert bridge.process.wait(PATIENCE) == os.EX_CONFIG
            log = bridge.log()
            assert [line["event"] for line in log if line["event"] == "serve.stopped"]
            assert 'database "nowhere" does not exist' in log[-1]["raw"]

    await asyncio.to_thread(run)
