"""Rewriting: the one place where an accepted message's addresses change, before it is sent or kept.

It comes after the digest that recognises a repeated message, which is of what the client sent, and changes
nothing unless a setting asks for it. What the client said stays in the envelope. Knows no spool and no
Cloudflare.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from smtp2cf.envelope import Envelope

Step = Callable[[Envelope, bytes], tuple[Envelope, bytes]]
"""An envelope and its message, UTF-8 with CRLF → both as they go on; the same objects if nothing changes."""

ORIGINAL_TO = "X-Original-To"
"""The field that says who redirected mail was for: everybody, those in Bcc too."""


class Rewriting:
    """What is rewritten, step by step: senders, then recipients. steps: may change while the bridge runs."""

    def __init__(self, *steps: Step) -> None:
        self.steps: Sequence[Step] = steps

    def apply(self, envelope: Envelope, message: bytes) -> tuple[Envelope, bytes]:
        """The envelope and the message as they go out."""
        for step in self.steps:
            envelope, message = step(envelope, message)
        return envelope, message

    def of_sender(self, envelope: Envelope) -> Envelope:
        """The envelope with its sender as it goes out, which tells whom a DSN can reach. Its recipients stay
        those that the client named.
        """
        sent, _ = self.apply(envelope, b"") if self.steps else (envelope, b"")
        return replace(envelope, reverse_path=sent.reverse_path, given_reverse_path=sent.given_reverse_path)


def with_sender(envelope: Envelope, address: str) -> Envelope:
    """The envelope from another sender; what the client said first is kept."""
    if address == envelope.reverse_path:
        return envelope
    given = envelope.sender_as_given
    return replace(envelope, reverse_path=address, given_reverse_path=given if given != address else None)


def with_recipients(envelope: Envelope, instead: Mapping[str, Sequence[str]]) -> Envelope:
    """The envelope to other recipients. instead: by forward path, those it goes to, at least one; a forward
    path that is not in it stays.

    Several may become one: it goes there once, and is asked to be told of as any of them was (RFC 3461).
    """
    for_whom: dict[str, dict[str, None]] = {}
    notify: dict[str, str] = {}
    orcpt: dict[str, str] = {}
    for path in envelope.forward_paths:
        for new in instead.get(path, (path,)):
            is_first = new not in for_whom
            for_whom.setdefault(new, {}).update(dict.fromkeys(envelope.given_for(path)))
            asked = envelope.notify.get(path, "")
            notify[new] = asked if is_first else _either(notify[new], asked)
            orcpt.setdefault(new, envelope.orcpt.get(path) or (_orcpt(path) if new != path else ""))
    return replace(
        envelope,
        forward_paths=tuple(for_whom),
        notify={path: asked for path, asked in notify.items() if asked},
        orcpt={path: given for path, given in orcpt.items() if given},
        given_forward_paths={path: tuple(given) for path, given in for_whom.items() if [*given] != [path]},
    )


def recipients_step(expand: Callable[[str], Sequence[str]], redirect: Sequence[str] = ()) -> Step:
    """The step that sends mail to others. expand: who gets a recipient's mail, at least one or the recipient
    stays. redirect: who gets all mail instead, empty for nobody.
    """

    def step(envelope: Envelope, message: bytes) -> tuple[Envelope, bytes]:
        instead = {path: tuple(expand(path) or (path,)) for path in envelope.forward_paths}
        if any(those != (path,) for path, those in instead.items()):
            envelope = with_recipients(envelope, instead)
        return redirected(envelope, message, redirect) if redirect else (envelope, message)

    return step


def redirected(envelope: Envelope, message: bytes, to: Sequence[str]) -> tuple[Envelope, bytes]:
    """The envelope to other recipients than any that it names, and the message, which says who those were."""
    were = ",\r\n ".join(dict.fromkeys(envelope.recipients_as_given))
    field = f"{ORIGINAL_TO}: {were}\r\n".encode("utf-8", "surrogateescape")
    return with_recipients(envelope, dict.fromkeys(envelope.forward_paths, to)), field + message


def _either(one: str, other: str) -> str:
    """NOTIFY of a recipient that stands for two, "" where none was given (which means: of failures)."""
    if one == other:
        return one
    events = dict.fromkeys([*(one or "FAILURE").upper().split(","), *(other or "FAILURE").upper().split(",")])
    return ",".join(event for event in events if event != "NEVER") or "NEVER"


def _orcpt(path: str) -> str:
    """ORCPT for a client's recipient that gave none (RFC 3461 §4.2, RFC 6533 §3)."""
    kind = "rfc822" if path.isascii() else "utf-8"
    return f"{kind};{''.join(_xtext(char) for char in path)}"


def _xtext(char: str) -> str:
    if "!" <= char <= "~" and char not in "+=\\":
        return char
    return f"+{ord(char):02X}" if char.isascii() else f"\\x{{{ord(char):X}}}"
