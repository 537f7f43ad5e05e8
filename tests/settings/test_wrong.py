"""Wrong settings: the start ends with 78 and one line that names the variable, its value, what it may be."""

import os
import sys
from pathlib import Path

import pytest

from smtp2cf.cli import app
from smtp2cf.journal.news import KINDS
from smtp2cf.settings import fields, loading, rooms, wrong
from smtp2cf.settings.fields import tables
from smtp2cf.settings.values import kinds_in
from tests.support.bridge import running_bridge
from tests.support.command import smtp2cf
from tests.support.secret import WEBHOOK_SECRET

NETWORK = "does not appear to be an IPv4 or IPv6 network: use networks such as 10.0.0.0/8 or fd00::/8"
ENDPOINT = "is not host:port, [v6]:port or unix:/path"
SENDER = "use anna@example.com, example.com or *.example.com"
CLIENTS = f"{NETWORK.replace('/8 or', '/8,')}, connected or private"
INTEGER = "it must be a whole number"
DURATION = "it must be a duration such as 90s, 15m, 36h or 5d"
QUOTA = "it must be limits such as 30 messages/1m, 5000 recipients/1d (up to 366d), or none"
SIZE = "it must be a size such as 25MiB, or a number of bytes"
MAKE_SECRET = 'echo "whsec_$(openssl rand -base64 32)"'

