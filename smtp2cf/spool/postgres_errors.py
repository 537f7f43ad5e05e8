"""What an error means that a PostgreSQL statement raised.

The driver raises more than it documents: a connection that breaks at the wrong moment shows as an
InternalClientError, an AttributeError, or a CancelledError that cancels nobody. So every error that isn't
known to be the server's own answer means that the connection is lost, and the answer with it.

Knows nothing of connections.
"""

import enum

import asyncpg  # type: ignore[import-untyped]


class Meaning(enum.Enum):
    """What became of a statement, and what helps."""

    OURS = "a value that no column takes: asking again fails again"
    FULL = "not done: the server has no room"
    REFUSED = "not done: the server says no, and will say so again"
    BUSY = "not done: the server cannot do it now"
    TAKEN = "not done: other mail has the queue id"
    LOST = "nobody knows if it was done: the answer was lost"


_TABLE: tuple[tuple[type[Exception], Meaning], ...] = (
    (asyncpg.DataError, Meaning.OURS),
    (asyncpg.DiskFullError, Meaning.FULL),
    (asyncpg.OutOfMemoryError, Meaning.FULL),
    (asyncpg.ConfigurationLimitExceededError, Meaning.FULL),
    (asyncpg.UniqueViolationError, Meaning.TAKEN),
    (asyncpg.TooManyConnectionsError, Meaning.BUSY),
    (asyncpg.CannotConnectNowError, Meaning.BUSY),
    (asyncpg.QueryCanceledError, Meaning.BUSY),
    (asyncpg.LockNotAvailableError, Meaning.BUSY),
    (asyncpg.ReadOnlySQLTransactionError, Meaning.BUSY),
    (asyncpg.StatementCompletionUnknownError, Meaning.LOST),
    (asyncpg.TransactionRollbackError, Meaning.BUSY),
    # Shutting down: a session that is ended while it commits says so instead of what it did.
    (asyncpg.OperatorInterventionError, Meaning.LOST),
    (asyncpg.PostgresConnectionError, Meaning.LOST),
    (asyncpg.IdleInTransactionSessionTimeoutError, Meaning.LOST),
    (asyncpg.FatalPostgresError, Meaning.LOST),
    (asyncpg.PostgresError, Meaning.REFUSED),
)
"""The first match counts; LOST if there is none."""

_PERMANENT = (
    ValueError,  # a URL that is none
    asyncpg.InvalidAuthorizationSpecificationError,  # the password, pg_hba.conf
    asyncpg.InvalidCatalogNameError,  # no such database
    asyncpg.SyntaxOrAccessError,  # no right to make tables
    asyncpg.FeatureNotSupportedError,
    asyncpg.UnsupportedClientFeatureError,
    asyncpg.UnsupportedServerFeatureError,
)


def meaning(error: BaseException) -> Meaning:
    """What an error means for the statement that raised it."""
    return next((meaning for kind, meaning in _TABLE if isinstance(error, kind)), Meaning.LOST)


def leaves_connection(error: BaseException) -> bool:
    """Whether the connection can be used again: the server has answered, or the driver refused to ask.

    A server that can't be written to has become a standby: the next connection finds the new primary.
    """
    return meaning(error) is not Meaning.LOST and not isinstance(error, asyncpg.ReadOnlySQLTransactionError)


def is_permanent(error: Exception) -> bool:
    """Whether a spool that can't be opened for this reason stays so until somebody acts."""
    return isinstance(error, _PERMANENT)


def one_line(error: BaseException) -> str:
    """What the error says, on one line."""
    nothing = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return " ".join(str(error).split()) or nothing
