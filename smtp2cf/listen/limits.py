"""Limits: what the operating system lets this process use: open files, and no core dump.

Knows no settings but the name of one, which is in what it tells the operator.
"""

import contextlib
import resource

import structlog

WANTED_FILES = 65536
"""A session and its call are two files; the usual limit of 1024 would be reached with 500 sessions."""
OWN_FILES = 64
"""Files that are open without any session: listening sockets, the spool, logs, probes."""

log = structlog.stdlib.get_logger("smtp2cf.serve")


def raise_file_limit() -> None:
    """Raise the limit of open files as far as is allowed and useful."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def leave_no_core() -> None:
    """Write no core dump: it would hold the token and mail. Whoever needs one may raise the limit again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def warn_of_few_files(limit: int, usable: int, *, max_sessions: int, calls: int) -> None:
    """Log a warning if there are too few files for the sessions that may come.

    limit: of open files. usable: how many of them sessions may have. calls: in flight at most.
    """
    if usable < max_sessions + calls + OWN_FILES:
        log.warning(
            "serve.few_files",
            limit=limit,
            sessions=max(0, usable - calls - OWN_FILES),
            note=f"SMTP2CF_MAX_SESSIONS is {max_sessions}, but the limit of open files allows fewer sessions,"
            " and further clients get 421: raise that limit (LimitNOFILE= in systemd, ulimit -n), or lower"
            " SMTP2CF_MAX_SESSIONS",
        )
