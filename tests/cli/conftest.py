"""Both spool backends, for the commands that look into a spool."""

from tests.spool.conftest import backend, postgres, postgres_server, sqlite

__all__ = ["backend", "postgres", "postgres_server", "sqlite"]