BROKEN = [
    ("SMTP2CF_ACCOUNT_ID", "a b", "it must be letters, digits, - and _"),
    ("CLOUDFLARE_ACCOUNT_ID", "../x", "it must be letters, digits, - and _"),
    ("SMTP2CF_API_BASE_URL", "ftp://x", "it must be a URL such as https://api.cloudflare.com/client/v4"),
    *(
        ("SMTP2CF_API_BASE_URL", url, "it must be a URL such as https://api.cloudflare.com/client/v4")
        for url in (
            "https://:443",
            "https://a:99999/v4",
            "https://a:x/",
            "https://a/v4?token=x",
            "https://a/v4#x",
        )
    ),
    ("SMTP2CF_API_TIMEOUT", "soon", DURATION),
    ("SMTP2CF_API_TIMEOUT", "0", "it must be more than 0"),
    ("SMTP2CF_API_CONCURRENCY", "0", "it must be at least 1"),
    ("SMTP2CF_API_RATE", "1200", "it must be calls/seconds such as 1200/300, or none"),
    ("SMTP2CF_API_RATE", "0/300", "it must be calls/seconds such as 1200/300, or none"),
    ("SMTP2CF_API_RATE", "1200/soon", "it must be calls/seconds such as 1200/300, or none"),
    ("SMTP2CF_API_RATE", "1200/0.5", "it must be calls/seconds such as 1200/300, or none"),
    *((f"SMTP2CF_{kind}_QUOTA", "30 mails/1m", QUOTA) for kind in ("CLIENT", "USER", "SENDER")),
    ("SMTP2CF_SMTP_LISTEN", "nonsense", f"'nonsense' {ENDPOINT}"),
    ("SMTP2CF_SMTP_LISTEN", "127.0.0.1:99999", f"'127.0.0.1:99999' {ENDPOINT}"),
    ("SMTP2CF_SMTP_LISTEN", "unix:x", "'unix:x': a unix socket needs an absolute path, unix:/path"),
    ("SMTP2CF_ADMIN_LISTEN", "127.0.0.1", f"'127.0.0.1' {ENDPOINT}"),
    ("SMTP2CF_SMTPS_LISTEN", "465", f"'465' {ENDPOINT}"),
    ("SMTP2CF_LMTP_LISTEN", "unix:lmtp", "'unix:lmtp': a unix socket needs an absolute path, unix:/path"),
    ("SMTP2CF_SOCKET_MODE", "0888", "it must be permissions in octal, such as 0660"),
    ("SMTP2CF_SOCKET_MODE", "u=rw", "it must be permissions in octal, such as 0660"),
    ("SMTP2CF_TLS_MIN_VERSION", "3", "it must be '1.0', '1.1', '1.2' or '1.3'"),
    *(
        (
            "SMTP2CF_HOSTNAME",
            wrong,
            "it must be a host name such as mx1.example.com",
        )
        for wrong in ("a b", "a\r\nBcc: v@x", "<a>", "a@b", "-a", "a..b", "a,b", "[zz]", "a\x1b")
    ),
    ("SMTP2CF_ALLOW_NETWORKS", "10.0.0.0/40", f"'10.0.0.0/40' {CLIENTS}"),
    ("SMTP2CF_PROXY_NETWORKS", "balancer", f"'balancer' {NETWORK}"),
    ("SMTP2CF_I_AM_AN_OPEN_RELAY", "maybe", "it must be yes or no"),
    ("SMTP2CF_AUTH_WITHOUT_TLS", "2", "it must be yes or no"),
    ("SMTP2CF_ALLOWED_SENDER_DOMAINS", "example.com,*", f"invalid sender '*': {SENDER}"),
    ("SMTP2CF_ALLOWED_SENDER_DOMAINS", "<a@example.com>", f"invalid sender '<a@example.com>': {SENDER}"),
    ("SMTP2CF_CHECK_HEADER_FROM", "always", "it must be yes or no"),
    *(
        ("SMTP2CF_NULL_SENDER_ADDRESS", wrong, "it must be an address such as bounces@example.com")
        for wrong in (
            "me",
            "a@b\r\nBcc: v@x",
            "a,b@x",
            'a"b@x',
            "a@[zz]",
            "a@x\x01",
            "a;b@x",
            "(a)@x",
            "<a@x>",
        )
    ),
    ("SMTP2CF_MAX_MESSAGE_SIZE", "big", SIZE),
    ("SMTP2CF_MAX_MESSAGE_SIZE", "10", "it must be at least 1KiB"),
    ("SMTP2CF_MAX_RECIPIENTS", "many", INTEGER),
    ("SMTP2CF_MAX_SESSIONS", "1.5", INTEGER),
    ("SMTP2CF_SESSION_TIMEOUT", "-1", DURATION),
    ("SMTP2CF_CLIENT_MAX_SESSIONS", "-1", "it must be at least 0"),
    ("SMTP2CF_USER_MESSAGES_PER_MINUTE", "few", INTEGER),
    ("SMTP2CF_MODE", "fast", "it must be 'direct' or 'queue'"),
    ("SMTP2CF_REPLY_TIMEOUT", "4000", "it must be at most 1h"),
    ("SMTP2CF_PARTIAL_BOUNCE", "maybe", "it must be 'accept' or 'reject'"),
    ("SMTP2CF_NON_UTF8", "keep", "it must be 'convert' or 'reject'"),
    ("SMTP2CF_BARE_NEWLINE", "keep", "it must be 'normalize' or 'reject'"),
    ("SMTP2CF_ON_INVALID", "fix", "it must be 'repair' or 'reject'"),
    ("SMTP2CF_DROP_HEADERS", "bcc:", "'bcc:' is not the name of a header field"),
    ("SMTP2CF_RETRY_MIN", "0", "it must be more than 0"),
    ("SMTP2CF_RETRY_MAX", "an hour", DURATION),
    ("SMTP2CF_EXPIRE_AFTER", "5 weeks", DURATION),
    ("SMTP2CF_EXPIRE_AFTER", "31d", "it must be at most 30d"),
    ("SMTP2CF_POSTMASTER", "me", "it must be an address such as mailer-daemon@example.com"),
    ("SMTP2CF_DRAIN_TIMEOUT", "-1", DURATION),
    *(
        ("SMTP2CF_WEBHOOK_URL", url, "it must be a URL such as https://hooks.example.com/mail")
        for url in (
            "hooks.example.com",
            "ftp://h/x",
            "https://:443/",
            "https://h:0/",
            "https://h/#x",
            "https://h/ü",
        )
    ),
    *(
        (
            "SMTP2CF_WEBHOOK_URL",
            url,
            "it must begin with https://: only a host in your own network is posted to by http://",
        )
        for url in (
            "http://hooks.example.com/x",
            "http://192.0.2.1/x",
            "http://[2001:db8::1]/x",
            "http://h.locals/x",
        )
    ),
    (
        "SMTP2CF_WEBHOOK_EVENTS",
        "mail.*,mail.lost",
        f"'mail.lost' is no event: use {', '.join(KINDS)}, or mail.*",
    ),
    ("SMTP2CF_LOG_LEVEL", "loud", "it must be 'debug', 'info', 'warning' or 'error'"),
    ("SMTP2CF_LOG_FORMAT", "xml", "it must be 'auto', 'console' or 'json'"),
]
SECRET = [
    (
        "SMTP2CF_API_TOKEN",
        "s3 cret",
        "an API token is one word of ASCII letters, digits, - and _, without quotes",
    ),
    (
        "SMTP2CF_API_TOKEN",
        '"s3cret"',
        "an API token is one word of ASCII letters, digits, - and _, without quotes",
    ),
    (
        "CLOUDFLARE_API_TOKEN",
        "s3cret\r\nX: y",
        "an API token is one word of ASCII letters, digits, - and _, without quotes",
    ),
    *(
        (
            "SMTP2CF_SPOOL_URL",
            f"postgresql://{place}",
            "it can't be read as a URL: write special characters of a password as %XX, such as %2F for /",
        )
        for place in ("me:s3cret/x@h/d", "me:s3cret#x@h/d", "me:s3cret\N{ACCOUNT OF}@h/d", "h:s3cret/d")
    ),
    *(
        (
            "SMTP2CF_WEBHOOK_SECRET",
            secret,
            f"it must be whsec_ and 24 to 64 octets in base64: make one with {MAKE_SECRET}",
        )
        for secret in ("s3cret", "whsec_s3cret", "whsec_" + "s3cret/s3cret" * 9, f"whsec_{32 * 'A'} s3cret")
    ),
    (
        "SMTP2CF_SPOOL_URL",
        "mysql://me:s3cret@db",
        "it must be sqlite:///path, postgresql://host/database or none",
    ),
]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing is set."""
    for name in os.environ:
        if name.startswith(("SMTP2CF_", "CLOUDFLARE_")):
            monkeypatch.delenv(name)
    return monkeypatch


def start(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `smtp2cf serve` writes when the settings keep it from starting."""
    environment.setattr(sys, "argv", ["smtp2cf", "serve", *arguments])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == os.EX_CONFIG
    return capsys.readouterr().err


