"""Settings, aliases, AUTH and STARTTLS."""

import os
import socket
import ssl
from base64 import b64encode
from pathlib import Path

import pytest

from smtp2cf.sendmail import host as host_module
from smtp2cf.sendmail.addresses import parse_addresses
from smtp2cf.sendmail.aliases import Aliases
from smtp2cf.sendmail.endpoint import parse_endpoint
from smtp2cf.sendmail.exit_codes import Failure
from smtp2cf.sendmail.settings import Settings
from tests.sendmail.conftest import Result, Sendmail
from tests.sendmail.scripted import certificate, scripted
from tests.support.bridge import Bridge

MAIL = b"Subject: s\n\nhi\n"


def write(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(text)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:2525", ("127.0.0.1", 2525, "")),
        ("[::1]:25", ("::1", 25, "")),
        ("unix:/run/x", ("", 0, "/run/x")),
        (":25", ("", 25, "")),
    ],
)
def test_endpoint(text: str, parsed: tuple[str, int, str]) -> None:
    assert parse_endpoint(text, "X") == parsed


@pytest.mark.parametrize(
    "text", ["host", "host:", "host:x", "host:0", "host:70000", "::1:25", "unix:rel", "h:²"]
)
def test_bad_endpoint_is_a_configuration_error(away: Sendmail, text: str) -> None:
    result = away("b@example.net", input=MAIL, env={"SMTP2CF_SENDMAIL_HOST": text})

    assert result.code == 78
    assert result.reason == f"SMTP2CF_SENDMAIL_HOST={text}: use host:port, [v6]:port or unix:/path"


def test_file_is_read_and_the_environment_wins(tmp_path: Path, away: Sendmail) -> None:
    del away.env["SMTP2CF_SENDMAIL_DOMAIN"]
    with scripted() as server:
        del away.env["SMTP2CF_SENDMAIL_HOST"]
        conf = (
            f"# ours\n\nSMTP2CF_SENDMAIL_HOST={server.endpoint}\n SMTP2CF_SENDMAIL_DOMAIN = 'file.example'\n"
        )
        write(tmp_path, "sendmail.conf", conf)
        assert away("-f", "x", "b", input=MAIL).code == 0
        assert away("-f", "x", "b", input=MAIL, env={"SMTP2CF_SENDMAIL_DOMAIN": "env.example"}).code == 0

    senders = [line.split()[1] for line in server.commands if line.startswith("MAIL")]
    assert senders == ["FROM:<x@file.example>", "FROM:<x@env.example>"]


@pytest.mark.parametrize(
    ("conf", "says"),
    [
        ("nonsense\n", "line 1: not KEY=VALUE"),
        (
            "# ours\nSMTP2CF_SENDMAIL_DROP_DIR=/tmp/a\0b\n",
            "line 2: not KEY=VALUE, or contains a control character",
        ),
        (
            "SMTP2CF_SENDMAIL_DOMAIN=x.example\x1b[2J\n",
            "line 1: not KEY=VALUE, or contains a control character",
        ),
        ("SMTP2CF_SENDMAIL_PASSWORD=secret\n", "everyone can read this file"),
        ("SMTP2CF_SENDMAIL_DIRECT=maybe\n", "SMTP2CF_SENDMAIL_DIRECT=maybe: use yes or no"),
        (
            "SMTP2CF_SENDMAIL_USER=u\nSMTP2CF_SENDMAIL_PASSWORD_FILE=/nonexistent\n",
            "PASSWORD_FILE=/nonexistent",
        ),
        ("SMTP2CF_SENDMAIL_USER=u\n", "no password"),
    ],
)
def test_bad_file_is_named(tmp_path: Path, away: Sendmail, conf: str, says: str) -> None:
    write(tmp_path, "sendmail.conf", conf)
    with scripted({"EHLO": "250-x\r\n250 AUTH PLAIN"}) as server:
        result = away("b@example.net", input=MAIL, env={"SMTP2CF_SENDMAIL_HOST": server.endpoint})

    assert result.code == 78
    assert says in result.reason
    assert "secret" not in result.stderr


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("web1.example.org", "example.org"),
        ("example.org", "example.org"),
        ("a.b.example.org", "b.example.org"),
    ],
)
def test_domain_is_the_hosts(monkeypatch: pytest.MonkeyPatch, host: str, domain: str) -> None:
    name = os.uname_result(("Linux", host, "", "", ""))
    monkeypatch.setattr(host_module.os, "uname", lambda: name)
    if Path("/etc/mailname").exists():
        pytest.skip("this host has an /etc/mailname, which comes first")
    assert Settings({"SMTP2CF_SENDMAIL_CONF": "/nonexistent"}).domain == domain


