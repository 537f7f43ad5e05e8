"""Relaying in this process, without a bridge (SMTP2CF_SENDMAIL_DIRECT).

The one module that imports the rest of smtp2cf, and only when it is called.
"""

from __future__ import annotations

import sys

from .envelope import Envelope, mail_parameters, rcpt_parameters
from .exit_codes import CONFIG, Failure
from .message import Message
from .reply import Outcome, Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def relay_directly(
    envelope: Envelope,
    message: Message,
    written_at: float,
    settle: Callable[[list[Outcome], bool], dict[str, Reply]],
) -> bool:
    """Relay the message once, with the account's settings. Returns whether the sender was told of failures.

    settle: called with the outcomes and whether the mail has expired; returns the failures to report.
    """
    try:
        from smtp2cf.serve import relay_once
        from smtp2cf.settings.fields import SettingsError
    except ImportError as error:
        problem = f"smtp2cf is not installed for {sys.executable} ({error})"
        raise Failure(CONFIG, f"SMTP2CF_SENDMAIL_DIRECT: {problem}") from error

    def settled(found: dict[str, Any], expired: bool) -> Any:
        outcomes = [
            Outcome(recipient, "DATA", Reply(reply.code, [f"{reply.status} {reply.text}"]))
            for recipient, reply in found.items()
        ]
        return {who: reply.parted() for who, reply in settle(outcomes, expired).items()}

    mail = envelope.reverse_path, " ".join(text for _, text in mail_parameters(envelope, message.size))
    recipients = [(recipient, rcpt_parameters(envelope, recipient)) for recipient in envelope.forward_paths]
    try:
        return relay_once(mail, recipients, b"".join(message.blocks()), written_at, settled)
    except SettingsError as error:
        raise Failure(CONFIG, str(error)) from error
