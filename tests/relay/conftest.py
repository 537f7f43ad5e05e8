"""Both spool backends, as tests.spool has them, and an API on a socket."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.relay.harness import Zygote, zygote
from tests.relay.world import Api
from tests.spool.conftest import backend, postgres, postgres_server, sqlite

__all__ = ["api", "backend", "postgres", "postgres_server", "sqlite"]


@pytest.fixture(scope="session")
def bridges() -> Iterator[Zygote]:
    """What starts bridges that are killed; it has imported everything, once for all files."""
    with zygote() as started:
        yield started


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    one = Api()
    await one.start()
    yield one
    await one.stop()
