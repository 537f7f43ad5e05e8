"""Several ways in at one bridge, as tables describe them: who may send through which, and what each says."""

import signal
import smtplib
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

import argon2
import pytest

from tests.process.test_listening import UnixSMTP, deliver
from tests.support.bridge import Bridge, running_bridge
from tests.support.certificates import make_certificates
from tests.support.waiting import PATIENCE

TABLES = """
[[listener]]
name = "printers"
listen = "127.0.0.1:0"
tls = "off"
auth = "off"
allow_networks = "127.0.0.2"
allowed_senders = "printer@example.com"

[[listener]]
name = "submission"
listen = "127.0.0.1:0"
tls = "required"
auth = "required"

[[listener]]
name = "antique"
listen = "127.0.0.1:0"
tls_min_version = "1.0"

[[listener]]
name = "mailboxes"
listen = "unix:{d}/lmtp"
protocol = "lmtp"

[[listener]]
name = "handed"
"""


class Running(NamedTuple):
    """A bridge with five listeners of tables, and where each of them is."""

    bridge: Bridge
    ports: dict[str, int]
    client: ssl.SSLContext

    def connect(self, name: str, client: str = "127.0.0.1") -> smtplib.SMTP:
        """A client at a listener. client: its address."""
        return smtplib.SMTP("127.0.0.1", self.ports[name], timeout=PATIENCE, source_address=(client, 0))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("listeners")
    made = make_certificates(directory)
    hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    (directory / "users").write_text(f"shop:{hasher.hash('s3cret')}:shop@example.com\n")
    (directory / "smtp2cf.toml").write_text(TABLES.replace("{d}", str(directory)))
    with (
        socket.create_server(("127.0.0.1", 0)) as handed,
        running_bridge(
            directory,
            handing=[("handed", handed)],
            CONFIG=str(directory / "smtp2cf.toml"),
            TLS_CERT_FILE=str(made.cert),
            TLS_KEY_FILE=str(made.key),
            USERS_FILE=str(directory / "users"),
        ) as bridge,
    ):
        listed = bridge.wait_for_log("serve.ready")["listeners"]
        ports = {
            name: int(endpoint.rpartition(":")[2])
            for name, (endpoint,) in listed.items()
            if name != "mailboxes"
        }
        assert ports["handed"] == handed.getsockname()[1]
        assert listed["mailboxes"] == [f"unix:{directory}/lmtp"]
        yield Running(bridge, ports, made.client)


def mail(client: smtplib.SMTP, sender: str) -> str:
    """What MAIL is answered."""
    code, text = client.mail(sender)
    client.rset()
    return f"{code} {text.decode()}"


def test_printers_send_without_tls_from_their_own_addresses_as_themselves(running: Running) -> None:
    with running.connect("printers", "127.0.0.2") as client:
        client.ehlo()
        assert not {"starttls", "auth"} & client.esmtp_features.keys()
        assert mail(client, "<printer@example.com>").startswith("250 ")
        assert mail(client, "<anna@example.com>") == (
            "550 5.7.1 sending as <anna@example.com> is not allowed here: allowed_senders of [[listener]]"
            " printers allows printer@example.com"
        )
    with running.connect("printers") as client:
        client.ehlo()
        said = mail(client, "<printer@example.com>")
        assert said.startswith(
            "550 5.7.1 127.0.0.1 may not relay here: it is not in allow_networks of [[listener]]"
        )
        with urllib.request.urlopen(f"{running.bridge.admin_url}/metrics") as metrics:
            lines = metrics.read().decode().splitlines()
        assert 'smtp2cf_listener_sessions{listener="printers"} 1.0' in lines
        assert 'smtp2cf_listener_sessions{listener="submission"} 0.0' in lines
    denied = running.bridge.wait_for_log("session.relaying_denied")
    assert (denied["listener"], denied["client"]) == ("printers", "127.0.0.1")


def test_submission_takes_nothing_before_tls_and_a_login(running: Running) -> None:
    with running.connect("submission") as client:
        client.ehlo()
        assert "auth" not in client.esmtp_features
        assert mail(client, "<shop@example.com>").startswith("530 5.7.0 send STARTTLS first")
        client.starttls(context=running.client)
        client.ehlo()
        assert mail(client, "<shop@example.com>").startswith("530 5.7.0 authenticate first")
        client.login("shop", "s3cret")
        assert mail(client, "<anna@example.com>").startswith("550 5.7.1 user shop may not send as")
        assert mail(client, "<shop@example.com>").startswith("250 ")


def test_a_failed_login_names_its_listener(running: Running) -> None:
    with running.connect("submission") as client:
        client.ehlo()
        client.starttls(context=running.client)
        client.ehlo()
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("shop", "wrong")
    failed = running.bridge.wait_for_log("auth.failed")
    assert (failed["listener"], failed["user"]) == ("submission", "shop")


def version_at(running: Running, name: str, newest: ssl.TLSVersion) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
    with running.connect(name) as client:
        try:
            client.starttls(context=context)
        except (ssl.SSLError, OSError):
            client.close()
            return None
        assert isinstance(client.sock, ssl.SSLSocket)
        return client.sock.version()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_old_version_of_tls_is_for_one_listener_only(running: Running) -> None:
    old = ssl.TLSVersion.TLSv1_1
    assert version_at(running, "antique", old) == "TLSv1.1"
    assert version_at(running, "submission", old) is None
    assert version_at(running, "submission", ssl.TLSVersion.TLSv1_2) == "TLSv1.2"


def test_they_all_are_one_bridge(running: Running) -> None:
    deliver(running.bridge.client())
    deliver(running.connect("handed"))
    with UnixSMTP(running.bridge.log_path.with_name("lmtp")) as lmtp:
        lmtp.ehlo_or_helo_if_needed = lambda: None  # type: ignore[method-assign]
        assert lmtp.docmd("LHLO", "client.example")[0] == 250
        deliver(lmtp)
    assert len(running.bridge.messages()) == 3
    sent = [line.get("listener", "") for line in running.bridge.log() if line["event"] == "mail.attempt"]
    assert sorted(sent) == ["", "handed", "mailboxes"]


def test_who_may_send_is_used_at_once_and_where_they_connect_after_a_restart(running: Running) -> None:
    file = running.bridge.log_path.with_name("smtp2cf.toml")
    changed = file.read_text().replace('"127.0.0.2"', '["127.0.0.3"]').replace("printer@", "copier@")
    with running.connect("printers", "127.0.0.3") as under_way:
        under_way.ehlo()
        assert mail(under_way, "<copier@example.com>").startswith("550 5.7.1 127.0.0.3 may not relay here")
        file.write_text(changed)
        running.bridge.process.send_signal(signal.SIGHUP)
        used = running.bridge.wait_for_log("settings.reloaded")
        assert used["settings"] == ["[[listener]]"]
        assert mail(under_way, "<copier@example.com>").startswith("250 ")
        assert mail(under_way, "<printer@example.com>").startswith("550 5.7.1 sending as")
    with urllib.request.urlopen(running.bridge.admin_url) as page:
        assert "127.0.0.3/32" in page.read().decode()
    file.write_text(changed.replace('tls = "off"', 'tls = "offered"'))
    running.bridge.process.send_signal(signal.SIGHUP)
    assert running.bridge.wait_for_log("settings.restart_needed")["settings"] == ["[[listener]]"]
