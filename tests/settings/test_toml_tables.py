"""The tables of the TOML file: what they come to, and how a mistake in one is told."""

import tomllib
from pathlib import Path

import pytest
from pydantic import SecretStr

from smtp2cf.cli.check import check
from smtp2cf.cloudflare.tally import Rate
from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.settings import loading
from smtp2cf.settings.toml_lines import lines_of
from tests.settings.conftest import Config
from tests.settings.test_toml import EXAMPLE, SCHEMA, fits
from tests.support.each import each

FILE = """\
max_sessions = 9

[senders]
root = "cron@EXAMPLE.com"
"*@web1.internal" = "web1@example.com"
"*" = "noreply@example.com"

[recipients]
root = "ops@example.com"
"backup@*" = ["ops@example.com", "storage@example.com"]

[[account]]
name = "brand"
account_id = "b1"
api_token = "s3cret"
sender_domains = ["example.net", "*.example.net"]
users = "shop, web"
api_rate = "none"

[[account]]
name = "other"
account_id = "b2"
api_token_file = "{token}"

[[listener]]
name = "printers"
listen = "0.0.0.0:25"
tls = "Off"
allow_networks = ["10.0.7.11"]
sender_default = "printer@example.com"
client_quota = "30 messages/1m"

[[listener]]
name = "submission"
listen = [":587", "unix:/run/submission"]
tls = "required"
auth = "required"
tls_min_version = "1.2"
"""


@pytest.fixture
def file(config: Config, tmp_path: Path) -> str:
    (tmp_path / "token").write_text("s3cret2\n")
    return FILE.replace("{token}", f"{tmp_path}/token")


def test_what_the_tables_come_to(config: Config, file: str) -> None:
    settings = config.load(file)
    assert list(settings.senders.items()) == [
        ("root", "cron@example.com"),
        ("*@web1.internal", "web1@example.com"),
        ("*", "noreply@example.com"),
    ]
    assert settings.recipients == {
        "root": ("ops@example.com",),
        "backup@*": ("ops@example.com", "storage@example.com"),
    }
    brand, other = settings.accounts
    assert (brand.api_token, brand.api_rate) == (SecretStr("s3cret"), None)
    assert (brand.sender_domains, brand.users) == (("example.net", "*.example.net"), ("shop", "web"))
    assert (other.api_token, other.api_rate) == (SecretStr("s3cret2"), Rate(1200, 300.0))
    printers, submission = settings.listeners
    assert (printers.tls, str(printers.allow_networks[0])) == ("off", "10.0.7.11/32")
    assert (submission.auth, submission.tls_min_version) == ("required", "1.2")
    assert submission.listen == (Endpoint("0.0.0.0", 587), Endpoint(path="/run/submission"))
    assert (submission.allow_networks, submission.allowed_senders) == (None, ())
    assert not loading.unknown_variables()


def test_nothing_else_can_set_them(config: Config) -> None:
    names = ("SENDERS", "RECIPIENTS", "ACCOUNTS", "LISTENERS", "ACCOUNT", "LISTENER")
    settings = config.load("", **{f"SMTP2CF_{name}": '{"a": "b@c"}' for name in names})
    assert (settings.senders, settings.recipients, settings.accounts, settings.listeners) == ({}, {}, (), ())
    assert len(loading.unknown_variables()) == len(names)


ACCOUNT = '[[account]]\nname = "a"\naccount_id = "a1"\napi_token = "t"\n'
OTHER = ACCOUNT.replace('"a"', '"b"')
LISTENER = '[[listener]]\nname = "a"\nlisten = ":25"\n'
PATTERN = "it must be anna@example.com, example.com, *.example.com, root, root@* or *"
ADDRESS = "it must be an address such as anna@example.com"
NAME = "it must be up to 32 letters, digits, - and _"
IN_QUOTES = "it must be in quotes"


