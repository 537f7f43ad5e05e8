"""Delivering one message: to the bridge, to the drop directory, or directly."""

from __future__ import annotations

import os
import time

from .addresses import LONGEST_ADDRESS
from .client import send_to_bridge
from .envelope import Envelope
from .exit_codes import OK, TEMPFAIL, Away
from .message import Message
from .options import Options
from .output import NAMED_ON_STDERR, complain, printable
from .reply import Outcome, Reply, refusal_of
from .settings import Settings
from .submission import Submission

NOT_SENT_TO = "not sent to <"
"""In a 250 reply of the bridge, what precedes those who did not get the message (relay/settle.py)."""


def deliver(options: Options, settings: Settings) -> int:
    """Read a message from standard input and deliver it; returns the exit code."""
    submission = Submission(options, settings)
    unusable = {printable(source)[:LONGEST_ADDRESS]: refusal_of(source) for source in submission.unusable}
    try:
        code = hand_over(settings, submission.envelope, submission.message, unusable, options.verbose)
    finally:
        submission.message.close()
    for source in submission.unusable[:NAMED_ON_STDERR]:
        complain(f"{refusal_of(source).lines[0].partition(' ')[2]}: {source}")
    return code


def hand_over(
    settings: Settings, envelope: Envelope, message: Message, unusable: dict[str, Reply], verbose: bool
) -> int:
    """Send the message or drop it, report failures on standard error, and return the exit code.

    If one recipient is refused, the others still get the mail, and the caller is not made to send it to them
    again: as soon as one is served, a DSN tells the sender of the others. unusable: what is not an address.
    """
    delivery = Delivery(settings, envelope, message, unusable, verbose)
    if settings.yes("DIRECT"):
        from .direct import relay_directly

        delivery.told = relay_directly(envelope, message, time.time(), delivery.settle_directly)
    else:
        delivery.settle(*send_to_bridge(settings, envelope, message, verbose))
    delivery.report()
    return delivery.exit_code()


class Delivery:
    """The delivery of one message: who got it, who is deferred or refused, and whether the sender is told."""

    def __init__(
        self,
        settings: Settings,
        envelope: Envelope,
        message: Message,
        unusable: dict[str, Reply],
        verbose: bool,
    ) -> None:
        self._settings = settings
        self._envelope = envelope
        self._message = message
        self._unusable = unusable
        self._verbose = verbose
        self.served: list[Outcome] = []
        self.deferred: list[Outcome] = []
        self.refused: list[Outcome] = []
        self.told = True
        self._kept = False
        self._not_kept = ""

    def settle(self, outcomes: list[Outcome], unanswered: list[list[str]], reason: str) -> None:
        """The bridge has replied, or was lost before it replied for all (unanswered)."""
        self._sort(outcomes)
        groups = unanswered
        if self.deferred and (self.served or unanswered):
            groups = [*unanswered, [outcome.recipient for outcome in self.deferred]]
        untold = {outcome.recipient: outcome.reply for outcome in self.refused}
        untold = {**untold, **self._unusable}
        if groups:
            self._keep(groups, untold, reason or str(self.deferred[0].reply))
        elif self.served and untold:
            self._leave_report(untold)

    def settle_directly(self, outcomes: list[Outcome], _: bool) -> dict[str, Reply]:
        """Cloudflare has answered. Returns the failures that the relay must report to the sender."""
        self._sort(outcomes)
        if not self.served:
            return {}
        if self.deferred:
            self._keep([[one.recipient for one in self.deferred]], {}, str(self.deferred[0].reply))
        given_up = [] if self._kept else self.deferred
        self._not_kept = ""  # the DSN is enough: a retry would send to everybody again
        self.refused, self.deferred = [*self.refused, *given_up], []
        return {**{outcome.recipient: outcome.reply for outcome in self.refused}, **self._unusable}

    def _sort(self, outcomes: list[Outcome]) -> None:
        self.served = [outcome for outcome in outcomes if outcome.exit_code == OK]
        self.deferred = [outcome for outcome in outcomes if outcome.exit_code == TEMPFAIL]
        self.refused = [outcome for outcome in outcomes if outcome.exit_code not in (OK, TEMPFAIL)]

    def _keep(self, groups: list[list[str]], untold: dict[str, Reply], reason: str) -> None:
        """Drop the message once for each group, all or none, with the failures to report (untold)."""
        from .drop import drop

        paths: list[str] = []
        try:
            for group in groups:
                paths.append(
                    drop(self._settings, self._envelope, group, self._message, {} if paths else untold)
                )
        except Away as error:
            self._not_kept = f"{reason}; could not be kept: {error}"
            for path in paths:
                try:
                    os.unlink(path)
                except OSError:
                    pass  # the bridge has taken it already
            return
        self._kept = True
        self.deferred = []
        if self._verbose:
            complain(f"{reason}; kept for {sum(map(len, groups))} recipients")

    def _leave_report(self, untold: dict[str, Reply]) -> None:
        """Have the bridge send the DSN. Without a drop directory, standard error is the only report."""
        from .drop import drop

        try:
            drop(self._settings, self._envelope, [], self._message, untold)
        except Away as error:
            if self._verbose:
                complain(f"cannot notify the sender: {error}")

    def report(self) -> None:
        """Say on standard error who did not get the message."""
        if self._not_kept:
            complain(self._not_kept)
        report_refused(self.deferred + self.refused, len(self._envelope.forward_paths))
        for reply in dict.fromkeys(outcome.reply for outcome in self.served):
            text = str(reply)
            if NOT_SENT_TO in text:  # the bridge tells the sender
                complain(text[text.index(NOT_SENT_TO) :].partition("; kept for another attempt")[0])
        if not self.told:
            complain("and the sender could not be notified")

    def exit_code(self) -> int:
        if self._not_kept:
            return TEMPFAIL
        if self.served or self._kept:
            return OK
        return TEMPFAIL if self.deferred else self.refused[0].exit_code


def report_refused(outcomes: list[Outcome], recipients: int) -> None:
    """One line for each reply, with its recipients unless they are all."""
    by_reply: dict[Reply, list[str]] = {}
    for outcome in outcomes:
        by_reply.setdefault(outcome.reply, []).append(outcome.recipient)
    for reply, refused in list(by_reply.items())[:NAMED_ON_STDERR]:
        names = ", ".join(f"<{recipient}>" for recipient in refused[:NAMED_ON_STDERR])
        more = f" and {len(refused) - NAMED_ON_STDERR} more" if len(refused) > NAMED_ON_STDERR else ""
        all_of_several = len(refused) == recipients and recipients > 1
        complain(str(reply) if all_of_several else f"{reply} ({names}{more})")
    if len(by_reply) > NAMED_ON_STDERR:
        complain(f"and {len(by_reply) - NAMED_ON_STDERR} more recipients were refused")
