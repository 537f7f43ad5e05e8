"""Exit codes (sysexits.h), and the two exceptions of this package.

Every module may import this one; it imports none.
"""

from __future__ import annotations

OK, USAGE, BAD_MESSAGE, NO_USER, UNAVAILABLE, SOFTWARE, OS_ERROR, TEMPFAIL, NO_PERMISSION, CONFIG = (
    0, 64, 65, 67, 69, 70, 71, 75, 77, 78,
)  # fmt: skip


class Failure(Exception):  # noqa: N818 - a usage message too
    """Why the call fails: its exit code and one line for standard error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Away(Exception):  # noqa: N818 - not an error if there is a drop directory
    """The bridge can't be reached, or was lost in the middle of a transaction."""


def why(error: BaseException) -> str:
    """The operating system's message if there is one, else the exception's."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
