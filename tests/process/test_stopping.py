"""Signals: what is under way when the bridge is told to stop, and what does not stop it."""

import asyncio
import contextlib
import os
import signal
import smtplib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest

from smtp2cf.spool import open_spool
from tests.cloudflare.raw_server import Request, http, ok, serving
from tests.process.metrics import wait_for_metric
from tests.support.bridge import Bridge, running_bridge
from tests.support.command import running, smtp2cf
from tests.support.waiting import PATIENCE

MESSAGE = b"From: app@example.com\r\nSubject: under way\r\n\r\nHello\r\n"
GOODBYE = b"421 4.3.2 "


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Bridge]:
    """A bridge for one test, which may stop it."""
    with running_bridge(tmp_path, DRAIN_TIMEOUT="1h") as bridge:
        yield bridge


@contextlib.contextmanager
def in_transaction(bridge: Bridge, recipient: str) -> Iterator[smtplib.SMTP]:
    """A client that is about to send its message."""
    with contextlib.closing(bridge.client()) as client:
        client.ehlo()
        assert client.mail("app@example.com")[0] == 250
        assert client.rcpt(recipient)[0] == 250
        yield client


def test_a_message_under_way_is_answered_before_it_stops(own: Bridge) -> None:
    with in_transaction(own, "slow-1s@example.com") as client, ThreadPoolExecutor() as pool:
        answer = pool.submit(client.data, MESSAGE)
        wait_for_metric(own, "smtp2cf_api_calls_in_flight", 1.0)
        own.process.send_signal(signal.SIGTERM)
        code, text = answer.result()
    assert code == 250
    assert text.startswith(b"2.0.0 ")
    assert own.process.wait(PATIENCE) == 0
    assert own.wait_for_log("mail.attempt", status="sent")["to"] == ["slow-1s@example.com"]
    assert own.log()[-1]["event"] == "serve.stopped"


def test_a_transaction_under_way_may_go_on_to_its_end(own: Bridge) -> None:
    with in_transaction(own, "anna@example.net") as client:
        own.process.send_signal(signal.SIGTERM)
        own.wait_for_log("serve.stopping")
        assert client.data(MESSAGE)[0] == 250
        assert client.file.readline().startswith(GOODBYE)
        assert own.process.wait(PATIENCE) == 0


def test_an_idle_session_is_told_and_a_new_one_is_not_taken(own: Bridge) -> None:
    with in_transaction(own, "anna@example.net") as busy:
        with socket.create_connection((own.smtp_host, own.smtp_port), PATIENCE) as idle:
            lines = idle.makefile("rb")
            assert lines.readline().startswith(b"220 ")
            own.process.send_signal(signal.SIGTERM)
            assert lines.readline().startswith(GOODBYE)
            assert lines.readline() == b""
        with pytest.raises(ConnectionRefusedError):
            own.client()
        assert own.process.poll() is None, "the busy session holds it"
        assert busy.rset()[0] == 250
        assert own.process.wait(PATIENCE) == 0


def test_what_does_not_end_in_time_is_ended(tmp_path: Path) -> None:
    with (
        running_bridge(tmp_path, DRAIN_TIMEOUT="0.2") as bridge,
        in_transaction(bridge, "anna@example.net") as client,
    ):
        bridge.process.send_signal(signal.SIGTERM)
        assert client.file.readline().startswith(GOODBYE)
        assert bridge.process.wait(25) == 0, "it would have waited 30 s by default"
        assert bridge.wait_for_log("drain.timeout")["sessions"] == 1


def test_an_interrupt_stops_it_like_sigterm(own: Bridge) -> None:
    assert own.stop(signal.SIGINT) == 0
    assert "Traceback" not in own.log_path.read_text()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_it_at_once_and_says_what_it_leaves(
    tmp_path: Path, first: signal.Signals
) -> None:
    state = tmp_path / "state"
    places = {"STATE_DIR": str(state), "LMTP_LISTEN": f"unix:{tmp_path}/lmtp"}
    with (
        running_bridge(tmp_path, **places, DRAIN_TIMEOUT="1h") as bridge,
        bridge.client() as kept,
        in_transaction(bridge, "slow-60s@example.com") as client,
    ):
        assert kept.sendmail("app@example.com", ["error@example.net"], MESSAGE) == {}
        client.docmd("DATA")
        client.send(MESSAGE + b".\r\n")
        wait_for_metric(bridge, "smtp2cf_api_calls_in_flight", 1.0)
        kept.docmd("MAIL FROM:<app@example.com>")
        bridge.process.send_signal(first)
        bridge.wait_for_log("serve.stopping")
        assert bridge.process.poll() is None
        bridge.process.send_signal(signal.SIGINT)
        assert bridge.process.wait(PATIENCE) == 128 + signal.SIGINT
        left = bridge.wait_for_log("serve.left_at_once")
        kept.close()
        client.close()
    assert (left["sessions"], left["under_way"], left["waiting"]) == (2, 1, 1)
    assert left["note"] == (
        "cut off 2 sessions, 1 message of theirs unanswered, which clients will send again;"
        f" 1 message in {state}/spool.sqlite3: sent after the next start"
    )
    assert not (tmp_path / "lmtp").exists()


