"""check: what it finds right in a set-up, and what is wrong in one that is not; each on a line of its own."""

import contextlib
import os
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from smtp2cf.cli import check as command
from smtp2cf.cli.examine import Finding, Status, examine
from smtp2cf.cli.examine.finding import error, ok, warning
from smtp2cf.cloudflare.quota import NOTHING_SAID
from smtp2cf.listen.endpoint import Endpoint, listen
from smtp2cf.relay.sender_domains import NOTE
from smtp2cf.sandbox import Sandbox
from smtp2cf.settings import check, fields
from smtp2cf.spool import open_spool
from tests.spool.conftest import Backend
from tests.support.command import smtp2cf
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN, WEBHOOK_SECRET

ACCOUNT = "0123456789abcdef0123456789abcdef"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n"
Look = Callable[..., Awaitable[list[Finding]]]


@pytest.fixture
async def sandbox() -> AsyncIterator[tuple[Sandbox, str]]:
    """A stand-in for Cloudflare, and the base URL of its API."""
    endpoint = Endpoint("127.0.0.1", 0)
    sockets = listen(endpoint)
    made = Sandbox(TOKEN, senders=("example.com", "*.news.example.com", "disabled.example.org"))
    await made.start(sockets)
    yield made, f"http://127.0.0.1:{sockets[0].getsockname()[1]}/client/v4"
    await made.stop()


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sandbox: tuple[Sandbox, str]) -> Look:
    """What is found with these settings, and an account that is as it should be. {d}: a directory."""
    for name in os.environ:
        if name.startswith(("SMTP2CF_", "CLOUDFLARE_", "STATE_DIRECTORY")):
            monkeypatch.delenv(name)
    good = {
        "ACCOUNT_ID": ACCOUNT,
        "API_TOKEN": TOKEN,
        "API_BASE_URL": sandbox[1],
        "STATE_DIR": f"{tmp_path}/state",
        "SENDMAIL_DROP_DIR": f"{tmp_path}/drop",
        "SMTP_LISTEN": "127.0.0.1:0",
        "ADMIN_LISTEN": "none",
    }

    async def looked(env_file: Path | None = None, **settings: str) -> list[Finding]:
        for name, value in (good | settings).items():
            monkeypatch.setenv(f"SMTP2CF_{name}", value.replace("{d}", str(tmp_path)))
        # Who DSNs come from has its own test, and would be one more line in all others.
        return [finding async for finding in examine(env_file) if finding.check != "reports"]

    return looked


async def test_a_set_up_that_is_right_has_nothing_but_ticks(look: Look, tmp_path: Path) -> None:
    assert await look(ALLOWED_SENDER_DOMAINS="example.com") == [
        ok("settings", "they are valid and fit together"),
        ok("spool", f"{tmp_path}/state/spool.sqlite3: the first start creates it"),
        ok("listeners", "SMTP2CF_SMTP_LISTEN, 127.0.0.1:0: free to listen on"),
        ok("cloudflare", f"{os.environ['SMTP2CF_API_BASE_URL']} answers"),
        ok("token", "active"),
        ok("token", "it may send"),
        ok("quota", f"unknown: {NOTHING_SAID}"),
        ok("domains", "example.com is set up for sending, and its DNS records are there"),
    ]
    assert not (tmp_path / "state").exists()


async def test_a_webhook_is_named_by_its_host_and_not_called(look: Look) -> None:
    found = await look(WEBHOOK_URL="https://hooks.example.com:444/x?key=1", WEBHOOK_SECRET=WEBHOOK_SECRET)
    told = "13 kinds of events go to hooks.example.com:444 (SMTP2CF_WEBHOOK_EVENTS); it was not called"
    assert ok("webhook", told) in found


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        (79, Status.OK, "79 of 100 recipients today, resets 2"),
        (80, Status.WARNING, "80 of 100 recipients today, resets 2"),
        (100, Status.WARNING, "used up: 100 of 100 recipients today, resets 2"),
    ],
)
async def test_how_much_of_the_quota_is_used(
    look: Look, sandbox: tuple[Sandbox, str], sent: int, status: Status, text: str
) -> None:
    sandbox[0].quota.value, sandbox[0].quota.sent = 100, sent
    [found] = [finding for finding in await look() if finding.check == "quota"]
    assert (found.status, found.text[: len(text)]) == (status, text)


