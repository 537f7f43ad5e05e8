"""Signals: what they ask for, and what is left behind by a bridge that stops at once.

After the first SIGTERM or SIGINT, what is under way may finish. Whoever then presses Ctrl-C does not want to
wait: the process ends at once, and says what it had not finished and where that is. Knows no mail.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import NamedTuple

import structlog

ENDED_BY_SIGINT = 128 + signal.SIGINT
"""Exit status, as shells know it."""
AGAIN = "press Ctrl-C again to quit at once"
STREAMS = (0, 1, 2)
"""Descriptors of which one is the terminal that a bridge was started in."""

log = structlog.stdlib.get_logger("smtp2cf.serve")


class LeftBehind(NamedTuple):
    """What had not been finished.

    sessions: clients that were hung up on. under_way: messages of theirs without an answer. waiting: messages
    in the spool. spool: where that is, "" for none. kept: it is still there at the next start.
    """

    sessions: int
    under_way: int
    waiting: int
    spool: str
    kept: bool

    def __str__(self) -> str:
        text = f"cut off {_count(self.sessions, 'session')}"
        if self.under_way:
            text += (
                f", {_count(self.under_way, 'message')} of theirs unanswered, which clients will send again"
            )
        if self.spool:
            fate = "sent after the next start" if self.kept else "lost with the sandbox"
            text += f"; {_count(self.waiting, 'message')} in {self.spool}: {fate}"
        return text


class Signals:
    """Installs the handlers. stop: set at the first signal. at_once: set when Ctrl-C is pressed again.

    hint: what to log of that to whoever has pressed it once, as the line's fields.
    """

    def __init__(self, reload: Callable[[], None]) -> None:
        self.stop, self.at_once = asyncio.Event(), asyncio.Event()
        self.hint: Mapping[str, str] = {}
        self._reload = reload
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _interrupt(self) -> None:
        if self.stop.is_set():
            self.at_once.set()
            return
        if any(map(os.isatty, STREAMS)):
            self.hint = {"note": AGAIN}
        self.stop.set()

    def _hang_up(self) -> None:
        log.info("serve.sighup")
        self._reload()


async def finished(stopping: Coroutine[None, None, None], at_once: asyncio.Event) -> bool:
    """Wait for `stopping`; False if `at_once` came first."""
    ending = asyncio.create_task(stopping)
    asked = asyncio.create_task(at_once.wait())
    await asyncio.wait((ending, asked), return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not ending.done():
        return False
    await ending
    return True


async def leave(left: LeftBehind) -> None:
    """End the process now, without waiting for any thread or task. Does not return."""
    log.warning("serve.left_at_once", note=str(left), **left._asdict())
    await asyncio.sleep(0)  # log lines are written at the end of a turn of the loop
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ENDED_BY_SIGINT)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
