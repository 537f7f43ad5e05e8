"""smtp2cf send: it ends with 0 only when the message was sent, and says what became of it and why."""

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from smtp2cf import __version__
from tests.access.hashes import line
from tests.support.bridge import Bridge, running_bridge
from tests.support.certificates import make_pair, write_pair
from tests.support.command import Done, clean_environment, run, smtp2cf
from tests.support.forked import NONE

HASTY = {"smtp2cf.cli.send:PATIENCE": 0.2}
"""How long it looks whether its message is sent; in earnest ten seconds."""
ADDRESSES = ("--to", "anna@example.net", "--from", "me@example.com")


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An endpoint on which nobody listens, and nobody can while the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def send(bridge: Bridge, *arguments: str, constants: Mapping[str, float] = NONE, **settings: str) -> Done:
    env = bridge.env | {f"SMTP2CF_{name}": value for name, value in settings.items()}
    return run(["send", *arguments], clean_environment(env), constants=constants)


def to(recipient: str) -> tuple[str, ...]:
    return ("--to", recipient, "--from", "me@example.com")


def test_prints_the_answer_of_the_bridge(bridge: Bridge) -> None:
    status, out, err = send(bridge, *ADDRESSES)
    assert (status, err) == (0, "")
    assert out.startswith("250 2.0.0 ")
    (message,) = bridge.messages()
    assert message["recipients"] == ["anna@example.net"]
    assert message["from"] == "me@example.com"


def test_its_message_names_host_and_version(bridge: Bridge) -> None:
    assert send(bridge, *ADDRESSES).status == 0
    header, _, body = bridge.messages()[0]["mime_message"].decode().partition("\r\n\r\n")
    assert f"\r\nSubject: smtp2cf test message from {socket.gethostname()}\r\n" in header
    assert "\r\nMessage-ID: <" in header
    assert f"smtp2cf {__version__} sent this message on {socket.gethostname()},\r\n" in body
    assert f"through the bridge on {bridge.smtp_endpoint}." in body


@pytest.mark.parametrize("missing", ["--to", "--from"])
def test_wants_sender_and_recipient(missing: str) -> None:
    given = [word for word in ADDRESSES if word != missing]
    given = given[1:] if missing == "--to" else given[:2]
    done = smtp2cf("send", *given)
    assert done.status == os.EX_USAGE
    assert done.err.startswith(f"smtp2cf: missing option '{missing}' (")


@pytest.mark.parametrize(
    ("recipient", "status", "answer"),
    [
        ("bounce@example.net", os.EX_NOUSER, "550 5.1.1 "),
        ("suppressed@example.net", os.EX_NOUSER, "550 5.7.1 "),
        ("no-address", os.EX_NOUSER, "553 5.1.3 "),
    ],
)
def test_fails_as_the_bridge_says(bridge: Bridge, recipient: str, status: int, answer: str) -> None:
    done = send(bridge, *to(recipient))
    assert done.status == status
    assert done.out.startswith(answer)


def test_fails_for_now_where_nothing_is_kept(tmp_path: Path) -> None:
    with running_bridge(tmp_path, SPOOL_URL="none") as bridge:
        done = send(bridge, *to("error@example.net"), SPOOL_URL="none")
    assert done.status == os.EX_TEMPFAIL
    assert done.out.startswith("451 4.3.0 ")


@pytest.mark.parametrize("mode", ["direct", "queue"])
@pytest.mark.parametrize("admin", ["", "none"], ids=["asks the bridge", "asks the queue"])
def test_what_is_kept_is_not_sent_and_it_says_why(tmp_path: Path, mode: str, admin: str) -> None:
    state = {"STATE_DIR": str(tmp_path / "state"), "MODE": mode}
    with running_bridge(tmp_path, **state, **({"ADMIN_LISTEN": admin} if admin else {})) as bridge:
        done = send(bridge, *to("error@example.net"), **state)
    assert done.status == os.EX_TEMPFAIL
    assert done.out.startswith("250 2.0.0 ")
    queue_id = done.out.split()[2]
    assert done.err.startswith("smtp2cf: not sent yet: 451 4.3.0 ")
    assert done.err.endswith(f". `smtp2cf queue show {queue_id}` says more\n")
    assert done.err.count("\n") == 1


