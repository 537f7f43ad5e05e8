"""Values from the environment, from files and from the host that end up in an address or a header field."""

import os
import pwd
from pathlib import Path

import pytest

from smtp2cf.sendmail import host
from smtp2cf.sendmail.exit_codes import Failure
from smtp2cf.sendmail.host import domain_of_host, name_of_host, names_in_hosts, user_name
from smtp2cf.smtpd.path import parse_path
from tests.sendmail.conftest import Sendmail
from tests.sendmail.scripted import scripted

MAIL = b"To: root\nSubject: s\n\nhi\n"

NO_DOMAINS = [
    "x.example\r\nBcc: v@y.example",
    "x.example\nBcc: v@y.example",
    "x.example\rBcc: v@y.example",
    "x.example> SIZE=1",
    "x.example, v@y.example",
    "a@x.example",
    "x y.example",
    "x.example\x1b[2J",
    "x..example",
    "-x.example",
    "[zz]",
    "x\u2028y.example",
]


IN_A_FILE = [domain for domain in NO_DOMAINS if len(domain.splitlines()) == 1 and "\x1b" not in domain]


@pytest.mark.parametrize(
    ("where", "domain"),
    [*(("environment", domain) for domain in NO_DOMAINS), *(("file", domain) for domain in IN_A_FILE)],
)
def test_domain_that_is_none_is_a_configuration_error(
    away: Sendmail, tmp_path: Path, where: str, domain: str
) -> None:
    env = {"SMTP2CF_SENDMAIL_DOMAIN": domain}
    if where == "file":
        del away.env["SMTP2CF_SENDMAIL_DOMAIN"]
        (tmp_path / "sendmail.conf").write_text(f"SMTP2CF_SENDMAIL_DOMAIN={domain}\n")
        env = {}
    with scripted() as server:
        result = away("-t", input=MAIL, env={**env, "SMTP2CF_SENDMAIL_HOST": server.endpoint})

    assert (result.code, server.commands) == (78, [])
    assert result.reason.startswith("SMTP2CF_SENDMAIL_DOMAIN=")
    assert "not a domain; set SMTP2CF_SENDMAIL_DOMAIN to yours" in result.reason
    assert result.stderr.count("\n") == 1


def test_domain_is_not_asked_for_where_it_is_not_needed(away: Sendmail) -> None:
    with scripted() as server:
        env = {"SMTP2CF_SENDMAIL_DOMAIN": "no domain", "SMTP2CF_SENDMAIL_HOST": server.endpoint}
        result = away("-f", "a@x.example", "b@y.example", input=b"\nhi\n", env=env)

    assert result.code == 0


@pytest.mark.parametrize("name", ["web\nBcc: v@x", "web> X", "a b", "\u202ex", "web1.x.example\r"])
def test_name_of_the_host_that_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(host.os, "uname", lambda: os.uname_result(("Linux", name, "", "", "")))
    if Path("/etc/mailname").exists():
        pytest.skip("this host has an /etc/mailname, which comes first")

    assert name_of_host() == "localhost"
    with pytest.raises(Failure, match=r"(?s)this host's name: .*set SMTP2CF_SENDMAIL_DOMAIN") as failure:
        domain_of_host()
    assert failure.value.code == 78


