"""A FIFO where a file is named: it is said at once, and nothing freezes."""

import os
import signal
from pathlib import Path

import pytest

from tests.access.hashes import line
from tests.support.bridge import running_bridge
from tests.support.certificates import make_pair, write_pair
from tests.support.command import smtp2cf

MESSAGE = b"From: app@example.com\r\nSubject: still here\r\n\r\nHello\r\n"
READ_AT_START = [
    "TLS_CERT_FILE",
    "TLS_KEY_FILE",
    "TLS_CA_FILE",
    "USERS_FILE",
    "API_TOKEN_FILE",
    "SPOOL_URL_FILE",
]


@pytest.mark.parametrize("name", READ_AT_START)
@pytest.mark.parametrize("command", ["serve", "check"])
def test_it_stops_the_start(tmp_path: Path, name: str, command: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    cert, key = write_pair(tmp_path, make_pair())
    good = {"TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(key), "ACCOUNT_ID": "a1", "API_TOKEN": "t"}
    if name == "API_TOKEN_FILE":
        del good["API_TOKEN"]
    places = {"SMTP_LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "none", "STATE_DIR": str(tmp_path / "state")}
    done = smtp2cf(command, **places, **{**good, name: str(fifo)})
    assert done.status == os.EX_CONFIG
    assert f": SMTP2CF_{name}: {fifo} is a FIFO, not a regular file\n" in done.out + done.err
    assert "Traceback" not in done.err


def test_an_env_file_and_a_password_file_too(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    done = smtp2cf("serve", "--env-file", str(fifo))
    assert done.err == f"smtp2cf: --env-file {fifo} is a FIFO, not a regular file\n"
    done = smtp2cf("user", "list", "--users-file", str(fifo))
    assert done.err == f"smtp2cf: {fifo} is a FIFO, not a regular file\n"
    done = smtp2cf("user", "delete", "anna", "--users-file", str(fifo))
    assert done.err == f"smtp2cf: {fifo} is a FIFO, not a regular file\n"


@pytest.mark.parametrize("which", ["certificate", "key", "users"])
def test_put_in_place_while_it_runs_it_freezes_nothing(tmp_path: Path, which: str) -> None:
    cert, key = write_pair(tmp_path, make_pair())
    users = tmp_path / "users"
    users.write_text(line("anna", "secret"))
    settings = {"TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(key), "USERS_FILE": str(users)}
    with running_bridge(tmp_path, **settings) as bridge:
        victim = {"certificate": cert, "key": key, "users": users}[which]
        victim.unlink()
        os.mkfifo(victim)
        bridge.process.send_signal(signal.SIGHUP)
        said = bridge.wait_for_log("users.not_reread" if which == "users" else "tls.reload_failed")
        assert said["reason"].endswith(f"{victim} is a FIFO, not a regular file")
        with bridge.client() as client:
            assert client.sendmail("app@example.com", ["anna@example.net"], MESSAGE) == {}
        assert bridge.stop() == 0
