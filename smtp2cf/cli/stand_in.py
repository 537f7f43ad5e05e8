"""Stand-in: the options that say how strictly a sandbox behaves, for `sandbox` and `serve --sandbox`.

Each option has one name with `sandbox` and another with `serve`, and the same help with both.
"""

import functools
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from smtp2cf.cli.terminal import fail

if TYPE_CHECKING:
    from smtp2cf.sandbox import Sandbox

_RATE = re.compile(r"([0-9]{1,9})/([0-9]{1,6}(?:\.[0-9]+)?)")


def strict(flag: str) -> Any:
    """Whether messages are refused for what Cloudflare is known to refuse."""
    return typer.Option(flag, help="Refuse messages with header fields that Cloudflare claims as its own.")


def senders(flag: str) -> Any:
    """The only domains that may send."""
    return typer.Option(
        flag,
        help="Domains that are set up for sending, separated by commas. Default: all, except those with the"
        " label unconfigured or disabled.",
        metavar="DOMAINS",
    )


def quota(flag: str) -> Any:
    """How many recipients a day."""
    return typer.Option(
        flag, help="Recipients a day, after which calls are refused.", metavar="NUMBER", min=0
    )


def rate(flag: str) -> Any:
    """How many calls in how many seconds."""
    return typer.Option(
        flag,
        help="How many calls are allowed in how many seconds, such as 1200/300. After one call too many, all"
        " calls are refused for that time.",
        metavar="CALLS/SECONDS",
    )


def silent(flag: str) -> Any:
    """Whether answers say nothing of the rate limit."""
    return typer.Option(flag, help="Send no Ratelimit and no Retry-After header.")


def string_codes(flag: str) -> Any:
    """Whether codes of errors are strings."""
    return typer.Option(
        flag, help="Send error codes as strings, with HTTP 400 and 403, as Cloudflare's API types say."
    )


def maker(
    *, strict: bool, senders: str, quota: int | None, rate: str, silent: bool, string_codes: bool
) -> "Callable[..., Sandbox]":
    """What makes a sandbox that behaves so; ends the command if a rate is none."""
    from smtp2cf.sandbox import RateLimit, Sandbox

    found = _RATE.fullmatch(rate)
    if rate and (found is None or not int(found[1]) or not float(found[2])):
        fail(f"invalid rate {rate!r}: use calls/seconds, such as 1200/300", os.EX_USAGE)
    return functools.partial(
        Sandbox,
        token=None,
        rate_limit=RateLimit(int(found[1]), float(found[2]), float(found[2])) if found else None,
        strict=strict,
        senders=[name for domain in senders.split(",") if (name := domain.strip())],
        quota=quota,
        silent=silent,
        string_codes=string_codes,
    )
