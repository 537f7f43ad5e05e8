"""An ordinary client: `python -m benchmarks.attacks.ordinary PORT RECIPIENT` sends small mail until SIGTERM.

Each goes over a connection of its own, command by command, from connecting to the answer to QUIT. Prints the
seconds that each took; exits 1 where one was not taken within a minute.
"""

import signal
import socket
import sys
import time

PAUSE = 0.02
"""Seconds between two messages."""
PATIENCE = 60.0


def commands(recipient: str) -> tuple[tuple[bytes, bytes], ...]:
    """What it says, and how the answer to each begins."""
    return (
        (b"EHLO ordinary.example\r\n", b"250"),
        (b"MAIL FROM:<ordinary@example.com>\r\n", b"250"),
        (f"RCPT TO:<{recipient}>\r\n".encode(), b"250"),
        (b"DATA\r\n", b"354"),
        (b"Subject: an ordinary message\r\n\r\n" + b"text\r\n" * 100 + b".\r\n", b"250"),
        (b"QUIT\r\n", b"221"),
    )


def _reply(sock: socket.socket) -> bytes:
    reply = b""
    while not reply.endswith(b"\r\n") or reply.splitlines()[-1][3:4] == b"-":
        octets = sock.recv(4096)
        if not octets:
            break
        reply += octets
    return reply


def send(port: int, recipient: str) -> float:
    """Send one message; the seconds it took. Exits where it is not taken."""
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        replies = [(_reply(sock), b"220")]
        for command, expected in commands(recipient):
            sock.sendall(command)
            replies.append((_reply(sock), expected))
    for reply, expected in replies:
        if not reply.startswith(expected):
            print(f"not taken: {reply!r}", flush=True)
            sys.exit(1)
    return time.monotonic() - begin


def main() -> None:
    """Send until told to stop."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    port, recipient = int(sys.argv[1]), sys.argv[2]
    send(port, recipient)
    print("ready", flush=True)
    while not stopped:
        print(send(port, recipient))
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