def files_in(directory: Path) -> None:
    """Things that are not what they should be."""
    (directory / "corrupt").mkdir()
    (directory / "corrupt" / "spool.sqlite3").write_bytes(b"no database " * 1000)
    (directory / "token").write_text(TOKEN)
    (directory / "token").chmod(0o644)
    (directory / "users").write_text("# nobody\n")
    (directory / "users").chmod(0o600)
    (directory / "file").write_text("")
    with contextlib.closing(sqlite3.connect(directory / "other.sqlite3")) as other:
        other.execute("CREATE TABLE x (y)")


TABLE: list[tuple[dict[str, str], list[Finding]]] = [
    ({"MODE": "fast"}, [error("settings", "SMTP2CF_MODE: 'fast' is wrong: it must be 'direct' or 'queue'")]),
    (
        {"ACCOUNT_ID": ""},
        [
            error("settings", "SMTP2CF_ACCOUNT_ID is not set"),
            warning("cloudflare", "not checked: that needs"),
        ],
    ),
    ({"ACCOUNT_ID": "xyz"}, [warning("settings", "SMTP2CF_ACCOUNT_ID=xyz is not an account id")]),
    (
        {"SMTP_LISTN": "x", "SENDMAIL_HSOT": "x"},
        [
            error("settings", "SMTP2CF_SENDMAIL_HSOT is not a setting: did you mean SMTP2CF_SENDMAIL_HOST?"),
            error("settings", "SMTP2CF_SMTP_LISTN is not a setting: did you mean SMTP2CF_SMTP_LISTEN?"),
        ],
    ),
    ({"RETRY_MIN": "2h"}, [error("settings", "SMTP2CF_RETRY_MIN=2h is more than SMTP2CF_RETRY_MAX=1h")]),
    ({"EXPIRE_AFTER": "30s", "WARN_AFTER": "20s"}, [error("settings", "SMTP2CF_EXPIRE_AFTER=30s is over")]),
    (
        {"MAX_MESSAGE_MEMORY": "1MiB"},
        [error("settings", "SMTP2CF_MAX_MESSAGE_MEMORY=1MiB has no room for one message of")],
    ),
    (
        {"MAX_MESSAGE_SIZE": "30MiB"},
        [warning("settings", "SMTP2CF_MAX_MESSAGE_SIZE=30MiB is more than Cloud")],
    ),
    ({"WARN_AFTER": "6d"}, [warning("settings", "SMTP2CF_WARN_AFTER=6d has no effect")]),
    ({"AUTH_WITHOUT_TLS": "yes"}, [warning("settings", "SMTP2CF_AUTH_WITHOUT_TLS has no effect without")]),
    ({"CHECK_HEADER_FROM": "yes"}, [warning("settings", "SMTP2CF_CHECK_HEADER_FROM has no effect without")]),
    ({"TLS_CA_FILE": "{d}/file"}, [warning("settings", "SMTP2CF_TLS_CA_FILE has no effect without")]),
    (
        {"OPERATOR": "you@example.com", "SPOOL_URL": "none"},
        [warning("settings", "SMTP2CF_OPERATOR has no effect without a spool")],
    ),
    (
        {"WEBHOOK_URL": "https://h/", "WEBHOOK_SECRET": f"whsec_{32 * 'A'}", "SPOOL_URL": "none"},
        [warning("settings", "SMTP2CF_WEBHOOK_URL has no effect without a spool")],
    ),
    (
        {"WEBHOOK_SECRET": f"whsec_{32 * 'A'}"},
        [warning("settings", "SMTP2CF_WEBHOOK_SECRET has no effect without SMTP2CF_WEBHOOK_URL")],
    ),
    (
        {"SOCKET_GROUP": "0"},
        [warning("settings", "SMTP2CF_SOCKET_GROUP has no effect without a unix: socket")],
    ),
    (
        {"SOCKET_GROUP": "no-such", "SMTP_LISTEN": "unix:{d}/s"},
        [error("settings", "SMTP2CF_SOCKET_GROUP: there is no group 'no-such' on this host")],
    ),
    (
        {"MODE": "queue", "SPOOL_URL": "none"},
        [error("settings", "SMTP2CF_MODE=queue needs a spool, but SMTP2CF_SPOOL_URL is none")],
    ),
    (
        {"API_TOKEN": "", "API_TOKEN_FILE": "{d}/token"},
        [warning("secrets", "SMTP2CF_API_TOKEN_FILE: {d}/token")],
    ),
    (
        {"API_TOKEN": "", "API_TOKEN_FILE": "{d}/no"},
        [error("settings", "SMTP2CF_API_TOKEN_FILE: {d}/no: No such")],
    ),
    (
        {"USERS_FILE": "{d}/corrupt", "AUTH_WITHOUT_TLS": "yes"},
        [error("users", "SMTP2CF_USERS_FILE: {d}/corrupt is a directory")],
    ),
    (
        {"SENDMAIL_DROP_DIR": "{d}/file"},
        [error("drop directory", "SMTP2CF_SENDMAIL_DROP_DIR: {d}/file is not a directory, so sendmail can")],
    ),
    (
        {"SENDMAIL_DROP_DIR": "{d}/file/drop"},
        [error("drop directory", "SMTP2CF_SENDMAIL_DROP_DIR: {d}/file/drop: Not a directory")],
    ),
    (
        {"SMTP_LISTEN": "unix:{d}/s", "LMTP_LISTEN": "unix:{d}/s"},
        [
            error(
                "listeners", "SMTP2CF_LMTP_LISTEN: cannot listen on unix:{d}/s: SMTP2CF_SMTP_LISTEN names it"
            )
        ],
    ),
    (
        {"USERS_FILE": "{d}/no", "AUTH_WITHOUT_TLS": "yes"},
        [error("users", "SMTP2CF_USERS_FILE: {d}/no: No such file or directory")],
    ),
    (
        {"USERS_FILE": "{d}/users", "AUTH_WITHOUT_TLS": "yes"},
        [warning("users", "SMTP2CF_USERS_FILE: {d}/users is empty, so nobody can log in")],
    ),
    ({"TLS_CERT_FILE": "{d}/no"}, [error("certificate", "SMTP2CF_TLS_CERT_FILE: {d}/no: No such file")]),
    (
        {"TLS_CERT_FILE": "{d}/file"},
        [error("certificate", "SMTP2CF_TLS_CERT_FILE: {d}/file holds no certif")],
    ),
    (
        {"STATE_DIR": "{d}/corrupt"},
        [error("spool", "cannot open the spool {d}/corrupt/spool.sqlite3: file is not")],
    ),
    (
        {"STATE_DIR": "/proc/x"},
        [error("spool", "/proc can't be written to (No such file or directory), so /proc")],
    ),
    (
        {"STATE_DIR": "{d}/file/x"},
        [error("spool", "{d}/file can't be written to (Not a directory), so {d}/file/x")],
    ),
    (
        {"SPOOL_URL": "sqlite:///{d}/other.sqlite3"},
        [error("spool", "{d}/other.sqlite3 is another program's")],
    ),
    ({"SPOOL_MIN_FREE": "999999999MiB"}, [error("spool", "the spool takes no more mail: only")]),
    (
        {"SPOOL_URL": "postgresql://127.0.0.1:1/x"},
        [error("spool", "cannot open the spool postgresql://127.0.0.1:1/x")],
    ),
    ({"SMTP_LISTEN": "none"}, [warning("listeners", "no address to take mail on is set")]),
    (
        {"SMTP_LISTEN": "192.0.2.1:0", "ALLOW_NETWORKS": "10.0.0.0/8"},
        [error("listeners", "SMTP2CF_SMTP_LISTEN: cannot listen on 192.0.2.1:0: this")],
    ),
    (
        {"SMTP_LISTEN": "unix:{d}/no/s"},
        [error("listeners", "SMTP2CF_SMTP_LISTEN: cannot listen on unix:{d}/no/s")],
    ),
    (
        {"SMTP_LISTEN": "127.0.0.1:{port}"},
        [error("listeners", "SMTP2CF_SMTP_LISTEN: cannot listen on 127.0.0.1:")],
    ),
    (
        {"SOCKET_MODE": "0400", "SMTP_LISTEN": "unix:{d}/s"},
        [error("listeners", "nobody may send through SMTP2CF")],
    ),
    (
        {"ALLOW_NETWORKS": "none"},
        [error("listeners", "nobody may send through SMTP2CF_SMTP_LISTEN, 127.0.0.1:0")],
    ),
    (
        {"ALLOW_NETWORKS": "10.0.0.0/8"},
        [error("listeners", "nobody may send through SMTP2CF_SMTP_LISTEN, 127.")],
    ),
    (
        {"SMTP_LISTEN": "0.0.0.0:0"},
        [warning("listeners", "0.0.0.0:0: other hosts can reach this bridge")],
    ),
    (
        {"ALLOW_NETWORKS": "0.0.0.0/0"},
        [error("settings", "SMTP2CF_ALLOW_NETWORKS contains 0.0.0.0/0: anybody who reaches it")],
    ),
    (
        {"ALLOW_NETWORKS": "0.0.0.0/0", "I_AM_AN_OPEN_RELAY": "yes"},
        [warning("listeners", "every listener: SMTP2CF_ALLOW_NETWORKS contains 0.0.0.0/0")],
    ),
    (
        {"ADMIN_LISTEN": "127.0.0.1:0,0.0.0.0:0"},
        [warning("listeners", "SMTP2CF_ADMIN_LISTEN, 0.0.0.0:0: other hosts may reach it")],
    ),
    ({"API_BASE_URL": "http://127.0.0.1:1/v4"}, [error("cloudflare", "cannot reach 127.0.0.1")]),
    ({"API_TOKEN": "another"}, [error("token", "Cloudflare refuses the API token")]),
    (
        {"POSTMASTER": "m@other.example"},
        [warning("domains", "other.example: the token finds no zone for it")],
    ),
    (
        {"ALLOWED_SENDER_DOMAINS": "a.example.com"},
        [error("domains", "a.example.com is not set up for sending")],
    ),
    ({"POSTMASTER": "m@bücher.example"}, [warning("domains", "xn--bcher-kva.example: the token finds no")]),
    (
        {"ALLOWED_SENDER_DOMAINS": "*.☃.example"},  # no name has this form (RFC 5892)
        [warning("domains", "*.☃.example: the token finds no zone for it")],
    ),
    ({"ALLOWED_SENDER_DOMAINS": "*.example.com,*.news.example.com"}, []),
    (
        {"ALLOWED_SENDER_DOMAINS": "x@disabled.example.org"},
        [error("domains", "disabled.example.org: sending is")],
    ),
]


