"""A bridge with a webhook: events arrive signed, and a receiver that hangs is in nobody's way."""

import http.server
import queue
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from tests.support.bridge import Bridge, running_bridge
from tests.support.secret import WEBHOOK_SECRET
from tests.support.waiting import PATIENCE

OTHER = f"whsec_{32 * 'A'}"


class Receiver:
    """A server on loopback. events: what came, verified. answering: while cleared, it says nothing."""

    def __init__(self) -> None:
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.secret = WEBHOOK_SECRET
        self.answering = threading.Event()
        self.answering.set()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                event = Verifier(receiver.secret).verify(body, dict(self.headers))
                receiver.events.put({**event, "id": self.headers["webhook-id"]})
                if receiver.answering.wait(PATIENCE):
                    self.send_response(204)
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/mail?key=not-to-be-logged"

    def next(self) -> dict[str, Any]:
        return self.events.get(timeout=PATIENCE)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.answering.set()
    running.server.shutdown()
    running.server.server_close()


def send(bridge: Bridge, *recipients: str, messages: int = 1) -> None:
    with bridge.client() as client:
        for _ in range(messages):
            client.sendmail("anna@example.com", recipients, b"Subject: an invoice\r\n\r\nhello\r\n")


def test_events_are_posted_and_a_receiver_that_hangs_delays_neither_mail_nor_the_end(
    tmp_path: Path, receiver: Receiver
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(WEBHOOK_SECRET)
    secret.chmod(0o600)
    settings = {
        "WEBHOOK_URL": receiver.url,
        "WEBHOOK_SECRET_FILE": str(secret),
        "STATE_DIR": str(tmp_path / "state"),
    }
    at_once = {
        "smtp2cf.relay.webhook:GATHER": 0.0,
        "smtp2cf.relay.webhook:LOOK_EVERY": 0.1,
        "smtp2cf.relay.webhook_call:CALL_TIMEOUT": 10 * PATIENCE,
        "smtp2cf.spool.postings:LEASE": 0.5,  # one bridge makes no second call beside one that hangs
    }
    with running_bridge(tmp_path, constants=at_once, **settings) as bridge:
        send(bridge, "ben@example.net", "bounce@example.net")
        event = receiver.next()
        assert (event["type"], event["data"]["to"]) == ("mail.bounced", ["bounce@example.net"])

        secret.write_text(OTHER)
        bridge.process.send_signal(signal.SIGHUP)
        bridge.wait_for_log("webhook_secret.reloaded")
        receiver.secret = OTHER
        receiver.answering.clear()
        send(bridge, "ben@example.net", "bounce@example.net")
        hanging = receiver.next()
        bridge.clear()
        send(bridge, "ben@example.net", messages=20)
        bridge.wait_for(20)
        assert bridge.stop() == 0  # within PATIENCE, of which a call may take ten times as much
        log = bridge.log_path.read_text()
        assert "webhook.failing" not in log
        assert "not-to-be-logged" not in log

    receiver.answering.set()
    with running_bridge(tmp_path, constants=at_once, **settings):
        again = receiver.next()
    assert (again["id"], again["data"]) == (hanging["id"], hanging["data"])