def test_unix_socket(tmp_path: Path, away: Sendmail) -> None:
    path = tmp_path / "bridge.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        import threading

        def serve() -> None:
            with listener.accept()[0] as peer, peer.makefile("rwb", 0) as stream:
                stream.write(b"554 5.3.2 from the unix socket\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        result = away("b@example.net", input=MAIL, env={"SMTP2CF_SENDMAIL_HOST": f"unix:{path}"})
        thread.join()

    assert (result.code, result.reason) == (69, "554 5.3.2 from the unix socket")


def aliases(tmp_path: Path, text: str) -> Aliases:
    write(tmp_path, "aliases", text)
    return Aliases(str(tmp_path / "aliases"))


def expanded(found: Aliases, name: str) -> list[str | None]:
    [mailbox] = parse_addresses(name)
    return [target.address for target in found.expand(mailbox)]


@pytest.mark.parametrize(
    ("text", "name", "addresses"),
    [
        ("root: anna@x", "root", ["anna@x"]),
        ("Root: anna@x, bob@y\n", "ROOT", ["anna@x", "bob@y"]),
        ("root: admin\nadmin: a@x, b@x", "root", ["a@x", "b@x"]),
        ("root: a@x,\n  b@x  # two\n# comment\n", "root", ["a@x", "b@x"]),
        ("default: d@x", "nobody", ["d@x"]),
        ("default: d@x\nroot: bob, carol", "root", ["d@x"]),
        ("root: r@x", "other", ["other"]),
        ("root: root, copy@x", "root", ["root", "copy@x"]),
        ("a: b\nb: a, c@x", "a", ["a", "c@x"]),
        ("default: default", "x", ["default"]),
        ("root: a@x", "root@elsewhere", ["root@elsewhere"]),
        ("a: b, c\nb: d@x\nc: d@x", "a", ["d@x", "d@x"]),
    ],
)
def test_aliases(tmp_path: Path, text: str, name: str, addresses: list[str]) -> None:
    assert expanded(aliases(tmp_path, text), name) == addresses


def test_no_aliases_file_is_no_aliases(tmp_path: Path) -> None:
    assert expanded(Aliases(str(tmp_path / "none")), "root") == ["root"]


@pytest.mark.parametrize("target", ["|/bin/sh", "/var/mail/x", ":include:/etc/list", '"|sh -c x"'])
def test_alias_that_is_no_address_is_a_configuration_error(tmp_path: Path, target: str) -> None:
    with pytest.raises(Failure, match="only addresses"):
        expanded(aliases(tmp_path, f"root: {target}"), "root")


def test_aliases_change_the_envelope_and_not_the_header(
    tmp_path: Path, sendmail: Sendmail, bridge: Bridge
) -> None:
    write(
        tmp_path, "aliases", "root: anna@example.net, bob@example.net, ANNA@example.net, anna@EXAMPLE.NET\n"
    )

    assert sendmail("-t", input=b"To: root\n" + MAIL).code == 0
    [message] = bridge.messages()
    assert message["recipients"] == ["anna@example.net", "bob@example.net", "ANNA@example.net"]
    assert message["mime_message"].startswith(b"To: root@example.com\r\n")


def authenticated(
    away: Sendmail, mechanisms: str, answers: dict[str, str], env: dict[str, str]
) -> tuple[Result, list[str]]:
    ehlo = f"250-x\r\n250 AUTH {mechanisms}" if mechanisms else "250 x"
    with scripted({"EHLO": ehlo, **answers}) as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint, "SMTP2CF_SENDMAIL_USER": "user", **env}
        return away("-v", "b@example.net", input=MAIL, env=env), server.commands


