"""A host whose clock is set, that is rebooted, and whose time passes without waiting; for both backends."""

import time
from typing import Any

import pytest

from smtp2cf.spool import clock
from tests.spool.conftest import Backend

HOUR, DAY = 3600.0, 86400.0
JUMPS = [-20_000 * DAY, -6 * DAY, -DAY, -HOUR, -5.0, 0.0, 5.0, HOUR, DAY, 6 * DAY, 20_000 * DAY]
"""Seconds by which a host's clock is set, or differs from the database's: a Pi begins in 1970."""


class Host:
    """The host a bridge runs on.

    jump: seconds its clock is ahead. Time passes in `sleep` alone; for PostgreSQL in the database too.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
        self.jump = 0.0
        self._backend = backend
        self._boot = 1
        self._slept = self._slept_before = 0.0
        real_time, real_passed = time.time, clock.passed
        monkeypatch.setattr(time, "time", lambda: real_time() + self.jump + self._slept)
        monkeypatch.setattr(clock, "passed", lambda: real_passed() + self._slept - self._slept_before)
        monkeypatch.setattr(clock, "boot", lambda: f"boot {self._boot}")

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._slept += seconds
        if not self._backend.is_sqlite:
            await self._execute(
                "CREATE OR REPLACE FUNCTION smtp2cf_now() RETURNS float8 LANGUAGE sql STABLE AS "
                f"'SELECT extract(epoch FROM now())::float8 + {self._slept}'"
            )

    def reboot(self) -> None:
        """The host was off: what has passed begins anew."""
        self._boot += 1
        self._slept_before = self._slept + clock.passed() - 30

    async def _execute(self, statement: str) -> Any:
        asyncpg = pytest.importorskip("asyncpg", reason="not installed: asyncpg")
        connection = await asyncpg.connect(self._backend.url)
        try:
            return await connection.execute(statement)
        finally:
            await connection.close()
