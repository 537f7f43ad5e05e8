"""What each error means: whatever the driver raises, a lost answer is not taken for one that came."""

import asyncio
import ssl

import pytest

asyncpg = pytest.importorskip("asyncpg", reason="not installed: asyncpg")

from smtp2cf.spool.postgres_errors import Meaning, is_permanent, leaves_connection, meaning  # noqa: E402

MEANINGS = {
    Meaning.OURS: [asyncpg.DataError, asyncpg.CharacterNotInRepertoireError],
    Meaning.FULL: [
        asyncpg.DiskFullError,
        asyncpg.OutOfMemoryError,
        asyncpg.ConfigurationLimitExceededError,
    ],
    Meaning.TAKEN: [asyncpg.UniqueViolationError],
    Meaning.BUSY: [
        asyncpg.TooManyConnectionsError,
        asyncpg.CannotConnectNowError,
        asyncpg.DeadlockDetectedError,
        asyncpg.SerializationError,
        asyncpg.QueryCanceledError,
        asyncpg.LockNotAvailableError,
        asyncpg.ReadOnlySQLTransactionError,
    ],
    Meaning.REFUSED: [
        asyncpg.UndefinedTableError,
        asyncpg.InsufficientPrivilegeError,
        asyncpg.PostgresIOError,
        asyncpg.InternalServerError,
    ],
    Meaning.LOST: [
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        asyncpg.StatementCompletionUnknownError,
        asyncpg.ConnectionDoesNotExistError,
        asyncpg.ConnectionFailureError,
        asyncpg.IdleInTransactionSessionTimeoutError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        asyncpg.ProtocolError,
        ConnectionResetError,
        BrokenPipeError,
        TimeoutError,
        ssl.SSLError,
        asyncio.IncompleteReadError,
        asyncio.InvalidStateError,
        asyncio.CancelledError,
        AttributeError,
        RuntimeError,
        AssertionError,
        KeyError,
    ],
}


@pytest.mark.parametrize(
    ("expected", "kind"),
    [(expected, kind) for expected, kinds in MEANINGS.items() for kind in kinds],
    ids=lambda value: value.__name__ if isinstance(value, type) else value.name,
)
def test_what_an_error_means(expected: Meaning, kind: type[Exception]) -> None:
    error = kind(b"", 1) if kind is asyncio.IncompleteReadError else kind("it says")
    assert meaning(error) is expected
    stand_by = kind is asyncpg.ReadOnlySQLTransactionError
    assert leaves_connection(error) is (expected is not Meaning.LOST and not stand_by)


@pytest.mark.parametrize(
    ("permanent", "kind"),
    [
        (True, asyncpg.InvalidPasswordError),
        (True, asyncpg.InvalidAuthorizationSpecificationError),
        (True, asyncpg.InvalidCatalogNameError),
        (True, asyncpg.InsufficientPrivilegeError),
        (True, asyncpg.ClientConfigurationError),
        (True, ValueError),
        (False, asyncpg.TooManyConnectionsError),
        (False, asyncpg.CannotConnectNowError),
        (False, asyncpg.AdminShutdownError),
        (False, asyncpg.ReadOnlySQLTransactionError),
        (False, asyncpg.InternalClientError),
        (False, FileNotFoundError),
        (False, ConnectionRefusedError),
        (False, TimeoutError),
    ],
)
def test_what_ends_a_start(permanent: bool, kind: type[Exception]) -> None:
    assert is_permanent(kind("it says")) is permanent