def is_said(found: Finding, expected: Finding) -> bool:
    return found[:2] == expected[:2] and found.text.startswith(expected.text)


@pytest.mark.parametrize(
    ("settings", "expected"), TABLE, ids=[" ".join(map("=".join, row[0].items())) for row in TABLE]
)
async def test_a_wrong_set_up_is_named_and_nothing_else_is(
    settings: dict[str, str], expected: list[Finding], look: Look, tmp_path: Path
) -> None:
    files_in(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = {name: value.replace("{port}", port) for name, value in settings.items()}
        taken.settimeout(0)
        found = [finding for finding in await look(**given) if finding.status is not Status.OK]
    wanted = [finding._replace(text=finding.text.replace("{d}", str(tmp_path))) for finding in expected]
    assert len(found) == len(wanted), found
    for one, other in zip(found, wanted, strict=True):
        assert is_said(one, other), (one, other)
        assert TOKEN not in one.text
        assert one.text.isprintable()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://192.0.2.1/v4", "192.0.2.1"),
        ("http://api.example.com:8080/v4", "api.example.com"),
        ("http://[2001:db8::1]/v4", "2001:db8::1"),
        ("https://api.example.com/v4", ""),
        ("http://127.1.2.3:1/v4", ""),
        ("http://[::1]/v4", ""),
        ("http://localhost/v4", ""),
        ("http://cloud.localhost/v4", ""),
        ("http://localhost.example.com/v4", "localhost.example.com"),
    ],
)
def test_a_token_over_http_to_another_host_is_an_error(url: str, host: str) -> None:
    settings = fields.Settings(account_id=ACCOUNT, api_token=TOKEN, api_base_url=url)  # type: ignore[arg-type]
    said = f"SMTP2CF_API_BASE_URL={url} sends the API token to {host} unencrypted"
    assert [line[: len(said)] for line in check.mistakes(settings)] == ([said] if host else [])
    assert not [*check.mistakes(settings, sandbox=True)]


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("send", error("token", "it may not send: ")),
        (
            "zones",
            warning(
                "domains",
                "Cloudflare does not say what is set up for sending: the token lacks the permission Zone",
            ),
        ),
        (
            "dns",
            ok(
                "domains",
                "example.com is set up for sending; its DNS records were not checked: the token lacks",
            ),
        ),
    ],
)
async def test_what_the_token_may_not_do_is_told_apart(
    lacking: Any, said: Finding, look: Look, sandbox: tuple[Sandbox, str]
) -> None:
    sandbox[0].lacking = [lacking]
    assert any(is_said(one, said) for one in await look(ALLOWED_SENDER_DOMAINS="example.com"))
    assert not sandbox[0].messages


