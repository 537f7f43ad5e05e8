"""Causes: why mail did not arrive and what its sender can do about it, in plain words.

For the part of a DSN that people read, chosen by the recipient's reply (RFC 3463 §3, RFC 5248). It contains
no codes, ids or servers' messages. Knows nothing of the rest of the DSN.
"""

from typing import NamedTuple

from smtp2cf.reply import Reply


class Cause(NamedTuple):
    """why: what happened. advice: what the reader can do."""

    why: str
    advice: str


LATER = "Send the message again later. If it fails again, ask your postmaster."
"""What to do if nothing is known to be wrong with the message or the address."""

_CHECK = (
    "Check the address for spelling mistakes and send the message again, or ask the recipient for the right"
    " one in some other way."
)
_ASK = "Ask your postmaster, who needs the details below."
_SMALLER = "Make it smaller, for instance with fewer attachments, or send a link to large files."

_SUPPRESSED = Cause(
    "Cloudflare, which sends our mail, has stopped sending to this address, mostly because earlier"
    " messages to it came back or were reported as spam.",
    "Sending the message again does not help. Ask your postmaster, who can remove the address from"
    " Cloudflare's suppression list.",
)
_BY_STATUS = {
    "1.1": Cause("There is no such mailbox.", _CHECK),
    "1.2": Cause("The domain of the address does not exist or takes no mail.", _CHECK),
    "1.3": Cause("The address is not one that mail can be sent to.", _CHECK),
    "1.6": Cause("The mailbox has moved and nobody knows where to.", _CHECK),
    "1.7": Cause("Your own address, the sender's, is not valid.", _ASK),
    "1.8": Cause("Your own address, the sender's, has a domain that does not exist.", _ASK),
    "1.10": Cause("The domain of the address takes no mail.", _CHECK),
    "2.1": Cause("The mailbox is switched off.", _CHECK),
    "2.2": Cause(
        "The mailbox is full.", "Tell the recipient in some other way, then send the message again."
    ),
    "2.3": Cause("The message is larger than the mailbox allows.", _SMALLER),
    "3.4": Cause("The message is too large.", _SMALLER),
    "4.6": Cause("The message went round in circles.", _ASK),
    "4.7": Cause("The message could not be delivered in time.", LATER),
    "1": Cause("There is something wrong with the address.", _CHECK),
    "2": Cause("The mailbox does not take this message.", LATER),
    "3": Cause("The mail system cannot take this message.", LATER),
    "4": Cause("The mail system could not be reached.", LATER),
    "5": Cause("The mail systems did not understand each other.", _ASK),
    "6": Cause(
        "The content of the message was not accepted.",
        "Sending the same message again does not help. Try it as plain text without attachments, or ask your"
        " postmaster, who needs the details below.",
    ),
    "7": Cause("The message was refused by a rule or a block list.", _ASK),
}
"""By a status's subject and detail, else by its subject."""
_UNKNOWN = Cause("The message was not accepted.", _ASK)


def cause_of(reply: Reply) -> Cause:
    """Why a recipient with this last reply did not get the message.

    After a transient reply another try makes sense, whatever it was about.
    """
    if reply.permanent and "suppress" in reply.text.lower():
        return _SUPPRESSED
    _, _, detail = reply.status.partition(".")
    cause = _BY_STATUS.get(detail) or _BY_STATUS.get(detail.partition(".")[0]) or _UNKNOWN
    return cause._replace(advice=LATER) if reply.transient else cause