def test_auth_plain_and_its_secret_is_not_shown(away: Sendmail) -> None:
    result, commands = authenticated(
        away, "LOGIN PLAIN", {"AUTH": "235 2.7.0 ok"}, {"SMTP2CF_SENDMAIL_PASSWORD": "söcret"}
    )

    secret = b64encode("\0user\0söcret".encode()).decode()
    assert result.code == 0
    assert commands[1] == f"AUTH PLAIN {secret}"
    assert secret not in result.stderr


def test_auth_login_with_a_password_file(tmp_path: Path, away: Sendmail) -> None:
    write(tmp_path, "password", "secret\n")
    words = dict.fromkeys((b64encode(b"user").decode().upper(),), "334 UGFzc3dvcmQ6")
    words[b64encode(b"secret").decode().upper()] = "235 2.7.0 ok"
    result, commands = authenticated(
        away,
        "LOGIN",
        {"AUTH": "334 VXNlcm5hbWU6", **words},
        {"SMTP2CF_SENDMAIL_PASSWORD_FILE": str(tmp_path / "password")},
    )

    assert result.code == 0
    assert commands[1:4] == ["AUTH LOGIN", b64encode(b"user").decode(), b64encode(b"secret").decode()]


@pytest.mark.parametrize(
    ("mechanisms", "answer", "code"),
    [("PLAIN", "535 5.7.8 no", 77), ("PLAIN", "454 4.7.0 later", 75), ("", "", 78)],
)
def test_auth_refused(away: Sendmail, mechanisms: str, answer: str, code: int) -> None:
    result, _ = authenticated(away, mechanisms, {"AUTH": answer}, {"SMTP2CF_SENDMAIL_PASSWORD": "x"})

    assert result.code == code


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    return certificate(tmp_path)


def test_starttls(away: Sendmail, tls: tuple[ssl.SSLContext, Path]) -> None:
    context, authority = tls
    with scripted({"EHLO": "250-x\r\n250 STARTTLS", "STARTTLS": "220 go"}, context) as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint, "SMTP2CF_SENDMAIL_TLS": "yes"}
        trusted = away(
            "b@example.net", input=MAIL, env=env | {"SMTP2CF_SENDMAIL_TLS_CA_FILE": str(authority)}
        )

    assert (trusted.code, trusted.stderr) == (0, "")
    assert [line.split()[0] for line in server.commands] == [
        "EHLO",
        "STARTTLS",
        "EHLO",
        "MAIL",
        "RCPT",
        "DATA",
        "QUIT",
    ]
    assert len(server.messages) == 1


def test_certificate_nobody_vouches_for_is_refused(away: Sendmail, tls: tuple[ssl.SSLContext, Path]) -> None:
    with scripted({"EHLO": "250-x\r\n250 STARTTLS", "STARTTLS": "220 go"}, tls[0]) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint, "SMTP2CF_SENDMAIL_TLS": "yes"}
        result = away("b@example.net", input=MAIL, env=env)

    assert result.code == 78
    assert "certificate not trusted" in result.reason
    assert server.messages == []


def test_configured_tls_that_is_not_offered_sends_nothing(away: Sendmail) -> None:
    with scripted() as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint, "SMTP2CF_SENDMAIL_TLS": "yes"}
        result = away("b@example.net", input=MAIL, env=env)

    assert result.code == 78
    assert server.messages == []
