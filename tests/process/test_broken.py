"""Broken configurations, each with the line expected: what is wrong, where, and what to do, said once.

Every command that an operator types is here with what can be wrong around it. Nothing of it is a traceback.
"""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.command import Done, clean_environment, run, running, smtp2cf
from tests.support.needs import needs
from tests.support.waiting import PATIENCE

CONFIG, OS_ERROR, USAGE = os.EX_CONFIG, os.EX_OSERR, os.EX_USAGE
PLACES = {"SMTP2CF_SMTP_LISTEN": "127.0.0.1:0", "SMTP2CF_ADMIN_LISTEN": "none"}
ACCOUNT = {"SMTP2CF_ACCOUNT_ID": "0" * 32, "SMTP2CF_API_TOKEN": "t" * 40}
SERVE = ("serve", "--sandbox", "--sandbox-listen", "127.0.0.1:0", "--sandbox-tls-listen", "127.0.0.1:0")
NO_FILE, FIFO = "No such file or directory", "is a FIFO, not a regular file"


class Broken(NamedTuple):
    """{d} stands for a directory with what `world` made; CODE for the exit status."""

    arguments: tuple[str, ...]
    env: dict[str, str]
    status: int
    line: str


def _env_file(*rows: tuple[str, str]) -> list[Broken]:
    return [
        Broken(("serve", "--env-file", f"{{d}}/{name}"), {}, CONFIG, f"--env-file {{d}}/{name}{why}")
        for name, why in rows
    ]


def _secret(variable: str, *rows: tuple[str, str]) -> list[Broken]:
    return [
        Broken(
            ("serve",),
            {f"SMTP2CF_{variable}_FILE": f"{{d}}/{name}"},
            CONFIG,
            f"SMTP2CF_{variable}_FILE: {{d}}/{name}{why}",
        )
        for name, why in rows
    ]


def _serve(env: dict[str, str], status: int, line: str) -> Broken:
    return Broken(SERVE, env, status, line)


