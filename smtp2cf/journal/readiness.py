"""Readiness: whether the bridge can take mail, or take and send it, as /readyz and the status page say."""

from typing import NamedTuple


class Readiness(NamedTuple):
    """ready: it can. reason: why not, or a warning; "" for neither."""

    ready: bool
    reason: str