@each(
    ("text", "says"),
    [
        ("senders = 1", "1: senders is not a value: write [senders] on a line of its own"),
        ("[[senders]]\n", "1: senders is not a value: write [senders] on a line of its own"),
        ("[listener]\n", "1: listener is not a value: write [[listener]] on a line of its own"),
        ("account = [1]\n", "1: account is not a value: write [[account]] on a line of its own"),
        ('[senders]\n\nroot = "ops"', f'3: [senders] root: "ops" is wrong: {ADDRESS}'),
        ("[senders]\nroot = 1", f"2: [senders] root: 1 is wrong: {ADDRESS}"),
        ('[senders]\nroot = ["a@b.c"]', f'2: [senders] root: ["a@b.c"] is wrong: {ADDRESS}'),
        ('[senders]\nroot = ""', f'2: [senders] root: "" is wrong: {ADDRESS}'),
        ('[senders]\n"a b" = "a@b.c"', f'2: [senders] "a b" is not a pattern: {PATTERN}'),
        ('[senders]\n"" = "a@b.c"', f'2: [senders] "" is not a pattern: {PATTERN}'),
        ('[senders]\n"<a@b.c>" = "a@b.c"', f'2: [senders] "<a@b.c>" is not a pattern: {PATTERN}'),
        (
            '[senders]\nexample.com = "a@b.c"',
            '2: [senders] example is not in quotes, which a pattern with a dot needs: "example.com" = …',
        ),
        (
            '[senders]\nroot = "a@b.c"\n\nRoot = "x@b.c"',
            "4: [senders] Root is the pattern of line 2 again: keep one of them",
        ),
        (
            '[recipients]\nroot = [\n"a@b.c",\n"x"]',
            f'2: [recipients] root: "x" is wrong: {ADDRESS}',
        ),
        ("[recipients]\nroot = []", "2: [recipients] root: [] is wrong: name one address at least"),
        (ACCOUNT + 'api_rate = "fast"', "5: [[account]] api_rate: 'fast' is wrong: it must be calls/seconds"),
        (ACCOUNT + "api_rate = 5", f"5: [[account]] api_rate: 5 is wrong: {IN_QUOTES}"),
        (ACCOUNT + "users = [1]", "5: [[account]] users: [1] is wrong: each item must be in quotes"),
        (ACCOUNT + 'sender_domains = "*"', "5: [[account]] sender_domains: '*' is wrong: invalid sender"),
        (ACCOUNT + 'api_base_url = "ftp:/x"', "5: [[account]] api_base_url: 'ftp:/x' is wrong: it must be"),
        (
            ACCOUNT + 'events_queue_id = "/"',
            "5: [[account]] events_queue_id: '/' is wrong: it must be",
        ),
        (ACCOUNT.replace('"t"', '"s3cret 2"'), "4: [[account]] api_token: its value is wrong: an API token"),
        (ACCOUNT.replace('"t"', "5"), f"4: [[account]] api_token: its value is wrong: {IN_QUOTES}"),
        (ACCOUNT.replace('"t"', '""'), "1: [[account]] has no api_token and no api_token_file"),
        (
            ACCOUNT + 'api_token_file = "/no"',
            "5: [[account]] api_token_file and api_token are both set: set only one of them",
        ),
        (
            ACCOUNT.replace('n = "t"', 'n_file = "/no/t"'),
            "4: [[account]] api_token_file: /no/t: No such file or directory",
        ),
        (
            ACCOUNT.replace('n = "t"', 'n_file = """/no/t\n"""'),
            "4: [[account]] api_token_file: /no/t: No such file or directory",
        ),
        (ACCOUNT.replace("account_id", "#"), "1: [[account]] has no account_id"),
        (ACCOUNT.replace("name", "#"), "1: [[account]] has no name"),
        (ACCOUNT.replace('"a"', '""'), "1: [[account]] has no name"),
        (ACCOUNT.replace('"a"', '"a b"'), f"2: [[account]] name: 'a b' is wrong: {NAME}"),
        (ACCOUNT.replace('"a"', '"ä"'), f"2: [[account]] name: 'ä' is wrong: {NAME}"),
        (
            ACCOUNT.replace('"a"', '"Default"'),
            "2: [[account]] name: 'Default' is wrong: it is the name of the account that no table describes",
        ),
        (
            ACCOUNT + ACCOUNT.replace('"a"', '"A"'),
            "6: [[account]] name: 'A' is wrong: the [[account]] of line 2 has this name",
        ),
        (
            f'{ACCOUNT}users = "x"\n{OTHER}users = "y, X"',
            "10: [[account]] users: X is named in [[account]] a too: keep one of them",
        ),
        (
            LISTENER + 'tls = "on"',
            "4: [[listener]] tls: 'on' is wrong: it must be 'off',",
        ),
        (LISTENER + "tls = true", "4: [[listener]] tls: true is wrong: it can't be yes or no"),
        (LISTENER + "tls_min_version = 1.2", f"4: [[listener]] tls_min_version: 1.2 is wrong: {IN_QUOTES}"),
        (
            LISTENER + 'protocol = "http"',
            "4: [[listener]] protocol: 'http' is wrong: it must be",
        ),
        (
            LISTENER + 'allow_networks = "x"',
            "4: [[listener]] allow_networks: 'x' is wrong: 'x'",
        ),
        (
            LISTENER + 'sender_default = "x"',
            "4: [[listener]] sender_default: 'x' is wrong: it must",
        ),
        (LISTENER.replace(":25", "25"), "3: [[listener]] listen: '25' is wrong: '25' is not host:port"),
        (LISTENER.replace(":25", ":25,:25"), "3: [[listener]] listen: 0.0.0.0:25 is named twice"),
        (
            LISTENER + LISTENER.replace('"a"', '"b"'),
            "6: [[listener]] listen: 0.0.0.0:25 is named in [[listener]] a too: keep one of them",
        ),
        (
            LISTENER.replace('"a"', '"admin"'),
            "2: [[listener]] name: 'admin' is wrong: it is the name of SMTP2CF_ADMIN_LISTEN",
        ),
        (
            LISTENER + 'protocol = "smtps"\ntls = "off"',
            "5: [[listener]] tls: 'off' is wrong: smtps is TLS from the first byte",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line_its_table_and_its_key(config: Config, text: str, says: str) -> None:
    said = config.error(text)
    assert said.startswith(f"FILE, line {says}")
    assert "\n" not in said
    assert "s3cret" not in said


def test_all_mistakes_are_told_at_once(config: Config) -> None:
    text = 'mode = "x"\n[senders]\nroot = "x"\n[[listener]]\nname = "a"\ntls = "x"\n'
    said = config.error(f"{text}{ACCOUNT}users = 1")
    assert [line.partition(": ")[0] for line in said.splitlines()] == [
        f"FILE, line {line}" for line in (1, 3, 6, 11)
    ]


def test_what_nobody_knows_is_named_with_the_nearest(config: Config) -> None:
    config.load(
        '[sender]\nroot = "x"\n[[listeners]]\n[misc]\n'
        + LISTENER
        + 'tls_min_versoin = "1.0"\ncolour = 1\nmax_sessions = 3\n'
    )
    assert [line.replace(str(config.path), "FILE") for line in loading.unknown_variables()] == [
        "FILE, line 1: sender is not a table: did you mean [senders]?",
        "FILE, line 3: listeners is not a table: did you mean [[listener]]?",
        "FILE, line 4: misc is not a table",
        "FILE, line 8: [[listener]] tls_min_versoin is not a setting of it: did you mean tls_min_version?",
        "FILE, line 9: [[listener]] colour is not a setting of it",
        "FILE, line 10: [[listener]] max_sessions is not a setting of it: it stands above any [table]",
    ]


def test_the_example_is_read_as_it_stands_and_fits_the_schema(config: Config, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    tables = EXAMPLE[EXAMPLE.index("[senders]") :]
    settings = config.load(tables.replace("/etc/smtp2cf/second-brand.token", f"{tmp_path}/token"))
    assert not loading.unknown_variables()
    assert settings.senders
    assert settings.recipients
    for rows in (settings.accounts, settings.listeners):
        (row,) = rows
        assert list(tomllib.loads(tables)[type(row).__name__.removesuffix("Table").lower()][0]) == list(
            type(row).model_fields
        )
    assert all(fits(value, SCHEMA["properties"][key]) for key, value in tomllib.loads(tables).items())


@each("text", [ACCOUNT.replace("account_id", "#"), "[senders]\na = 1", "[recipients]\na = []"])
def test_what_the_schema_refuses_the_bridge_refuses(config: Config, text: str) -> None:
    assert not all(fits(value, SCHEMA["properties"][key]) for key, value in tomllib.loads(text).items())
    assert config.error(text)


def test_what_is_in_use_is_shown_without_secrets(
    config: Config, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config.path.write_text(file)
    check(show=True)
    said = capsys.readouterr().out.replace(str(config.path), "FILE")
    assert "s3cret" not in said
    for line in (
        "[senders] root = cron@EXAMPLE.com # FILE, line 4: [senders] root",
        '[senders] *@web1.internal = web1@example.com # FILE, line 5: [senders] "*@web1.internal"',
        "[recipients] root = ops@example.com # FILE, line 9: [recipients] root",
        "[[account]] brand: api_token = *** # FILE, line 15: [[account]] api_token",
        "[[listener]] submission: tls = required # FILE, line 36: [[listener]] tls",
    ):
        assert line in said.splitlines()


def test_the_line_of_a_key_in_a_table_is_where_its_statement_begins() -> None:
    assert lines_of('[[a]]\nb = 1\n\n[[a]] # x\nb = [\n1]\n[a.c]\nd = {e = 1}\n["f g".h]\ni.j = 1') == {
        ("a",): 1,
        ("a", 0): 1,
        ("a", 0, "b"): 2,
        ("a", 1): 4,
        ("a", 1, "b"): 5,
        ("a", 1, "b", 0): 5,
        ("a", 1, "c"): 7,
        ("a", 1, "c", "d"): 8,
        ("a", 1, "c", "d", "e"): 8,
        ("f g",): 9,
        ("f g", "h"): 9,
        ("f g", "h", "i"): 10,
        ("f g", "h", "i", "j"): 10,
    }


def test_a_long_array_is_not_read_again_at_each_of_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    loads = tomllib.loads
    monkeypatch.setattr(tomllib, "loads", lambda text: read.append(text) or loads(text))
    networks = "".join(f'"10.0.0.{number}",\n' for number in range(250))
    assert lines_of(f"allow_networks = [\n{networks}]\nmode = 1\n")["mode",] == 253
    assert len(read) < 10