@pytest.mark.parametrize("state", ["disabled", "expired"])
async def test_a_token_that_is_no_longer_good_is_named(
    state: Any, look: Look, sandbox: tuple[Sandbox, str]
) -> None:
    sandbox[0].token_status = state
    assert is_said((await look())[-1], error("token", f"Cloudflare says the token is {state}"))


async def test_a_record_that_the_zone_lacks_is_named(look: Look, sandbox: tuple[Sandbox, str]) -> None:
    sandbox[0].subdomains.missing = {"cf-bounce.example.com", "sandbox._domainkey.example.com"}
    assert is_said(
        (await look(ALLOWED_SENDER_DOMAINS="example.com"))[-1],
        error(
            "domains",
            "example.com is set up for sending, but its zone lacks MX cf-bounce.example.com, TXT"
            " cf-bounce.example.com, TXT sandbox._domainkey.example.com: add them",
        ),
    )


async def test_without_a_list_of_senders_it_says_who_may_send(
    look: Look, sandbox: tuple[Sandbox, str]
) -> None:
    assert (await look())[-1] == ok("domains", "set up for sending: *.news.example.com, example.com")
    sandbox[0].senders.configured = {"disabled.example.org"}
    assert is_said((await look())[-1], error("domains", "no domain is set up for sending"))


