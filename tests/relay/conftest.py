"""Both spool backends, as tests.spool has them, and an API on a socket."""

from collections.abc import AsyncIterator

import pytest

from tests.relay.world import Api
from tests.spool.conftest import backend, postgres, postgres_server, sqlite

__all__ = ["api", "backend", "postgres", "postgres_server", "sqlite"]


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    one = Api()
    await one.start()
    yield one
    await one.stop()
