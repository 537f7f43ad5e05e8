"""Files: how many descriptors sessions may have, so that some are left to turn others away, and for probes.

The kernel gives out the lowest free number (open(2)), so a connection's number tells how many are taken. A
loop that runs out of them hangs up on clients without a word; here that is kept from happening: the last
ones of the limit are nobody's session, and no more connections wait to be accepted at once than those suffice
for. Knows no session.
"""

import resource
import time

import structlog

SHARE = 8
"""One of so many is kept back."""
AT_LEAST = 16
"""As many are always kept back."""
TURNS = 4
"""Batches of waiting connections that may be accepted before those that were turned away are gone."""
BACKLOG = 2048
"""Connections that wait in the kernel at most."""
QUIET = 60.0
"""Seconds between two lines that say that there are no files."""

log = structlog.stdlib.get_logger("smtp2cf.smtpd")


class Files:
    """What the process's limit leaves for sessions. limit: RLIMIT_NOFILE, as it is by default."""

    def __init__(self, limit: int | None = None) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
        self.limit = soft if soft != resource.RLIM_INFINITY else 1 << 30
        kept_back = max(AT_LEAST, self.limit // SHARE)
        self.usable = max(1, self.limit - kept_back)
        """Numbers below this one are for sessions, and for all that they need."""
        self.backlog = max(1, min(BACKLOG, kept_back // TURNS))
        self._said_at = float("-inf")

    def are_short(self, number: int) -> bool:
        """A connection with this descriptor can't stay. Says so in the log, now and then."""
        if number < self.usable:
            return False
        now = time.monotonic()
        if now - self._said_at > QUIET:
            self._said_at = now
            log.error(
                "session.no_files",
                limit=self.limit,
                note="clients get 421: the limit of open files is too low for so many sessions"
                " (LimitNOFILE= in the systemd unit, ulimit -n), or SMTP2CF_MAX_SESSIONS too high",
            )
        return True
