"""mailq: the bridge's queue, over HTTP, in Postfix's layout for long queue ids."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from smtp2cf.spool import Status
from tests.sendmail.conftest import Sendmail
from tests.support.bridge import running_bridge
from tests.support.command import smtp2cf

ITEMS = [
    {
        "queue_id": "HOF8F97PKJBAT", "size": 4321, "received_at": 0, "sender": "a@x.example",
        "status": "deferred", "next_attempt": 60, "recipients": [
            {"address": "b@y.example", "reply": "451 4.7.1 throttled"},
            {"address": "c@y.example", "reply": "451 4.7.1 throttled"},
            {"address": "d@y.example", "reply": None},
        ],
    },
    {
        "queue_id": "HOF8F9A2YSBAT", "size": 1024, "received_at": 86399, "sender": "",
        "status": str(Status.ACTIVE),
        "next_attempt": None, "recipients": [{"address": "e@y.example", "reply": ""}],
    },
    {
        "queue_id": "HOF8F9A2YSBAU", "size": 100, "received_at": 864000, "sender": "a@x.example",
        "status": str(Status.HELD),
        "next_attempt": None,
        "recipients": [{"address": "ü@y.example", "reply": "451 4.3.0 " + "x" * 90}],
    },
]  # fmt: skip

SHOWN = f"""\
----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------
HOF8F97PKJBAT         4321 Thu Jan  1 00:00:00 a@x.example
                                                         (451 4.7.1 throttled)
                                               b@y.example
                                               c@y.example
                                               d@y.example

HOF8F9A2YSBAT*        1024 Thu Jan  1 23:59:59 MAILER-DAEMON
                                               e@y.example

HOF8F9A2YSBAU!         100 Sun Jan 11 00:00:00 a@x.example
(451 4.3.0 {"x" * 90})
                                               ü@y.example

-- 5 Kbytes in 3 Requests.
"""


@contextlib.contextmanager
def admin(status: int, body: bytes) -> Iterator[tuple[str, list[str]]]:
    """A bridge's admin server that answers everything alike: where it is, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers['Host']}")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_queue_in_postfixs_layout(away: Sendmail) -> None:
    lines = "".join(json.dumps(item) + "\n" for item in ITEMS).encode()
    with admin(200, lines) as (where, asked):
        result = away(name="mailq", env={"SMTP2CF_ADMIN_LISTEN": where})

    assert (result.code, result.stdout, result.stderr) == (0, SHOWN, "")
    assert asked == [f"/queue {where}"]


@pytest.mark.parametrize(("status", "body"), [(404, b"no such page"), (200, b""), (200, b"\n\n")])
def test_nothing_there_is_an_empty_queue(away: Sendmail, status: int, body: bytes) -> None:
    with admin(status, body) as (where, _):
        result = away("-bp", env={"SMTP2CF_ADMIN_LISTEN": where})

    assert (result.code, result.stdout) == (0, "Mail queue is empty\n")


@pytest.mark.parametrize(
    ("status", "body"), [(500, b""), (403, b"no"), (200, b"no json\n"), (200, b"[1]\n"), (200, b"{}\n")]
)
def test_bridge_that_cannot_say_is_unavailable(away: Sendmail, status: int, body: bytes) -> None:
    with admin(status, body) as (where, _):
        result = away("-bp", env={"SMTP2CF_ADMIN_LISTEN": where})

    assert (result.code, result.stdout) == (69, "")
    assert "queue report unavailable" in result.reason


def test_a_name_the_bridge_does_not_know_is_explained(away: Sendmail) -> None:
    with admin(421, b"no") as (where, _):
        result = away("-bp", env={"SMTP2CF_ADMIN_LISTEN": where})

    assert result.code == 69
    assert f"refuses the name {where}: add it to its SMTP2CF_ADMIN_HOSTS" in result.reason


def test_bridge_without_admin_server_has_no_queue_to_show(away: Sendmail) -> None:
    result = away("-bp", env={"SMTP2CF_ADMIN_LISTEN": "none"})

    assert (result.code, result.stdout) == (0, "Mail queue is empty\n")


def test_held_mail_of_a_real_bridge_is_marked(away: Sendmail, tmp_path: Path) -> None:
    with running_bridge(tmp_path, STATE_DIR=str(tmp_path / "state")) as bridge:
        assert away("-f", "a@x.example", "error@y.example", input=b"\nhi\n", env=bridge.env).code == 0
        assert away("-f", "b@x.example", "error@y.example", input=b"\nhi\n", env=bridge.env).code == 0
        lines = [
            line for line in away("-bp", env=bridge.env).stdout.splitlines() if line.endswith("@x.example")
        ]
        held, other = (line.split()[0] for line in lines)
        done = smtp2cf("queue", "hold", held, STATE_DIR=str(tmp_path / "state"))
        assert done.status == 0, done.err
        shown = away("-bp", env=bridge.env).stdout

    assert f"{held.rstrip('*')}! " in shown
    assert f"{other.rstrip('*')}!" not in shown
