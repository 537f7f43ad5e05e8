"""Standard input and the command line, made into a message submission (RFC 6409 §8)."""

from __future__ import annotations

import os
import time

from .addresses import Mailbox, parse_addresses, parse_argument
from .aliases import Aliases
from .envelope import Envelope
from .exit_codes import USAGE, Failure
from .header import (
    HIDDEN_FIELDS,
    RECIPIENT_FIELDS,
    RESENT_RECIPIENT_FIELDS,
    Input,
    is_utf8,
    named_field,
    phrase,
    qualify,
    read_header,
    rfc5322_date,
)
from .host import full_name, user_name
from .message import Message, blocks_of, unix_lines, until_lone_dot
from .options import Options
from .output import NAMED_ON_STDERR, one_line
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Submission:
    """Envelope and message. unusable: recipients that are not addresses, as the caller wrote them."""

    def __init__(self, options: Options, settings: Settings) -> None:
        self._options = options
        self._settings = settings
        self.message = Message()
        self.unusable: list[str] = []
        sender = sender_of(options, settings)
        recipients = [box for text in options.recipients for box in self._usable(parse_argument(text))]
        if not recipients and not options.recipients_from_header:
            raise self._no_recipients("no recipients: list them on the command line, or use -t")
        blocks = unix_lines(blocks_of(0))
        text = Input(blocks if options.dot_is_text else until_lone_dot(blocks))
        fields = [named_field(line) for line in read_header(text)]
        if options.recipients_from_header:
            recipients += self._recipients_from(fields)
            fields = [field for field in fields if field[0] not in HIDDEN_FIELDS]
        self.envelope = Envelope(sender, self._forward_paths(recipients))
        if not self.envelope.forward_paths:
            raise self._no_recipients("no recipients on the command line or in the header")
        self._write(fields, text)

    def _no_recipients(self, text: str) -> Failure:
        if self.unusable:
            return Failure(USAGE, f"no valid recipient: {', '.join(self.unusable[:NAMED_ON_STDERR])}")
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
        """The recipients after aliases, with domains, each once."""
        aliases = Aliases(self._settings.get("ALIASES"))
        forward_paths: dict[str, str] = {}
        for mailbox in mailboxes:
            for target in aliases.expand(mailbox):
                if not target.address:
                    self.unusable.append(target.source)
                    continue
                address = self._settings.qualified(target)
                local, _, domain = address.rpartition("@")
                forward_paths.setdefault(f"{local}@{domain.lower()}", address)
        return list(forward_paths.values())

    def _write(self, fields: list[tuple[str, str]], text: Input) -> None:
        lines = [qualify(name, line, self._settings) for name, line in fields]
        lines += self._missing({name for name, _ in fields})
        header = "".join(lines).replace("\n", "\r\n").encode("utf-8", "surrogateescape")
        self.message.write(header + b"\r\n")
        self.message.write_lines(text.rest())
        envelope, options = self.envelope, self._options
        envelope.eight_bit = self.message.eight_bit
        envelope.smtputf8 = not envelope.ascii or (not header.isascii() and is_utf8(header))
        envelope.ret, envelope.envid, envelope.notify = options.ret, options.envid, options.notify

    def _missing(self, present: set[str]) -> Iterator[str]:
        """From, Date and Message-ID, unless they are there (RFC 6409 §8)."""
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
    """The reverse path: the argument of -f, else the user at our domain."""
    if options.sender is None:
        return f"{user_name()}@{settings.domain}"
    mailboxes = parse_argument(options.sender)
    if not mailboxes and not options.sender.strip():
        return ""
    if len(mailboxes) != 1 or mailboxes[0].address is None:
        raise Failure(USAGE, f"invalid sender address: {options.sender}")
    return settings.qualified(mailboxes[0]) if mailboxes[0].address else ""
