"""Facts: what the journal shows of a message's header, for people. Lenient, and nothing depends on it.

Who may send as whom is asked of `originators`, which is strict.
"""

import re

from smtp2cf.journal.recorder import Facts
from smtp2cf.message.encoded_words_decode import decode_words
from smtp2cf.message.header import ID_LIMIT, fields_named
from smtp2cf.reply import one_line

ADDRESS_LIMIT = 320
SUBJECT_LIMIT = 200
"""Characters."""

_FIELD = re.compile(
    rb"^(from|message-id|subject)[ \t]*:([^\n]*+(?:\n[ \t][^\n]*+){0,20}+)|^\r?$",
    re.IGNORECASE | re.MULTILINE,
)
_ANGLE = re.compile(r"<([^<>\s]+)>\s*(?:\(|,|$)")
_BARE = re.compile(r'[^\s<>,;:"()]+@[^\s<>,;:"()]+')


def facts(message: bytes) -> Facts:
    """The facts of a message; "" for what isn't there. message: at least as far as its header goes."""
    found: dict[bytes, str] = {}
    for field in _FIELD.finditer(message):
        if field[1] is None:  # the empty line
            break
        found.setdefault(field[1].lower(), field[2].decode(errors="replace"))
    subject = found.get(b"subject", "")
    return Facts(
        _address(found.get(b"from", "")),
        one_line(found.get(b"message-id", ""), ID_LIMIT).removeprefix("<").removesuffix(">"),
        one_line(decode_words(subject), SUBJECT_LIMIT) if subject else "",
    )


def subject(message: bytes) -> str:
    """The Subject of a message in words, each separated by one space; "" if there is none."""
    for field in fields_named(message, ("subject",)):
        text = message[field.value : field.end].decode(errors="replace")
        return one_line(decode_words(text), ID_LIMIT)
    return ""


def _address(mailboxes: str) -> str:
    """The first address of a From field."""
    found = _ANGLE.search(mailboxes)
    if found is not None:
        return found[1][:ADDRESS_LIMIT]
    bare = _BARE.search(mailboxes)
    return bare[0][:ADDRESS_LIMIT] if bare is not None else ""
