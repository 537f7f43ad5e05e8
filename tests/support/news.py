"""What is told while a test runs."""

import contextlib
from collections.abc import Iterator

from smtp2cf.journal import news
from smtp2cf.journal.news import News


@contextlib.contextmanager
def heard() -> Iterator[list[News]]:
    """Everything that is told, and then nobody listens any more."""
    told: list[News] = []
    news.told_to(told.append)
    try:
        yield told
    finally:
        news.told_to()
