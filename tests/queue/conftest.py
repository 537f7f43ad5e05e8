"""Both spool backends, as tests.spool has them."""

from tests.spool.conftest import backend, postgres, postgres_server, sqlite

__all__ = ["backend", "postgres", "postgres_server", "sqlite"]
