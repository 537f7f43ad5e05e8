"""-q: run the queue once. Only direct mode has one; a bridge runs its own."""

from __future__ import annotations

from .client import Client
from .delivery import report_refused
from .direct import relay_directly
from .dropped import Dropped, dropped
from .exit_codes import OK, OS_ERROR, TEMPFAIL, UNAVAILABLE, Away, Failure, why
from .message import Message
from .options import Options
from .output import complain
from .reply import Outcome, Reply
from .settings import Settings


def run_queue(options: Options, settings: Settings) -> int:
    """Check that the bridge is there, or in direct mode relay what was dropped; returns the exit code."""
    if not settings.yes("DIRECT"):
        try:
            with Client(settings, options.verbose) as client:
                client.quit()
        except Away as error:
            raise Failure(UNAVAILABLE, f"no bridge to run the queue: {error}") from error
        return OK
    code = OK
    for one in dropped(settings):
        if not one.claim():
            continue
        message = one.message()
        try:
            run_dropped(one, message)
        except OSError as error:
            complain(f"{one.name}: {why(error)}; it may be sent again")
            code = OS_ERROR
        finally:
            message.close()
    return code


def run_dropped(one: Dropped, message: Message) -> None:
    """Relay one dropped message. Served recipients are removed from the file before anything else."""
    left: list[str] = []

    def settle(outcomes: list[Outcome], expired: bool) -> dict[str, Reply]:
        deferred = [outcome for outcome in outcomes if outcome.exit_code == TEMPFAIL]
        refused = [outcome for outcome in outcomes if outcome.exit_code not in (OK, TEMPFAIL)]
        report_refused(deferred + refused, len(outcomes))
        given_up = deferred if expired else []
        left[:] = [] if expired else [outcome.recipient for outcome in deferred]
        untold = {outcome.recipient: outcome.reply for outcome in refused + given_up}
        untold = {**one.refused, **untold}
        if untold and not one.envelope.reverse_path:
            one.set_aside(untold, message)
            untold = {}
        one.keep(left, untold, message)
        return untold

    if relay_directly(one.envelope, message, one.found.st_mtime, settle):
        one.keep(left, {}, message)
    else:
        complain(f"{one.name}: the sender could not be notified")
