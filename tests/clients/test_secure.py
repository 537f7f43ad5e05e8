"""Clients that people use encrypt, authenticate, and speak LMTP and PRDR, with a bridge that asks for it."""

import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.access.hashes import line
from tests.clients.secure import (
    PHPMAILER,
    RECIPIENT,
    SENDER,
    Command,
    Target,
    curl,
    msmtp,
    nodemailer,
    phpmailer,
    ruby,
    swaks,
)
from tests.sendmail.test_callers import NODE_MODULES
from tests.support.bridge import Bridge, running_bridge
from tests.support.certificates import make_pair, write_pair
from tests.support.needs import needs

USER, PASSWORD = "shop", "s3cr=t w/ spaces"
MESSAGE = b"From: app@example.com\r\nSubject: x\r\n\r\nhello\r\n"


class Guarded(NamedTuple):
    """A bridge that nobody may use who has not authenticated, but for its LMTP on a unix socket."""

    bridge: Bridge
    target: Target
    lmtp: str


@pytest.fixture(scope="module")
def _guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    cert, key = write_pair(directory, make_pair())
    users = directory / "users"
    users.write_text(line(USER, PASSWORD, "example.com"))
    users.chmod(0o600)
    settings = {
        "ALLOW_NETWORKS": "192.0.2.0/24",
        "SMTPS_LISTEN": "127.0.0.1:0",
        "LMTP_LISTEN": f"unix:{directory / 'lmtp'}",
        "TLS_CERT_FILE": str(cert),
        "TLS_KEY_FILE": str(key),
        "USERS_FILE": str(users),
    }
    with running_bridge(directory, **settings) as bridge:
        ready = bridge.wait_for_log("serve.ready")
        port = int(ready["smtps"][0].rpartition(":")[2])
        target = Target(bridge.smtp_port, port, cert, USER, PASSWORD)
        yield Guarded(bridge, target, str(directory / "lmtp"))


@pytest.fixture
def guarded(_guarded: Guarded) -> Guarded:
    """It, with its messages forgotten."""
    _guarded.bridge.clear()
    return _guarded


def run(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        command, input=MESSAGE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60
    )
    return done.returncode, done.stdout.decode(errors="replace")


NODEMAILER = f"{NODE_MODULES}/nodemailer"
CLIENTS = {
    "swaks, STARTTLS, PLAIN": (swaks("--auth", "PLAIN"), needs("swaks")),
    "swaks, STARTTLS, LOGIN, pipelined": (swaks("--auth", "LOGIN", "--pipeline"), needs("swaks")),
    "swaks, TLS, LOGIN": (swaks("--auth", "LOGIN", on_connect=True), needs("swaks")),
    "curl, STARTTLS": (curl(), needs("curl")),
    "curl, STARTTLS, initial response": (curl("--sasl-ir"), needs("curl")),
    "curl, TLS, LOGIN": (curl("--login-options", "AUTH=LOGIN", on_connect=True), needs("curl")),
    "msmtp, STARTTLS, PLAIN": (msmtp("plain"), needs("msmtp")),
    "msmtp, TLS, LOGIN": (msmtp("login", on_connect=True), needs("msmtp")),
    "Nodemailer, STARTTLS": (nodemailer(NODE_MODULES), needs("node", NODEMAILER)),
    "Nodemailer, TLS": (nodemailer(NODE_MODULES, on_connect=True), needs("node", NODEMAILER)),
    "PHPMailer, STARTTLS, LOGIN": (phpmailer("LOGIN"), needs("php", PHPMAILER)),
    "PHPMailer, TLS, PLAIN": (phpmailer("PLAIN", on_connect=True), needs("php", PHPMAILER)),
    "Ruby, STARTTLS, PLAIN": (ruby("plain"), needs("ruby")),
    "Ruby, TLS, LOGIN": (ruby("login", on_connect=True), needs("ruby")),
}


