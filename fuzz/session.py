"""Target: whole sessions, of SMTP, LMTP and SMTP in TLS, with AUTH, STARTTLS, BDAT and PRDR.

An input is packets with SEPARATOR between them; the first octet of all says which listener it is for and what
becomes of its messages. A packet that begins with EVENT is none but something that happens.
"""

import atexit
import functools
from collections.abc import Callable, Mapping

import structlog

from fuzz.octets import SEPARATOR
from fuzz.reckoning import Reckoning
from fuzz.wire import ABANDONED, PROTOCOLS, Call, House
from smtp2cf.reply import Reply

EVENT = b"\x1f"
EVENTS: Mapping[bytes, Callable[[Call], object]] = {
    b"E": Call.end,
    b"R": Call.reset,
    b"S": Call.stop_reading,
    b"C": Call.read_on,
    b"T": lambda call: call.loop.pass_time(100),
    b"L": lambda call: call.loop.pass_time(ABANDONED),
}
FATES: tuple[tuple[Reply | Exception, ...], ...] = (
    (),
    (Reply(550, "5.1.1", "nobody \u20ac\r\n250 2.0.0 taken"), Reply(250, "2.0.0", "x" * 2000)),
    (RuntimeError("a mistake of ours"), Reply(250, "2.0.0", "taken")),
    (Reply(451, "4.3.0", "later \x1b[31m\u202e"),),
)
"""What becomes of the messages of a session, one after the other, and then of all others: taken."""


@functools.cache
def house() -> House:
    """The same for all inputs: what one leaves behind is a mistake."""
    home = House()
    atexit.register(home.close)
    return home


def session(octets: bytes) -> None:
    """Whatever is sent, each answer is one, each message that was taken is the one that was sent, and
    nothing is left of the session once its client is gone or silent."""
    with structlog.testing.capture_logs() as lines:
        try:
            _run(octets)
        except BaseException:
            house.cache_clear()  # what is left in it is not the next input's
            raise
    mistakes = [line for line in lines if line["log_level"] in ("error", "critical")]
    assert all(line["exc_info"] is True and line["command"] == "DATA" for line in mistakes), mistakes
    assert len(mistakes) <= 1


def _run(octets: bytes) -> None:
    home = house()
    choice = octets[0] if octets else 0
    home.fates += FATES[choice // len(PROTOCOLS) % len(FATES)]
    call = home.call(PROTOCOLS[choice % len(PROTOCOLS)])
    for packet in octets[1:].split(SEPARATOR):
        if packet[:1] == EVENT:
            EVENTS.get(packet[1:2], Call.end)(call)
        else:
            call.send(packet)
    home.loop.pass_time(ABANDONED)
    assert call.gone, "the session is held"
    check(call, home)
    home.empty()
    _others_are_served(home)


def check(call: Call, home: House) -> Reckoning:
    """Hold what the client makes of its session against what accept was called with."""
    reckoning = Reckoning(
        bytes(call.said), bytes(call.heard), lmtp=call.listener.lmtp, secured_at=call.secured_at
    )
    numbers = []
    for message in reckoning.messages:
        found = {answer.text.rpartition("#")[2] for answer in message.answers if "#" in answer.text}
        assert len(found) <= 1, message
        if not found:
            assert not any(answer.code < 300 for answer in message.answers), message
            continue
        numbers.append(int(found.pop()))
        envelope, octets = home.accepted[numbers[-1]]
        assert octets == message.octets, (octets, message)
        paths = [envelope.reverse_path, *envelope.forward_paths]
        assert len(paths) == len(message.paths), (paths, message)
        assert all(theirs in (None, ours) for ours, theirs in zip(paths, message.paths, strict=True))
    assert numbers == sorted(set(numbers)), numbers
    # Of the others nobody was told: we made a mistake, or the client was gone.
    assert len(home.accepted) <= len(numbers) + 2
    return reckoning


def _others_are_served(home: House) -> None:
    call = home.call()
    call.send(b"HELO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n\r\nx\r\n.\r\n")
    home.loop.pass_time(10)
    assert bytes(call.heard).endswith(b"250 2.0.0 taken #0\r\n"), call.heard
    assert home.accepted[0].message == b"\r\nx\r\n"
    call.send(b"QUIT\r\n")
    home.loop.pass_time(1)
    assert call.gone
    home.empty()
