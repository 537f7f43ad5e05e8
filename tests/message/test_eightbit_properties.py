"""Whatever comes in, UTF-8 comes out; and whatever tree of parts comes in, its leaves come out."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtp2cf.message.eightbit import is_utf8, to_utf8
from smtp2cf.message.newlines import has_bare_newlines
from tests.message.reading import POLICIES, leaves, structure

# Pieces from which something like a message comes together often enough.
PIECES = [
    *[
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b";",
        b"=",
        b'"',
        b"\\",
        b"<",
        b">",
        b"(",
        b")",
        b"@",
        b",",
    ],
    *[
        b"\xe9",
        b"\xff",
        b"\xc3\xbc",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\0",
        b"a",
        b"=?utf-8?q?=C3=A9?=",
        b"=E9",
        b"''",
    ],
    *[b"Subject: ", b"From: ", b"To:", b"From x\r\n", b"Received: ", b"Content-Disposition: a; filename="],
    *[
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n",
        b"Content-Type: multipart/digest; boundary=\xe9\r\n",
    ],
    *[
        b"Content-Type: multipart/x; boundary=\r\n\r\n",
        b"Content-Type: message/rfc822\r\n\r\n",
        b"Content-Type: ",
    ],
    *[
        b"Content-Type: text/plain; charset=koi8-r\r\n",
        b"; charset=big5",
        b"; name*0*=",
        b"; name*=",
        b"; name=",
    ],
    *[b"Content-Transfer-Encoding: base64\r\n", b"Content-Transfer-Encoding: quoted-printable\r\n"],
    *[
        b"Content-Transfer-Encoding: \xe9\r\n",
        b"MIME-Version: 1.0\r\n",
        b"--b\r\n",
        b"--b--\r\n",
        b"--\r\n",
        b"--\xe9\r\n",
    ],
]
messages = st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join) | st.binary(max_size=200)


@settings(max_examples=200)
@given(messages)
def test_any_bytes_come_out_as_utf8(message: bytes) -> None:
    converted = to_utf8(message)
    assert is_utf8(converted)
    converted.decode()
    assert (converted is message) == (converted == message)
    assert has_bare_newlines(message) or not has_bare_newlines(converted)
    assert to_utf8(converted) is converted


@given(st.text().map(str.encode) | messages.filter(is_utf8))
def test_any_utf8_comes_out_as_the_same_object(message: bytes) -> None:
    assert to_utf8(message) is message


@given(st.binary(max_size=50))
def test_utf8_is_what_python_decodes(message: bytes) -> None:
    assert is_utf8(message) == (message.decode("utf-8", "ignore").encode() == message)


@dataclass(frozen=True)
class Leaf:
    header: bytes
    body: bytes


@dataclass(frozen=True)
class Multipart:
    parts: tuple["Leaf | Multipart | Message", ...]
    around: bytes


@dataclass(frozen=True)
class Message:
    content: "Leaf | Multipart | Message"


LEAF_HEADERS = [
    b"",
    b"Content-Type: text/plain; charset=iso-8859-1\r\n",
    b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n",
    b"content-transfer-encoding:\r\n\tbinary\r\nContent-Type: application/pdf; name=x\r\n",
    b"Content-Type: image/png\r\nContent-Transfer-Encoding: binary\r\nContent-ID: <x>\r\n",
    b"Content-Type: application/octet-stream\r\nSubject: Gr\xfc\xdfe\r\n",
]
crlf_bytes = st.binary(max_size=120).map(lambda body: re.sub(rb"\r\n?|\n", b"\r\n", body))
text_bytes = st.lists(
    st.sampled_from([b"\r\n", b"Gr\xf6\xdfe ", b"=", b".", b" ", b"-- ", b"--b", b"\xc3\xbc"])
).map(b"".join)
tree_leaves = st.builds(Leaf, st.sampled_from(LEAF_HEADERS), crlf_bytes | text_bytes)
trees = st.recursive(
    tree_leaves,
    lambda inner: (
        st.builds(Multipart, st.lists(inner, min_size=1, max_size=4).map(tuple), text_bytes)
        | st.builds(Message, inner)
    ),
    max_leaves=12,
)


def build(tree: Leaf | Multipart | Message, boundaries: Iterator[int]) -> bytes:
    match tree:
        case Leaf(header, body):
            return header + b"\r\n" + body
        case Message(content):
            return b"Content-Type: message/rfc822\r\n\r\n" + build(content, boundaries)
        case Multipart(parts, around):
            boundary = b"=_%d" % next(boundaries)
            built = [b"\r\n--" + boundary + b"\r\n" + build(part, boundaries) for part in parts]
            header = b'Content-Type: multipart/mixed;\r\n boundary="' + boundary + b'"\r\n\r\n'
            return header + around + b"".join(built) + b"\r\n--" + boundary + b"--\r\n" + around


def bodies(tree: Leaf | Multipart | Message) -> list[bytes]:
    match tree:
        case Leaf(_, body):
            return [body]
        case Message(content):
            return bodies(content)
        case Multipart(parts, _):
            return [body for part in parts for body in bodies(part)]


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_the_leaves_of_any_tree_of_parts_come_out(tree: Leaf | Multipart | Message) -> None:
    message = b"Subject: x\r\nMIME-Version: 1.0\r\n" + build(tree, itertools.count())
    converted = to_utf8(message)
    converted.decode()
    for policy in POLICIES:
        assert structure(converted, policy) == structure(message, policy)
        assert leaves(converted, policy) == leaves(message, policy) == bodies(tree)