def test_kept_because_there_is_no_answer_yet(tmp_path: Path) -> None:
    state = {"STATE_DIR": str(tmp_path / "state"), "REPLY_TIMEOUT": "0.1"}
    with running_bridge(tmp_path, **state, DRAIN_TIMEOUT="0") as bridge:
        done = send(bridge, *to("slow-60s@example.net"), constants=HASTY, **state)
    assert done.status == os.EX_TEMPFAIL
    assert done.err.startswith("smtp2cf: not sent yet: Cloudflare has not answered yet. ")


@pytest.mark.parametrize(
    ("recipient", "status", "said"),
    [
        ("anna@example.net", 0, "sent: 250 2.0.0 delivered"),
        ("queued@example.net", 0, "queued: 250 2.0.0 queued by Cloudflare"),
        ("bounce@example.net", os.EX_NOUSER, "bounced: 550 5.1.1 "),
        ("suppressed@example.net", os.EX_NOUSER, "suppressed: 550 5.7.1 "),
    ],
)
def test_in_queue_mode_it_waits_to_see(tmp_path: Path, recipient: str, status: int, said: str) -> None:
    state = {"STATE_DIR": str(tmp_path / "state"), "MODE": "queue"}
    with running_bridge(tmp_path, **state) as bridge:
        done = send(bridge, *to(recipient), **state)
    assert done.status == status
    assert done.out.splitlines()[1].startswith(said)
    assert done.err == ""


def test_a_queue_that_can_not_be_seen_is_said(tmp_path: Path) -> None:
    with running_bridge(
        tmp_path, STATE_DIR=str(tmp_path / "state"), MODE="queue", ADMIN_LISTEN="none"
    ) as bridge:
        done = send(bridge, *ADDRESSES, constants=HASTY, STATE_DIR=str(tmp_path / "other"))
    assert done.status == os.EX_TEMPFAIL
    assert done.err.startswith("smtp2cf: not sent yet: the queue can't be read: ")
    assert done.err.count("\n") == 1


# ---- places


def test_without_a_bridge_it_says_where_it_looked(nowhere: str) -> None:
    done = smtp2cf("send", *ADDRESSES, SMTP_LISTEN=nowhere)
    assert done.status == os.EX_UNAVAILABLE
    assert done.err == (
        f"smtp2cf: no bridge answers on {nowhere}: Connection refused (is `smtp2cf serve` running?)\n"
    )


def test_finds_a_bridge_on_a_unix_socket(tmp_path: Path) -> None:
    with running_bridge(tmp_path, SMTP_LISTEN=f"unix:{tmp_path}/smtp.sock") as bridge:
        assert send(bridge, *ADDRESSES).status == 0


def test_finds_a_bridge_that_listens_on_every_address(tmp_path: Path) -> None:
    with running_bridge(tmp_path, SMTP_LISTEN="0.0.0.0:0") as bridge:
        assert send(bridge, *ADDRESSES).status == 0


def test_where_no_mail_is_taken_over_smtp() -> None:
    done = smtp2cf("send", *ADDRESSES, SMTP_LISTEN="none")
    assert done.status == os.EX_CONFIG
    assert done.err == "smtp2cf: SMTP2CF_SMTP_LISTEN is none: use --server\n"


@pytest.mark.parametrize("address", ["a b@example.com", "<a@example.com>", "a@b\r\nDATA", ""])
def test_an_address_that_is_none(address: str) -> None:
    done = smtp2cf("send", "--to", "anna@example.net", "--from", address, SMTP_LISTEN="none")
    if address:
        assert done.err == f"smtp2cf: --from: {address!r} is not an address such as name@example.com\n"
        assert done.status == os.EX_USAGE


def test_an_address_outside_ascii(bridge: Bridge) -> None:
    assert send(bridge, *to("anna@bücher.example")).status == 0