def test_files_of_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"/etc/mailname": "x.example> SIZE=1\n", "/etc/hosts": "10.0.0.1 web <evil@x.y> web.x.example\n"}
    for name, text in files.items():
        (tmp_path / Path(name).name).write_text(text)

    def opened(name: str, **how: str) -> object:
        return (tmp_path / Path(name).name).open(**how)  # type: ignore[call-overload]

    monkeypatch.setattr(host, "open", opened, raising=False)
    monkeypatch.setattr(host.os, "uname", lambda: os.uname_result(("Linux", "web", "", "", "")))
    assert names_in_hosts("web") == ["web", "<evil@x.y>", "web.x.example"]
    with pytest.raises(Failure, match=r"/etc/mailname: x\.example> SIZE=1: not a domain"):
        domain_of_host()
    (tmp_path / "mailname").unlink()
    assert domain_of_host() == "x.example"


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("anna", "anna"),
        ("EXAMPLE\\anna", '"EXAMPLE\\\\anna"'),
        ("anna@ad.example", '"anna@ad.example"'),
        ("anna smith", '"anna smith"'),
        ('a"b', '"a\\"b"'),
        ("jörg", f"uid{os.getuid()}"),
        ("a\nBcc: v@x", f"uid{os.getuid()}"),
        ("a\x1b", f"uid{os.getuid()}"),
        ("\udcff", f"uid{os.getuid()}"),
    ],
)
def test_user_of_any_name_has_an_address(monkeypatch: pytest.MonkeyPatch, name: str, local: str) -> None:
    entry = pwd.struct_passwd((name, "x", 0, 0, "Anna\nBcc: v@x", "/", "/bin/sh"))
    monkeypatch.setattr(host, "password_entry", lambda: entry)

    assert user_name() == local
    assert parse_path(f"<{local}@x.example>") == (f"{local}@x.example", "")
    assert host.full_name() == "Anna Bcc: v@x"


@pytest.mark.parametrize(
    "target", ["a@x.example\x1b", "a@[zz]", '"a" b@x..y', "a@x|/bin/sh", "a@x.example\u2028DATA"]
)
def test_alias_that_is_no_address_reaches_nobody(away: Sendmail, tmp_path: Path, target: str) -> None:
    (tmp_path / "aliases").write_text(f"root: {target}, good@x.example\n")
    with scripted() as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        result = away("root", input=MAIL, env=env)

    asked = [line for line in server.commands if line.startswith("RCPT")]
    assert "RCPT TO:<good@x.example>" in asked or result.code == 78
    assert all(parse_path(line[8:])[0] for line in asked)


def test_program_among_aliases_parted_by_blanks_is_refused(away: Sendmail, tmp_path: Path) -> None:
    (tmp_path / "aliases").write_text("root: a@x.example |/bin/sh\n")

    assert away("root", input=MAIL).code == 78


@pytest.mark.parametrize("host", ["a b:25", "a\r\nX: y:25", "<a>:25", "a/b:25", "\x1b[2J:25"])
@pytest.mark.parametrize("setting", ["SMTP2CF_SENDMAIL_HOST", "SMTP2CF_ADMIN_LISTEN"])
def test_host_that_is_none_is_a_configuration_error(away: Sendmail, setting: str, host: str) -> None:
    arguments = ("b@y.example",) if setting.endswith("HOST") else ("-bp",)
    result = away(*arguments, input=MAIL, env={setting: host})

    assert result.code == 78
    assert result.reason.startswith(f"{setting}=")


def test_what_smtp_callers_read_has_no_line_of_anybody_elses(away: Sendmail) -> None:
    env = {"SMTP2CF_SENDMAIL_HOST": "unix:/nowhere\r\n250 2.0.0 taken"}
    result = away("-bs", input=b"QUIT\r\n", env=env)

    assert result.code == 75
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize("key", ["reverse_path", "forward_paths"])
def test_mailq_shows_what_strangers_wrote_on_one_line(away: Sendmail, key: str) -> None:
    away.with_drop_directory()
    evil = "\x1b[2J\nHOF8F97PKJBAT 1 root@x\r"
    head = {"reverse_path": "a@x", "forward_paths": ["b@y"], "body": "7BIT", "smtputf8": False, "size": 0}
    head |= {"ret": None, "envid": None, "notify": None, "version": 1}
    head[key] = evil if key == "reverse_path" else [evil]
    import json

    (away.drop_directory / "A.drop").write_text(json.dumps(head) + "\n")
    shown = away("-bp").stdout

    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 6
