"""Logins: checks whether a password is a user's (RFC 4954 §4, RFC 9106).

Passwords are verified in threads, since each takes about 20 ms of a core and 19 MiB. There are few threads,
so that strangers who guess get only a share of the machine, and a bounded queue in front of them. Every login
costs one hash, whether the user exists or not, so the time it takes reveals nothing. What was verified a
moment ago is not verified again: printers and PHP log in for each message.

No password is logged, kept or shown. Knows no session; results are passed to `on_login`.
"""

import asyncio
import base64
import functools
import hashlib
import hmac
import os
import secrets
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import structlog
from argon2 import Parameters, PasswordHasher, Type
from argon2.exceptions import VerificationError, VerifyMismatchError
from argon2.low_level import ARGON2_VERSION, verify_secret

from smtp2cf.access.failures import Failures
from smtp2cf.access.users import NAME_LIMIT, User, UsersFile, check_hash
from smtp2cf.reply import RefusedError, Reply

PARAMETERS = Parameters(Type.ID, ARGON2_VERSION, 16, 32, time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""The cost of a new hash: OWASP's recommendation for argon2id. RFC 9106's second choice (64 MiB, 4 lanes)
takes five times as long and nearly all the memory of a process that should fit in 75 MB."""
PASSWORD_LIMIT = 1024
"""Bytes of a password; a longer one is refused unchecked."""
THREADS = max(1, min(4, (os.cpu_count() or 1) // 2))
"""Passwords verified at once: half of the cores; the other half is for mail."""
LINE = 50
"""Logins that may wait; about a second's worth on a small machine."""
REMEMBERED_FOR = 300.0
"""Seconds for which a verified password is not verified again."""
REMEMBERED = 1000
"""How many of those are kept."""

LoginResult = Literal["success", "failure", "refused", "unavailable"]
OnLogin = Callable[[str, str, LoginResult, str, str], None]
"""(client address, user name as given, result, reason, listener): called once for every login."""

WRONG = Reply(535, "5.7.8", "user name or password is wrong")
BUSY = Reply(454, "4.7.0", "too many logins are being checked: try again")
FAILED = Reply(454, "4.7.0", "the password can't be checked now: try again; the log has the cause")

log = structlog.stdlib.get_logger("smtp2cf.access")


def hash_password(password: str) -> str:
    """The hash of a password, for the users file. Raises ValueError for an invalid one."""
    secret = _secret(password)
    if not secret:
        raise ValueError("the password is empty")
    if len(secret) > PASSWORD_LIMIT:
        raise ValueError(f"the password is longer than {PASSWORD_LIMIT} bytes")
    if any(unicodedata.category(char) == "Cc" for char in password):
        raise ValueError("the password contains a control character")
    return PasswordHasher.from_parameters(PARAMETERS).hash(secret)


def verify(written: str, secret: bytes) -> bool:
    """Whether this is the secret of the hash, in constant time. Takes about 20 ms, without Python's lock.

    Raises VerificationError if there is not enough memory.
    """
    try:
        return verify_secret(written.encode(), secret, Type.ID)
    except VerifyMismatchError:
        return False


class Logins:
    """Verifies passwords against a users file.

    clock: seconds. clock, sleep and verify are replaced only in tests.
    """

    def __init__(
        self,
        users: UsersFile,
        on_login: OnLogin,
        *,
        failures: Failures | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        verify: Callable[[str, bytes], bool] = verify,
    ) -> None:
        self._users = users
        self._on_login = on_login
        self._failures = failures if failures is not None else Failures(clock)
        self._clock = clock
        self._sleep = sleep
        self._verify = verify
        self._threads = ThreadPoolExecutor(THREADS, "smtp2cf-login")
        self._key = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Task[bool]] = {}

    def close(self) -> None:
        """Start no more verifications."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def authenticate(
        self, client: str, name: str, password: str, *, listener: str = ""
    ) -> Reply | None:
        """None if this is the user's password, else the reply; a wrong one is answered with a delay.

        client: the peer's address, "" for none. listener: where it came, "" where that has no name.
        """
        refusal = self._failures.refusal(client)
        if refusal is not None:
            self._on_login(client, name, "refused", "too many failures before", listener)
            return refusal
        try:
            user, reason = await self._check(client, name, password)
        except RefusedError as refused:
            self._on_login(client, name, "unavailable", refused.reply.text, listener)
            return refused.reply
        if user is not None:
            self._failures.succeeded(client)
            self._on_login(client, user.name, "success", "", listener)
            return None
        delay = self._failures.failed(client, self._digest(name, password))
        self._on_login(client, name, "failure", reason, listener)
        await self._sleep(delay)
        return WRONG

    async def _check(self, client: str, name: str, password: str) -> tuple[User | None, str]:
        """The user if the password is right, else None; and the reason. Raises RefusedError."""
        if len(name) > NAME_LIMIT or len(password) > PASSWORD_LIMIT:
            return None, "too long"
        try:
            name, secret = unicodedata.normalize("NFC", name), _secret(password)
            name.encode()
        except ValueError:
            return None, "not UTF-8"
        if len(secret) > PASSWORD_LIMIT:
            return None, "too long"
        user = self._users.find(name)
        written = user.hash if user is not None else self._stand_in(name)
        fingerprint = self._fingerprint(name, written, secret)
        if user is not None and self._is_remembered(fingerprint):
            return user, ""
        good = await self._verified(client, fingerprint, written, secret)
        if user is None or not good:
            return None, "unknown user" if user is None else "wrong password"
        if self._users.find(name) != user:
            return None, "changed meanwhile"
        self._remember(fingerprint)
        return user, ""

    async def _verified(self, client: str, fingerprint: bytes, written: str, secret: bytes) -> bool:
        """A thread's answer. Raises RefusedError if the queue is full, or the password can't be checked."""
        if len(self._under_way) >= LINE and fingerprint not in self._under_way:
            raise RefusedError(BUSY)
        refusal = self._failures.begin(client)
        if refusal is not None:
            raise RefusedError(refusal)
        try:
            task = self._under_way.get(fingerprint)
            if task is None:
                task = asyncio.get_running_loop().create_task(self._in_thread(written, secret))
                self._under_way[fingerprint] = task
                task.add_done_callback(functools.partial(self._done, fingerprint))
            # A client that hangs up takes nothing from another that waits for the same.
            return await asyncio.shield(task)
        except (VerificationError, MemoryError, RuntimeError):
            raise RefusedError(FAILED) from None
        finally:
            self._failures.end(client)

    async def _in_thread(self, written: str, secret: bytes) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._verify, written, secret)

    def _done(self, fingerprint: bytes, task: asyncio.Task[bool]) -> None:
        del self._under_way[fingerprint]
        # Even if everybody who waited for it has left.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("auth.not_verified", reason=str(error) or type(error).__name__)

    def _stand_in(self, name: str) -> str:
        """A hash that matches no password, for an unknown name, as costly as that of some user.

        The same name always gets the same user's cost: a changing one would reveal that it is unknown.
        """
        users = self._users.users
        parameters = PARAMETERS
        drawn = hmac.digest(self._key, name.encode(), hashlib.sha256)
        if users:
            parameters = check_hash(users[int.from_bytes(drawn[:8]) % len(users)].hash)
        salt = hashlib.shake_256(drawn + b"salt").digest(parameters.salt_len)
        digest = hashlib.shake_256(drawn + b"hash").digest(parameters.hash_len)
        cost = f"m={parameters.memory_cost},t={parameters.time_cost},p={parameters.parallelism}"
        return f"$argon2id$v={parameters.version}${cost}${_base64(salt)}${_base64(digest)}"

    def _fingerprint(self, name: str, written: str, secret: bytes) -> bytes:
        """A digest of a user's line with a password, useless without our key."""
        # No user's name and no hash has a NUL, so no two of them make the same text.
        return hmac.digest(self._key, b"%b\0%b\0%b" % (name.encode(), written.encode(), secret), "sha256")

    def _digest(self, name: str, password: str) -> bytes:
        """A digest of a user and a password that were tried, useless without our key."""
        tried = f"{name}\0{password}".encode("utf-8", "backslashreplace")
        return hmac.digest(self._key, tried, "sha256")

    def _is_remembered(self, fingerprint: bytes) -> bool:
        until = self._remembered.get(fingerprint)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self._remembered[fingerprint]
        return False

    def _remember(self, fingerprint: bytes) -> None:
        self._remembered[fingerprint] = self._clock() + REMEMBERED_FOR
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)


def _secret(password: str) -> bytes:
    """The password as it is hashed. Raises UnicodeEncodeError, a ValueError, if it isn't text."""
    return unicodedata.normalize("NFC", password).encode()


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode().rstrip("=")
