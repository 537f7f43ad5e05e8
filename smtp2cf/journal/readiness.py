"""Readiness: whether the bridge can accept and send mail, as /readyz and the status page say."""

from typing import NamedTuple


class Readiness(NamedTuple):
    """ready: mail can be accepted and sent. reason: why not, or a warning; "" for neither."""

    ready: bool
    reason: str
