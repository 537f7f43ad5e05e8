"""HTTP as the test writes it, octet for octet: urllib would put the Host right."""

import asyncio
import socket
from typing import NamedTuple

from tests.support.waiting import PATIENCE


class Answer(NamedTuple):
    """What came back until the server closed; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: str


def parsed(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (text.partition(": ") for text in lines)}
    return Answer(int(line.split()[1]), headers, body.decode(errors="replace"))


def request(path: str, *headers: str, method: str = "GET", host: str | None = "127.0.0.1") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), *headers]
    return "".join(f"{line}\r\n" for line in (*lines, "Connection: close", "")).encode()


def ask(address: tuple[str, int] | str, octets: bytes) -> Answer:
    """One exchange over a socket, to its end."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(address)
        sock.sendall(octets)
        received = b""
        while block := sock.recv(65536):
            received += block
    return parsed(received)


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end, or until the connection is reset."""
    received = b""
    try:
        while block := await reader.read(65536):
            received += block
    except ConnectionError:
        pass
    return received
