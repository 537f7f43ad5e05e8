"""Hashes for tests, at the least cost there is: what a password costs is for one test to look at."""

from argon2 import PasswordHasher

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def line(name: str, password: str, senders: str | None = None) -> str:
    """A line of a users file, with its end."""
    return f"{name}:{CHEAP.hash(password)}" + ("" if senders is None else f":{senders}") + "\n"
