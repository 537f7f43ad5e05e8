"""The secrets that tests give to what they test: values that occur nowhere else, so that whatever shows
one has leaked it. tests.support.leaks looks for them in everything a run leaves behind.

A test that needs a token or a password takes it from here; a new kind of secret is a line in SECRETS.
"""

import base64
import mmap
from collections.abc import Iterator
from urllib.parse import quote

TOKEN = "tok-7Qf3nobody-may-see-this-in-any-output-9xKd"
"""An API token."""
PASSWORD = "pw-4Hc8nobody-may-see-this-in-any-output-2wZm"
"""A user's password."""
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"wh-6Tp1nobody-may-see-this-in-any-output-5bNr").decode()
"""What a webhook's events are signed with."""

SECRETS = {"TOKEN": TOKEN, "PASSWORD": PASSWORD, "WEBHOOK_SECRET": WEBHOOK_SECRET}
"""By the name under which a leak is reported."""


def _forms(secret: str) -> Iterator[bytes]:
    """How a secret looks on the way: as it is, in a URL, in base64 behind 0 to 2 other octets mod 3, as in
    AUTH PLAIN, without the ends that depend on the neighbours; in hexadecimal."""
    octets = secret.encode()
    yield octets
    yield quote(secret, safe="").encode()
    yield octets.hex().encode()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + octets)
        first = -(-before * 8 // 6)
        last = (before + len(octets)) * 8 // 6
        yield encoded[first:last]


_NEEDLES = {form: name for name, secret in SECRETS.items() for form in _forms(secret)}


def shown_in(output: bytes | str | mmap.mmap) -> list[str]:
    """The names of the secrets that can be read in there."""
    octets = output.encode(errors="replace") if isinstance(output, str) else output
    return sorted({name for form, name in _NEEDLES.items() if octets.find(form) >= 0})


def redacted(text: str) -> str:
    """The text with the name of a secret in the secret's place."""
    for form, name in _NEEDLES.items():
        text = text.replace(form.decode(), f"[{name}]")
    return text
