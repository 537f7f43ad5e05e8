"""Starts `smtp2cf serve` many times a second, and lets it die at a named point.

`python -m tests.relay.killable` imports everything once, then forks a bridge for each line on its
standard input, {"env": {…}, "log": path}, and answers with its process id. Nobody is waited for: the
kernel takes the dead away.

SMTP2CF_TEST_KILL_AT="name:number" makes the bridge kill itself at the number-th time it comes to that
point; SMTP2CF_TEST_STOP_AT makes it stop (SIGSTOP), until somebody lets it go on.
Every change that outlives a process is one of the calls in POINTS: to the spool, to the API, to
the client's socket. They are wrapped from here, so the code that runs in production has no hook in it.
"""

import functools
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from smtp2cf import envelope
from smtp2cf.cli import app
from smtp2cf.cloudflare import client
from smtp2cf.relay import accept, lease
from smtp2cf.settings import rooms
from smtp2cf.smtpd import connection
from smtp2cf.spool import postgres, postgres_database, sqlite, writer

LEASE = "1.0"
"""Seconds: after a kill, PostgreSQL's mail is another's when the lease is over. SMTP2CF_TEST_LEASE is more
where several share it: a bridge that gets no turn for that long on a busy machine loses its claims."""

BEFORE, AFTER = "before", "after"
SPOOLS = (sqlite.SqliteSpool, postgres.PostgresSpool)


class Point(NamedTuple):
    """Before or after which calls to die. modes: in which one comes here at all."""

    owners: tuple[Any, ...]
    name: str
    when: str
    modes: tuple[str, ...] = ("direct", "queue")


POINTS = {
    "the message is here": Point((accept.Relay,), "accept", BEFORE),
    "the transaction is noted": Point(SPOOLS, "recall", AFTER),
    "the call is about to be made": Point((client.Client,), "send", BEFORE),
    "the answer is here, unread": Point((client.Client,), "_exchange_under", AFTER),
    "the answer is understood": Point((client.Client,), "send", AFTER),
    "the mail is about to be kept": Point(SPOOLS, "put", BEFORE, ("queue", "late")),
    "the mail is written": Point((writer,), "_resolve", BEFORE),
    "the mail is kept": Point(SPOOLS, "put", AFTER, ("queue", "late")),
    "the reply is known": Point((accept.Relay,), "accept", AFTER),
    "the reply is sent": Point((connection.Connection,), "_relay", AFTER),
    "mail is claimed": Point(SPOOLS, "claim", AFTER, ("queue",)),
    "mail is read": Point(SPOOLS, "read", AFTER, ("queue",)),
    "the attempt is noted": Point(SPOOLS, "begin", AFTER, ("queue",)),
    "the outcome is about to be settled": Point(SPOOLS, "settle", BEFORE, ("queue", "late")),
    "the outcome is settled": Point(SPOOLS, "settle", AFTER, ("queue", "late")),
}

STOPS = {
    "the attempt is noted": POINTS["the attempt is noted"],
    "a call has its turn": Point((lease.Lease,), "confirm", BEFORE),
    "a call is confirmed": Point((lease.Lease,), "confirm", AFTER),
    "a call has its connection": Point((lease.Lease,), "holds", BEFORE),
}
"""Where to stop between a claim and a call."""


def arm(name: str, number: int, what: signal.Signals = signal.SIGKILL) -> None:
    """Die, or stop, at the `number`-th time that this point is reached."""
    point, left = (POINTS | STOPS)[name], number

    def reached() -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), what)

    for owner in point.owners:
        setattr(owner, point.name, _wrapped(getattr(owner, point.name), point.when, reached))


def _wrapped(function: Callable[..., Any], when: str, reached: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def later(*args: Any, **kwargs: Any) -> Any:
        if when == BEFORE:
            reached()
        result = await function(*args, **kwargs)
        # A claim that found nothing changed nothing.
        if when == AFTER and result != []:
            reached()
        return result

    @functools.wraps(function)
    def now(*args: Any, **kwargs: Any) -> Any:
        reached()
        return function(*args, **kwargs)

    return later if inspect.iscoroutinefunction(function) else now


def bridge(env: dict[str, str], log: str) -> None:
    """What the fork becomes. Never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDWR)
    for old, new in ((nothing, 0), (nothing, 1), (output, 2)):
        os.dup2(old, new)
    os.environ.clear()
    os.environ.update(env)
    envelope.draw_process()
    opened = rooms.spool.open_spool
    rooms.spool.open_spool = functools.partial(opened, lease=float(env.get("SMTP2CF_TEST_LEASE", LEASE)))  # type: ignore[assignment]
    if timeout := env.get("SMTP2CF_TEST_COMMAND_TIMEOUT"):
        postgres_database.COMMAND_TIMEOUT = float(timeout)
    for setting, what in (
        ("SMTP2CF_TEST_KILL_AT", signal.SIGKILL),
        ("SMTP2CF_TEST_STOP_AT", signal.SIGSTOP),
    ):
        if at := env.get(setting):
            name, _, number = at.partition(":")
            arm(name, int(number), what)
    sys.argv = ["smtp2cf", "serve"]
    status = 1
    try:
        app.main()
        status = 0
    except SystemExit as done:
        status = done.code if isinstance(done.code, int) else 1
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Fork a bridge for each line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        pid = os.fork()
        if not pid:
            bridge(wanted["env"], wanted["log"])
        print(pid, flush=True)


if __name__ == "__main__":
    main()
