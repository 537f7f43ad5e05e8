"""Logins: is this the password of this user? (RFC 4954 §4, RFC 9106.)

A password is verified in a thread, since it takes some 20 ms of a core and 19 MiB, and the event loop must
go on. Few threads, so that guessing strangers take no more than their share of the machine, and a line in
front of them that has an end. Every login costs one hash, whether the user exists or not, so the time it
takes tells nothing. What was verified a moment ago is not verified again: printers and PHP log in for each
message.

No password is logged, kept or shown. Knows no session; what happened is told to whoever made it.
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
"""What a new hash costs: OWASP's recommendation for argon2id. RFC 9106's second choice (64 MiB, 4 lanes)
takes five times as long and, in a process that is to live in 75 MB, nearly all the memory."""
PASSWORD_LIMIT = 1024
"""Octets of a password; a longer one is refused without a look."""
THREADS = max(1, min(4, (os.cpu_count() or 1) // 2))
"""Passwords that are verified at once: half the cores, the other half is for mail."""
LINE = 50
"""Logins that may wait for that; about a second's worth on a small machine."""
REMEMBERED_FOR = 300.0
"""Seconds for which a password that was verified is not verified again."""
REMEMBERED = 1000
"""How many of those are kept."""

LoginResult = Literal["success", "failure", "refused", "unavailable"]
OnLogin = Callable[[str, str, LoginResult, str], None]
"""(client address, user name as given, result, reason): called once for every login."""

WRONG = Reply(535, "5.7.8", "user name or password is wrong")
BUSY = Reply(454, "4.7.0", "too many logins are being checked: try again")
FAILED = Reply(454, "4.7.0", "the password can't be checked now: try again; the log has the cause")

log = structlog.stdlib.get_logger("smtp2cf.access")


def hash_password(password: str) -> str:
    """The hash of a password, for the users file. Raises ValueError for one that can be nobody's."""
    secret = _secret(password)
    if not secret:
        raise ValueError("the password is empty")
    if len(secret) > PASSWORD_LIMIT:
        raise ValueError(f"the password is longer than {PASSWORD_LIMIT} bytes")
    if any(unicodedata.category(char) == "Cc" for char in password):
        raise ValueError("the password contains a control character")
    return PasswordHasher.from_parameters(PARAMETERS).hash(secret)


def verify(written: str, secret: bytes) -> bool:
    """Is this the secret of the hash, in constant time? Takes about 20 ms, without Python's lock.

    Raises VerificationError where there is no memory for it.
    """
    try:
        return verify_secret(written.encode(), secret, Type.ID)
    except VerifyMismatchError:
        return False


class Logins:
    """Verifies passwords against a users file.

    clock: seconds, time.monotonic but for tests; so is what waits (`sleep`) and what verifies.
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
        """Begin no more verifications."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def authenticate(self, client: str, name: str, password: str) -> Reply | None:
        """None if this is the user's password, else the reply; a wrong one is answered with a delay.

        client: the peer's address, "" for none.
        """
        refusal = self._failures.refusal(client)
        if refusal is not None:
            self._on_login(client, name, "refused", "too many failures before")
            return refusal
        try:
            user, reason = await self._check(client, name, password)
        except RefusedError as refused:
            self._on_login(client, name, "unavailable", refused.reply.text)
            return refused.reply
        if user is not None:
            self._failures.succeeded(client)
            self._on_login(client, user.name, "success", "")
            return None
        delay = self._failures.failed(client, self._digest(name, password))
        self._on_login(client, name, "failure", reason)
        await self._sleep(delay)
        return WRONG

    async def _check(self, client: str, name: str, password: str) -> tuple[User | None, str]:
        """The user, if it is its password; else None and why. Raises RefusedError."""
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
        """The answer of a thread. Raises RefusedError where the line is too long, or it can't tell."""
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
        """A hash that no password has, for a name that nobody has, as costly as that of some user.

        Always the same user's for the same name: were it another each time, that would tell.
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
        """What stands for a user's line with a password, and tells neither without our key."""
        # No user's name and no hash has a NUL, so no two of them make the same text.
        return hmac.digest(self._key, b"%b\0%b\0%b" % (name.encode(), written.encode(), secret), "sha256")

    def _digest(self, name: str, password: str) -> bytes:
        """What stands for a user and a password that were tried, and tells neither without our key."""
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
    """The password as it is hashed. Raises UnicodeEncodeError, a ValueError, for what is no text."""
    return unicodedata.normalize("NFC", password).encode()


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode().rstrip("=")