FILES = [
    ("nothing", f": {NO_FILE}"),
    ("dir", " is a directory, not a regular file"),
    ("fifo", f" {FIFO}"),
    ("binary", ", line 2: not UTF-8"),
    ("large", " is larger than 1 MiB"),
]
TABLE = [
    *_env_file(
        *FILES,
        ("unparsable", ", line 2: not NAME=value; is a quote left open?"),
        ("quote", ", line 3: not NAME=value; is a quote left open?"),
        ("bare", ", line 1: SMTP2CF_MODE has no = and no value"),
    ),
    *_secret("API_TOKEN", *FILES, ("empty", " is empty")),
    *_secret("SPOOL_URL", *FILES, ("empty", " is empty")),
    *[
        Broken(
            ("queue", "list"),
            {"SMTP2CF_SPOOL_URL": f"sqlite://{nowhere}"},
            CONFIG,
            "SMTP2CF_SPOOL_URL: its value is wrong: it must be sqlite:///path, postgresql://host/database or"
            " none",
        )
        for nowhere in ("/", "//", "/.", "//./.")
    ],
    *[
        Broken(
            ("serve",),
            {**ACCOUNT, "SMTP2CF_API_BASE_URL": f"http://{url}"},
            CONFIG,
            f"SMTP2CF_API_BASE_URL: 'http://{url}' is wrong: it must be a URL such as"
            " https://api.cloudflare.com/client/v4",
        )
        for url in ("[::1", "[zz]/v4", "x:port")
    ],
    _serve(
        {"SMTP2CF_SMTP_LISTEN": "192.0.2.1:25"},
        OS_ERROR,
        "SMTP2CF_SMTP_LISTEN: cannot listen on 192.0.2.1:25: this host has no such address",
    ),
    _serve(
        {"SMTP2CF_LMTP_LISTEN": "unix:{d}/no/lmtp"},
        OS_ERROR,
        f"SMTP2CF_LMTP_LISTEN: cannot listen on unix:{{d}}/no/lmtp: {NO_FILE}: make {{d}}/no first",
    ),
    _serve(
        {"SMTP2CF_ADMIN_LISTEN": "unix:{d}/empty"},
        OS_ERROR,
        "SMTP2CF_ADMIN_LISTEN: cannot listen on unix:{d}/empty: a file that is not a socket is there",
    ),
    _serve(
        {"SMTP2CF_SMTP_LISTEN": "127.0.0.1:{port}", "SMTP2CF_ADMIN_LISTEN": "127.0.0.1:{port}"},
        OS_ERROR,
        "SMTP2CF_ADMIN_LISTEN: cannot listen on 127.0.0.1:{port}: SMTP2CF_SMTP_LISTEN names it too",
    ),
    Broken(
        ("serve", "--sandbox", "--sandbox-listen", "192.0.2.1:80"),
        {},
        OS_ERROR,
        "--sandbox-listen: cannot listen on 192.0.2.1:80: this host has no such address",
    ),
    Broken(
        ("sandbox", "--listen", "192.0.2.1:80"),
        {},
        OS_ERROR,
        "cannot listen on 192.0.2.1:80: this host has no such address",
    ),
    Broken(("sandbox", "--listen", "x"), {}, USAGE, "'x' is not host:port, [v6]:port or unix:/path"),
    _serve({"SSL_CERT_FILE": "{d}/nothing"}, CONFIG, f"SSL_CERT_FILE: {{d}}/nothing: {NO_FILE}"),
    _serve(
        {"SSL_CERT_FILE": "{d}/empty"}, CONFIG, "SSL_CERT_FILE: {d}/empty: it holds no certificate in PEM"
    ),
    _serve({"SMTP2CF_USERS_FILE": "{d}/nothing"}, CONFIG, f"SMTP2CF_USERS_FILE: {{d}}/nothing: {NO_FILE}"),
    _serve({"SMTP2CF_TLS_CERT_FILE": "{d}/fifo"}, CONFIG, f"SMTP2CF_TLS_CERT_FILE: {{d}}/fifo {FIFO}"),
    _serve(
        {"SMTP2CF_TLS_CERT_FILE": "{d}/empty"},
        CONFIG,
        "SMTP2CF_TLS_CERT_FILE: {d}/empty holds no certificate in PEM",
    ),
    _serve(
        {"SMTP2CF_STATE_DIR": "{d}/empty/state"},
        CONFIG,
        "cannot create the spool's directory {d}/empty/state: Not a directory",
    ),
    _serve(
        {"SMTP2CF_SPOOL_URL": "sqlite:///{d}/dir"}, CONFIG, "cannot open the spool {d}/dir: Is a directory"
    ),
    _serve(
        {"SMTP2CF_SPOOL_URL": "postgresql://db/x", "PYTHONPATH": "{d}/without"},
        CONFIG,
        "a PostgreSQL spool needs asyncpg: pip install 'smtp2cf[postgres]'",
    ),
    Broken(
        ("queue", "list"),
        {"SMTP2CF_STATE_DIR": "{d}/dir"},
        CONFIG,
        "there is no spool at {d}/dir/spool.sqlite3: 'smtp2cf serve' creates it",
    ),
    Broken(
        ("queue", "list"),
        {"SMTP2CF_SPOOL_URL": "none"},
        CONFIG,
        "there is no queue: SMTP2CF_SPOOL_URL is none",
    ),
    Broken(
        ("queue", "list"),
        {"SMTP2CF_SPOOL_URL": "sqlite:///{d}/other.sqlite3"},
        CONFIG,
        "{d}/other.sqlite3 is another program's database, not a spool of smtp2cf",
    ),
    Broken(("user", "list"), {}, CONFIG, "no users file: set SMTP2CF_USERS_FILE or use --users-file"),
    Broken(("user", "list", "--users-file", "{d}/nothing"), {}, CONFIG, f"{{d}}/nothing: {NO_FILE}"),
    Broken(("user", "list", "--users-file", "{d}/fifo"), {}, CONFIG, f"{{d}}/fifo {FIFO}"),
    Broken(
        ("user", "list", "--users-file", "{d}/unparsable"),
        {},
        CONFIG,
        "{d}/unparsable, line 1: no colon: write name:hash or name:hash:allowed senders",
    ),
    Broken(("user", "delete", "anna", "--users-file", "{d}/fifo"), {}, CONFIG, f"{{d}}/fifo {FIFO}"),
    Broken(
        ("user", "delete", "anna", "--users-file", "{d}/no/users"),
        {},
        CONFIG,
        f"{{d}}/no/users can't be changed: {NO_FILE}: make {{d}}/no first",
    ),
    Broken(("user", "delete", "anna", "--users-file", "{d}/empty"), {}, 1, "{d}/empty has no user anna"),
    Broken(("user", "add", "anna", "--users-file", "{d}/new"), {}, os.EX_DATAERR, "the password is empty"),
    Broken(
        ("install-sendmail", "--prefix", "{d}/empty"),
        {},
        os.EX_CANTCREAT,
        "{d}/empty/sbin/sendmail: Not a directory",
    ),
    Broken(
        ("send", "--to", "a@b.example", "--from", "c@d.example"),
        {"SMTP2CF_SMTP_LISTEN": "127.0.0.1:{port}"},
        os.EX_UNAVAILABLE,
        "no bridge answers on 127.0.0.1:{port}: Connection refused (is `smtp2cf serve` running?)",
    ),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of things that are not what they should be."""
    made = tmp_path_factory.mktemp("world")
    (made / "dir").mkdir()
    (made / "without" / "asyncpg").mkdir(parents=True)
    (made / "without" / "asyncpg" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'asyncpg'\", name='asyncpg')\n"
    )
    os.mkfifo(made / "fifo")
    (made / "empty").write_text("\n")
    (made / "binary").write_bytes(b"A=1\nB=\xff\n")
    (made / "large").write_bytes(b"#" * (1 << 20) + b"#")
    (made / "unparsable").write_text("SMTP2CF_MODE=queue\nthis is no line\n")
    (made / "quote").write_text("A=1\n\nSMTP2CF_API_TOKEN='t0psecret\nSMTP2CF_MODE=queue\n")
    (made / "bare").write_text("SMTP2CF_MODE\n")
    with sqlite3.connect(made / "other.sqlite3") as database:
        database.execute("CREATE TABLE other (x)")
    database.close()
    return made


@pytest.mark.parametrize(
    "broken", TABLE, ids=[f"{' '.join(row.arguments)} {row.env}".replace("{d}/", "") for row in TABLE]
)
def test_a_broken_configuration_is_one_line(broken: Broken, world: Path, free_port: int) -> None:
    def filled(text: str) -> str:
        return text.replace("{d}", str(world)).replace("{port}", str(free_port))

    env = {**PLACES, **{name: filled(value) for name, value in broken.env.items()}}
    done = run([filled(word) for word in broken.arguments], clean_environment(env))
    assert done.err == f"smtp2cf: {filled(broken.line)}\n"
    assert done.status == broken.status
    assert done.out == ""
    assert "t0psecret" not in done.err


@pytest.fixture
def free_port(unused_tcp_port: int) -> int:
    return unused_tcp_port


def test_every_line_of_an_env_file_that_is_none_is_named_once(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("SMTP2CF_MODE=queue\none\n\n\ntwo three\nSMTP2CF_LOG_LEVEL\n")
    done = smtp2cf("serve", "--env-file", str(file))
    assert done.err.splitlines() == [
        f"smtp2cf: --env-file {file}, line 5: not NAME=value; is a quote left open?",
        f"smtp2cf: --env-file {file}, line 6: SMTP2CF_LOG_LEVEL has no = and no value",
    ]


def test_a_spool_that_another_bridge_has_is_one_line(tmp_path: Path) -> None:
    state = tmp_path / "state"
    settings = {"STATE_DIR": str(state), "SMTP_LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "none"}
    with running(*SERVE, **settings) as first:
        assert first.stdout is not None
        first.stdout.readline()
        done = smtp2cf(*SERVE, **settings)
    assert done.status == CONFIG
    assert done.err.startswith("smtp2cf: ")
    assert f"pid {first.pid}" in done.err
    assert done.err.count("\n") == 1


@needs("setpriv")
@pytest.mark.skipif(os.geteuid() != 0, reason="root becomes another user")
@pytest.mark.parametrize("command", [SERVE, ("queue", "list")], ids=["serve", "queue"])
def test_a_spool_that_is_somebody_elses_is_one_line(open_path: Path, command: tuple[str, ...]) -> None:
    state = open_path / "state"
    state.mkdir(mode=0o700)
    env = {
        "SMTP2CF_STATE_DIR": str(state),
        "SMTP2CF_SMTP_LISTEN": "127.0.0.1:0",
        "SMTP2CF_ADMIN_LISTEN": "none",
    }
    done = _as_nobody([*command], env)
    assert done.status == CONFIG, done.err
    assert done.err.startswith("smtp2cf: ")
    assert str(state) in done.err
    assert done.err.count("\n") == 1


def _as_nobody(arguments: list[str], env: dict[str, str]) -> Done:
    """Without root's right to read everything, but with root's user id: the checkout may be root's alone."""
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    done = subprocess.run(
        [*drop, "--reuid=65534", "--clear-groups", sys.executable, "-m", "smtp2cf", *arguments],
        env=clean_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    if "smtp2cf: " not in done.stderr and re.search("Permission denied|No module|shared librar", done.stderr):
        pytest.skip("another user may not read this checkout")
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)], ids=" ".join)
def test_a_full_disk_behind_standard_output_is_one_line(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = run(arguments, clean_environment({}), stdout=full)
    assert done.err == "smtp2cf: No space left on device\n"
    assert done.status == OS_ERROR


def test_whoever_reads_no_further_hears_nothing_of_it() -> None:
    with running("--help") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_locale_without_a_character_loses_no_message(tmp_path: Path) -> None:
    env = {"PYTHONIOENCODING": "ascii", "SMTP2CF_USERS_FILE": str(tmp_path / "ö")}
    done = run(["user", "list"], clean_environment(env))
    assert done.status == CONFIG
    assert done.err.startswith(f"smtp2cf: {tmp_path}/")
    assert done.err.endswith(f": {NO_FILE}\n")