def test_a_second_sigterm_changes_nothing(own: Bridge) -> None:
    """Process managers send it again where they are impatient, and SIGKILL where they mean it."""
    with in_transaction(own, "anna@example.net") as client:
        own.process.send_signal(signal.SIGTERM)
        own.wait_for_log("serve.stopping")
        own.process.send_signal(signal.SIGTERM)
        assert client.data(MESSAGE)[0] == 250
    assert own.process.wait(PATIENCE) == 0


def test_a_sandbox_that_is_left_at_once_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with running_bridge(tmp_path, DRAIN_TIMEOUT="1h") as bridge, in_transaction(bridge, "a@example.com"):
        bridge.process.send_signal(signal.SIGINT)
        bridge.wait_for_log("serve.stopping")
        bridge.process.send_signal(signal.SIGINT)
        assert bridge.process.wait(PATIENCE) == 128 + signal.SIGINT
        assert "lost with the sandbox" in bridge.wait_for_log("serve.left_at_once")["note"]
    assert not list(tmp_path.glob("smtp2cf-sandbox-*"))


def test_sighup_does_not_stop_it(own: Bridge) -> None:
    own.process.send_signal(signal.SIGHUP)
    own.wait_for_log("serve.sighup")
    assert "are read at the start only" in own.wait_for_log("settings.not_reread")["note"]
    with in_transaction(own, "anna@example.net") as client:
        assert client.data(MESSAGE)[0] == 250
    assert own.stop() == 0


@pytest.mark.parametrize("setting", ["SMTP_LISTEN", "ADMIN_LISTEN"])
def test_a_place_that_is_taken_is_named(bridge: Bridge, tmp_path: Path, setting: str) -> None:
    places = {"SMTP_LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "127.0.0.1:0", "STATE_DIR": str(tmp_path)}
    taken = bridge.env["SMTP2CF_SMTP_LISTEN"]
    sandbox = ("--sandbox", "--sandbox-listen", "127.0.0.1:0", "--sandbox-tls-listen", "127.0.0.1:0")
    done = smtp2cf("serve", *sandbox, **{**places, setting: taken})
    assert done.status == os.EX_OSERR
    why = "Address already in use: another process is listening there (`ss -ltnxp` shows which)"
    assert done.err == f"smtp2cf: SMTP2CF_{setting}: cannot listen on {taken}: {why}\n"


def test_the_sandbox_alone_stops_at_sigterm() -> None:
    with running("sandbox", "--listen", "127.0.0.1:0") as process:
        assert process.stdout.readline().startswith("SMTP2CF_API_BASE_URL=http://127.0.0.1:")
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""


def _error(text: str) -> bytes:
    return orjson.dumps({"success": False, "errors": [{"message": f"email.sending.error.{text}"}]})


async def _half_taken(request: Request, writer: asyncio.StreamWriter) -> None:
    """Somebody among them is refused; anna, asked for alone, has her mail; the others have to wait."""
    recipients = request.json["recipients"] if "send_raw" in request.line else None
    if recipients is None:
        answer = http("200 OK", orjson.dumps({"success": True, "result": {"status": "active"}}))
    elif len(recipients) > 1:
        answer = http("400 Bad Request", _error("invalid_request_schema"))
    elif recipients == ["anna@example.net"]:
        answer = ok(*recipients)
    else:
        answer = http("429 Too Many Requests", _error("throttled"), Retry_After="50")
    writer.write(answer)


async def test_what_some_recipients_came_to_is_written_down_while_others_wait_for_their_turn(
    tmp_path: Path,
) -> None:
    async with serving(_half_taken) as api:
        await asyncio.to_thread(_stopped_while_throttled, tmp_path, api.base_url)
    spool = await open_spool("", state_dir=tmp_path)
    (item,) = [item async for item in spool.items()]
    await spool.close()
    assert {who: reply.code for who, reply in item.outcomes.items()} == {
        "anna@example.net": 250,
        "ben@example.net": 451,
    }
    assert not item.unanswered


def _stopped_while_throttled(directory: Path, api: str) -> None:
    settings = {"API_BASE_URL": api, "ACCOUNT_ID": "a", "MODE": "queue", "STATE_DIR": str(directory)}
    with running_bridge(directory, sandbox=False, DRAIN_TIMEOUT="20", **settings) as bridge:
        with contextlib.closing(bridge.client()) as client:
            client.sendmail("a@example.com", ["anna@example.net", "ben@example.net"], MESSAGE)
        bridge.wait_for_log("api.throttled")
        assert bridge.stop(timeout=PATIENCE) == 0
