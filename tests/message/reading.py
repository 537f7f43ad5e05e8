"""What a reader sees in a message: Python's `email`, as an independent witness."""

import re
from email import message_from_bytes
from email._parseaddr import AddressList
from email.header import decode_header, make_header
from email.message import Message
from email.policy import Policy, compat32, default

POLICIES = [compat32, default]


def read(message: bytes, policy: Policy = default) -> Message:
    return message_from_bytes(message, policy=policy)


def structure(message: bytes, policy: Policy) -> list[tuple[str, bool]]:
    """The media types of all parts, front to back."""
    return [(part.get_content_type(), part.is_multipart()) for part in read(message, policy).walk()]


def leaves(message: bytes, policy: Policy) -> list[bytes]:
    """The bytes of all parts that have no parts, decoded from their transfer encoding."""
    return [part.get_payload(decode=True) for part in read(message, policy).walk() if not part.is_multipart()]


def charsets(message: bytes) -> list[str | None]:
    return [part.get_content_charset() for part in read(message).walk()]


def display_names(message: bytes) -> list[str]:
    """Those in From, To and Cc; by the old policy, as the new one puts spaces between encoded words."""
    header = read(message, compat32)
    fields = [str(header[name]) for name in ("From", "To", "Cc") if header[name]]
    # Behind email.utils.getaddresses, which in newer Pythons gives nothing for a list it finds odd.
    names = [name for field in fields for name, _ in AddressList(field).addresslist]
    return [str(make_header(decode_header(name))) for name in names]


def untouched_lines(message: bytes) -> list[bytes]:
    """The lines that a conversion has no reason to change: without those bodies and those fields that
    are not UTF-8, and without the transfer encodings."""
    rest = message
    for part in read(message, compat32).walk():
        payload = part._payload  # as it was written: get_payload() decodes
        raw = [payload] if isinstance(payload, str) else []
        raw += [value for _, value in part.raw_items()]
        for text in raw:
            content = text.encode("ascii", "surrogateescape")
            if not is_utf8(content):
                assert content in rest
                rest = rest.replace(content, b"", 1)
    # What is left of a field of which the value was taken, and the fields a conversion writes.
    rest = re.sub(rb"(?im)^(content-transfer-encoding:(.*\r\n[ \t])*.*|[!-9;-~]+: ?)\r?$", b"", rest)
    return [line for line in rest.split(b"\n") if line.strip() and is_utf8(line)]


def is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_subsequence(some: list[bytes], everything: list[bytes]) -> bool:
    lines = iter(everything)
    return all(line in lines for line in some)
