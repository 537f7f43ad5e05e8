"""What is said of quotas: a line when somebody nears one, and a counter of what was refused.

Who exceeds a quota has a line in the session's log already (session.sender_refused, …recipient_refused).
"""

import structlog
from prometheus_client import Counter

REFUSED = Counter("smtp2cf_quota_refused_total", "Messages and recipients above a quota", ["setting"])

log = structlog.stdlib.get_logger("smtp2cf.quotas")


def refused(setting: str) -> None:
    """A message or a recipient was one too many."""
    REFUSED.labels(setting).inc()


def scarce(*, setting: str, limit: str, who: str, used: int) -> None:
    """Somebody has used most of a limit. Said once for each of them and each window."""
    log.warning("quota.scarce", who=who, used=used, limit=limit, setting=setting)
