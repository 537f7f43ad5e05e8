"""smtp2cf user: by hand, by script, on a terminal; what it writes is what a bridge reads."""

import json
import os
import pty
import select
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from smtp2cf.access.logins import verify
from smtp2cf.access.users import read_users
from smtp2cf.cli.user import app
from tests.access.hashes import line
from tests.cli.actions import actions, make_journal
from tests.support.command import clean_environment, run


def user(*arguments: str, stdin: str | bytes = "", **env: str) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin, env=env)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The users file, as the environment names it; there is none yet."""
    monkeypatch.setenv("SMTP2CF_USERS_FILE", str(tmp_path / "users"))
    return tmp_path / "users"


def accepts(path: Path, name: str, password: str) -> bool:
    return verify(read_users(path)[0][name].hash, password.encode())


def test_a_password_is_read_from_standard_input(path: Path) -> None:
    done = user("add", "anna", "--sender", "anna@example.com,*@example.org", stdin="größe 1\r\nmore\n")
    assert done.exit_code == 0, done.output
    assert done.stdout == "anna: added\n"
    assert (
        done.stderr
        == f"{path} is new, and only uid {os.geteuid()} can read it: let the bridge's user read it too\n"
    )
    assert accepts(path, "anna", "größe 1")
    assert user("add", "bert", "--password-stdin", stdin="b").stderr == ""
    assert accepts(path, "bert", "b")


def test_an_existing_user_needs_to_be_meant(path: Path) -> None:
    path.write_text(line("anna", "old", "example.com"))
    done = user("add", "anna", stdin="new\n")
    assert done.exit_code == 1
    assert done.stderr == f"smtp2cf: {path} already has a user anna: use --replace to set a new password\n"
    assert accepts(path, "anna", "old")
    done = user("add", "anna", "--replace", stdin="new\n")
    assert (done.exit_code, done.stdout) == (0, "anna: has a new password\n")
    assert accepts(path, "anna", "new")
    assert read_users(path)[0]["anna"].senders.written == ("example.com",)


def test_who_added_changed_or_deleted_a_user_is_in_the_journal(path: Path) -> None:
    make_journal(path.parent)
    state = {"SMTP2CF_STATE_DIR": str(path.parent)}
    for arguments in (["add", "anna"], ["add", "anna", "--replace"], ["delete", "anna"]):
        done = user(*arguments, stdin="new\n", **state)
        assert done.exit_code == 0, done.output
    anna = {"user": "anna"}
    assert actions(path.parent) == [
        ("operator.user_deleted", anna),
        ("operator.user_changed", anna),
        ("operator.user_added", anna),
    ]


@pytest.mark.parametrize(
    ("arguments", "stdin", "why"),
    [
        (["a:b"], "x\n", "'a:b' is not a user name"),
        ([" anna"], "x\n", "' anna' is not a user name"),
        (["#anna"], "x\n", "'#anna' is not a user name"),
        (["an\x1bna"], "x\n", "'an\\x1bna' is not a user name"),
        ([""], "x\n", "the name is missing"),
        (["a" * 256], "x\n", "the name is longer than 255 characters"),
        (["anna", "--sender", "*"], "x\n", "invalid sender '*'"),
        (["anna", "--quota", "5"], "x\n", "it must be limits such as 30 messages/1m, 5000 recipients/1d"),
        (["anna"], "", "the password is empty"),
        (["anna"], "\n", "the password is empty"),
        (["anna"], b"\xff\n", "the password is not UTF-8"),
        (["anna"], "x\0y\n", "the password contains a control character"),
        (["anna"], "x" * 1025, "the password is longer than 1024 bytes"),
    ],
)
def test_what_can_not_be_is_said_in_one_line(
    path: Path, arguments: list[str], stdin: str | bytes, why: str
) -> None:
    done = user("add", *arguments, stdin=stdin)
    assert done.exit_code == os.EX_DATAERR
    assert done.stderr.startswith(f"smtp2cf: {why}")
    assert done.stderr.count("\n") == 1
    assert not path.exists()


def test_users_are_listed_without_their_hashes(path: Path) -> None:
    path.write_text(line("anna", "secret", "a@example.com,*.example.org") + "# x\n" + line("zoë", "secret"))
    done = user("list")
    assert done.exit_code == 0
    assert [row.split() for row in done.stdout.splitlines()] == [
        ["anna", "a@example.com,", "*.example.org"],
        ["zoë", "any", "sender"],
    ]
    assert "argon2" not in done.output
    assert user("add", "bert", "--quota", "5 messages/1h", stdin="x\n").exit_code == 0
    assert user("list").stdout.splitlines()[2].split() == [
        "bert",
        "any",
        "sender;",
        "quota",
        "5",
        "messages/1h",
    ]
    assert [json.loads(row) for row in user("list", "--json").stdout.splitlines()] == [
        {"name": "anna", "senders": ["a@example.com", "*.example.org"]},
        {"name": "zoë", "senders": []},
        {"name": "bert", "senders": [], "quota": "5 messages/1h"},
    ]


def test_a_user_is_deleted(path: Path) -> None:
    path.write_text(line("anna", "secret") + line("bert", "secret"))
    done = user("delete", "anna")
    assert (done.exit_code, done.stdout) == (0, "anna: deleted\n")
    done = user("delete", "anna")
    assert (done.exit_code, done.stderr) == (1, f"smtp2cf: {path} has no user anna\n")
    assert list(read_users(path)[0]) == ["bert"]


@pytest.mark.parametrize("command", [["add", "anna"], ["list"], ["delete", "anna"]])
def test_a_broken_file_is_named_with_its_line_and_left_alone(path: Path, command: list[str]) -> None:
    path.write_text("anna:secret\n")
    done = user(*command, stdin="x\n")
    assert done.exit_code == os.EX_CONFIG
    assert done.stderr.startswith(f"smtp2cf: {path}, line 1: no argon2id hash")
    assert path.read_text() == "anna:secret\n"


def test_the_file_is_named_by_option_by_environment_or_by_env_file(path: Path, tmp_path: Path) -> None:
    option, env_file = tmp_path / "option", tmp_path / "env"
    env_file.write_text(f"SMTP2CF_USERS_FILE={tmp_path / 'other'}\nSMTP2CF_MODE=nonsense\n")
    user("add", "anna", "--users-file", str(option), stdin="x\n")
    assert accepts(option, "anna", "x")
    user("add", "anna", "--env-file", str(env_file), stdin="x\n", SMTP2CF_USERS_FILE="")
    assert not path.exists()
    user("add", "anna", stdin="x\n")
    assert accepts(path, "anna", "x")


# ---- as its own process


def test_without_a_file_it_says_how_to_name_one() -> None:
    done = run(["user", "add", "anna"], clean_environment({}), "x\n")
    assert done.status == os.EX_CONFIG
    assert done.err == "smtp2cf: no users file: set SMTP2CF_USERS_FILE or use --users-file\n"


class Terminal:
    """`smtp2cf user …` on a terminal of its own."""

    def __init__(self, *arguments: str, **settings: str) -> None:
        self.shown = ""
        environ = clean_environment({f"SMTP2CF_{name}": value for name, value in settings.items()})
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, "-m", "smtp2cf", "user", *arguments], environ)

    def type(self, prompt: str, text: str) -> None:
        """Wait for a prompt and answer it."""
        self._read_until(lambda: self.shown.endswith(prompt))
        os.write(self.fd, f"{text}\n".encode())

    def end(self) -> int:
        """Its exit status, once it has ended."""
        self._read_until(lambda: False)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read_until(self, done: Any) -> None:
        deadline = time.monotonic() + 60
        while not done():
            poll = select.poll()  # select() takes no descriptor above 1023
            poll.register(self.fd, select.POLLIN)
            assert poll.poll(max(0.0, deadline - time.monotonic()) * 1000), self.shown
            try:
                read = os.read(self.fd, 4096)
            except OSError:  # how a terminal says that nobody is at its other end
                read = b""
            if not read:
                return
            self.shown += read.decode()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_on_a_terminal_the_password_is_asked_for_twice_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "users"
    terminal = Terminal("add", "anna", USERS_FILE=str(path))
    terminal.type("Password for anna: ", "geheim")
    terminal.type("Repeat it: ", "geheim")
    assert terminal.end() == 0, terminal.shown
    assert "geheim" not in terminal.shown
    assert accepts(path, "anna", "geheim")

    terminal = Terminal("add", "bert", USERS_FILE=str(path))
    terminal.type("Password for bert: ", "geheim")
    terminal.type("Repeat it: ", "anders")
    assert terminal.end() == os.EX_DATAERR
    assert "smtp2cf: the two passwords differ" in terminal.shown
    assert list(read_users(path)[0]) == ["anna"]
