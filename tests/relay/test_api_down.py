"""The API goes away with 1,000 messages waiting, in a whole bridge: its cost, the log, the way back."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtp2cf.cloudflare.health import OUTCOMES
from smtp2cf.spool import open_spool
from tests.process.metrics import metric
from tests.process.test_admin import get
from tests.spool.conftest import new_mail
from tests.support.bridge import Bridge, running_bridge
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN
from tests.support.waiting import free_port, wait_until

WAITING = 1000
PROBED_OFTEN = {
    "smtp2cf.cloudflare.account:PROBE_PAUSE": 0.2,
    "smtp2cf.cloudflare.account:LONGEST_PROBE_PAUSE": 1.0,
}
MAIL = b"Subject: x\r\n\r\nhello\r\n"


class Closing:
    """Takes connections and closes each when it has read something. calls: requests it has read."""

    def __init__(self, port: int) -> None:
        self.calls = 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    self.calls += bool(connection.recv(65536))

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # it was stopped before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@contextlib.contextmanager
def away(kind: str, port: int) -> Iterator[Closing | None]:
    """An API that doesn't answer: nobody listens, or whoever does hangs up."""
    if kind == "refused":
        yield None
        return
    server = Closing(port)
    try:
        yield server
    finally:
        server.stop()


async def fill(directory: Path) -> None:
    """Put mail into the spool of a bridge that isn't running."""
    spool = await open_spool("", state_dir=directory)
    await spool.put(*(new_mail(forward_paths=(f"n{number}@example.net",)) for number in range(WAITING)))
    await spool.close()


def api_lines(bridge: Bridge) -> list[str]:
    return [str(line["event"]) for line in bridge.log() if str(line["event"]).startswith("api.")]


def calls(bridge: Bridge) -> float:
    return sum(metric(bridge, "smtp2cf_api_calls_total", outcome=outcome) for outcome in OUTCOMES)


@pytest.mark.parametrize("kind", ["refused", "hangs up"])
def test_a_thousand_messages_cost_few_calls_and_lines_while_it_is_away_and_go_out_when_it_is_back(
    tmp_path: Path, kind: str
) -> None:
    port = free_port()
    settings = {
        "ACCOUNT_ID": "a1",
        "API_TOKEN": TOKEN,
        "API_BASE_URL": f"http://127.0.0.1:{port}/client/v4",
        "STATE_DIR": str(tmp_path),
        "API_RATE": "none",
    }
    asyncio.run(fill(tmp_path))
    with (
        away(kind, port) as server,
        running_bridge(tmp_path, sandbox=False, constants=PROBED_OFTEN, **settings) as bridge,
    ):
        bridge.wait_for_log("api.unreachable")
        if server is not None:
            known = server.calls
            wait_until(lambda: server.calls >= known + 4, "probes, each with a message that tries")
        assert metric(bridge, "smtp2cf_api_up") == 0
        assert get(f"{bridge.admin_url}/readyz") == (200, "ok\n"), "a restart would not bring the API back"
        status, why = get(f"{bridge.admin_url}/readyz?sending")
        assert (status, why) == (503, bridge.wait_for_log("api.unreachable")["reason"] + "\n")
        assert calls(bridge) < 60, "those that were under way when it showed, and one for each probe"
        assert api_lines(bridge) == ["api.unreachable"]
        assert len(bridge.log()) < 120

        with bridge.client() as client:  # a client doesn't wait for what is known to fail
            client.sendmail("a@example.com", ["new@example.net"], MAIL)
        assert bridge.wait_for_log("mail.attempt", to=["new@example.net"])["delay"] < 5
        if server is not None:
            server.stop()
        with running_sandbox(port=port, token=TOKEN, keep=2000) as (sandbox, _):
            wait_until(lambda: len(sandbox.messages) == WAITING + 1, "everything goes out")
            assert api_lines(bridge) == ["api.unreachable", "api.recovered"]
            assert metric(bridge, "smtp2cf_api_up") == 1
            assert len({message.recipients for message in sandbox.messages}) == WAITING + 1
            assert bridge.stop() == 0
