"""-bv: whether the bridge takes mail for each recipient."""

from __future__ import annotations

from .addresses import parse_argument
from .aliases import Aliases
from .client import Client
from .envelope import Envelope
from .exit_codes import NO_USER, TEMPFAIL, USAGE, Away, Failure
from .options import Options
from .output import printable, write_stdout
from .settings import Settings
from .submission import sender_of


def verify(options: Options, settings: Settings) -> int:
    """Print for each recipient whether the bridge takes mail for it; returns the exit code."""
    aliases = Aliases(settings.get("ALIASES"))
    mailboxes = [box for text in options.recipients for box in parse_argument(text)]
    expanded = [target for box in mailboxes for target in (aliases.expand(box) if box.address else [box])]
    good = [settings.qualified(box) for box in expanded if box.address]
    if not expanded:
        raise Failure(USAGE, "-bv needs recipients on the command line")
    sender = sender_of(options, settings)
    codes = [NO_USER for box in expanded if not box.address]
    for box in expanded:
        if not box.address:
            write_stdout(f"{printable(box.source)}... not an address\n")
    if good:
        try:
            with Client(settings, options.verbose) as client:
                client.start()
                for outcome in client.check(Envelope(sender, good)):
                    fate = f"not deliverable: {outcome.reply}" if outcome.exit_code else "deliverable"
                    write_stdout(f"{outcome.recipient}... {printable(fate)}\n")
                    codes.append(outcome.exit_code)
                client.quit()
        except Away as error:
            raise Failure(TEMPFAIL, f"cannot ask the bridge: {error}") from error
    return max(codes)