async def test_a_spool_that_a_bridge_serves_is_fine(look: Look, tmp_path: Path) -> None:
    spool = await open_spool("", state_dir=tmp_path / "state")
    try:
        found = {one.check: one for one in await look()}
    finally:
        await spool.close()
    assert found["spool"].status is Status.OK
    assert f"no messages wait; a bridge serves it (pid {os.getpid()} on " in found["spool"].text


async def reports(look: Look, **settings: str) -> list[Finding]:
    """What is found of who DSNs come from."""
    await look(**settings)
    return [finding async for finding in examine(None) if finding.check == "reports"]


async def test_it_says_whom_reports_come_from(look: Look, backend: Backend) -> None:
    where = {"STATE_DIR": str(backend.state_dir), "SPOOL_URL": backend.url}
    assert await reports(look, POSTMASTER="post@example.com") == [
        ok("reports", "they come from SMTP2CF_POSTMASTER=post@example.com")
    ]
    for settings in (where | {"POSTMASTER": ""}, {"SPOOL_URL": "none"}, where):
        (found,) = await reports(look, **settings)
        assert found.status is Status.WARNING
        assert "SMTP2CF_POSTMASTER" in found.text
    spool = await backend.open()
    await spool.amend(NOTE, lambda *_: ('["example.com","example.net"]', None))
    assert await reports(look, **where) == [
        ok("reports", "they come from mailer-daemon@ a domain that has sent: example.com, example.net")
    ]


async def test_damage_inside_a_spool_is_found(look: Look, tmp_path: Path) -> None:
    spool = await open_spool("", state_dir=tmp_path / "state")
    await spool.close()
    file = tmp_path / "state" / "spool.sqlite3"
    octets = bytearray(file.read_bytes())
    octets[4096:8192] = b"\xff" * 4096
    file.write_bytes(octets)
    found = {one.check: one for one in await look()}
    assert found["spool"].status is Status.ERROR
    assert "queue list --json" in found["spool"].text


