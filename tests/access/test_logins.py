"""Logins: right is right, wrong is wrong and takes as long whoever it is, and strangers cost little."""

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerificationError
from structlog.testing import capture_logs

from smtp2cf.access import logins as room
from smtp2cf.access.failures import KNOCKS, REFUSED_AFTER, Failures
from smtp2cf.access.logins import (
    BUSY,
    LINE,
    PARAMETERS,
    PASSWORD_LIMIT,
    REMEMBERED_FOR,
    THREADS,
    WRONG,
    Logins,
    hash_password,
    verify,
)
from smtp2cf.access.users import UsersFile
from tests.access.hashes import line
from tests.support.reach import kept_by
from tests.support.waiting import PATIENCE

CLIENT = "192.0.2.1"


class Door:
    """Logins with a users file of its own, and all that they did. check: what verifies a password."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1000.0
        self.told: list[tuple[str, str, str, str]] = []
        self.verified: list[str] = []
        self.slept: list[float] = []
        self.threads: set[int] = set()
        self.users = UsersFile(path)
        self.failures = Failures(lambda: self.now)
        self.check = verify
        self.logins = Logins(
            self.users,
            lambda *happened: self.told.append(happened[:4]),
            failures=self.failures,
            clock=lambda: self.now,
            sleep=self.sleep,
            verify=self._verify,
        )

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def _verify(self, written: str, secret: bytes) -> bool:
        self.verified.append(written)
        self.threads.add(threading.get_ident())
        return self.check(written, secret)

    def login(self, name: str, password: str, client: str = CLIENT) -> Awaitable[Any]:
        return self.logins.authenticate(client, name, password)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.users.look()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """A door with two users, anna and zoë."""
    path = tmp_path / "users"
    path.write_text(line("anna", "secret") + line("zoë", "größe"))
    door = Door(path)
    yield door
    door.logins.close()


@pytest.mark.parametrize(
    ("name", "password"),
    [("anna", "secret"), ("zoë", "größe"), ("zoe\u0308", "gro\u0308ße")],
    ids=["ascii", "unicode", "decomposed"],
)
async def test_the_right_password_is_right(door: Door, name: str, password: str) -> None:
    assert await door.login(name, password) is None
    assert door.told[0][::2] == (CLIENT, "success")
    assert not door.slept


@pytest.mark.parametrize(
    ("name", "password", "reason"),
    [
        ("anna", "Secret", "wrong password"),
        ("anna", "", "wrong password"),
        ("anna", "größe", "wrong password"),
        ("Anna", "secret", "unknown user"),
        ("", "secret", "unknown user"),
        ("anna\0", "secret", "unknown user"),
        ("anna:" + "$argon2id$v=19", "secret", "unknown user"),
        ("anna\udcff", "secret", "not UTF-8"),
        ("anna", "secret\udcff", "not UTF-8"),
        ("a" * 256, "secret", "too long"),
        ("anna", "ß" * PASSWORD_LIMIT, "too long"),
        ("anna", "s" * 10_000_000, "too long"),
    ],
)
async def test_the_wrong_password_is_wrong(door: Door, name: str, password: str, reason: str) -> None:
    assert await door.login(name, password) == WRONG
    assert (WRONG.code, WRONG.status) == (535, "5.7.8")
    assert door.told == [(CLIENT, name, "failure", reason)]
    assert len(door.slept) == 1
    # What can be nobody's costs no hash; all else costs one, whoever it is.
    assert len(door.verified) == (reason not in ("too long", "not UTF-8"))


async def test_a_stranger_is_verified_like_a_user(door: Door) -> None:
    door.write(line("anna", "secret"))
    await door.login("anna", "wrong")
    await door.login("nobody", "wrong")
    of_anna, of_nobody = map(extract_parameters, door.verified)
    assert of_anna == of_nobody
    assert door.verified[0] != door.verified[1]


async def test_a_stranger_costs_the_same_each_time(door: Door) -> None:
    """Were it the cost of another user each time, one could tell."""
    other = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash("secret")
    door.write(line("anna", "secret") + f"bert:{other}\n")
    for _ in range(2):
        for number in range(25):
            await door.login(f"nobody{number}", "wrong", client="")
    assert door.verified[:25] == door.verified[25:]
    assert len({written.split("$")[3] for written in door.verified}) == 2, "of either user"


async def test_without_users_a_stranger_costs_what_a_new_user_would(door: Door) -> None:
    door.write("")
    assert await door.login("anna", "secret") == WRONG
    assert extract_parameters(door.verified[0]) == PARAMETERS


def test_a_new_hash_is_verified_and_says_what_it_costs() -> None:
    hashed = hash_password("größe")
    assert verify(hashed, "größe".encode())
    assert not verify(hashed, b"gr")
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert ":" not in hashed


@pytest.mark.parametrize("password", ["", "a\0b", "a\nb", "x" * 1025, "\udcff"])
def test_what_can_be_nobodys_password_is_not_hashed(password: str) -> None:
    with pytest.raises(ValueError):
        hash_password(password)


async def test_it_is_verified_in_a_thread_while_the_loop_goes_on(door: Door) -> None:
    release = threading.Event()
    door.check = lambda *_: release.wait(PATIENCE)
    login = asyncio.ensure_future(door.login("anna", "secret"))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(release.set)
    assert await login is None


# ---- remembering


async def test_a_password_that_was_right_is_not_verified_again_for_a_while(door: Door) -> None:
    for _ in range(3):
        assert await door.login("anna", "secret") is None
    assert len(door.verified) == 1
    assert await door.login("anna", "secret2") == WRONG
    assert len(door.verified) == 2
    door.now += REMEMBERED_FOR
    assert await door.login("anna", "secret") is None
    assert len(door.verified) == 3


async def test_a_wrong_password_is_verified_each_time(door: Door) -> None:
    for _ in range(3):
        await door.login("anna", "wrong")
    assert len(door.verified) == 3


async def test_a_changed_line_is_verified_anew(door: Door) -> None:
    assert await door.login("anna", "secret") is None
    door.write(line("anna", "secret2"))
    assert await door.login("anna", "secret") == WRONG
    assert await door.login("anna", "secret2") is None
    door.write("")
    assert await door.login("anna", "secret2") == WRONG


async def test_a_user_deleted_while_verified_is_not_let_in(door: Door) -> None:
    def verify_slowly(*_: object) -> bool:
        door.write("")
        return True

    door.check = verify_slowly
    assert await door.login("anna", "secret") == WRONG


async def test_no_more_is_remembered_than_fits_and_no_password_at_all(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "REMEMBERED", 2)
    door.write("".join(line(f"u{number}", "secret") for number in range(4)))
    for number in range(4):
        assert await door.login(f"u{number}", "secret") is None
    door.verified.clear()
    for name, verified in (("u3", 0), ("u2", 0), ("u1", 1), ("u0", 2)):
        assert await door.login(name, "secret") is None
        assert len(door.verified) == verified, name
    words = [word for word in kept_by(door.logins) if isinstance(word, str | bytes)]
    assert words
    assert not [word for word in words if "secret" in str(word)]


async def test_who_logs_in_many_times_at_once_is_verified_once(door: Door) -> None:
    answers = await asyncio.gather(*(door.login("anna", "secret", f"192.0.2.{n}") for n in range(40)))
    assert answers == [None] * 40
    assert len(door.verified) == 1


async def test_a_client_that_hangs_up_takes_nothing_from_another(door: Door) -> None:
    release = threading.Event()
    door.check = lambda *_: release.wait(PATIENCE)
    first, second = (asyncio.ensure_future(door.login("anna", "secret")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0)
    release.set()
    assert await second is None
    assert len(door.failures) == 0


# ---- strangers


async def test_who_guesses_is_slowed_then_refused_without_a_hash_then_hung_up_on(door: Door) -> None:
    for number in range(REFUSED_AFTER):
        assert await door.login("anna", f"guess {number}") == WRONG
    assert door.slept == sorted(door.slept)
    assert len(set(door.slept)) > 3
    hashes = len(door.verified)
    answers = [(await door.login("anna", "secret")).code for _ in range(KNOCKS + 1)]
    assert answers == [454] * KNOCKS + [421]
    assert len(door.verified) == hashes
    assert door.told[-1] == (CLIENT, "anna", "refused", "too many failures before")
    assert await door.login("anna", "secret", "192.0.2.2") is None


async def test_a_client_that_tries_every_mechanism_has_as_many_tries(door: Door) -> None:
    """As smtplib and Symfony's mailer do: AUTH PLAIN with a password, then AUTH LOGIN with the same."""
    for number in range(REFUSED_AFTER):
        assert await door.login("anna", f"guess {number}") == WRONG
        door.now += door.slept[-1]
        answer = await door.login("anna", f"guess {number}")
        assert answer == WRONG if number < REFUSED_AFTER - 1 else answer.code == 454


