"""The command line of sendmail(1), mailq(1) and newaliases(1)."""

from __future__ import annotations

import os

from .exit_codes import USAGE, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = """\
usage: sendmail [-t] [-i] [-f sender] [-F name] [-v] [-N when] [-R full|hdrs] [-V envid] [--] [recipient ...]
       sendmail -bs | -bp | -bi | -bv recipient ... | -q
       mailq | newaliases
Hands a message on standard input to the smtp2cf bridge. Settings: SMTP2CF_SENDMAIL_* in the
environment or /etc/smtp2cf/sendmail.conf.
"""

WITH_ARGUMENT = "ABCFLNORVXbefhopr"
WITH_ATTACHED_ARGUMENT = "dq"
WITHOUT_ARGUMENT = "GUmnxEIcitv"
"""Options, by how they take an argument. Most are accepted and ignored."""

MODES = {"m": "deliver", "s": "smtp", "p": "mailq", "i": "newaliases", "v": "verify"}

REFUSED_MODES = {
    "d": "run as a daemon: start `smtp2cf serve`",
    "D": "run as a daemon: start `smtp2cf serve`",
    "t": "test address rewriting",
    "h": "print the host status",
    "H": "clear the host status",
}

NOTIFY_CONDITIONS = ("success", "failure", "delay")
LONGEST_ENVID = 100
"""Characters, as xtext (RFC 3461 §4.4)."""


class Options:
    """What the command line asks for. `sender` is None without -f."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.recipients_from_header = False
        self.dot_is_text = False
        self.verbose = False
        self.sender: str | None = None
        self.full_name = ""
        self.notify = ""
        self.ret = ""
        self.envid = ""
        self.recipients: list[str] = []


def parse_arguments(argv: Sequence[str]) -> Options:
    """Read the command line as getopt(3) does: letters may be combined, options may follow recipients."""
    name = os.path.basename(argv[0]) if argv else ""
    options = Options(name if name in ("mailq", "newaliases") else "deliver")
    arguments = [os.fsencode(argument).decode("utf-8", "surrogateescape") for argument in argv[1:]]
    place = 0
    while place < len(arguments):
        argument = arguments[place]
        place += 1
        if argument == "--":
            options.recipients += arguments[place:]
            break
        if argument == "--help":
            options.mode = "help"
        elif argument.startswith("-") and argument != "-":
            place = _parse_cluster(options, argument, arguments, place)
        else:
            options.recipients.append(argument)
    return options


def _parse_cluster(options: Options, argument: str, arguments: list[str], place: int) -> int:
    """Read the letters of one argument; returns where the next argument is."""
    letters = argument[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        value = ""
        if letter in WITH_ARGUMENT:
            if not letters and place == len(arguments):
                raise Failure(USAGE, f"option -{letter} needs an argument")
            if letters:
                value, letters = letters, ""
            else:
                value = arguments[place]
                place += 1
        elif letter in WITH_ATTACHED_ARGUMENT:
            value, letters = letters, ""
        elif letter not in WITHOUT_ARGUMENT:
            named = argument if argument.startswith("--") else f"-{letter} in {argument}"
            raise Failure(USAGE, f"unknown option {named}")
        _set_option(options, letter, value)
    return place


def _set_option(options: Options, letter: str, value: str) -> None:
    if letter == "t":
        options.recipients_from_header = True
    elif letter == "i" or (letter == "o" and value == "i"):
        options.dot_is_text = True
    elif letter == "v":
        options.verbose = True
    elif letter in "fr":
        options.sender = value
    elif letter == "F":
        options.full_name = value
    elif letter == "b":
        options.mode = _mode(value)
    elif letter == "I":
        options.mode = "newaliases"
    elif letter == "q":
        options.mode = "queue"
    elif letter == "N":
        options.notify = _notify(value)
    elif letter == "R":
        if value.lower() not in ("full", "hdrs"):
            raise Failure(USAGE, f"option -R {value}: use full or hdrs")
        options.ret = value.upper()
    elif letter == "V":
        options.envid = xtext(value)
        if len(options.envid) > LONGEST_ENVID:
            raise Failure(USAGE, f"option -V: an envelope id has at most {LONGEST_ENVID} characters")


def _mode(letter: str) -> str:
    if letter in REFUSED_MODES:
        raise Failure(USAGE, f"option -b{letter}: this sendmail does not {REFUSED_MODES[letter]}")
    if letter not in MODES:
        raise Failure(USAGE, f"unknown option -b{letter}")
    return MODES[letter]


def _notify(value: str) -> str:
    conditions = [condition.strip().lower() for condition in value.split(",")]
    if conditions != ["never"] and not all(condition in NOTIFY_CONDITIONS for condition in conditions):
        raise Failure(USAGE, f"option -N {value}: use never, or a list of success, failure, delay")
    return ",".join(dict.fromkeys(conditions)).upper()


def xtext(text: str) -> str:
    """The text encoded as xtext (RFC 3461 §4)."""
    return "".join(
        chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}"
        for octet in text.encode("utf-8", "surrogateescape")
    )
