"""-bp, mailq: the bridge's queue and the dropped mail, in Postfix's layout."""

from __future__ import annotations

import _socket
import time

from .dropped import dropped
from .endpoint import REPLY_TIMEOUT, connect
from .exit_codes import OK, UNAVAILABLE, Away, why
from .header import DAYS, MONTHS
from .message import BLOCK
from .output import complain, printable, write_stdout
from .settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STATUS_MARKS = {"active": "*", "held": "!"}


def mailq(settings: Settings) -> int:
    """-bp: list the bridge's queue, and the dropped mail that this user may see."""
    report = QueueReport()
    code = OK
    try:
        for item in bridge_queue(settings) if settings.admin else ():
            report.add(*item)
    except Away as error:
        complain(f"queue report unavailable, the bridge is away: {error}")
        code = UNAVAILABLE
    for one in dropped(settings):
        sender = one.envelope.reverse_path or "MAILER-DAEMON"
        reason = f"dropped by uid {one.found.st_uid}, not yet taken by the bridge"
        recipients = [(address, reason) for address in one.envelope.forward_paths]
        recipients += [
            (address, f"{reply}, the sender has not been told yet") for address, reply in one.refused.items()
        ]
        report.add(one.name, one.size, one.found.st_mtime, sender, recipients)
    if report.messages:
        report.end()
    elif code == OK:
        write_stdout("Mail queue is empty\n")
    return code


def bridge_queue(settings: Settings) -> Iterator[tuple[str, int, float, str, list[tuple[str, str]]]]:
    """The messages in the bridge's spool, each as the arguments of QueueReport.add; none without a spool."""
    import json

    sock = connect(settings.admin, "SMTP2CF_ADMIN_LISTEN")
    try:
        sock.settimeout(REPLY_TIMEOUT)
        host = settings.admin if not settings.admin.startswith("unix:") else "localhost"
        sock.sendall(f"GET /queue HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        lines = lines_of(sock)
        status = next(lines, b"").split()
        if len(status) < 2 or not status[0].startswith(b"HTTP/"):
            raise Away(f"{settings.admin}: not an HTTP answer")
        if status[1] == b"404":
            return
        if status[1] == b"421":
            raise Away(f"the bridge refuses the name {settings.admin}: add it to its SMTP2CF_ADMIN_HOSTS")
        if status[1] != b"200":
            raise Away(f"{settings.admin}: HTTP {b' '.join(status[1:]).decode('ascii', 'replace')}")
        while next(lines, b"").strip():
            pass  # skip the header
        for line in lines:
            if line.strip():
                item = json.loads(line)
                queue_id = item["queue_id"] + STATUS_MARKS.get(item["status"], "")
                recipients = [(one["address"], one.get("reply") or "") for one in item["recipients"]]
                yield queue_id, item["size"], item["received_at"], item["sender"], recipients
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Away(f"{settings.admin}: {why(error)}") from error
    finally:
        sock.close()


def lines_of(sock: _socket.socket) -> Iterator[bytes]:
    received = b""
    while True:
        block = sock.recv(BLOCK)
        *lines, received = (received + block).split(b"\n")
        yield from lines
        if not block:
            yield received
            return


class QueueReport:
    """Postfix's mailq layout, for long queue ids."""

    def __init__(self) -> None:
        self.messages = 0
        self.octets = 0

    def add(
        self, queue_id: str, size: int, arrived: float, sender: str, recipients: Iterable[tuple[str, str]]
    ) -> None:
        if not self.messages:
            heads = ("----Queue ID-----", "--Size--", "---Arrival Time----", "--Sender/Recipient------")
            write_stdout("{:<17} {:>8} {:<19} {}\n".format(*heads))
        local = time.localtime(arrived)
        clock = f"{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02}"
        date = f"{DAYS[local.tm_wday]} {MONTHS[local.tm_mon - 1]} {local.tm_mday:2} {clock}"
        lines = [f"{queue_id:<17} {size:8} {date:<19} {printable(sender) or 'MAILER-DAEMON'}"]
        last = ""
        for address, reply in recipients:
            if reply and reply != last:
                lines.append(f"({printable(reply)})".rjust(78))
            last = reply
            lines.append(f"{'':<17} {'':>8} {'':<19} {printable(address)}")
        write_stdout("\n".join(lines) + "\n\n")
        self.messages += 1
        self.octets += size

    def end(self) -> None:
        many = "" if self.messages == 1 else "s"
        write_stdout(f"-- {self.octets // 1024} Kbytes in {self.messages} Request{many}.\n")
