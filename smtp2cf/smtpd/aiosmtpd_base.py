"""What aiosmtpd's SMTP class finds out about itself at every connection: here it is found out once.

The private names of aiosmtpd's that this room relies on are here and nowhere else.
"""

import asyncio
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from aiosmtpd import smtp as aiosmtpd

AIOSMTPD_TABLES = ("_auth_methods", "_handle_hooks", "_smtp_methods")
"""Private names of aiosmtpd's that are set here, to nothing: its handlers, mechanisms and commands."""


@functools.lru_cache(maxsize=64)
def aiosmtpd_attributes(hostname: str, size_limit: int, timeout: float) -> Mapping[str, Any]:
    """The attributes that aiosmtpd gives every session: names, limits, switches.

    Nothing that can change: its reader, futures and bound methods belong to one session alone.
    """
    loop = asyncio.new_event_loop()
    try:
        found = aiosmtpd.SMTP(
            None,
            hostname=hostname,
            data_size_limit=size_limit,
            enable_SMTPUTF8=True,
            timeout=timeout,
            loop=loop,
        )
    finally:
        loop.close()
    plain = {
        name: value for name, value in vars(found).items() if isinstance(value, (str, int, float, type(None)))
    }
    nothing: MappingProxyType[str, Any] = MappingProxyType({})
    return {**plain, **dict.fromkeys(AIOSMTPD_TABLES, nothing)}
