#!/usr/bin/env python3
"""sendmail(1): takes a message on standard input and hands it to the bridge.

A message submission (RFC 6409 §8) over SMTP (RFC 5321) with SIZE (1870), 8BITMIME (6152), DSN
(3461), SMTPUTF8 (6531), PIPELINING (2920), AUTH (4954) and STARTTLS (3207); addresses as in RFC 5322
§3.4; exit codes as in sysexits.h. Where the bridge is away, the message goes into a drop directory.

This one file also runs alone, on any Python from 3.8 on, so it knows nothing of the rest of smtp2cf
(SMTP2CF_SENDMAIL_DIRECT apart) and imports the standard library only, and of that only what the
call at hand needs: a caller waits for every millisecond of the start.
"""

# pathlib alone takes longer to import than a message takes to send; contextlib brings collections
# along; zip() has no strict= before Python 3.10.
# ruff: noqa: PTH100, PTH102, PTH104, PTH108, PTH112, PTH116, PTH118, PTH119, PTH120, PTH123, PTH208, SIM105, B905

from __future__ import annotations

import _socket  # socket itself brings selectors, enum and collections: 6 of our 30 milliseconds
import os
import stat  # which os has brought along
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import IO, Any

# --------------------------------------------------------------------------- constants

OK, USAGE, BAD_MESSAGE, NO_USER, UNAVAILABLE, SOFTWARE, OS_ERROR, TEMPFAIL, NO_PERMISSION, CONFIG = (
    0, 64, 65, 67, 69, 70, 71, 75, 77, 78,
)  # fmt: skip
"""Exit codes, sysexits.h."""

CONFIG_FILE = "/etc/smtp2cf/sendmail.conf"
DEFAULTS = {
    "SMTP2CF_SENDMAIL_HOST": "127.0.0.1:2525",
    "SMTP2CF_SENDMAIL_ALIASES": "/etc/smtp2cf/aliases",
    "SMTP2CF_SENDMAIL_DROP_DIR": "/var/spool/smtp2cf/drop",
    "SMTP2CF_ADMIN_LISTEN": "127.0.0.1:8025",
}
CONNECT_TIMEOUT, REPLY_TIMEOUT, FINAL_TIMEOUT = 30, 300, 600
"""Seconds; the last two are those of RFC 5321 §4.5.3.2."""

BLOCK = 1 << 16
IN_MEMORY = 1 << 19
"""Octets of a message that are held in memory before a temporary file takes over."""
MAX_HEADER = 1 << 24
LONGEST_FIELD_NAME = 998
PIPELINE = 100
"""Commands sent before their replies are read: few enough for both to fit into socket buffers."""
RECIPIENTS_AT_ONCE = 1000
LONGEST_ADDRESS = 320
LONGEST_ENVID = 100
"""Characters, as xtext (RFC 3461 §4.4)."""
MOST_REPLY_LINES = 1000
NAMED_ON_STDERR = 20
DROP_VERSION = 1

RECIPIENT_FIELDS = ("to", "cc", "bcc")
RESENT_RECIPIENT_FIELDS = ("resent-to", "resent-cc", "resent-bcc")
HIDDEN_FIELDS = ("bcc", "resent-bcc")
QUALIFIED_FIELDS = ("from", "sender", "reply-to", "to", "cc", "bcc")

HELP = """\
usage: sendmail [-t] [-i] [-f sender] [-F name] [-v] [-N when] [-R full|hdrs] [-V envid] [--] [recipient ...]
       sendmail -bs | -bp | -bi | -bv recipient ... | -q
       mailq | newaliases
Hands a message on standard input to the smtp2cf bridge. Settings: SMTP2CF_SENDMAIL_* in the
environment or /etc/smtp2cf/sendmail.conf.
"""


class Failure(Exception):  # noqa: N818 - also a usage message
    """Why the call fails: its exit code and one line for standard error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Away(Exception):  # noqa: N818 - no error where there is a drop directory
    """There is no bridge to talk to, or it went away in the middle of a transaction."""


def complain(text: str) -> None:
    """Write one line to standard error, in this program's name and without control characters."""
    write_stderr(f"{program_name()}: {printable(text)}\n")


def printable(text: str) -> str:
    """The text on one line, with nothing in it that a terminal or a protocol would obey."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def write_stderr(text: str) -> None:
    try:
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        return  # a closed standard error says nothing about the mail: the exit code still counts


def program_name() -> str:
    return os.path.basename(sys.argv[0]) or "sendmail"


# --------------------------------------------------------------------------- settings


class Settings:
    """The settings, from the environment and a file of KEY=VALUE lines; the environment wins."""

    def __init__(self, environ: dict[str, str]) -> None:
        path = environ.get("SMTP2CF_SENDMAIL_CONF", CONFIG_FILE)
        self._values = {**DEFAULTS, **read_settings_file(path)}
        self._values.update((key, value) for key, value in environ.items() if key.startswith("SMTP2CF_"))
        self._domain = ""
        self._domain_is_good = False

    def get(self, name: str) -> str:
        return self._values.get("SMTP2CF_SENDMAIL_" + name, "").strip()

    def yes(self, name: str) -> bool:
        """A setting that is on or off; anything else is a mistake."""
        value = self.get(name).lower()
        if value in ("1", "yes", "true", "on"):
            return True
        if value in ("", "0", "no", "false", "off"):
            return False
        raise Failure(CONFIG, f"SMTP2CF_SENDMAIL_{name}={value}: may be yes or no")

    @property
    def bridge(self) -> str:
        return self.get("HOST")

    @property
    def admin(self) -> str:
        """Where the bridge answers HTTP; "" where it doesn't."""
        first = self._values["SMTP2CF_ADMIN_LISTEN"].split(",")[0].strip()
        return "" if first == "none" else first

    @property
    def domain(self) -> str:
        """The domain for addresses that have none; raises Failure where that is no domain."""
        if not self._domain_is_good:
            given = self.get("DOMAIN")
            self._domain = good_domain(given, "SMTP2CF_SENDMAIL_DOMAIN=") if given else domain_of_host()
            self._domain_is_good = True
        return self._domain

    def password(self) -> str:
        path = self.get("PASSWORD_FILE")
        if not path:
            return self._values.get("SMTP2CF_SENDMAIL_PASSWORD", "")
        try:
            with open(path, encoding="utf-8") as file:
                return file.read().rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise Failure(CONFIG, f"SMTP2CF_SENDMAIL_PASSWORD_FILE={path}: {why(error)}") from error


def read_settings_file(path: str) -> dict[str, str]:
    """KEY=VALUE lines, # comments, quotes around a value taken off. No file is no settings."""
    values = {}
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise Failure(CONFIG, f"{path}: {why(error)}") from error
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or CONTROL.intersection(line):
            raise Failure(CONFIG, f"{path}, line {number}: not KEY=VALUE, or with a control character in it")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        values[key.strip()] = value
    if "SMTP2CF_SENDMAIL_PASSWORD" in values:
        raise Failure(CONFIG, f"{path}: everybody reads this file; use SMTP2CF_SENDMAIL_PASSWORD_FILE")
    return values


CONTROL = frozenset(map(chr, (*range(32), 127)))


