"""Usage: how each command is written, how long its line may be, and what those get that are not for here."""

from smtp2cf.smtpd import replies
from smtp2cf.smtpd.input import LONGEST_LINE
from smtp2cf.smtpd.sasl import AUTH_USAGE
from smtp2cf.smtpd.transaction import MAIL_USAGE, RCPT_USAGE

COMMAND_LIMIT = 512
"""Octets of a command line (RFC 5321 §4.5.3.1.4)."""
PATH_COMMAND_LIMIT = 2048
"""Octets of MAIL and RCPT with every parameter at its largest (RFC 1870, 3461, 4954, 6531)."""
BDAT_USAGE = "BDAT size [LAST]"

LIMITS = {"MAIL": PATH_COMMAND_LIMIT, "RCPT": PATH_COMMAND_LIMIT, "AUTH": LONGEST_LINE}
"""Octets of the command lines that may be longer than others."""
USAGE = {
    "HELO": "HELO hostname",
    "EHLO": "EHLO hostname",
    "LHLO": "LHLO hostname",
    "MAIL": MAIL_USAGE,
    "RCPT": RCPT_USAGE,
    "BDAT": BDAT_USAGE,
    "NOOP": "NOOP [ignored]",
    "VRFY": "VRFY address",
    "HELP": "HELP [command]",
    "AUTH": AUTH_USAGE,
}
NOT_HERE = {
    "LHLO": replies.SAY_EHLO,
    "EHLO": replies.SAY_LHLO,
    "HELO": replies.SAY_LHLO,
    "EXPN": replies.NO_EXPN,
}
"""What commands are answered that are another protocol's, or that nobody has."""

TLS_FIRST = ("MAIL", "RCPT", "DATA", "BDAT", "VRFY", "AUTH")
"""What waits for STARTTLS where that is required (RFC 3207 §4)."""