@pytest.mark.parametrize(
    "client", [pytest.param(client, id=name, marks=mark) for name, (client, mark) in CLIENTS.items()]
)
def test_who_encrypts_and_authenticates_delivers(guarded: Guarded, client: Command) -> None:
    status, said = run(client(guarded.target))
    assert status == 0, said
    (arrived,) = guarded.bridge.messages()
    assert (arrived["from"], arrived["recipients"]) == (SENDER, [RECIPIENT])
    assert guarded.bridge.wait_for_log("mail.attempt", user=USER)["client"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("client", "status"),
    [
        pytest.param(swaks("--auth", "PLAIN"), 28, marks=needs("swaks")),
        pytest.param(curl(), 67, marks=needs("curl")),
        pytest.param(msmtp("plain"), 77, marks=needs("msmtp")),
    ],
    ids=["swaks", "curl", "msmtp"],
)
def test_who_has_the_wrong_password_is_told_so(guarded: Guarded, client: Command, status: int) -> None:
    found, said = run(client(guarded.target._replace(password="wrong")))
    assert found == status
    assert "535" in said
    assert guarded.bridge.messages() == []
    guarded.bridge.wait_for_log("auth.failed", user=USER)


@pytest.mark.parametrize("tls", [False, True])
def test_pythons_smtplib(guarded: Guarded, tls: bool) -> None:
    context = ssl.create_default_context(cafile=str(guarded.target.cert))
    if tls:
        client: smtplib.SMTP = smtplib.SMTP_SSL("127.0.0.1", guarded.target.tls, context=context)
    else:
        client = smtplib.SMTP("127.0.0.1", guarded.target.starttls)
    with client:
        if not tls:
            with pytest.raises(smtplib.SMTPSenderRefused, match=r"530.*start TLS and authenticate"):
                client.sendmail(SENDER, RECIPIENT, MESSAGE)
            client.starttls(context=context)
        client.login(USER, PASSWORD)
        assert client.sendmail(SENDER, RECIPIENT, MESSAGE) == {}
        with pytest.raises(smtplib.SMTPSenderRefused, match="550"):
            client.sendmail("somebody@else.example", RECIPIENT, MESSAGE)
    (arrived,) = guarded.bridge.messages()
    assert arrived["mime_message"] == MESSAGE


# ---- an answer for each recipient


def test_smtplib_speaks_lmtp_on_a_unix_socket(guarded: Guarded) -> None:
    with smtplib.LMTP(guarded.lmtp) as client:
        client.ehlo_or_helo_if_needed()
        client.mail(SENDER)
        for recipient in (RECIPIENT, "bounce@example.net", "queued@example.net", "suppressed@example.net"):
            client.rcpt(recipient)
        answers = [client.data(MESSAGE), *(client.getreply() for _ in range(3))]
    assert [(code, text[:5]) for code, text in answers] == [
        (250, b"2.1.5"), (550, b"5.1.1"), (250, b"2.1.5"), (550, b"5.7.1"),
    ]  # fmt: skip
    assert {arrived["mime_message"] for arrived in guarded.bridge.messages()} == {MESSAGE}


@needs("swaks")
def test_swaks_speaks_lmtp(guarded: Guarded) -> None:
    to = f"{RECIPIENT},bounce@example.net"
    command = ["swaks", "--protocol", "LMTP", "--socket", guarded.lmtp, "--from", SENDER, "--to", to]
    status, said = run(command)
    assert "<-  250 2.1.5" in said
    assert "<** 550 5.1.1" in said
    assert status == 0, "at least one recipient was accepted"
    (arrived,) = guarded.bridge.messages()
    assert arrived["recipients"] == [RECIPIENT, "bounce@example.net"]


@needs("swaks")
def test_swaks_asks_for_prdr(guarded: Guarded) -> None:
    to = guarded.target
    command = swaks("--auth", "PLAIN", "--prdr")(to)
    command[command.index("--to") + 1] = f"{RECIPIENT},bounce@example.net"
    status, said = run(command)
    assert status == 0, said
    assert "353 each recipient's answer follows" in said
    assert "550 5.1.1" in said


def test_a_connection_of_every_kind_leaves_nothing_behind(guarded: Guarded) -> None:
    """What any stranger does to the TLS port is one line, and the bridge goes on."""
    with socket.create_connection(("127.0.0.1", guarded.target.tls)) as sock:
        sock.sendall(b"EHLO plain.example\r\n")
        assert b"220" not in sock.recv(100)
    guarded.bridge.wait_for_log("session.tls_failed")
    assert not [entry for entry in guarded.bridge.log() if entry["event"] == "raw"]