def why(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def domain_of_host() -> str:
    """/etc/mailname, as Debian's policy wants it, else this host's domain, else its name."""
    try:
        with open("/etc/mailname", encoding="ascii") as file:
            name = file.readline().strip()
        if name:
            return good_domain(name, "/etc/mailname: ")
    except (OSError, ValueError):
        name = ""  # most hosts have none
    name = os.uname().nodename
    if "." not in name:
        name = next((alias for alias in names_in_hosts(name) if "." in alias and is_domain(alias)), name)
    domain = name.partition(".")[2]
    # A host named example.com is its own domain; "com" never is anybody's.
    return good_domain(domain if "." in domain else name or "localhost", "this host's name: ")


def good_domain(domain: str, where: str) -> str:
    """The domain, which will stand in addresses and header fields; raises Failure for what is none."""
    if not is_domain(domain):
        raise Failure(CONFIG, f"{where}{domain}: not a domain; set SMTP2CF_SENDMAIL_DOMAIN to yours")
    return domain


def name_of_host() -> str:
    """What this host calls itself in SMTP."""
    name = os.uname().nodename
    return name if is_domain(name) else "localhost"


def names_in_hosts(name: str) -> list[str]:
    """What /etc/hosts calls this host besides its name; the DNS might keep a caller waiting."""
    try:
        with open("/etc/hosts", encoding="utf-8", errors="replace") as file:
            lines = [line.split("#")[0].split()[1:] for line in file]
    except OSError:
        return []
    return [alias for names in lines if name in names for alias in names if alias != "localhost.localdomain"]


def parse_endpoint(text: str, setting: str) -> tuple[str, int, str]:
    """`host:port`, `[v6]:port` or `unix:/path` as host, port and path."""
    if text.startswith("unix:/"):
        return "", 0, text[len("unix:") :]
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if set(host) & set(' <>"/\\') or not host.isprintable():
        colon = ""
    if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise Failure(CONFIG, f"{setting}={text}: may be host:port, [v6]:port or unix:/path")
    return host, int(port), ""


def connect(text: str, setting: str) -> _socket.socket:
    """A connected socket; raises Away where nobody answers."""
    host, port, path = parse_endpoint(text, setting)
    if path:
        return _connect_to(_socket.AF_UNIX, path, text)
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - where a server listens everywhere, it is here
        host = "::1" if host == "::" else "127.0.0.1"
    try:
        found = _socket.getaddrinfo(
            host.encode("idna" if not host.isascii() else "ascii"), port, 0, _socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise Away(f"{text}: {why(error)}") from error
    for number, (family, _, _, _, address) in enumerate(found, 1):
        try:
            return _connect_to(family, address, text)
        except Away:
            if number == len(found):
                raise
    raise Away(f"{text}: no address")


def _connect_to(family: int, address: Any, text: str) -> _socket.socket:
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        sock.settimeout(CONNECT_TIMEOUT)
        sock.connect(address)
        if family != _socket.AF_UNIX:
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    except OSError as error:
        sock.close()
        raise Away(f"{text}: {why(error)}") from error
    return sock


# --------------------------------------------------------------------------- command line

WITH_ARGUMENT = "ABCFLNORVXbefhopr"
WITH_ATTACHED_ARGUMENT = "dq"
WITHOUT_ARGUMENT = "GUmnxEIcitv"
MODES = {"m": "deliver", "s": "smtp", "p": "mailq", "i": "newaliases", "v": "verify"}
REFUSED_MODES = {
    "d": "run as a daemon: start `smtp2cf serve`",
    "D": "run as a daemon: start `smtp2cf serve`",
    "t": "test address rewriting",
    "h": "print the host status",
    "H": "clear the host status",
}
NOTIFY_CONDITIONS = ("success", "failure", "delay")


class Options:
    """What the command line asks for. `sender` is None where there was no -f."""

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
    """Read the command line as getopt(3) does: clustered letters, options after recipients too."""
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
        if argument in ("--help", "--version"):
            options.mode = argument[2:]
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
            raise Failure(USAGE, f"unknown option -{letter} in {argument}")
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
            raise Failure(USAGE, f"option -R {value}: may be full or hdrs")
        options.ret = value.upper()
    elif letter == "V":
        options.envid = xtext(value)
        if len(options.envid) > LONGEST_ENVID:
            raise Failure(USAGE, f"option -V: longer than the {LONGEST_ENVID} characters of an envelope id")


def _mode(letter: str) -> str:
    if letter in REFUSED_MODES:
        raise Failure(USAGE, f"option -b{letter}: this sendmail does not {REFUSED_MODES[letter]}")
    if letter not in MODES:
        raise Failure(USAGE, f"unknown option -b{letter}")
    return MODES[letter]


def _notify(value: str) -> str:
    conditions = [condition.strip().lower() for condition in value.split(",")]
    if conditions != ["never"] and not all(condition in NOTIFY_CONDITIONS for condition in conditions):
        raise Failure(USAGE, f"option -N {value}: may be never, or a list of success, failure, delay")
    return ",".join(dict.fromkeys(conditions)).upper()


def xtext(text: str) -> str:
    """RFC 3461 §4."""
    return "".join(
        chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}"
        for octet in text.encode("utf-8", "surrogateescape")
    )


# --------------------------------------------------------------------------- addresses


class Mailbox:
    """One address of a list, as found.

    address: the addr-spec without comments and white space, "" for <>, None where it is none.
    insert_at: the place in the text where a missing domain belongs, None where there is a domain.
    source: the words it was written as.
    """

    __slots__ = ("address", "insert_at", "source")

    def __init__(self, address: str | None, insert_at: int | None, source: str) -> None:
        self.address = address
        self.insert_at = insert_at
        self.source = source

    def qualified(self, settings: Settings) -> str:
        return f"{self.address}@{settings.domain}" if self.insert_at is not None else str(self.address)


def parse_addresses(text: str, *, blanks_part: bool = True) -> list[Mailbox]:
    """The mailboxes of an address list (RFC 5322 §3.4, obsolete forms and semicolons too).

    blanks_part: addresses may stand side by side with blanks alone between them.
    """
    found: list[Mailbox] = []
    words: list[tuple[str, int]] = []
    bracket, in_angle = 0, False
    for word, end in _tokens(text):
        # In a source route, <@a,@b:c@d>, commas part nothing.
        in_route = in_angle and [one for one, _ in words[bracket + 1 : bracket + 2]] == ["@"]
        if word == "<":
            bracket, in_angle = len(words), True
        elif word == ">":
            in_angle = False
        elif word in (",", ";") and not in_route:
            found += _mailboxes(words, text, blanks_part)
            words, in_angle = [], False
            continue
        elif word == ":" and not in_angle:
            words = []  # what stood before it was the name of a group
            continue
        words.append((word, end))
    return found + _mailboxes(words, text, blanks_part)


def parse_argument(text: str) -> list[Mailbox]:
    """The mailboxes of a command line argument: what folds a header field is an attack here."""
    if UNSEEN.intersection(text.replace("\t", " ")) or not is_text(text):
        return [Mailbox(None, None, text)]
    return parse_addresses(text)


def _mailboxes(words: list[tuple[str, int]], text: str, blanks_part: bool) -> list[Mailbox]:
    """The mailboxes between two commas: one, or several with blanks between them."""
    parts = [words]
    if blanks_part and len(words) > 1:
        parts = [part for behind in _parted_at_brackets(words) for part in _parted_at_blanks(behind)]
    return [_mailbox(part, text[part[0][1] - len(part[0][0]) : part[-1][1]]) for part in parts if part]


def _parted_at_brackets(words: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """`A <a@x> B <b@x> c@x`: behind a > begins another mailbox where one more follows."""
    places = list(enumerate(word for word, _ in words))
    last = max((place for place, word in places if word in "<@"), default=-1)
    ends = [place + 1 for place, word in places if word == ">" and place < last]
    return [words[start:end] for start, end in zip([0, *ends], [*ends, len(words)])]


def _parted_at_blanks(words: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """`a@x b@x` is two addresses; words without any @ are a name, and in <> is one address."""
    tokens = [word for word, _ in words]
    if "<" in tokens or "@" not in tokens:
        return [words]
    parts = [[words[0]]]
    has_at = tokens[0] == "@"
    for place in range(1, len(words)):
        word, end = words[place]
        before, ended = words[place - 1]
        joined = ended == end - len(word)  # nothing between them
        dotted = before.endswith(".") or word.startswith(".")
        if not joined and has_at and before != "@":
            joined = dotted and tokens[place + 1 : place + 2] != ["@"]
        elif not joined:
            joined = dotted or "@" in (before, word)
        if joined:
            parts[-1].append(words[place])
        else:
            parts.append([words[place]])
            has_at = False
        has_at = has_at or word == "@"
    return parts


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Words and specials with the place behind each; comments and white space left out."""
    place, length = 0, len(text)
    while place < length:
        first = text[place]
        start = place
        if first in " \t\r\n":
            place += 1
            continue
        if first == "(":
            place = _end_of_comment(text, place)
            continue
        if first == '"':
            place = _end_of_quoted(text, place)
        elif first == "[":
            place = text.find("]", place) + 1 or length
        elif first in "<>,;:@":
            place += 1
        else:
            place = _end_of_atom(text, place)
        yield text[start:place], place


def _end_of_comment(text: str, place: int) -> int:
    depth = 0
    while place < len(text):
        if text[place] == "\\":
            place += 1
        elif text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
            if not depth:
                return place + 1
        place += 1
    return len(text)


def _end_of_quoted(text: str, place: int) -> int:
    place += 1
    while place < len(text):
        if text[place] == '"':
            return place + 1
        place += 2 if text[place] == "\\" else 1
    return len(text)


def _end_of_atom(text: str, place: int) -> int:
    if text.startswith("=?", place):  # an encoded word: some programs leave a raw comma in it
        end = text.find("?=", text.find("?", text.find("?", place + 2) + 1) + 1) + 2
        if place + 6 < end < place + 200 and len(text[place:end].split()) == 1:
            return end
    place += 1
    while place < len(text) and text[place] not in ' \t\r\n()<>,;:@"[':
        place += 1
    return place


def _mailbox(words: list[tuple[str, int]], source: str) -> Mailbox:
    """The address among the words of one list element: what stands in <>, else all of them."""
    source = " ".join(source.split())
    tokens = [token for token, _ in words]
    if "<" in tokens:
        opened = tokens.index("<") + 1
        if ">" not in tokens[opened:]:
            return Mailbox(None, None, source)
        closed = tokens.index(">", opened)
        words, tokens = words[opened:closed], tokens[opened:closed]
        if tokens[:1] == ["@"] and ":" in tokens:  # a source route: what stands behind it counts
            behind = tokens.index(":") + 1
            words, tokens = words[behind:], tokens[behind:]
        if not tokens:
            return Mailbox("", None, source)
    at = tokens.index("@") if "@" in tokens else len(tokens)
    local, domain = "".join(tokens[:at]), "".join(tokens[at + 1 :])
    if len(domain) > 1 and domain.endswith("."):
        domain = domain[:-1]
    has_domain = at < len(tokens)
    address = f"{local}@{domain}" if has_domain else local
    good = _are_dotted(tokens[:at]) and _are_dotted(tokens[at + 1 :])
    good = good and is_local(local) and (is_domain(domain) or not has_domain)
    if not good or len(address) > LONGEST_ADDRESS:
        return Mailbox(None, None, source)
    return Mailbox(address, None if has_domain else words[-1][1], source)


def _are_dotted(tokens: list[str]) -> bool:
    """There is a dot wherever two of them meet."""
    return all(left.endswith(".") or right.startswith(".") for left, right in zip(tokens, tokens[1:]))  # noqa: RUF007


# What is a local part and a domain is what the bridge takes for one (smtp2cf/smtpd/path.py): mail that
# is kept while it is away is judged by it later.
UNSEEN = frozenset(
    chr(code)
    for first, last in (
        (0x00, 0x1F), (0x7F, 0xA0), (0x1680, 0x1680), (0x2000, 0x200B), (0x200E, 0x200F),
        (0x2028, 0x202F), (0x205F, 0x206F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
    )
    for code in range(first, last + 1)
)  # fmt: skip
"""Control characters, line ends, blanks apart from the space, and marks that turn the direction of text."""
NO_ATOM = UNSEEN | set(' <>()[]\\,;:@"')


def is_local(text: str) -> bool:
    """Is it a local part: characters that need no quotes, or one quoted string?"""
    if not is_text(text):
        return False
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return bool(text.strip(".")) and not NO_ATOM.intersection(text)
    escaped = False
    for c in text[1:-1]:
        if escaped:
            if not " " <= c <= "~":
                return False
            escaped = False
        elif c == "\\":
            escaped = True
        elif c == '"' or c in UNSEEN:
            return False
    return not escaped


def is_domain(text: str) -> bool:
    """Is it a domain name, in any script, or an address literal?"""
    if text[:1] == "[" and text[-1:] == "]":
        inside = text[1:-1]
        inside = inside[5:] if inside[:5].lower() == "ipv6:" else inside
        return bool(inside) and set(inside) <= set("0123456789abcdefABCDEF:.")
    if not text or UNSEEN.intersection(text) or not is_text(text):
        return False
    return all(
        label and label[0] != "-" and label[-1] != "-" and all(map(_is_in_label, label))
        for label in text.split(".")
    )


def _is_in_label(c: str) -> bool:
    return c > "\x7f" or c.isalnum() or c in "_-"


def is_text(text: str) -> bool:
    """Was all of it UTF-8? What wasn't has become surrogates."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


# --------------------------------------------------------------------------- aliases


class Aliases:
    """msmtp's aliases file: `name: address, address`, recursive, `default:` for the rest."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lists: dict[str, str] | None = None

    def _targets(self, name: str) -> list[Mailbox] | None:
        if self._lists is None:
            self._lists = self._read()
        text = self._lists.get(name.lower())
        if text is None:
            return None
        for target in text.split(","):
            if target.strip().startswith(("|", "/", '"|', '"/', ":include:")):
                raise Failure(
                    CONFIG, f"{self._path}: {name}: {target.strip()}: only addresses can be sent to"
                )
        targets = parse_addresses(text)
        if any(target.source.startswith(("|", "/", '"|', '"/')) for target in targets):
            raise Failure(CONFIG, f"{self._path}: {name}: only addresses can be sent to")
        return targets

    def _read(self) -> dict[str, str]:
        lists: dict[str, str] = {}
        name = ""
        try:
            with open(self._path, encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise Failure(CONFIG, f"{self._path}: {why(error)}") from error
        for number, full_line in enumerate(lines, 1):
            line = full_line.split("#")[0].rstrip()
            if not line:
                continue
            if line[0] in " \t" and name:
                lists[name] += " " + line.strip()
                continue
            key, colon, value = line.partition(":")
            name = key.strip().strip('"').lower()
            if not colon or not name:
                raise Failure(CONFIG, f"{self._path}, line {number}: not `name: address, ...`")
            lists[name] = value.strip()
        return lists

    def expand(self, mailbox: Mailbox) -> list[Mailbox]:
        """Every mailbox that one stands for, in order; a name that leads to itself stands for itself."""
        expanded: list[Mailbox] = []
        done: set[str] = set()
        waiting: list[tuple[Mailbox, tuple[str, ...]]] = [(mailbox, ())]
        while waiting:
            one, path = waiting.pop()
            name = str(one.address).lower()
            if one.insert_at is None or name in path:
                expanded.append(one)
                continue
            targets = self._targets(name)
            if targets is None and "default" not in path:
                name, targets = "default", self._targets("default")
            if targets is None:
                expanded.append(one)
            elif name not in done:
                done.add(name)
                waiting += [(target, (*path, name)) for target in reversed(targets)]
        return expanded


# --------------------------------------------------------------------------- the message


class Message:
    """The message as it is handed over, with CRLF line ends: in memory, or in a file when it is long."""

    def __init__(self) -> None:
        self.size = 0
        self.eight_bit = False
        self._blocks: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._no_file = False

    def write(self, block: bytes) -> None:
        self.size += len(block)
        self.eight_bit = self.eight_bit or not block.isascii()
        if self._file is None and self.size > IN_MEMORY and not self._no_file:
            self._file = _temporary_file()
            self._no_file = self._file is None
            if self._file is not None:
                self._file.writelines(self._blocks)
                self._blocks = []
        if self._file is None:
            self._blocks.append(block)
        else:
            self._file.write(block)

    def write_lines(self, blocks: Iterable[bytes]) -> None:
        """Write text with LF line ends; the last line gets one where it has none.

        A bare CR stays: whether it ends a line or is in the header of a part, where it would start a
        field, is the bridge's to tell, which does so for all mail alike.
        """
        last = b"\n"
        for block in blocks:
            last = block[-1:]
            self.write(block.replace(b"\n", b"\r\n"))
        if last != b"\n":
            self.write(b"\n" if last == b"\r" else b"\r\n")

    def blocks(self) -> Iterator[bytes]:
        if self._file is None:
            yield from self._blocks
            return
        self._file.seek(0)
        while True:
            block = self._file.read(BLOCK)
            if not block:
                return
            yield block

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _temporary_file() -> IO[bytes] | None:
    """A file without a name; None on a host with no place to write, which leaves memory."""
    import tempfile

    try:
        return tempfile.TemporaryFile()
    except OSError:
        return None


def blocks_of(descriptor: int) -> Iterator[bytes]:
    while True:
        block = os.read(descriptor, BLOCK)
        if not block:
            return
        yield block


def unix_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Turn CRLF into LF, also one with more CRs than it should have; a CR elsewhere stays."""
    waiting = b""
    for block in blocks:
        joined = waiting + block
        text = joined.rstrip(b"\r")
        waiting = joined[len(text) :]
        if len(waiting) > LONGEST_FIELD_NAME:
            text, waiting = joined, b""
        for _ in range(3):
            text = text.replace(b"\r\n", b"\n")
        if text:
            yield text
    if waiting:
        yield waiting


def until_lone_dot(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines before the first that is a single dot."""
    waiting, at_line_start = b"", True
    for block in blocks:
        text = waiting + block
        waiting = b""
        if at_line_start and text.startswith(b".\n"):
            return
        end = text.find(b"\n.\n")
        if end >= 0:
            yield text[: end + 1]
            return
        if text.endswith(b"\n.") or (at_line_start and text == b"."):
            text, waiting = text[:-1], b"."
        if text:
            at_line_start = text.endswith(b"\n")
            yield text


class Input:
    """The input, read line by line as far as the header goes and in blocks from there on."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._text = bytearray()
        self._start = 0
        self._searched = 0

    def line(self) -> bytes:
        """The next line with its LF, b"" at the end; of one too long for a field, the beginning."""
        while True:
            newline = self._text.find(b"\n", self._searched)
            if newline >= 0:
                return bytes(self._text[self._start : newline + 1])
            self._searched = len(self._text)
            beginning = bytes(self._text[self._start : self._start + LONGEST_FIELD_NAME])
            if (
                len(beginning) == LONGEST_FIELD_NAME
                and beginning[0] not in b" \t"
                and not is_field(beginning)
            ):
                return beginning
            if len(self._text) > MAX_HEADER:
                raise Failure(BAD_MESSAGE, f"the header is longer than {MAX_HEADER >> 20} MiB")
            block = next(self._blocks, b"")
            if not block and not beginning:
                return b""
            self._text += block or b"\n"

    def skip(self, line: bytes) -> None:
        self._start += len(line)
        self._searched = max(self._start, self._searched)

    def rest(self) -> Iterator[bytes]:
        rest = bytes(self._text[self._start :])
        self._text.clear()
        if rest:
            yield rest
        yield from self._blocks


def read_header(text: Input) -> list[bytes]:
    """The fields of the header with their LFs; a CR inside one is a space, and starts nothing.

    The first line that is neither a field nor its continuation ends the header; an empty one is no
    part of the body. One leading `From ` line, a mailbox's, is dropped.
    """
    fields: list[list[bytes]] = []
    if text.line().startswith((b"From ", b">From ")):
        text.skip(text.line())
    while True:
        line = text.line().replace(b"\r", b" ")
        if fields and line[:1] in (b" ", b"\t"):
            fields[-1].append(line)
        elif is_field(line):
            fields.append([line])
        else:
            break
        text.skip(line)
    if line == b"\n":
        text.skip(line)
    return [b"".join(lines) for lines in fields]


def is_field(line: bytes) -> bool:
    name, colon, _ = line.partition(b":")
    name = name.rstrip(b" \t")
    return bool(colon and name) and all(33 <= octet <= 126 for octet in name)


# --------------------------------------------------------------------------- the submission


class Envelope:
    """Who the message is from and for; the names are those of smtp2cf.envelope.Envelope.

    reverse_path: "" for the null sender. ret, envid (as xtext), notify: "" where not asked for. notify_of,
    orcpt_of: what -bs was told for one recipient.
    """

    def __init__(self, reverse_path: str, forward_paths: list[str]) -> None:
        self.reverse_path = reverse_path
        self.forward_paths = forward_paths
        self.eight_bit = False
        self.smtputf8 = False
        self.ret = ""
        self.envid = ""
        self.notify = ""
        self.notify_of: dict[str, str] = {}
        self.orcpt_of: dict[str, str] = {}

    @property
    def ascii(self) -> bool:
        return "".join((self.reverse_path, *self.forward_paths)).isascii()


class Submission:
    """Envelope and message, made of what the caller gave; unusable: recipients that are no addresses."""

    def __init__(self, options: Options, settings: Settings) -> None:
        self._options = options
        self._settings = settings
        self.message = Message()
        self.unusable: list[str] = []
        sender = sender_of(options, settings)
        recipients = [box for text in options.recipients for box in self._usable(parse_argument(text))]
        if not recipients and not options.recipients_from_header:
            raise self._no_recipients("no recipients: name some, or use -t")
        blocks = unix_lines(blocks_of(0))
        text = Input(blocks if options.dot_is_text else until_lone_dot(blocks))
        fields = [_field(line) for line in read_header(text)]
        if options.recipients_from_header:
            recipients += self._recipients_from(fields)
            fields = [field for field in fields if field[0] not in HIDDEN_FIELDS]
        self.envelope = Envelope(sender, self._forward_paths(recipients))
        if not self.envelope.forward_paths:
            raise self._no_recipients("no recipients, neither on the command line nor in the header")
        self._write(fields, text)

    def _no_recipients(self, text: str) -> Failure:
        if self.unusable:
            return Failure(
                USAGE, f"no recipient with an address: {', '.join(self.unusable[:NAMED_ON_STDERR])}"
            )
        return Failure(USAGE, text)

    def _usable(self, mailboxes: list[Mailbox]) -> list[Mailbox]:
        self.unusable += [mailbox.source for mailbox in mailboxes if not mailbox.address]
        return [mailbox for mailbox in mailboxes if mailbox.address]

    def _recipients_from(self, fields: list[tuple[str, str]]) -> list[Mailbox]:
        resent = any(name in RESENT_RECIPIENT_FIELDS for name, _ in fields)
        names = RESENT_RECIPIENT_FIELDS if resent else RECIPIENT_FIELDS
        found = []
        for name, text in fields:
            if name in names:
                found += self._usable(parse_addresses(text.partition(":")[2]))
        return found

    def _forward_paths(self, mailboxes: list[Mailbox]) -> list[str]:
        """Aliases followed, domains added, each address once."""
        aliases = Aliases(self._settings.get("ALIASES"))
        forward_paths: dict[str, str] = {}
        for mailbox in mailboxes:
            for target in aliases.expand(mailbox):
                if not target.address:
                    self.unusable.append(target.source)
                    continue
                address = target.qualified(self._settings)
                local, _, domain = address.rpartition("@")
                forward_paths.setdefault(f"{local}@{domain.lower()}", address)
        return list(forward_paths.values())

    def _write(self, fields: list[tuple[str, str]], text: Input) -> None:
        lines = [_qualify(name, line, self._settings) for name, line in fields]
        lines += self._missing({name for name, _ in fields})
        header = "".join(lines).replace("\n", "\r\n").encode("utf-8", "surrogateescape")
        self.message.write(header + b"\r\n")
        self.message.write_lines(text.rest())
        envelope, options = self.envelope, self._options
        envelope.eight_bit = self.message.eight_bit
        envelope.smtputf8 = not envelope.ascii or (not header.isascii() and is_utf8(header))
        envelope.ret, envelope.envid, envelope.notify = options.ret, options.envid, options.notify

    def _missing(self, present: set[str]) -> Iterator[str]:
        """The fields that RFC 6409 §8 lets a submission add: From, Date, Message-ID."""
        sender = self.envelope.reverse_path
        domain = sender.rpartition("@")[2] or self._settings.domain
        if "from" not in present:
            name = one_line(self._options.full_name) or (full_name() if sender else "Mail Delivery System")
            address = f"<{sender or 'MAILER-DAEMON@' + domain}>"
            yield f"From: {phrase(name)} {address}\n" if name else f"From: {address}\n"
        if "date" not in present:
            yield f"Date: {rfc5322_date(time.time())}\n"
        if "message-id" not in present:
            yield f"Message-ID: <{time.time():.0f}.{os.urandom(8).hex()}@{domain}>\n"


def sender_of(options: Options, settings: Settings) -> str:
    """The reverse path: what -f says, else the user at our domain."""
    if options.sender is None:
        return f"{user_name()}@{settings.domain}"
    mailboxes = parse_argument(options.sender)
    if not mailboxes and not options.sender.strip():
        return ""
    if len(mailboxes) != 1 or mailboxes[0].address is None:
        raise Failure(USAGE, f"the sender is no address: {options.sender}")
    return mailboxes[0].qualified(settings) if mailboxes[0].address else ""


def _field(line: bytes) -> tuple[str, str]:
    """Name in lower case and the whole field."""
    text = line.decode("utf-8", "surrogateescape")
    return text.partition(":")[0].rstrip().lower(), text


def _qualify(name: str, field: str, settings: Settings) -> str:
    """The field with a domain behind every address that has none, and nothing else changed."""
    if name not in QUALIFIED_FIELDS:
        return field
    colon = field.index(":") + 1
    pieces, copied = [], 0
    for mailbox in parse_addresses(field[colon:], blanks_part=name in RECIPIENT_FIELDS):
        if mailbox.insert_at is not None:
            pieces += [field[copied : colon + mailbox.insert_at], "@", settings.domain]
            copied = colon + mailbox.insert_at
    return "".join([*pieces, field[copied:]])


def user_name() -> str:
    entry = password_entry()
    name = str(entry.pw_name) if entry else ""
    # A directory service names users as it likes: `EXAMPLE\\anna`, `anna@example.com`, `anna smith`.
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return next((local for local in (name, quoted) if name and is_local(local)), f"uid{os.getuid()}")


def full_name() -> str:
    """The user's name from the password file, where & stands for the login (passwd(5))."""
    entry = password_entry()
    return one_line(entry.pw_gecos.split(",")[0].replace("&", entry.pw_name.capitalize())) if entry else ""


def password_entry() -> Any:
    import pwd

    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None  # a container that runs as a number


def one_line(text: str) -> str:
    """The text without anything that could end the header field it goes into."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def phrase(text: str) -> str:
    """A display name: as it is, quoted, or as encoded words (RFC 5322 §3.2.5, RFC 2047)."""
    if not text.isascii():
        import binascii

        pieces = [text[place : place + 10].encode() for place in range(0, len(text), 10)]
        words = [binascii.b2a_base64(piece, newline=False).decode() for piece in pieces]
        return "\n ".join(f"=?utf-8?B?{word}?=" for word in words)
    if all(c.isalnum() or c in " !#$%&'*+-/=?^_`{|}~" for c in text) and "=?" not in text:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def rfc5322_date(seconds: float) -> str:
    """RFC 5322 §3.3, in the local time zone, whatever the locale."""
    local = time.localtime(seconds)
    minutes = local.tm_gmtoff // 60
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
    date = f"{DAYS[local.tm_wday]}, {local.tm_mday} {MONTHS[local.tm_mon - 1]} {local.tm_year}"
    return f"{date} {local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02} {zone}"


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


# --------------------------------------------------------------------------- SMTP


class Reply:
    """An SMTP reply: its code, and what stands behind the code on each line."""

    __slots__ = ("code", "lines")

    def __init__(self, code: int, lines: list[str]) -> None:
        self.code = code
        self.lines = lines

    @property
    def status(self) -> str:
        """The enhanced status code, "" where there is none."""
        first = self.lines[0].partition(" ")[0]
        return first if first[:2] == f"{self.code // 100}." and first.count(".") == 2 else ""

    def parted(self) -> tuple[int, str, str]:
        """Code, enhanced status code, which there always is, and text."""
        text = str(self)[4:]
        return self.code, self.status or f"{self.code // 100}.0.0", text[len(self.status) :].strip()

    def __str__(self) -> str:
        status = self.status
        rest = [line[len(status) :].strip() if line.startswith(status) else line for line in self.lines[1:]]
        return " ".join([str(self.code), self.lines[0], *rest])


class Outcome:
    """What a recipient was answered, and to which command."""

    __slots__ = ("recipient", "reply", "stage")

    def __init__(self, recipient: str, stage: str, reply: Reply) -> None:
        self.recipient = recipient
        self.stage = stage
        self.reply = reply

    @property
    def exit_code(self) -> int:
        return exit_code(self.stage, self.reply)


NOT_ALLOWED = (530, 534, 535, 538)
EXIT_CODES = (
    # command, how the enhanced status code begins, a word in the text, exit code: the first row that fits
    ("connect", "", "", UNAVAILABLE),
    ("DATA", "5.7.1", "suppress", NO_USER),
    ("", "5.1.7", "", BAD_MESSAGE),  # the sender, not a recipient
    ("", "5.1.8", "", BAD_MESSAGE),
    ("", "5.7.", "", NO_PERMISSION),
    ("AUTH", "", "", NO_PERMISSION),
    ("RCPT", "", "", NO_USER),
    ("DATA", "5.1.", "", NO_USER),
    ("DATA", "5.2.", "", NO_USER),
    ("", "", "", BAD_MESSAGE),
)


def exit_code(stage: str, reply: Reply) -> int:
    if reply.code < 400:
        return OK
    if reply.code < 500:
        return TEMPFAIL
    if reply.code in NOT_ALLOWED:
        return NO_PERMISSION
    text = str(reply).lower()
    return next(
        code
        for command, status, word, code in EXIT_CODES
        if command in ("", stage) and reply.status.startswith(status) and word in text
    )


class Client:
    """One SMTP session. Whatever talks to the bridge raises Away when it is lost or says 421."""

    def __init__(self, settings: Settings, verbose: bool) -> None:
        self._settings = settings
        self._verbose = verbose
        self._received = b""
        self.extensions: dict[str, str] = {}
        self.sock: Any = connect(settings.bridge, "SMTP2CF_SENDMAIL_HOST")
        self.sock.settimeout(REPLY_TIMEOUT)
        try:
            self.greeting = self._expect("connect", self.read_reply())
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def start(self) -> None:
        """EHLO, then STARTTLS and AUTH where they are configured."""
        self._hello()
        if self._settings.yes("TLS"):
            self._start_tls()
        if self._settings.get("USER"):
            self._authenticate(self._settings.get("USER"), self._settings.password())

    def quit(self) -> None:
        try:
            self.command("QUIT")
        except Away:
            return  # the mail has been answered for; nobody needs the goodbye

    def unread(self) -> bytes:
        """What has arrived and belongs to no reply yet."""
        return self._received

    def send(self, octets: bytes) -> None:
        try:
            self.sock.sendall(octets)
        except OSError as error:
            raise Away(f"{self._settings.bridge}: {why(error)}") from error

    def read_reply(self) -> Reply:
        """One reply with all its lines."""
        lines: list[str] = []
        while True:
            line = self._read_line()
            code, separator = line[:3], line[3:4]
            if not (len(code) == 3 and code.isascii() and code.isdigit()) or separator not in ("", " ", "-"):
                raise Away(f"{self._settings.bridge} speaks no SMTP: {line[:80]}")
            if self._verbose:
                write_stderr(f"{line}\n")
            lines.append(line[4:])
            if separator != "-" or len(lines) == MOST_REPLY_LINES:
                break
        reply = Reply(int(code), lines)
        if reply.code == 421:
            raise Away(f"{self._settings.bridge}: {reply}")
        return reply

    def _read_line(self) -> str:
        while b"\n" not in self._received:
            try:
                block = self.sock.recv(BLOCK)
            except OSError as error:
                raise Away(f"{self._settings.bridge}: {why(error)}") from error
            if not block or len(self._received) > BLOCK:
                raise Away(f"{self._settings.bridge}: {'no end of line' if block else 'connection lost'}")
            self._received += block
        line, _, self._received = self._received.partition(b"\n")
        return line.rstrip(b"\r").decode("utf-8", "backslashreplace")

    def command(self, line: str, shown: str = "") -> Reply:
        self._show(shown or line)
        self.send(line.encode("utf-8", "surrogateescape") + b"\r\n")
        return self.read_reply()

    def _show(self, line: str) -> None:
        if self._verbose:
            write_stderr(f">>> {line}\n")

    def _expect(self, stage: str, reply: Reply) -> Reply:
        if reply.code >= 400:
            raise Failure(exit_code(stage, reply), str(reply))
        return reply

    def _hello(self) -> None:
        name = name_of_host()
        reply = self.command(f"EHLO {name}")
        if reply.code >= 500:
            self._expect("connect", self.command(f"HELO {name}"))
            return
        self._expect("connect", reply)
        words = [line.partition(" ") for line in reply.lines[1:]]
        self.extensions = {keyword.upper(): rest for keyword, _, rest in words}

    def _start_tls(self) -> None:
        if "STARTTLS" not in self.extensions:
            raise Failure(CONFIG, f"SMTP2CF_SENDMAIL_TLS=yes, and {self._settings.bridge} offers no STARTTLS")
        self._expect("connect", self.command("STARTTLS"))
        import socket
        import ssl

        authorities = self._settings.get("TLS_CA_FILE") or None
        host = parse_endpoint(self._settings.bridge, "SMTP2CF_SENDMAIL_HOST")[0] or "localhost"
        try:
            context = ssl.create_default_context(cafile=authorities)
            plain = socket.socket(fileno=self.sock.detach())
            plain.settimeout(REPLY_TIMEOUT)
            self._received = b""  # what came before the handshake may be anybody's
            self.sock = context.wrap_socket(plain, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            problem = f"certificate refused: {error.verify_message}"
            raise Failure(CONFIG, f"{self._settings.bridge}: {problem}") from error
        except OSError as error:
            raise Away(f"{self._settings.bridge}: TLS: {why(error)}") from error
        self._hello()

    def _authenticate(self, user: str, password: str) -> None:
        import binascii

        def encoded(text: str) -> str:
            return binascii.b2a_base64(text.encode("utf-8", "surrogateescape"), newline=False).decode()

        mechanisms = self.extensions.get("AUTH", "").upper().split()
        if not password or not {"PLAIN", "LOGIN"}.intersection(mechanisms):
            problem = (
                "no password" if not password else f"{self._settings.bridge} offers no AUTH PLAIN or LOGIN"
            )
            raise Failure(CONFIG, f"SMTP2CF_SENDMAIL_USER={user}, and {problem}")
        if "PLAIN" in mechanisms:
            secret = encoded(f"\0{user}\0{password}")
            self._expect("AUTH", self.command(f"AUTH PLAIN {secret}", "AUTH PLAIN ..."))
            return
        self._expect("AUTH", self.command("AUTH LOGIN"))
        for word in (user, password):
            self._expect("AUTH", self.command(encoded(word), "..."))

    def begin(
        self, envelope: Envelope, recipients: list[str], size: int
    ) -> tuple[list[str], list[Outcome], list[str]]:
        """MAIL and RCPT: who is in the transaction, who is not, and who is left for another one."""
        if not envelope.ascii and "SMTPUTF8" not in self.extensions:
            reply = Reply(
                553, ["5.6.7 an address has letters outside ASCII, and the bridge offers no SMTPUTF8"]
            )
            return [], [Outcome(recipient, "MAIL", reply) for recipient in recipients], []
        answered = self._envelope(envelope, recipients, size)
        accepted = [outcome.recipient for outcome in answered if outcome.reply.code < 300]
        if not accepted:
            self.command("RSET")
            return [], answered, []
        # 452: too many for one transaction (RFC 5321 §4.5.3.1.10), so they get one of their own.
        later = [outcome.recipient for outcome in answered if outcome.reply.code == 452]
        refused = [outcome for outcome in answered if outcome.reply.code >= 300 and outcome.reply.code != 452]
        return accepted, refused, later

    def check(self, envelope: Envelope) -> list[Outcome]:
        """What the bridge says to each recipient; nothing is sent."""
        answered = self._envelope(envelope, envelope.forward_paths, 0)
        self.command("RSET")
        return answered

    def _envelope(self, envelope: Envelope, recipients: list[str], size: int) -> list[Outcome]:
        commands = [self._mail_command(envelope, size)]
        notify = f" NOTIFY={envelope.notify}" if envelope.notify and "DSN" in self.extensions else ""
        commands += [f"RCPT TO:<{recipient}>{notify}" for recipient in recipients]
        mail, *replies = self._pipeline(commands)
        if mail.code >= 300:
            return [Outcome(recipient, "MAIL", mail) for recipient in recipients]
        return [Outcome(recipient, "RCPT", reply) for recipient, reply in zip(recipients, replies)]

    def _mail_command(self, envelope: Envelope, size: int) -> str:
        offered = [
            text for extension, text in mail_parameters(envelope, size) if extension in self.extensions
        ]
        return " ".join([f"MAIL FROM:<{envelope.reverse_path}>", *offered])

    def _pipeline(self, commands: list[str]) -> list[Reply]:
        at_once = PIPELINE if "PIPELINING" in self.extensions else 1
        replies: list[Reply] = []
        for place in range(0, len(commands), at_once):
            batch = commands[place : place + at_once]
            for line in batch:
                self._show(line)
            self.send("".join(f"{line}\r\n" for line in batch).encode("utf-8", "surrogateescape"))
            replies += [self.read_reply() for _ in batch]
        return replies

    def data(self, message: Message) -> Reply:
        """The message to whom the transaction is for, and what was answered."""
        reply = self.command("DATA")
        if reply.code != 354:
            return reply if reply.code >= 400 else Reply(451, [f"4.5.0 DATA was answered with {reply}"])
        for block in dot_stuffed(message.blocks()):
            self.send(block)
        self.sock.settimeout(FINAL_TIMEOUT)
        reply = self.command(".")
        self.sock.settimeout(REPLY_TIMEOUT)
        return reply


def mail_parameters(envelope: Envelope, size: int) -> list[tuple[str, str]]:
    """The parameters of MAIL, each with the extension that it belongs to."""
    parameters = (
        ("SIZE", f"SIZE={size}" if size else ""),
        ("8BITMIME", "BODY=8BITMIME" if envelope.eight_bit else ""),
        ("SMTPUTF8", "SMTPUTF8" if envelope.smtputf8 else ""),
        ("DSN", f"RET={envelope.ret}" if envelope.ret else ""),
        ("DSN", f"ENVID={envelope.envid}" if envelope.envid else ""),
    )
    return [(extension, text) for extension, text in parameters if text]


def dot_stuffed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 5321 §4.5.2, for text with CRLF line ends, cut into blocks anywhere."""
    at_line_start = True
    for block in blocks:
        text = block.replace(b"\n.", b"\n..")
        yield b"." + text if at_line_start and text.startswith(b".") else text
        at_line_start = text.endswith(b"\n")


def send_to_bridge(
    settings: Settings, envelope: Envelope, message: Message, verbose: bool
) -> tuple[list[Outcome], list[list[str]], str]:
    """The bridge's answers; where it went away, the recipients it has not answered for, and why.

    Those come in groups: whoever was in a transaction that had the message is by themselves, so that the
    bridge, which may have sent it, knows the same recipients and bytes again.
    """
    outcomes: list[Outcome] = []
    waiting = envelope.forward_paths
    unanswered: list[str] = []
    try:
        with Client(settings, verbose) as client:
            client.start()
            most = RECIPIENTS_AT_ONCE
            while waiting:
                batch, rest = waiting[:most], waiting[most:]
                unanswered, refused, later = client.begin(envelope, batch, message.size)
                outcomes += refused
                most = len(batch) - len(later) if later else most
                waiting = later + rest
                if unanswered:
                    final = client.data(message)
                    outcomes += [Outcome(recipient, "DATA", final) for recipient in unanswered]
                    unanswered = []
            client.quit()
    except Away as error:
        return outcomes, [group for group in (unanswered, waiting) if group], str(error)
    return outcomes, [], ""


# --------------------------------------------------------------------------- the drop directory


def drop_directory(settings: Settings) -> str:
    return settings.get("DROP_DIR") or DEFAULTS["SMTP2CF_SENDMAIL_DROP_DIR"]


def drop(
    settings: Settings,
    envelope: Envelope,
    recipients: list[str],
    message: Message,
    refused: dict[str, Reply],
) -> str:
    """Leave the message where the bridge finds it, and return its path; raises Away where that fails.

    refused: whom the bridge is to tell the sender of; it sends them nothing. A file is a line of JSON and
    then the message. It is written under a name the bridge does not look at, fsynced and renamed, so that it
    is there whole or not at all.
    """
    directory = drop_directory(settings)
    name = drop_name()
    try:
        _write_drop(directory, name, drop_head(envelope, recipients, message.size, refused), message)
    except OSError as error:
        raise Away(f"{directory}: {why(error)}") from error
    return os.path.join(directory, f"{name}.drop")


def drop_head(envelope: Envelope, recipients: list[str], size: int, refused: dict[str, Reply]) -> bytes:
    """The first line of a dropped file."""
    import json

    notify: Any = envelope.notify or None
    if envelope.notify_of:
        notify = {
            recipient: envelope.notify_of.get(recipient, envelope.notify or None) for recipient in recipients
        }
    head = {
        "version": DROP_VERSION,
        "size": size,
        "reverse_path": envelope.reverse_path,
        "forward_paths": recipients,
        "body": "8BITMIME" if envelope.eight_bit else "7BIT",
        "smtputf8": envelope.smtputf8,
        "ret": envelope.ret or None,
        "envid": envelope.envid or None,
        "notify": notify,
    }
    if envelope.orcpt_of:
        head["orcpt"] = envelope.orcpt_of
    if refused:
        head["refused"] = {
            recipient: "{} {} {}".format(*reply.parted()) for recipient, reply in refused.items()
        }
    return json.dumps(head).encode() + b"\n"


def _write_drop(
    directory: str, name: str, head: bytes, message: Message, like: os.stat_result | None = None
) -> None:
    """like: a file that this one takes the place of, whose age and owner it keeps."""
    part, whole = os.path.join(directory, f".{drop_name()}.part"), os.path.join(directory, f"{name}.drop")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
    try:
        if like is not None and os.geteuid() == 0:
            os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, 0o640)  # whatever the caller's umask: the bridge reads it as its group
        with open(descriptor, "wb", closefd=False) as file:
            file.write(head)
            file.writelines(message.blocks())
        if like is not None:
            os.utime(descriptor, ns=(like.st_mtime_ns, like.st_mtime_ns))
        os.fsync(descriptor)
        os.rename(part, whole)
        _sync_rename(directory, descriptor)
    except BaseException:
        try:
            os.unlink(part)
        except FileNotFoundError:
            pass  # it has its final name already
        raise
    finally:
        os.close(descriptor)


def _sync_rename(directory: str, descriptor: int) -> None:
    """Make the rename durable: through the directory where we may open it, else through the file,
    which takes the rename along on journaling file systems."""
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        os.fsync(descriptor)
        return
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def drop_name() -> str:
    """16 letters and digits, rising with time, that nobody else guesses."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    number = int(time.time() * 1_000_000) * 36**6 + int.from_bytes(os.urandom(8), "big") % 36**6
    letters = ""
    for _ in range(16):
        number, digit = divmod(number, 36)
        letters = digits[digit] + letters
    return letters


class Dropped:
    """A dropped message that this user may see: one descriptor, looked at once, and used for everything.

    Whoever owns the file may put another one, or a link, in its place at any moment. Raises OSError,
    ValueError, KeyError, TypeError, AttributeError for what is no dropped message.
    """

    def __init__(self, directory: str, name: str) -> None:
        import json

        self.directory = directory
        self.path = os.path.join(directory, name)
        self.name = name[: -len(".drop")]
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        self._file = open(descriptor, "rb")  # noqa: SIM115 - close() ends it
        self.found = os.fstat(descriptor)
        try:
            line = self._file.readline(MAX_HEADER) if stat.S_ISREG(self.found.st_mode) else b""
            self._read_head(json.loads(line))
        except BaseException:
            self._file.close()
            raise
        self._now = (self.envelope.forward_paths, self.refused)
        self._offset = len(line)
        self.whole = self.found.st_nlink == 1 and self.size == self.found.st_size - len(line)

    def _read_head(self, head: dict[str, Any]) -> None:
        self.size = int(head["size"])
        self.envelope = Envelope(str(head["reverse_path"]), [str(path) for path in head["forward_paths"]])
        self.envelope.eight_bit, self.envelope.smtputf8 = head["body"] == "8BITMIME", bool(head["smtputf8"])
        self.envelope.ret, self.envelope.envid = str(head["ret"] or ""), str(head["envid"] or "")
        notify = head["notify"] or ""
        self.envelope.notify_of = (
            {str(k): str(v) for k, v in notify.items() if v} if isinstance(notify, dict) else {}
        )
        self.envelope.notify = "" if isinstance(notify, dict) else str(notify)
        self.envelope.orcpt_of = {str(k): str(v) for k, v in dict(head.get("orcpt") or {}).items()}
        refused = dict(head.get("refused") or {}).items()
        self.refused = {str(who): Reply(int(text[:3]), [text[4:]]) for who, text in refused}

    def message(self) -> Message:
        message = Message()
        self._file.seek(self._offset)
        left = self.size
        while left:
            block = self._file.read(min(BLOCK, left))
            if not block:
                raise OSError(f"{self.path} became shorter")
            message.write(block)
            left -= len(block)
        return message

    def claim(self) -> bool:
        """Nobody else's sendmail -q works on it from here on; False where one does, or it is gone."""
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            now = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (self.found.st_dev, self.found.st_ino)

    def keep(self, left: list[str], refused: dict[str, Reply], message: Message) -> None:
        """Have it hold only who is left, and of whom the sender has yet to be told; remove it for none."""
        if (left, refused) == self._now:
            return
        self._now = (left, refused)
        if left or refused:
            head = drop_head(self.envelope, left, message.size, refused)
            _write_drop(self.directory, self.name, head, message, self.found)
        else:
            os.unlink(self.path)

    def set_aside(self, refused: dict[str, Reply], message: Message) -> None:
        """Put those who were refused, with nobody to tell, where the bridge puts its own."""
        aside = os.path.join(os.path.dirname(os.path.abspath(self.directory)), "refused")
        if not os.path.isdir(aside):
            os.mkdir(aside, 0o700)
        first = next(iter(refused.values()))
        name = f"{self.name}.{first.code}-{first.status or '5.0.0'}"
        _write_drop(
            aside, name, drop_head(self.envelope, list(refused), message.size, {}), message, self.found
        )
        complain(f"{first}; kept as {os.path.join(aside, name)}.drop")

    def close(self) -> None:
        self._file.close()


def dropped(settings: Settings) -> Iterator[Dropped]:
    """The dropped messages, oldest first; none for users who may not list the directory."""
    directory = drop_directory(settings)
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return  # there is none, or it is none of this user's business
    for name in names:
        if name.startswith(".") or not name.endswith(".drop"):
            continue
        try:
            one = Dropped(directory, name)
        except FileNotFoundError:
            continue  # the bridge has just taken it
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            complain(f"{name}: no dropped message: {why(error)}")
            continue
        if not one.whole:
            one.close()
            complain(f"{name}: no dropped message: not whole, or it has another name elsewhere")
            continue
        try:
            yield one
        finally:
            one.close()


# --------------------------------------------------------------------------- without a bridge


def relay_directly(
    envelope: Envelope,
    message: Message,
    written_at: float,
    settle: Callable[[list[Outcome], bool], dict[str, Reply]],
) -> bool:
    """Run the relay in this process, once, with the account's settings (SMTP2CF_SENDMAIL_DIRECT).

    settle: is told the outcomes, and whether the mail has expired; returns those of whom the sender is to be
    told. Returns whether the sender was.
    """
    try:
        from smtp2cf.serve import relay_once
        from smtp2cf.settings.fields import SettingsError
    except ImportError as error:
        problem = f"{sys.executable} has no smtp2cf to relay with ({error})"
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


def rcpt_parameters(envelope: Envelope, recipient: str) -> str:
    notify = envelope.notify_of.get(recipient, envelope.notify)
    orcpt = envelope.orcpt_of.get(recipient, "")
    return " ".join([f"NOTIFY={notify}"] * bool(notify) + [f"ORCPT={orcpt}"] * bool(orcpt))


# --------------------------------------------------------------------------- sending


NO_ADDRESS = Reply(553, ["5.1.3 not an address"])
NOT_SENT_TO = "not sent to <"
"""How the bridge begins to name, in a reply of success, who did not get the message (relay/settle.py)."""


def deliver(options: Options, settings: Settings) -> int:
    """Standard input to whoever takes it; returns the exit code."""
    submission = Submission(options, settings)
    unusable = {printable(source)[:LONGEST_ADDRESS]: NO_ADDRESS for source in submission.unusable}
    try:
        code = hand_over(settings, submission.envelope, submission.message, unusable, options.verbose)
    finally:
        submission.message.close()
    for source in submission.unusable[:NAMED_ON_STDERR]:
        complain(f"no address: {source}")
    return code


def hand_over(
    settings: Settings, envelope: Envelope, message: Message, unusable: dict[str, Reply], verbose: bool
) -> int:
    """Send or keep, name on standard error who gets nothing, and return the exit code.

    One recipient's refusal never costs the others their mail, and never makes the caller send it to them
    again: as soon as somebody is served the sender learns of the others by DSN. unusable: no addresses.
    """
    handing = Handing(settings, envelope, message, unusable, verbose)
    if settings.yes("DIRECT"):
        handing.told = relay_directly(envelope, message, time.time(), handing.settle_directly)
    else:
        handing.settle(*send_to_bridge(settings, envelope, message, verbose))
    handing.report()
    return handing.exit_code()


class Handing:
    """One message on its way: who got it, who is kept, and of whom the sender is told."""

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
        """The bridge has answered, or is away for some."""
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
        """Cloudflare has answered; returns those of whom the relay is to tell the sender."""
        self._sort(outcomes)
        if not self.served:
            return {}
        if self.deferred:
            self._keep([[one.recipient for one in self.deferred]], {}, str(self.deferred[0].reply))
        given_up = [] if self._kept else self.deferred
        self._not_kept = ""  # told is as good: whoever sends it again sends it to everybody
        self.refused, self.deferred = [*self.refused, *given_up], []
        return {**{outcome.recipient: outcome.reply for outcome in self.refused}, **self._unusable}

    def _sort(self, outcomes: list[Outcome]) -> None:
        self.served = [outcome for outcome in outcomes if outcome.exit_code == OK]
        self.deferred = [outcome for outcome in outcomes if outcome.exit_code == TEMPFAIL]
        self.refused = [outcome for outcome in outcomes if outcome.exit_code not in (OK, TEMPFAIL)]

    def _keep(self, groups: list[list[str]], untold: dict[str, Reply], reason: str) -> None:
        """Leave the message for groups of recipients, all of them or none, and whom to tell the sender of."""
        paths: list[str] = []
        try:
            for group in groups:
                paths.append(
                    drop(self._settings, self._envelope, group, self._message, {} if paths else untold)
                )
        except Away as error:
            self._not_kept = f"{reason}; not kept either: {error}"
            for path in paths:
                try:
                    os.unlink(path)
                except OSError:
                    pass  # the bridge has it already
            return
        self._kept = True
        self.deferred = []
        if self._verbose:
            complain(f"{reason}; kept for {sum(map(len, groups))} recipients")

    def _leave_report(self, untold: dict[str, Reply]) -> None:
        """Have the bridge tell the sender; standard error alone does where there is no drop directory."""
        try:
            drop(self._settings, self._envelope, [], self._message, untold)
        except Away as error:
            if self._verbose:
                complain(f"the sender is not told: {error}")

    def report(self) -> None:
        """Say on standard error who gets nothing."""
        if self._not_kept:
            complain(self._not_kept)
        report_refused(self.deferred + self.refused, len(self._envelope.forward_paths))
        for reply in dict.fromkeys(outcome.reply for outcome in self.served):
            text = str(reply)
            if NOT_SENT_TO in text:  # the bridge tells the sender
                complain(text[text.index(NOT_SENT_TO) :].partition("; kept for another attempt")[0])
        if not self.told:
            complain("and the sender could not be told of it")

    def exit_code(self) -> int:
        if self._not_kept:
            return TEMPFAIL
        if self.served or self._kept:
            return OK
        return TEMPFAIL if self.deferred else self.refused[0].exit_code


def report_refused(outcomes: list[Outcome], recipients: int) -> None:
    """One line per reply; it names the recipients unless it is for all of them."""
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


def verify(options: Options, settings: Settings) -> int:
    """-bv: say for each recipient whether the bridge takes mail for it."""
    aliases = Aliases(settings.get("ALIASES"))
    mailboxes = [box for text in options.recipients for box in parse_argument(text)]
    expanded = [target for box in mailboxes for target in (aliases.expand(box) if box.address else [box])]
    good = [box.qualified(settings) for box in expanded if box.address]
    if not expanded:
        raise Failure(USAGE, "-bv needs recipients on the command line")
    sender = sender_of(options, settings)
    codes = [NO_USER for box in expanded if not box.address]
    for box in expanded:
        if not box.address:
            write_stdout(f"{printable(box.source)}... no address\n")
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
            raise Failure(TEMPFAIL, f"nobody to ask: {error}") from error
    return max(codes)


# --------------------------------------------------------------------------- -bs


def smtp_on_stdio(options: Options, settings: Settings) -> int:
    """-bs: the bridge's own session on standard input and output, or ours where it is away."""
    if not settings.yes("DIRECT"):
        try:
            with Client(settings, verbose=False) as client:
                if settings.yes("TLS") or settings.get("USER"):
                    client.start()
                last = len(client.greeting.lines) - 1
                for number, line in enumerate(client.greeting.lines):
                    write_stdout(f"{client.greeting.code}{' ' if number == last else '-'}{line}\r\n")
                pump(client.sock, client.unread())
                return OK
        except Away as error:
            if not os.path.isdir(drop_directory(settings)):
                text = f"421 4.3.2 {settings.bridge} is away, and there is no drop directory"
                write_stdout(f"{printable(text)}\r\n")
                raise Failure(TEMPFAIL, str(error)) from error
    return OwnSession(options, settings).run()


def pump(sock: Any, to_caller: bytes) -> None:
    """Carry octets between standard input and output and a socket until the socket's side ends."""
    import select

    to_bridge, caller_open, bridge_open = b"", True, True
    encrypted = hasattr(sock, "pending")
    sock.settimeout(0)
    while bridge_open or to_caller:
        readers = [0] if caller_open and not to_bridge else []
        writers = [1] if to_caller else []
        if bridge_open:
            readers += [] if to_caller else [sock.fileno()]
            writers += [sock.fileno()] if to_bridge else []
        at_once = encrypted and bridge_open and not to_caller and sock.pending()
        # TLS has no half of a connection to close: a caller that left without QUIT gets so long.
        patience = REPLY_TIMEOUT if encrypted and not caller_open else None
        readable, writable, _ = select.select(readers, writers, [], 0 if at_once else patience)
        if not (readable or writable or at_once):
            return
        if 1 in writable:
            # A pipe that select() calls writable takes PIPE_BUF octets without blocking.
            to_caller = to_caller[os.write(1, to_caller[:4096]) :]
        if 0 in readable:
            to_bridge = os.read(0, BLOCK)
            caller_open = bool(to_bridge)
            if not caller_open and not encrypted and bridge_open:
                sock.shutdown(_socket.SHUT_WR)
        try:
            if bridge_open and sock.fileno() in writable:
                to_bridge = to_bridge[sock.send(to_bridge) :]
            if bridge_open and (sock.fileno() in readable or at_once):
                to_caller = sock.recv(BLOCK)
                bridge_open = bool(to_caller)
        except BlockingIOError:
            continue
        except OSError as error:
            if type(error).__name__ not in ("SSLWantReadError", "SSLWantWriteError"):
                bridge_open = False


class OwnSession:
    """A small SMTP server on standard input and output, for when there is no bridge to speak to."""

    def __init__(self, options: Options, settings: Settings) -> None:
        self._options = options
        self._settings = settings
        self._buffer = b""
        self._envelope: Envelope | None = None
        self._commands: dict[str, Callable[[str], str]] = {
            "HELO": self._helo,
            "EHLO": self._ehlo,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": lambda _: "250 2.0.0 OK",
            "VRFY": lambda _: "252 2.5.2 send some mail, I'll try",
        }

    def run(self) -> int:
        self._say(f"220 {name_of_host()} ESMTP smtp2cf-sendmail")
        while True:
            line = self._line()
            if line is None:
                return OK
            verb, _, argument = line.partition(" ")
            if verb.upper() == "QUIT":
                self._say("221 2.0.0 goodbye")
                return OK
            command = self._commands.get(verb.upper())
            self._say(command(argument.strip()) if command else "500 5.5.2 unknown command")

    def _say(self, reply: str) -> None:
        write_stdout("".join(f"{printable(line)}\r\n" for line in reply.split("\r\n")))

    def _line(self) -> str | None:
        """A command without its line end, None at the end of the input."""
        while b"\n" not in self._buffer:
            block = os.read(0, BLOCK)
            if not block or len(self._buffer) > BLOCK:
                return None
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r").decode("utf-8", "surrogateescape")

    def _helo(self, _: str) -> str:
        self._envelope = None
        return f"250 {name_of_host()}"

    def _ehlo(self, _: str) -> str:
        self._envelope = None
        offered = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
        return "".join(f"250-{line}\r\n" for line in (name_of_host(), *offered)) + "250 DSN"

    def _mail(self, argument: str) -> str:
        if self._envelope is not None:
            return "503 5.5.1 one MAIL at a time"
        path, parameters, wrong = smtp_path(argument, "FROM:", MAIL_PARAMETERS)
        if wrong:
            return wrong
        self._envelope = Envelope(path, [])
        self._envelope.eight_bit = parameters.get("BODY", "").upper() == "8BITMIME"
        self._envelope.smtputf8 = "SMTPUTF8" in parameters
        self._envelope.ret = parameters.get("RET", "").upper()
        self._envelope.envid = parameters.get("ENVID", "")
        return "250 2.1.0 OK"

    def _rcpt(self, argument: str) -> str:
        if self._envelope is None:
            return "503 5.5.1 MAIL first"
        path, parameters, wrong = smtp_path(argument, "TO:", RCPT_PARAMETERS)
        if wrong:
            return wrong
        if not path:
            return "501 5.1.3 syntax: RCPT TO:<address>"
        self._envelope.forward_paths.append(path)
        if "NOTIFY" in parameters:
            self._envelope.notify_of[path] = parameters["NOTIFY"].upper()
        if "ORCPT" in parameters:
            self._envelope.orcpt_of[path] = parameters["ORCPT"]
        return "250 2.1.5 OK"

    def _rset(self, _: str) -> str:
        self._envelope = None
        return "250 2.0.0 OK"

    def _data(self, _: str) -> str:
        if self._envelope is None or not self._envelope.forward_paths:
            return "503 5.5.1 RCPT first"
        self._say("354 end with <CRLF>.<CRLF>")
        message = Message()
        for block in self._text():
            message.write(block)  # as it came: line ends are the bridge's to mend, as in its own session
        envelope, self._envelope = self._envelope, None
        try:
            if self._settings.yes("DIRECT"):
                return self._relay_directly(envelope, message)
            drop(self._settings, envelope, envelope.forward_paths, message, {})
        except Away as error:
            return f"451 4.3.0 {error}"
        finally:
            message.close()
        return "250 2.0.0 kept until the bridge is back"

    def _relay_directly(self, envelope: Envelope, message: Message) -> str:
        """One reply for all: success when anybody was served, as the bridge has it."""
        handing = Handing(self._settings, envelope, message, {}, self._options.verbose)
        handing.told = relay_directly(envelope, message, time.time(), handing.settle_directly)
        handing.report()
        return str((handing.served or handing.deferred or handing.refused)[0].reply)

    def _text(self) -> Iterator[bytes]:
        """The message up to CRLF.CRLF, dots unstuffed; what was pipelined behind it stays."""
        end = b"\r\n.\r\n"
        text, unseen = b"\r\n" + self._buffer, 2
        while end not in text:
            held = next(size for size in (4, 3, 2, 1, 0) if text.endswith(end[:size]))
            ready, text = text[: len(text) - held], text[len(text) - held :]
            if ready:
                yield ready.replace(b"\r\n.", b"\r\n")[unseen:]
                unseen = 0
            block = os.read(0, BLOCK)
            if not block:
                raise Failure(BAD_MESSAGE, "the input ended inside DATA")
            text += block
        ready, _, self._buffer = text.partition(end)
        yield (ready + b"\r\n").replace(b"\r\n.", b"\r\n")[unseen:]


def is_xtext(text: str) -> bool:
    """RFC 3461 §4."""
    place = 0
    while place < len(text):
        if text[place] == "+":
            if len(text[place + 1 : place + 3].strip("0123456789ABCDEF")) or place + 3 > len(text):
                return False
            place += 2
        elif not "!" <= text[place] <= "~" or text[place] == "=":
            return False
        place += 1
    return bool(text)


def _is_notify(text: str) -> bool:
    conditions = text.lower().split(",")
    return text.upper() == "NEVER" or (
        len(conditions) <= 3 and all(condition in NOTIFY_CONDITIONS for condition in conditions)
    )


def _is_orcpt(text: str) -> bool:
    kind, semicolon, address = text.partition(";")
    good = semicolon and kind.isascii() and kind.replace("-", "x").isalnum() and len(text) <= 500
    if not good or not address:
        return False
    return is_xtext(address) or (
        kind.lower() == "utf-8" and is_text(address) and not UNSEEN.intersection(address)
    )


# What the bridge takes (smtp2cf/smtpd/parameters.py), for it gets to see them later.
MAIL_PARAMETERS: dict[str, Callable[[str], bool]] = {
    "SIZE": lambda text: text.isascii() and text.isdigit() and len(text) <= 20,
    "BODY": lambda text: text.upper() in ("7BIT", "8BITMIME"),
    "SMTPUTF8": lambda text: not text,
    "RET": lambda text: text.upper() in ("FULL", "HDRS"),
    "ENVID": lambda text: len(text) <= LONGEST_ENVID and is_xtext(text),
}
RCPT_PARAMETERS: dict[str, Callable[[str], bool]] = {"NOTIFY": _is_notify, "ORCPT": _is_orcpt}


def smtp_path(
    argument: str, keyword: str, known: dict[str, Callable[[str], bool]]
) -> tuple[str, dict[str, str], str]:
    """`FROM:<path> KEY=VALUE ...` as the path and the parameters, or the reply to what is neither."""
    usage = f"syntax: {'MAIL' if keyword == 'FROM:' else 'RCPT'} {keyword}<address>"
    no_path = f"501 {'5.1.7' if keyword == 'FROM:' else '5.1.3'} {usage}"
    if argument[: len(keyword)].upper() != keyword:
        return "", {}, no_path
    rest = argument[len(keyword) :].strip()
    end = 0
    while end < len(rest) and rest[end] != ">" and (rest[end] != " " or rest[0] == "<"):
        end = _end_of_quoted(rest, end) if rest[end] == '"' else end + 1
    start = max(0, rest.rfind("<", 0, end))  # <Name <a@b>> and <<a@b>> mean the inner one
    closing = ">" * rest.count("<", 0, end)
    mailboxes = parse_addresses(rest[start : end + 1], blanks_part=False)
    behind = rest[end + len(closing) :]
    address = mailboxes[0].address if len(mailboxes) == 1 else None
    local = address is not None and mailboxes[0].insert_at is not None
    if local and keyword == "TO:" and str(address).lower() == "postmaster":
        local = False  # RFC 5321 §4.5.1
    if address is None or local or not rest.startswith(closing, end) or behind[:1] not in ("", " "):
        return "", {}, no_path
    parameters: dict[str, str] = {}
    for word in behind.split():
        key, _, value = word.partition("=")
        key = key.upper()
        if key not in known:
            return "", {}, f"555 5.5.4 {key}: unknown parameter"
        if key in parameters or not known[key](value):
            return "", {}, f"501 5.5.4 {key}: not a value it may have"
        parameters[key] = value
    return address, parameters, ""


# --------------------------------------------------------------------------- mailq and -q


STATUS_MARKS = {"active": "*", "held": "!"}


def bridge_queue(settings: Settings) -> Iterator[tuple[str, int, float, str, list[tuple[str, str]]]]:
    """What the bridge's spool holds, one message at a time, as QueueReport.add wants it; nothing
    where it has no spool."""
    import json

    sock = connect(settings.admin, "SMTP2CF_ADMIN_LISTEN")
    try:
        sock.settimeout(REPLY_TIMEOUT)
        host = settings.admin if not settings.admin.startswith("unix:") else "localhost"
        sock.sendall(f"GET /queue HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        lines = _lines(sock)
        status = next(lines, b"").split()
        if len(status) < 2 or not status[0].startswith(b"HTTP/"):
            raise Away(f"{settings.admin} speaks no HTTP")
        if status[1] == b"404":
            return
        if status[1] == b"421":
            raise Away(f"the bridge is not known by that name: {settings.admin} (its SMTP2CF_ADMIN_HOSTS)")
        if status[1] != b"200":
            raise Away(f"{settings.admin}: HTTP {b' '.join(status[1:]).decode('ascii', 'replace')}")
        while next(lines, b"").strip():
            pass  # the header of the answer
        for line in lines:
            if line.strip():
                item = json.loads(line)
                queue_id = item["queue_id"] + STATUS_MARKS.get(item["status"], "")
                recipients = [(one["address"], one.get("reply") or "") for one in item["recipients"]]
                yield queue_id, item["size"], item["received_at"], item["sender"], recipients
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Away(f"{settings.admin}: {why(error)}") from error
    finally:
        sock.close()


def _lines(sock: _socket.socket) -> Iterator[bytes]:
    received = b""
    while True:
        block = sock.recv(BLOCK)
        *lines, received = (received + block).split(b"\n")
        yield from lines
        if not block:
            yield received
            return


class QueueReport:
    """Postfix's mailq, in its layout for long queue ids."""

    def __init__(self) -> None:
        self.messages = 0
        self.octets = 0

    def add(
        self, queue_id: str, size: int, arrived: float, sender: str, recipients: Iterable[tuple[str, str]]
    ) -> None:
        if not self.messages:
            heads = ("----Queue ID-----", "--Size--", "---Arrival Time----", "--Sender/Recipient------")
            write_stdout("{:<17} {:>8} {:<19} {}\n".format(*heads))
        local = time.localtime(arrived)
        clock = f"{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02}"
        date = f"{DAYS[local.tm_wday]} {MONTHS[local.tm_mon - 1]} {local.tm_mday:2} {clock}"
        lines = [f"{queue_id:<17} {size:8} {date:<19} {printable(sender) or 'MAILER-DAEMON'}"]
        last = ""
        for address, reply in recipients:
            if reply and reply != last:
                lines.append(f"({printable(reply)})".rjust(78))
            last = reply
            lines.append(f"{'':<17} {'':>8} {'':<19} {printable(address)}")
        write_stdout("\n".join(lines) + "\n\n")
        self.messages += 1
        self.octets += size

    def end(self) -> None:
        many = "" if self.messages == 1 else "s"
        write_stdout(f"-- {self.octets // 1024} Kbytes in {self.messages} Request{many}.\n")


def mailq(_: Options, settings: Settings) -> int:
    """-bp: the bridge's queue, and the dropped mail this user may see."""
    report = QueueReport()
    code = OK
    try:
        for item in bridge_queue(settings) if settings.admin else ():
            report.add(*item)
    except Away as error:
        complain(f"queue report unavailable, the bridge is away: {error}")
        code = UNAVAILABLE
    for one in dropped(settings):
        sender = one.envelope.reverse_path or "MAILER-DAEMON"
        reason = f"dropped by uid {one.found.st_uid}, the bridge has not taken it yet"
        recipients = [(address, reason) for address in one.envelope.forward_paths]
        recipients += [
            (address, f"{reply}, the sender is yet to be told") for address, reply in one.refused.items()
        ]
        report.add(one.name, one.size, one.found.st_mtime, sender, recipients)
    if report.messages:
        report.end()
    elif code == OK:
        write_stdout("Mail queue is empty\n")
    return code


def run_queue(options: Options, settings: Settings) -> int:
    """-q: a bridge that runs does this by itself; without one, relay what was dropped, once."""
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
            complain(f"{one.name}: {why(error)}; it may go out once more")
            code = OS_ERROR
        finally:
            message.close()
    return code


def run_dropped(one: Dropped, message: Message) -> None:
    """Relay one dropped message. Whoever is served is taken out of the file before anything else is done."""
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
        complain(f"{one.name}: the sender could not be told")


# --------------------------------------------------------------------------- main


def write_stdout(text: str) -> None:
    octets = text.encode("utf-8", "backslashreplace")
    while octets:
        octets = octets[os.write(1, octets) :]


def print_help(_: Options, __: Settings) -> int:
    write_stdout(HELP)
    return OK


ACTIONS = {
    "deliver": deliver,
    "verify": verify,
    "smtp": smtp_on_stdio,
    "mailq": mailq,
    "newaliases": lambda _, __: OK,  # the aliases file is read as it is
    "queue": run_queue,
    "help": print_help,
}


def open_standard_descriptors() -> None:
    """Fill 0, 1 and 2 where the caller closed them, or the socket would become standard error."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return


def main() -> int:
    """Run one call of sendmail, mailq or newaliases; returns its exit code."""
    open_standard_descriptors()
    try:
        options = parse_arguments(sys.argv)
        settings = Settings(dict(os.environ))
        return ACTIONS[options.mode](options, settings)
    except Failure as failure:
        complain(str(failure))
        return failure.code
    except BrokenPipeError:
        return OS_ERROR  # whoever read standard output has gone
    except (OSError, MemoryError) as error:
        complain(why(error))
        return OS_ERROR
    except KeyboardInterrupt:
        return 128 + 2
    except Exception as error:  # noqa: BLE001 - a traceback in a cron job's log helps nobody
        complain(f"internal error: {type(error).__name__}: {error}")
        return SOFTWARE


if __name__ == "__main__":
    sys.exit(main())
