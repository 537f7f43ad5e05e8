"""Exit codes (sysexits.h), and the two exceptions of this package.

Every module may import this one; it imports none."""

from __future__ import annotations

OK, USAGE, BAD_MESSAGE, NO_USER, UNAVAILABLE, SOFTWARE, OS_ERROR, TEMPFAIL, NO_PERMISSION, CONFIG = (
    0, 64, 65, 67, 69, 70, 71, 75, 77, 78,
)  # fmt: skip
"""Exit codes, sysexits.h."""


class Failure(Exception):  # noqa: N818 - also a usage message
    """Why the call fails: its exit code and one line for standard error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Away(Exception):  # noqa: N818 - no error where there is a drop directory
    """There is no bridge to talk to, or it went away in the middle of a transaction."""


def why(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
