"""How far it is from the last octet of a message to the HTTP exchange: the callables of ours in between."""

import asyncio
import sys
from pathlib import Path
from types import FrameType

import smtp2cf
from smtp2cf.cloudflare.transport import Transport
from tests.cloudflare.raw_server import always, ok, serving
from tests.relay.test_under_limits import bridge_to

OURS = str(Path(smtp2cf.__file__).parent)
OF_SMTPD, MOST = 8, 14
"""Callables of the room smtpd, and all of them."""
DIALOG = (b"EHLO a", b"MAIL FROM:<a@example.com>", b"RCPT TO:<b@example.net>", b"DATA")
EXCHANGE = Transport.exchange.__qualname__


async def test_a_message_passes_few_callables_on_its_way_to_cloudflare() -> None:
    """Frames entered in smtp2cf, with SPOOL_URL=none and API_RATE=none; one that waits counts once."""
    entered: list[str] = []
    seen: set[FrameType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS) and frame not in seen:
            seen.add(frame)
            entered.append(frame.f_code.co_qualname)

    async with serving(always(ok("b@example.net"))) as api, bridge_to(api.base_url) as bridge:
        reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
        await reader.readline()
        for command in DIALOG:
            writer.write(command + b"\r\n")
            while (await reader.readline())[3:4] == b"-":
                pass
        sys.setprofile(note)
        try:
            writer.write(b"Subject: x\r\n\r\nhello\r\n.\r\n")
            assert (await reader.readline()).startswith(b"250")
        finally:
            sys.setprofile(None)
        writer.close()
    way = entered[: entered.index(EXCHANGE)]
    print(f"{len(way)} callables:", *way, sep="\n  ")
    assert way[0] == "Connection.data_received"
    assert way.index("WithoutSpool.accept") <= OF_SMTPD
    assert len(way) <= MOST
