"""The users file: what a line may be, and that a changed file holds at once and a broken one never."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from smtp2cf.access.limit import Limit
from smtp2cf.access.users import UsersFile, UsersFileError, check_hash, parse_users
from smtp2cf.listen.file_watch import FileWatch
from tests.access.hashes import CHEAP, line

HASH = "$argon2id$v=19$m=8,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$39tbUSD70LTTCIyCWo9t5sDidhNPptw1P94ISzTyALc"
"""Of "secret"."""
SALT, DIGEST = HASH.split("$")[4:]


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """What is logged in the test; its files are for nobody else to read."""
    before = os.umask(0o077)
    try:
        with capture_logs() as captured:
            yield captured
    finally:
        os.umask(before)


def test_a_line_is_a_name_a_hash_and_senders() -> None:
    users = parse_users(
        f"# users\n\n  anna:{HASH}\r\nbert smith : {HASH} : example.com , bert@example.org \n#x:y\n"
        f"zoë:{HASH}".encode()
    )
    assert {name: user.senders.written for name, user in users.items()} == {
        "anna": (),
        "bert smith": ("example.com", "bert@example.org"),
        "zoë": (),
    }
    assert {user.hash for user in users.values()} == {HASH}


def test_a_line_may_go_on_with_options() -> None:
    users = parse_users(
        f"anna:{HASH}:example.com:quota=5 messages/1h, 9 recipients/1d\n"
        f"bert:{HASH}: : quota = none\ncarl:{HASH}".encode()
    )
    found = {name: (user.senders.written, user.quota) for name, user in users.items()}
    assert found == {
        "anna": (("example.com",), (Limit(5, "messages", 3600), Limit(9, "recipients", 86400))),
        "bert": ((), ()),
        "carl": ((), None),
    }
    for user in users.values():
        assert parse_users(user.line.encode()) == {user.name: user}


def test_names_are_compared_in_nfc() -> None:
    assert list(parse_users(f"zoe\u0308:{HASH}".encode())) == ["zoë"]


BROKEN = [
    ("anna", "no colon: write name:hash or name:hash:allowed senders"),
    (f":{HASH}", "the name is missing"),
    ("anna:", "no argon2id hash ($argon2id$v=19$…) after the name; `smtp2cf user add` writes one"),
    ("anna:secret", "no argon2id hash"),
    ("anna:$2y$05$abcdefghijklmnopqrstuv", "no argon2id hash"),
    (f"anna:{HASH[:-1]}", "no argon2id hash"),
    (f"anna:{HASH.replace('argon2id', 'argon2i')}", "no argon2id hash"),
    (f"anna:$argon2id$v=19$m=8,t=1,p=1$${DIGEST}", "no argon2id hash"),
    (f"anna:$argon2id$v=19$m=٨,t=1,p=1${SALT}${DIGEST}", "no argon2id hash"),
    (f"anna:$argon2id$v=19$t=1,m=8,p=1${SALT}${DIGEST}", "no argon2id hash"),
    (
        f"anna:$argon2id$v=19$m=99999999,t=1,p=1${SALT}${DIGEST}",
        "the hash's memory_cost must be from 1 to 262144",
    ),
    (f"anna:$argon2id$v=19$m=8,t=99999,p=1${SALT}${DIGEST}", "the hash's time_cost must be from"),
    (f"anna:$argon2id$v=19$m=8,t=0,p=1${SALT}${DIGEST}", "the hash's time_cost must be from"),
    (f"anna:$argon2id$v=19$m=8,t=1,p=2${SALT}${DIGEST}", "the hash's memory_cost must be at least 8 times"),
    (f"anna:{HASH}:", "invalid sender ''"),
    (f"anna:{HASH}:example.com,,", "invalid sender ''"),
    (f"anna:{HASH}:*", "invalid sender '*'"),
    (f"an\x07na:{HASH}", "'an\\x07na' is not a user name"),
    (f"{'a' * 256}:{HASH}", "the name is longer than 255 characters"),
    (f"root:{HASH}", "'root' is on an earlier line already"),
    (f"anna:{HASH}::quota=5 mails/1h", "quota=5 mails/1h: it must be limits such as 30 messages/1m"),
    (f"anna:{HASH}::quota", "'quota' is not an option: there is quota=…"),
    (f"anna:{HASH}:example.com:", "'' is not an option: there is quota=…"),
    (f"anna:{HASH}:example.com:limit=1", "'limit=1' is not an option"),
    (f"anna:{HASH}::sender_default=*@x.com", "sender_default=*@x.com: it must be an address"),
    (f"anna:{HASH}::recipients=*", "recipients=*: invalid sender '*'"),
    (b"an\xffna:x", "not UTF-8"),
]


@pytest.mark.parametrize(
    ("broken", "why"), BROKEN, ids=[f"{n} {row[1][:30]}" for n, row in enumerate(BROKEN)]
)
def test_a_broken_line_is_named_by_its_number_and_its_hash_is_not_shown(
    broken: str | bytes, why: str
) -> None:
    text = broken if isinstance(broken, bytes) else broken.encode()
    with pytest.raises(ValueError) as error:
        parse_users(b"# a comment\nroot:" + HASH.encode() + b"\n" + text + b"\n")
    assert str(error.value).startswith(f"line 3: {why}")
    assert SALT not in str(error.value)
    assert DIGEST[:8] not in str(error.value)


def test_no_hash_is_in_what_a_user_looks_like() -> None:
    (user,) = parse_users(f"anna:{HASH}".encode()).values()
    assert DIGEST[:8] not in repr(user)


def test_what_argon2_hashes_is_taken_whatever_it_costs() -> None:
    for written in (HASH, CHEAP.hash("x" * 100), CHEAP.hash("")):
        assert check_hash(written).memory_cost == 8


def test_a_file_that_can_not_be_used_stops_it_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "users"
    with pytest.raises(UsersFileError, match=f"^{path}: No such file or directory$"):
        UsersFile(path)
    with pytest.raises(UsersFileError, match="directory"):
        UsersFile(tmp_path)
    path.write_text("anna:secret\n")
    with pytest.raises(UsersFileError, match=f"^{path}, line 1: no argon2id hash"):
        UsersFile(path)


def test_a_user_has_a_default_sender_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"anna:{HASH}::sender_default=anna@Example.com\nbert:{HASH}:example.com\n")
    users = UsersFile(path)
    assert [users.sender_default_of(name) for name in ("anna", "bert", "gone")] == [
        "anna@example.com",
        "",
        "",
    ]
    assert [user.line for user in users.users] == path.read_text().replace("Example", "example").splitlines()


def test_a_changed_file_holds_after_the_next_look(tmp_path: Path, lines: list[Any]) -> None:
    path = tmp_path / "users"
    path.write_text(line("anna", "secret"))
    users = UsersFile(path)
    path.write_text(line("bert", "secret", "example.com"))
    assert users.find("anna") is not None, "looked at once a second"
    users.look()
    assert users.find("anna") is None
    assert str(users.senders_of("bert")) == "example.com"
    assert [user.name for user in users.users] == ["bert"]
    assert [(entry["event"], entry["users"]) for entry in lines] == [("users.reread", 1)]


def test_a_file_without_users_is_worth_a_warning(tmp_path: Path, lines: list[Any]) -> None:
    path = tmp_path / "users"
    path.write_text(line("anna", "secret"))
    users = UsersFile(path)
    path.write_text("")
    users.look()
    assert (lines[0]["event"], lines[0]["log_level"], lines[0]["users"]) == ("users.reread", "warning", 0)
    assert lines[0]["note"] == "nobody can log in"


async def test_a_file_that_is_being_written_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp2cf.access.users.LOOK_INTERVAL", 0.0)
    path = tmp_path / "users"
    path.write_text(line("anna", "secret"))
    users = UsersFile(path)
    looks = 0

    def grows(_: FileWatch) -> tuple[tuple[int, ...], ...]:
        nonlocal looks
        looks += 1
        return ((looks,),)

    monkeypatch.setattr(FileWatch, "stamps", grows)
    path.write_text("")
    watching = asyncio.create_task(users.watch())
    while looks < 20:  # noqa: ASYNC110 - nobody tells of a look
        await asyncio.sleep(0)
    watching.cancel()
    assert users.find("anna") is not None


@pytest.mark.parametrize("how", ["broken", "gone", "unreadable"])
def test_a_file_that_becomes_unusable_is_told_once_and_the_last_good_one_holds(
    tmp_path: Path, lines: list[Any], how: str
) -> None:
    path = tmp_path / "users"
    path.write_text(line("anna", "secret"))
    users = UsersFile(path)
    if how == "broken":
        path.write_text(line("bert", "secret") + f"carl:{HASH[:-2]}\n")
    else:
        path.unlink()
    if how == "unreadable":
        path.mkdir()
    for _ in range(5):
        users.look()
        assert users.find("anna") is not None
        assert users.find("bert") is None
    (entry,) = lines
    assert (entry["event"], entry["log_level"]) == ("users.not_reread", "error")
    assert str(path) in entry["reason"]
    assert ("line 2: " in entry["reason"]) == (how == "broken")
    assert DIGEST[:8] not in str(entry)

    if how == "unreadable":
        path.rmdir()
    path.write_text(line("bert", "secret"))
    users.look()
    assert users.find("bert") is not None
    assert users.find("anna") is None


def test_a_file_that_others_may_read_is_warned_of(tmp_path: Path, lines: list[Any]) -> None:
    path = tmp_path / "users"
    path.write_text(line("anna", "secret"))
    path.chmod(0o640)
    UsersFile(path)
    assert not lines
    path.chmod(0o644)
    UsersFile(path)
    assert [(entry["event"], entry["log_level"]) for entry in lines] == [("users.readable_by_all", "warning")]


def test_a_file_put_in_the_place_of_another_with_its_times_is_seen(tmp_path: Path) -> None:
    path, other = tmp_path / "users", tmp_path / "other"
    path.write_text(line("anna", "secret"))
    other.write_text(line("bert", "secret"))
    found = path.stat()
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    users = UsersFile(path)
    other.rename(path)
    users.look()
    assert users.find("bert") is not None


def test_to_whom_a_user_may_send_is_an_option_of_its_line() -> None:
    line = f"shop:{HASH}:shop@x.example:recipients=x.example,*.y.example"
    (user,) = parse_users(line.encode()).values()
    assert user.line == line
    assert user.recipients.allow("anna@a.y.example")
    assert not user.recipients.allow("anna@y.example")
