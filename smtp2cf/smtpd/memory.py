"""Memory: give it back to the system after a rush, which the C library doesn't do by itself.

glibc keeps what large messages took for the next ones (mallopt(3), M_MMAP_THRESHOLD grows with what is
freed), so that a process stays as large as it ever was. Elsewhere there is nothing to do.
"""

import asyncio
import ctypes
import resource
from collections.abc import Callable
from pathlib import Path

INTERVAL = 15.0
"""Seconds between two looks at the process's size."""
WORTH = 16 << 20
"""Octets that a process must have grown by before memory is given back."""
_STATM = Path("/proc/self/statm")


async def give_back() -> None:
    """Look at the process's size now and then, and give back what is free if it has grown. Returns only if
    nothing can be given back."""
    trim, settled = malloc_trim(), resident()
    while trim is not None and settled:
        await asyncio.sleep(INTERVAL)
        if resident() > settled + WORTH:
            trim(0)
            settled = resident()  # what is in use now is no reason to try again
        settled = min(settled, resident())


def malloc_trim() -> Callable[[int], int] | None:
    """glibc's function of that name (malloc_trim(3)), where it is glibc."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None


def resident() -> int:
    """Octets of the process in memory, now (proc(5), statm); 0 where there is no /proc."""
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