@pytest.fixture
def greets() -> Iterator[socket.socket]:
    """Somebody who listens, and says what a bridge says."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


async def test_a_place_that_a_bridge_has_is_fine(look: Look, greets: socket.socket) -> None:
    client = socket.create_connection(greets.getsockname())  # the one that check makes comes second
    first, _ = greets.accept()
    first.close()
    client.close()

    def greet() -> None:
        second, _ = greets.accept()
        second.sendall(b"220 mx.example.com ESMTP smtp2cf\r\n")
        second.close()

    thread = threading.Thread(target=greet)
    thread.start()
    port = greets.getsockname()[1]
    found = await look(SMTP_LISTEN=f"127.0.0.1:{port}")
    thread.join()
    assert ok("listeners", f"SMTP2CF_SMTP_LISTEN, 127.0.0.1:{port}: a bridge is listening there") in found


async def test_an_env_file_with_a_secret_is_looked_at(look: Look, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("SMTP2CF_API_TOKEN=x\n")
    file.chmod(0o644)
    assert any(
        is_said(one, warning("secrets", f"--env-file: {file} can be read")) for one in await look(file)
    )
    file.chmod(0o640)
    assert any(is_said(one, ok("secrets", f"--env-file: {file}")) for one in await look(file))
    file.write_text("SMTP2CF_MODE=queue\n")
    assert not any(one.check == "secrets" for one in await look(file))


@pytest.mark.parametrize(
    ("given", "secret"),
    [
        ({"API_TOKEN": "", "API_TOKEN_FILE": "none"}, ["API_TOKEN_FILE"]),
        ({"SPOOL_URL_FILE": "none"}, ["SPOOL_URL_FILE"]),
        ({"USERS_FILE": ""}, ["USERS_FILE"]),
        ({"TLS_CERT_FILE": CERTIFICATE}, []),
        ({"TLS_CERT_FILE": KEY + CERTIFICATE}, ["TLS_CERT_FILE"]),
        ({"TLS_CERT_FILE": CERTIFICATE, "TLS_KEY_FILE": KEY}, ["TLS_KEY_FILE"]),
        ({"TLS_CERT_FILE": KEY + CERTIFICATE, "TLS_KEY_FILE": KEY}, ["TLS_KEY_FILE", "TLS_CERT_FILE"]),
    ],
)
async def test_every_file_that_holds_a_secret_is_looked_at(
    given: dict[str, str], secret: list[str], look: Look, tmp_path: Path
) -> None:
    files = {name: tmp_path / name for name in given if name.endswith("_FILE")}
    for name, path in files.items():
        path.write_text(given[name])
    settings = given | {name: str(path) for name, path in files.items()}
    for mode, expected, text in ((0o644, warning, "can be read by every"), (0o640, ok, "can't be read by")):
        for path in files.values():
            path.chmod(mode)
        found = [one for one in await look(**settings) if one.check == "secrets"]
        wanted = [expected("secrets", f"SMTP2CF_{name}: {files[name]} {text}") for name in secret]
        assert len(found) == len(wanted)
        assert all(map(is_said, sorted(found), sorted(wanted)))


def test_the_command_ends_with_78_for_an_error_and_0_for_a_warning() -> None:
    with running_sandbox(token=TOKEN) as (_, url):
        settings = {
            "API_TOKEN": TOKEN,
            "API_BASE_URL": url,
            "SMTP_LISTEN": "127.0.0.1:0",
            "ADMIN_LISTEN": "none",
        }
        warned = smtp2cf("check", "--json", ACCOUNT_ID="a1", SPOOL_URL="none", **settings)
        wrong = smtp2cf("check", ACCOUNT_ID="a1", SPOOL_URL="none", MODE="queue", **settings)
    assert (warned.status, warned.err) == (0, "")
    lines = [orjson.loads(line) for line in warned.out.splitlines()]
    assert {tuple(line) for line in lines} == {("check", "status", "text")}
    # The account's id, whom DSNs come from, and no list of domains.
    assert [line["status"] for line in lines].count("warning") == 3
    assert (wrong.status, wrong.err) == (os.EX_CONFIG, "")
    assert "error: settings: SMTP2CF_MODE=queue needs a spool" in wrong.out


def test_a_terminal_gets_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    lines = [command.as_line(kind("spool", "x\x1b[2J")) for kind in (ok, warning, error)]
    for line, mark in zip(lines, "✓!✗", strict=True):
        assert mark in line
        assert line.endswith(r" spool: x\x1b[2J" + "\n")