@pytest.mark.parametrize(("variable", "value", "why"), BROKEN, ids=[f"{row[0]}={row[1]}" for row in BROKEN])
def test_a_wrong_value_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, why: str
) -> None:
    environment.setenv(variable, value)
    assert start(environment, capsys) == f"smtp2cf: {variable}: {value!r} is wrong: {why}\n"


@pytest.mark.parametrize(("variable", "value", "why"), SECRET, ids=[row[0] for row in SECRET])
def test_a_wrong_secret_is_named_and_not_shown(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, why: str
) -> None:
    environment.setenv(variable, value)
    assert start(environment, capsys) == f"smtp2cf: {variable}: its value is wrong: {why}\n"


@pytest.mark.parametrize(
    "url", ["https://me:s3cret@a/v4", "https://me:s3/cret@a/v4", "https://me:s3\N{ACCOUNT OF}cret@a/v4"]
)
def test_a_login_in_the_url_of_the_api_is_refused_and_not_shown(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    environment.setenv("SMTP2CF_API_BASE_URL", url)
    assert start(environment, capsys) == (
        "smtp2cf: SMTP2CF_API_BASE_URL: 'https://***@a/v4' is wrong: it must not contain a user name or a"
        " password: the API takes a token\n"
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/mail?key=1",
        *(
            f"http://{host}/mail"
            for host in ("127.0.0.1:8080", "[::1]", "10.1.2.3", "hooks", "a.internal", "a.local")
        ),
    ],
)
def test_a_webhook_is_encrypted_or_in_ones_own_network(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("SMTP2CF_WEBHOOK_URL", url)
    environment.setenv("SMTP2CF_WEBHOOK_SECRET", f"{WEBHOOK_SECRET} {WEBHOOK_SECRET}")
    environment.setenv("SMTP2CF_WEBHOOK_EVENTS", "mail.held, tls.*")
    settings = loading.load(None)
    assert settings.webhook_url == url
    assert kinds_in(settings.webhook_events) == (
        "mail.held",
        *("tls.expires_soon", "tls.expired", "tls.reload_failed"),
    )


def test_name_of_the_host_is_held_to_the_same(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setattr("socket.gethostname", lambda: "web> 1\nBcc: v@x")
    told = start(environment, capsys)
    assert told.startswith("smtp2cf: SMTP2CF_HOSTNAME: 'web> 1\\nBcc: v@x' is wrong: it must be a host name")


def test_what_pydantic_has_no_words_for_has_ours() -> None:
    rows = (table.row.model_fields for table in tables.TABLES.values() if table.row is not None)
    unclear = {
        name
        for name, field in (pair for model in (fields.Plain.model_fields, *rows) for pair in model.items())
        if field.annotation is bool or any(getattr(how, "pattern", None) for how in field.metadata)
    }
    assert unclear == set(wrong.FORMS)


def test_every_wrong_value_has_its_line(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("SMTP2CF_MODE", "fast")
    environment.setenv("SMTP2CF_LOG_LEVEL", "loud")
    lines = start(environment, capsys).splitlines()
    assert [line.removeprefix("smtp2cf: ").partition(":")[0] for line in lines] == [
        "SMTP2CF_MODE",
        "SMTP2CF_LOG_LEVEL",
    ]


def test_a_wrong_value_in_the_env_file_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "env"
    file.write_text("SMTP2CF_MODE=fast\n")
    said = start(environment, capsys, "--env-file", str(file))
    assert said == "smtp2cf: SMTP2CF_MODE: 'fast' is wrong: it must be 'direct' or 'queue'\n"


def test_the_environment_wins_over_the_env_file(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "env"
    file.write_text("SMTP2CF_MODE=fast\n")
    environment.setenv("SMTP2CF_MODE", "queue")
    assert "SMTP2CF_ACCOUNT_ID is not set" in start(environment, capsys, "--env-file", str(file))


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "SMTP2CF_ACCOUNT_ID is not set: set it to the id of the Cloudflare account that sends"),
        (
            {"SMTP2CF_ACCOUNT_ID": "a1"},
            "SMTP2CF_API_TOKEN is not set: use a token with the permission Email Sending: Edit",
        ),
        (
            {"CLOUDFLARE_ACCOUNT_ID": "a1", "SMTP2CF_API_TOKEN": ""},
            "SMTP2CF_API_TOKEN is not set: use a token with the permission Email Sending: Edit",
        ),
    ],
    ids=["nothing", "no token", "an empty token"],
)
def test_without_an_account_it_does_not_start(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: dict[str, str], missing: str
) -> None:
    for name, value in given.items():
        environment.setenv(name, value)
    assert start(environment, capsys) == f"smtp2cf: {missing}\n"


def test_a_secret_comes_from_one_place(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environment.setenv("SMTP2CF_API_TOKEN", "one")
    environment.setenv("SMTP2CF_API_TOKEN_FILE", str(tmp_path / "token"))
    said = start(environment, capsys)
    assert (
        said == "smtp2cf: SMTP2CF_API_TOKEN and SMTP2CF_API_TOKEN_FILE are both set: set only one of them\n"
    )


def test_a_secret_file_that_is_not_there_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environment.setenv("SMTP2CF_API_TOKEN_FILE", str(tmp_path / "token"))
    said = start(environment, capsys)
    assert said.startswith("smtp2cf: SMTP2CF_API_TOKEN_FILE: ")
    assert str(tmp_path / "token") in said


def test_a_process_with_a_wrong_setting_ends_with_78_and_one_line() -> None:
    done = smtp2cf("serve", "--sandbox", SMTP_LISTEN="nonsense")
    assert done.status == os.EX_CONFIG
    assert done.out == ""
    assert done.err == f"smtp2cf: SMTP2CF_SMTP_LISTEN: 'nonsense' is wrong: 'nonsense' {ENDPOINT}\n"


def test_a_variable_nobody_knows_is_named_with_the_nearest(tmp_path: Path) -> None:
    with running_bridge(tmp_path, SMTP_LISTN="127.0.0.1:0", COLOUR="blue", SENDMAIL_HOST="x:1") as bridge:
        warned = [line["setting"] for line in bridge.log() if line["event"] == "settings.unknown"]
    assert warned == [
        "SMTP2CF_COLOUR is not a setting",
        "SMTP2CF_SMTP_LISTN is not a setting: did you mean SMTP2CF_SMTP_LISTEN?",
    ]


@pytest.mark.parametrize(
    ("value", "means"),
    [("yes", True), ("TRUE", True), ("1", True), ("no", False), ("False", False), ("0", False), ("", False)],
)
def test_what_yes_and_no_may_be(environment: pytest.MonkeyPatch, value: str, means: bool) -> None:
    environment.setenv("SMTP2CF_CHECK_HEADER_FROM", value)
    assert loading.load().check_header_from is means


DURATIONS = ("api_timeout", "session_timeout", "reply_timeout", "retry_min", "retry_max", "expire_after")
SIZES = ("max_message_size", "max_message_memory", "spool_min_free")


@pytest.mark.parametrize("setting", [*DURATIONS, "warn_after", "drain_timeout", "unanswered_wait"])
def test_every_duration_takes_units(environment: pytest.MonkeyPatch, setting: str) -> None:
    environment.setenv(f"SMTP2CF_{setting.upper()}", "2m")
    assert getattr(loading.load(), setting) == 120.0


@pytest.mark.parametrize("setting", SIZES)
def test_every_size_takes_units(environment: pytest.MonkeyPatch, setting: str) -> None:
    environment.setenv(f"SMTP2CF_{setting.upper()}", "25MiB")
    assert getattr(loading.load(), setting) == 25 * 2**20


def test_every_number_with_a_unit_is_a_duration_or_a_size() -> None:
    """Seconds and bytes have one reader each; a setting of either kind must use it."""
    plain = [name for name, field in fields.Plain.model_fields.items() if field.annotation is float]
    assert set(plain) == {*DURATIONS, "warn_after", "drain_timeout", "unanswered_wait"}
    for name, field in fields.Plain.model_fields.items():
        text = (field.description or "").lower()
        assert "seconds " not in text or name == "session_timeout", name
        assert " bytes" not in text or name in SIZES, name


@pytest.mark.parametrize(
    ("value", "means"),
    [("any", ()), ("Any", ()), ("", ()), ("example.com, *.example.org", ("example.com", "*.example.org"))],
)
def test_what_sender_domains_may_be(
    environment: pytest.MonkeyPatch, value: str, means: tuple[str, ...]
) -> None:
    environment.setenv("SMTP2CF_ALLOWED_SENDER_DOMAINS", value)
    assert loading.load().allowed_sender_domains == means


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, ": No such file or directory"),
        ("anna:secret\n", "line 1: no argon2id hash"),
        ("# users\nanna\n", "line 2: no colon"),
    ],
    ids=["missing", "no hash", "no colon"],
)
def test_a_users_file_that_can_not_be_used_is_named(tmp_path: Path, content: str | None, why: str) -> None:
    users = tmp_path / "users"
    if content is not None:
        users.write_text(content)
    with pytest.raises(fields.SettingsError) as error:
        rooms.access(fields.Settings(users_file=users))
    assert str(error.value).startswith(f"SMTP2CF_USERS_FILE: {users}")
    assert why in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_process_with_a_wrong_users_file_ends_with_78_and_one_line(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("anna:secret\n")
    sandbox = ("--sandbox", "--sandbox-listen", "127.0.0.1:0", "--sandbox-tls-listen", "127.0.0.1:0")
    done = smtp2cf("serve", *sandbox, SMTP_LISTEN="127.0.0.1:0", ADMIN_LISTEN="none", USERS_FILE=str(users))
    assert done.status == os.EX_CONFIG
    assert done.err.startswith(f"smtp2cf: SMTP2CF_USERS_FILE: {users}, line 1: no argon2id hash")
    assert done.err.count("\n") == 1


def test_ipv4_networks_written_as_ipv6_are_ipv4() -> None:
    networks = fields.Settings(allow_networks="::ffff:10.0.0.0/104,::ffff:0:0/96,fd00::/8").allow_networks  # type: ignore[arg-type]
    assert list(map(str, networks)) == ["10.0.0.0/8", "0.0.0.0/0", "fd00::/8"]