async def test_a_success_resets_what_failed_before(door: Door) -> None:
    for _ in range(2):
        for number in range(REFUSED_AFTER - 1):
            assert await door.login("anna", f"guess {number}") == WRONG
        assert await door.login("anna", "secret") is None


async def test_the_line_has_an_end_and_the_threads_are_few(door: Door) -> None:
    release, running, most = threading.Event(), 0, 0
    lock = threading.Lock()

    def verify_slowly(*_: object) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        release.wait(PATIENCE)
        with lock:
            running -= 1
        return False

    door.check = verify_slowly
    waiting = [
        asyncio.ensure_future(door.login("anna", f"guess {number}", f"192.0.2.{number}"))
        for number in range(LINE)
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await door.login("anna", "one more", "198.51.100.1") == BUSY
    assert (BUSY.code, BUSY.status) == (454, "4.7.0")
    assert door.told == [("198.51.100.1", "anna", "unavailable", BUSY.text)]
    release.set()
    assert await asyncio.gather(*waiting) == [WRONG] * LINE
    assert most <= THREADS
    # There is room for as many again.
    again = [door.login("anna", f"guess {n}", f"198.51.100.{n}") for n in range(LINE)]
    assert await asyncio.gather(*again) == [WRONG] * LINE


@pytest.mark.parametrize("error", [VerificationError("Memory allocation error"), MemoryError()])
async def test_what_can_not_be_verified_is_no_failure_of_the_client(door: Door, error: Exception) -> None:
    def fail(*_: object) -> bool:
        raise error

    door.check = fail
    with capture_logs() as lines:
        answer = await door.login("anna", "secret")
    assert (answer.code, answer.status) == (454, "4.7.0")
    assert [entry["event"] for entry in lines] == ["auth.not_verified"]
    assert door.told[0][2] == "unavailable"
    assert not door.slept
    door.check = verify
    assert await door.login("anna", "secret") is None


async def test_failures_can_be_shared(door: Door) -> None:
    failures = Failures(lambda: 0.0)
    logins = Logins(door.users, lambda *_: None, failures=failures, sleep=door.sleep)
    for number in range(REFUSED_AFTER):
        await logins.authenticate(CLIENT, "anna", f"guess {number}")
    logins.close()
    assert failures.refusal(CLIENT) is not None


async def test_no_password_is_told(door: Door) -> None:
    with capture_logs() as lines:
        await door.login("anna", "a-wrong-secret")
        await door.login("anna", "secret")
    assert "secret" not in str(door.told)
    assert "secret" not in str(lines)
