"""DataReader: where a message ends, and what it is then, however it was cut into packets."""

import tracemalloc
from collections.abc import Iterator

from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtp2cf.smtpd.data import DataReader
from tests.smtpd.dialog import dotted
from tests.support.each import each

LIMIT = 1 << 20

ENDINGS_THAT_ARE_NONE = [
    b"\n.\n",
    b"\r.\r",
    b"\n.\r",
    b"\r.\n",
    b"\n.\r\n",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\r.\r\r",
    b"\n\r.\n\r",
    b"\r\n.\r\r\n",
    b"\r\n.\n\r\n",
    b"\r\n.\x00\r\n",
    b"\r\n\x00.\r\n",
    b"\r\x00\n.\r\n",
    b"\r\n.\r\x00\n",
    b"\n\x00.\r\n",
    b"\r\n. \r\n",
    b"\r\n.\t\r\n",
    b"\r\n .\r\n",
    b"\r\n..\r\n",
    b"\x85.\x85",
    b"\r\n\xe2\x80\xa4\r\n",
]
"""What one server or another took for the end of DATA (SMTP smuggling, 2023, and what scanners try)."""


def read(wire: bytes, sizes: Iterator[int], limit: int = LIMIT) -> tuple[bytes, bytes, bool]:
    """Feed a stream in packets of such sizes: the message, the rest, and whether it was too big."""
    reader = DataReader(limit)
    position = 0
    for size in sizes:
        block = wire[position : position + size]
        position += len(block)
        if reader.feed(block):
            message = reader.message()
            return message, reader.rest + wire[position:], reader.too_big
        assert block, "the end was not found"
    raise AssertionError


def every(size: int) -> Iterator[int]:
    while True:
        yield size


@each("size", [1, 2, 3, 4, 5, 7, 1000])
@each(
    ("wire", "message"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"...\r\n.\r\n", b"..\r\n"),
        (b"..a\r\n..\r\n...b\r\n.\r\n", b".a\r\n.\r\n..b\r\n"),
        (b"a\r\n..\r\n..\r\n..\r\n.\r\n", b"a\r\n.\r\n.\r\n.\r\n"),
        (b"a.\r\n.\r\n", b"a.\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),  # not stuffed: the dot goes all the same (RFC 5321 §4.5.2)
        (b"a\r\n.b\r\n.\r\n", b"a\r\nb\r\n"),
        (b"\x00\xff\x80.\xe9\r\n.\r\n", b"\x00\xff\x80.\xe9\r\n"),
        (b"a\n..\r\n.\r\n", b"a\n..\r\n"),
        (b"a\r..b\r\n.\r\n", b"a\r..b\r\n"),
    ],
)
def test_what_the_message_is(wire: bytes, message: bytes, size: int) -> None:
    assert read(wire + b"QUIT\r\n", every(size)) == (message, b"QUIT\r\n", False)


@each("size", [1, 2, 3, 4, 5, 6, 1000])
@each("sequence", ENDINGS_THAT_ARE_NONE)
def test_only_crlf_dot_crlf_ends_a_message(sequence: bytes, size: int) -> None:
    smuggled = b"first" + sequence + b"MAIL FROM:<x@example.com>\r\nRCPT TO:<y@example.net>\r\nDATA\r\n"
    message, rest, too_big = read(smuggled + b".\r\n", every(size))
    # Dot-stuffing, where the sequence has any, is all that may be missing.
    assert message == smuggled.replace(b"\r\n.", b"\r\n")
    assert (rest, too_big) == (b"", False)


@each("cut", range(1, 12))
def test_an_ending_cut_anywhere_is_found(cut: int) -> None:
    wire = b"a.b\r\n.\r\nNOOP\r\n"
    reader = DataReader(LIMIT)
    assert reader.feed(wire[:cut]) is (cut >= 8)
    if cut < 8:
        assert reader.feed(wire[cut:])
    assert reader.message() == b"a.b\r\n"


_pieces = st.sampled_from(
    [b"\r\n", b".", b"\r\n.", b"\r\n..", b"\r", b"\n", b"\x00", b"x", b"\xff", b"word "]
)
_messages = (
    st.lists(_pieces | st.binary(max_size=20), max_size=30).map(b"".join).map(lambda text: text + b"\r\n")
)


@settings(max_examples=1000)
@given(_messages, st.binary(max_size=10), st.lists(st.integers(1, 9), min_size=1, max_size=40))
@example(b"a\r\n.b\r\n", b"", [1])
@example(b"..\r\n", b"RSET\r\n", [5, 1])
def test_any_split_into_packets_gives_the_same_message(message: bytes, rest: bytes, sizes: list[int]) -> None:
    def packets() -> Iterator[int]:
        yield from sizes
        while True:
            yield max(sizes)

    assert read(dotted(message) + rest, packets()) == (message, rest, False)


@settings(max_examples=300)
@given(st.binary(max_size=60).map(lambda wire: wire + b"\r\n.\r\n"), st.lists(st.integers(1, 9), min_size=1))
def test_any_stream_ends_at_its_first_ending(wire: bytes, sizes: list[int]) -> None:
    before, _, after = (b"\r\n" + wire).partition(b"\r\n.\r\n")
    content = before.replace(b"\r\n.", b"\r\n") + b"\r\n"
    for packets in (every(len(wire)), iter(sizes + [1] * len(wire))):
        assert read(wire, packets) == (content.removeprefix(b"\r\n"), after, False)


@each("size", [1, 3, 64, 10_000])
@each(
    ("message", "too_big"),
    [
        (b"x" * 998 + b"\r\n", False),
        (b"x" * 999 + b"\r\n", True),
        (b"\r\n" * 500, False),
        (b"\r\n" * 500 + b"x\r\n", True),
        (b".\r\n" * 333, False),  # on the wire it is a third larger, and still fits
        (b".\r\n" * 334, True),
        (b"x" * 5000 + b"\r\n", True),
    ],
)
def test_the_limit_is_of_octets_without_stuffing(message: bytes, too_big: bool, size: int) -> None:
    read_message, rest, found_too_big = read(dotted(message) + b"NOOP\r\n", every(size), limit=1000)
    assert found_too_big is too_big
    assert read_message == (b"" if too_big else message)
    assert rest == b"NOOP\r\n"


def test_a_message_that_comes_octet_by_octet_costs_what_it_weighs() -> None:
    octets = [bytes([number % 256]) + b"y" for number in range(100_000)]
    tracemalloc.start()
    reader = DataReader(LIMIT)
    for octet in octets:
        reader.feed(octet[:1] + octet[1:])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * 200_000


def test_a_message_over_the_limit_is_not_held() -> None:
    tracemalloc.start()
    reader = DataReader(LIMIT)
    for _ in range(1000):
        reader.feed(bytes(65536))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000
    assert peak < 2 * LIMIT
    assert reader.feed(b"\r\n.\r\n")
    assert reader.message() == b""
    assert reader.too_big
