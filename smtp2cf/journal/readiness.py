"""Readiness: whether the bridge can take mail and send it, as /readyz and the status page say it."""

from typing import NamedTuple


class Readiness(NamedTuple):
    """ready: mail can be taken and sent. reason: why it can't, or a warning; "" for neither."""

    ready: bool
    reason: str
