"""Targets: envelopes and replies as the spool keeps them, and the search for addresses."""

import re

from fuzz.octets import split, text
from smtp2cf.envelope import Envelope
from smtp2cf.reply import Reply
from smtp2cf.spool import codec


def envelope(octets: bytes) -> None:
    """Exactly what went in comes out, as text that any column takes."""
    sender, recipient, helo, envid, words = map(text, split(octets, 5))
    given = Envelope(
        reverse_path=sender,
        forward_paths=(recipient, sender, recipient),
        helo=helo,
        envid=envid,
        client=helo,
        auth_user=words,
        notify={recipient: words},
        orcpt={recipient: envid, sender: helo},
    )
    kept = codec.encode_envelope(given)
    kept.encode()
    assert "\0" not in kept
    assert codec.decode_envelope(kept) == given
    outcomes = {recipient: Reply(550, envid, words), sender: Reply(250, "2.0.0", helo)}
    kept = codec.encode_outcomes(outcomes)
    kept.encode()
    assert "\0" not in kept
    assert codec.decode_outcomes(kept) == outcomes


def lookup(octets: bytes) -> None:
    """A pattern finds what it finds in one of the addresses alone."""
    pattern, first, second = map(text, split(octets, 3))
    plain = codec.printable(pattern).lower()
    expected = any(_matches(plain, codec.printable(address).lower()) for address in (first, second))
    # The other form is for PostgreSQL, which does not try all there is as Python would.
    for atomic in (True, False) if pattern.count("*") < 4 else (True,):
        found = re.search(codec.lookup_pattern(pattern, atomic=atomic), codec.lookup([first, second]))
        assert (found is not None) == expected


def _matches(pattern: str, word: str) -> bool:
    """* stands for anything: step by step, without regular expressions."""
    first, *others = pattern.split("*")
    if not others:
        return word == first
    if not word.startswith(first):
        return False
    at = len(first)
    for piece in others[:-1]:
        at = word.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return len(word) - at >= len(others[-1]) and word.endswith(others[-1])
