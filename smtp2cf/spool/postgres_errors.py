"""What an error means that came up while a PostgreSQL was asked for something.

The driver raises more than it documents: a connection that breaks at the wrong moment shows as an
InternalClientError, an AttributeError, or a CancelledError that cancels nobody. So whatever is not
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
"""The first that fits; LOST where none does."""

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
    """What an error means for the statement that was under way."""
    return next((meaning for kind, meaning in _TABLE if isinstance(error, kind)), Meaning.LOST)


def leaves_connection(error: BaseException) -> bool:
    """The connection can be used again: the server has answered, or the driver refused to ask.

    A server that may not be written to has become somebody's stand-by: the next connection finds the other.
    """
    return meaning(error) is not Meaning.LOST and not isinstance(error, asyncpg.ReadOnlySQLTransactionError)


def is_permanent(error: Exception) -> bool:
    """A spool that can't be opened for this can't be opened a moment later either, until somebody acts."""
    return isinstance(error, _PERMANENT)


def one_line(error: BaseException) -> str:
    """What the error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
