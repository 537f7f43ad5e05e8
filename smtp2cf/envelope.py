"""Envelope: who a message is from and for, as SMTP said it (RFC 5321 §2.3.1, RFC 3461).

The envelope is independent of the header: Bcc works because nobody looks at To. The null
reverse-path is the empty string everywhere. Addresses are kept as the client wrote them, and compared as what
they are: see `sent_form` and `address_key`.

Knows nothing of sockets, of Cloudflare or of the relay.
"""

import functools
import ipaddress
import re
import secrets
import string
import time
import unicodedata
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import idna

from smtp2cf.reply import RefusedError, Reply

Outcomes = dict[str, Reply]
"""What became of each recipient, by forward path."""

_DIGITS = string.digits + string.ascii_uppercase
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_process = ""
_last_tick = 0


def draw_process() -> None:
    """Draw what the queue ids of this process end with. Done once; a fork has to do it again."""
    global _process
    _process = "".join(secrets.choice(_DIGITS) for _ in range(3))


draw_process()


def new_queue_id() -> str:
    """A queue id: 13 letters and digits, rising with time, unique over processes and restarts.

    Ten digits in base 36 of a microsecond clock that never shows the same time twice, then three
    that were drawn when the process started.
    """
    global _last_tick
    _last_tick = rest = max(time.time_ns() // 1000, _last_tick + 1)
    rest, fifth = divmod(rest, 1296)
    rest, fourth = divmod(rest, 1296)
    rest, third = divmod(rest, 1296)
    first, second = divmod(rest, 1296)
    return _PAIRS[first] + _PAIRS[second] + _PAIRS[third] + _PAIRS[fourth] + _PAIRS[fifth] + _process


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One transaction's envelope.

    reverse_path: the sender's address, "" for the null one. forward_paths: the recipients in the
    order of RCPT, duplicates kept. body, smtputf8, ret, envid: parameters of MAIL as given
    (RFC 6152, 6531, 3461). notify, orcpt: parameters of RCPT by forward path, absent where none was
    given. auth_user: who authenticated, "" for nobody. client: the peer's address, "" where there is
    none. helo: the name it gave. listener: where it came in, "" where that has no name of its own.
    received_at: seconds since the epoch. per_recipient: the client takes one reply for each recipient (LMTP,
    PRDR).

    reverse_path, forward_paths and what is known of each are what goes out. What the client said is kept
    where that is something else: given_reverse_path; given_forward_paths, by forward path: for whom the mail
    goes there. dsn_for: the queue id of the mail that this one, a DSN of ours, is about.
    """

    reverse_path: str
    forward_paths: tuple[str, ...]
    body: Literal["7BIT", "8BITMIME"] = "7BIT"
    smtputf8: bool = False
    ret: Literal["FULL", "HDRS"] | None = None
    envid: str | None = None
    notify: Mapping[str, str] = field(default_factory=dict)
    orcpt: Mapping[str, str] = field(default_factory=dict)
    auth_user: str = ""
    client: str = ""
    helo: str = ""
    listener: str = ""
    per_recipient: bool = False
    received_at: float = field(default_factory=time.time)
    queue_id: str = field(default_factory=new_queue_id)
    given_reverse_path: str | None = None
    given_forward_paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dsn_for: str = ""

    @property
    def is_rewritten(self) -> bool:
        """Not all that goes out is what the client said."""
        return self.given_reverse_path is not None or bool(self.given_forward_paths)

    @property
    def sender_as_given(self) -> str:
        """The reverse path as the client said it."""
        return self.reverse_path if self.given_reverse_path is None else self.given_reverse_path

    @property
    def recipients_as_given(self) -> tuple[str, ...]:
        """The client's recipients; where they were rewritten, each once."""
        if not self.given_forward_paths:
            return self.forward_paths
        return tuple(dict.fromkeys(who for path in self.forward_paths for who in self.given_for(path)))

    def given_for(self, forward_path: str) -> tuple[str, ...]:
        """Whom the client named: for them the mail goes to this forward path."""
        return self.given_forward_paths.get(forward_path, (forward_path,))


class Verdict(NamedTuple):
    """The answer to one message: the one reply for SMTP, and each recipient's own."""

    reply: Reply
    outcomes: Outcomes


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
"""A network that clients are in."""
Accept = Callable[[Envelope, bytes], Awaitable[Verdict]]
"""Takes a message, without dot-stuffing, and returns the answer to it."""
Answered = Callable[[Envelope, bool], None]
"""(envelope, whether its client got the answer): told once for every message that was accepted, and with
False also when a client hangs up while its message is being relayed."""
Authenticate = Callable[[str, str, str], Awaitable[Reply | None]]
"""(client address, "" for none; user name; password) → None if that is right, else the reply: 535 for wrong,
454 for not now, 421 for not now and goodbye."""
SenderRefusal = Callable[[str, str], Reply | None]
"""(user name, "" for nobody; reverse path or an address of the header) → None if this user may send so, else
the reply."""


def own_outcomes(verdict: Verdict, envelope: Envelope) -> Outcomes:
    """Each recipient's own outcome, without the queue id that stands before what a client is shown."""
    replies = {who: verdict.outcomes.get(who, verdict.reply) for who in envelope.forward_paths}
    shown = f"{envelope.queue_id} "
    return {who: reply._replace(text=reply.text.removeprefix(shown)) for who, reply in replies.items()}


class Judged(NamedTuple):
    """What the rules for new mail made of mail that came without a session.

    envelopes: the transactions to hand over. given: the addresses they hold, by how they were written.
    refused: those who are refused for good, as written; report: an envelope with them, whose reverse path is
    "" where the sender is no address.
    """

    envelopes: list[Envelope]
    given: Mapping[str, str]
    refused: Outcomes
    report: Envelope

    def about(self, recipients: Collection[str]) -> Envelope:
        """An envelope to tell the sender of some recipients by, with what it asked to be told of each."""
        all_of_it = (self.report, *self.envelopes)
        notify = {who: value for one in all_of_it for who, value in one.notify.items() if who in recipients}
        orcpt = {who: value for one in all_of_it for who, value in one.orcpt.items() if who in recipients}
        queue_id = (self.envelopes or [self.report])[0].queue_id
        return replace(
            self.report, forward_paths=tuple(recipients), notify=notify, orcpt=orcpt, queue_id=queue_id
        )


# ---- addresses, of which one can be written in many ways

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_NEEDS_A_PAIR = re.compile(r'["\\]')
_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_ASCII_LABEL = re.compile(r"[0-9a-z_]([0-9a-z_-]*[0-9a-z_])?")
SENT_AS_IS = re.compile(r"[!#-~][ -~]*@[0-9a-z._-]*[0-9a-z]")
"""Addresses that `sent_form` leaves as they are; nearly all are, and this costs less to see."""
DOMAIN_LIMIT = 253
"""Characters of a domain name (RFC 1035 §2.3.4)."""


def sent_form(address: str) -> str:
    """The one form in which an address is sent, ASCII only: the domain as A-labels (IDNA 2008, RFC 5891), in
    lower case, without a trailing dot; the local part as it is, without quotes that it doesn't need.

    Raises RefusedError where there is no such form.
    """
    local, at, domain = address.rpartition("@")
    if not local.isascii():
        text = f"<{address}>: Cloudflare takes only ASCII characters before the @"
        raise RefusedError(Reply(553, "5.6.7", text))
    if local[:1] == '"' and _QUOTED.fullmatch(local):
        bare = _QUOTED_PAIR.sub(_second, local[1:-1])
        local = bare if _DOT_ATOM.fullmatch(bare) else f'"{_NEEDS_A_PAIR.sub(_pair, bare)}"'
    try:
        return f"{local}{at}{_a_labels(domain)}"
    except UnicodeError as error:
        text = f"<{address}>: not a valid internationalized domain name: {error}"
        raise RefusedError(Reply(553, "5.1.3", text)) from None


def address_key(address: str) -> str:
    """What makes two spellings the same address: the form in which they are sent, without any quotes. The
    letter case of a local part counts (RFC 5321 §2.4). An address that can't be sent is compared as text."""
    try:
        form = sent_form(address)
        return form if form[:1] != '"' else _without_quotes(form)
    except RefusedError:
        local, at, domain = unicodedata.normalize("NFC", address).rpartition("@")
        return f"{local}{at}{domain.lower().removesuffix('.')}"


def domain_of(address: str) -> str:
    """The domain in the form that is sent and compared, "" where there is none."""
    _, at, domain = address.rpartition("@")
    return address_key(f"@{domain}")[1:] if at else ""


_NEVER_PUBLIC = frozenset(
    (
        *("localhost", "localdomain", "local", "internal", "lan", "home", "corp", "intranet", "private"),
        *("invalid", "onion"),
    )
)
"""Top-level domains of which nobody outside knows a domain (RFC 6761, RFC 6762, ICANN's list, habit)."""


_HOME = ".home.arpa"
"""The domain of homes (RFC 8375)."""


def is_public(domain: str) -> bool:
    """Whether mail to this domain can arrive from anywhere, as far as its name tells: it is no bare host
    name, nor one that only a network of its own knows. domain: as `domain_of` returns it."""
    if domain[:1] == "[":
        return _is_global(domain.strip("[]").lower().removeprefix("ipv6:"))
    _, dot, top = domain.rpartition(".")
    return bool(dot) and not top.isdigit() and top not in _NEVER_PUBLIC and not f".{domain}".endswith(_HOME)


def _is_global(literal: str) -> bool:
    try:
        return ipaddress.ip_address(literal).is_global
    except ValueError:
        return False


def _without_quotes(form: str) -> str:
    local, _, domain = form.rpartition("@")
    return f"{_QUOTED_PAIR.sub(_second, local[1:-1])}@{domain}" if _QUOTED.fullmatch(local) else form


def _second(pair: re.Match[str]) -> str:
    return pair[1]


def _pair(found: re.Match[str]) -> str:
    return f"\\{found[0]}"


def _a_labels(domain: str) -> str:
    """Raises UnicodeError where the domain has no such form."""
    return domain.lower().removesuffix(".") if domain.isascii() else _mapped_a_labels(domain)


@functools.lru_cache(maxsize=4096)
def _mapped_a_labels(domain: str) -> str:
    """The same for a domain that is not ASCII: a millisecond's work, and recipients come by the thousand."""
    # Mapped first as in UTS 46: letter case, composed characters, full stops of other scripts.
    mapped = idna.uts46_remap(domain, std3_rules=False, transitional=False).removesuffix(".")
    form = ".".join(_a_label(label) for label in mapped.split("."))
    if len(form) > DOMAIN_LIMIT:
        raise UnicodeError(f"it has more than {DOMAIN_LIMIT} characters")
    return form


def _a_label(label: str) -> str:
    if not label.isascii():
        return idna.alabel(label).decode()
    if not _ASCII_LABEL.fullmatch(label):
        raise UnicodeError(f"{label!r} is not a label")
    return label