# ---- TLS and logins


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bridge, dict[str, str]]]:
    """A bridge that relays only for bert and his password, and only over TLS; and its settings."""
    directory = tmp_path_factory.mktemp("guarded")
    cert, key = write_pair(directory, make_pair("bridge.example"))
    (directory / "users").write_text(line("bert", "söcret"))
    (directory / "password").write_text("söcret\n")
    settings = {"TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(key), "USERS_FILE": str(directory / "users")}
    places = {"ALLOW_NETWORKS": "none", "SMTPS_LISTEN": "127.0.0.1:0"}
    with running_bridge(directory, **settings, **places) as bridge:
        settings["SMTPS_LISTEN"] = bridge.wait_for_log("serve.ready")["smtps"][0]
        settings["password"] = str(directory / "password")
        yield bridge, settings


@pytest.mark.parametrize("how", ["--starttls", "--smtps"])
def test_logs_in_over_tls(guarded: tuple[Bridge, dict[str, str]], how: str) -> None:
    bridge, settings = guarded
    done = send(
        bridge, *ADDRESSES, how, "--user", "bert", "--password-file", settings["password"], **settings
    )
    assert (done.status, done.err) == (0, "")


def test_takes_the_only_door_there_is(guarded: tuple[Bridge, dict[str, str]]) -> None:
    _, settings = guarded
    login = ("--user", "bert", "--password-file", settings["password"])
    assert smtp2cf("send", *ADDRESSES, *login, **settings, SMTP_LISTEN="none").status == 0


def test_reads_the_password_from_standard_input(guarded: tuple[Bridge, dict[str, str]]) -> None:
    bridge, settings = guarded
    env = {f"SMTP2CF_{name}": value for name, value in settings.items()} | bridge.env
    arguments = ["send", *ADDRESSES, "--starttls", "--user", "bert"]
    assert run(arguments, clean_environment(env), "söcret\n").status == 0


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (
            ("--user", "bert"),
            os.EX_UNAVAILABLE,
            "does not offer login without TLS: add --starttls or --smtps",
        ),
        (("--user", "bert", "--smtps"), os.EX_NOPERM, "login as bert: 535 5.7.8 "),
        (("--starttls", "--smtps"), os.EX_USAGE, "use only one of them"),
        (("--user", "bert", "--password-file", "/no"), os.EX_NOINPUT, "--password-file: /no: No such file"),
        (("--starttls", "--ca-file", "/no"), os.EX_CONFIG, "--ca-file: /no: No such file or directory"),
    ],
)
def test_what_is_wrong_is_one_line(
    guarded: tuple[Bridge, dict[str, str]], options: tuple[str, ...], status: int, said: str
) -> None:
    bridge, settings = guarded
    done = send(bridge, *ADDRESSES, *options, **settings)
    assert done.status == status
    assert done.err.startswith("smtp2cf: ")
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_certificate_that_is_not_trusted(guarded: tuple[Bridge, dict[str, str]]) -> None:
    bridge, settings = guarded
    done = smtp2cf("send", *ADDRESSES, "--starttls", "--server", bridge.smtp_endpoint)
    assert done.status == os.EX_UNAVAILABLE
    assert done.err.startswith(
        f"smtp2cf: the certificate of {bridge.smtp_endpoint} is not trusted: self-signed"
    )
    named = ("--starttls", "--server", bridge.smtp_endpoint, "--ca-file", settings["TLS_CERT_FILE"])
    login = ("--user", "bert", "--password-file", settings["password"])
    assert smtp2cf("send", *ADDRESSES, *named, *login).status == 0


def test_without_a_login_where_one_is_needed(guarded: tuple[Bridge, dict[str, str]]) -> None:
    bridge, settings = guarded
    done = send(bridge, *ADDRESSES, "--starttls", **settings)
    assert done.status == os.EX_NOPERM
    assert done.out.startswith("530 5.7.0 ")


def test_where_no_tls_is_offered(bridge: Bridge) -> None:
    done = send(bridge, *ADDRESSES, "--starttls")
    assert done.status == os.EX_UNAVAILABLE
    assert "does not offer STARTTLS: set SMTP2CF_TLS_CERT_FILE there" in done.err
