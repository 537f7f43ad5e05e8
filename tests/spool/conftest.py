"""Both backends behind one fixture, and mail to put into them."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.envelope import Envelope
from smtp2cf.spool import NewMail, Spool, open_spool
from tests.spool.postgres_server import PostgresServer

_numbers = itertools.count()


def new_mail(message: bytes = b"Subject: x\r\n\r\nhello\r\n", **fields: Any) -> NewMail:
    """Mail from and to somebody; what belongs to the envelope goes there."""
    of_mail = {"expires_in", "outcomes", "attempts", "delay", "is_dsn", "claimed", "answer"}
    envelope = {
        "reverse_path": "anna@example.com",
        "forward_paths": ("ben@example.org",),
        **{name: value for name, value in fields.items() if name not in of_mail},
    }
    mail = {"expires_in": 3600.0, **{name: fields[name] for name in fields if name in of_mail}}
    return NewMail(envelope=Envelope(**envelope), message=message, **mail)


class Backend:
    """One spool's place; `open` gives as many views of it as a test needs and closes them all."""

    def __init__(self, url: str, state_dir: Path, server: PostgresServer | None) -> None:
        self.url = url
        self.state_dir = state_dir
        self.server = server
        self.opened: list[Spool] = []

    @property
    def is_sqlite(self) -> bool:
        return self.server is None

    async def open(self, **options: Any) -> Any:
        """A spool. The first one serves; with SQLite the others are what `queue` commands open."""
        options.setdefault("serve", not self.opened)
        spool = await open_spool(self.url, state_dir=self.state_dir, **options)
        self.opened.append(spool)
        return spool

    async def close(self, spool: Spool) -> None:
        self.opened.remove(spool)
        await spool.close()

    async def close_all(self) -> None:
        for spool in self.opened[::-1]:
            with contextlib.suppress(Exception):
                await spool.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    try:
        server = PostgresServer()
    except LookupError as missing:
        pytest.skip(str(missing))
    yield server
    server.close()


@pytest.fixture
async def postgres(postgres_server: PostgresServer, tmp_path: Path) -> AsyncIterator[Backend]:
    asyncpg = pytest.importorskip("asyncpg", reason="not installed: asyncpg")
    name = f"spool_{next(_numbers)}"
    connection = await asyncpg.connect(postgres_server.url)
    await connection.execute(f"CREATE SCHEMA {name}")
    await connection.close()
    backend = Backend(f"{postgres_server.url}&search_path={name}", tmp_path, postgres_server)
    yield backend
    await backend.close_all()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Backend]:
    backend = Backend(f"sqlite://{tmp_path}/spool.sqlite3", tmp_path, None)
    yield backend
    await backend.close_all()


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest) -> Backend:
    place: Backend = request.getfixturevalue(request.param)
    return place


@pytest.fixture
async def spool(backend: Backend) -> Any:
    return await backend.open()
