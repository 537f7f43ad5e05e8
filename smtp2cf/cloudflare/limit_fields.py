"""The header fields by which an API tells its limits: Ratelimit, Ratelimit-Policy and Retry-After.

draft-ietf-httpapi-ratelimit-headers, and RFC 9110 §10.2.3. No state.
"""

import calendar
import re
import time
from email.utils import parsedate_tz

RETRY_AFTER_LIMITS = (1.0, 2.0**31)
"""Seconds of a Retry-After: the minimum, and the value used for larger ones (RFC 9111 §1.2.2)."""
WINDOW_LIMIT = 3600.0
"""The longest window of `Ratelimit` we believe, in seconds."""

_LEFT = re.compile(r"[;,\s]r\s*=\s*(\d{1,9})")
_RESET = re.compile(r"[;,\s]t\s*=\s*(\d{1,9})")
_QUOTA = re.compile(r"[;,\s]q\s*=\s*(\d{1,9})")
_SPAN = re.compile(r"[;,\s]w\s*=\s*(\d{1,9})")


def tightest(ratelimit: str) -> tuple[int, float] | None:
    """Calls left and seconds until the reset, of the window with the fewest left; None if there is none."""
    if not ratelimit:
        return None
    windows = []
    for item in ratelimit.split(","):
        left, reset = _LEFT.search(f";{item}"), _RESET.search(f";{item}")
        if left is not None and reset is not None:
            windows.append((int(left[1]), float(reset[1])))
    return min(windows, key=lambda window: (window[0], -window[1]), default=None)


def size_of(policy: str) -> tuple[int | None, float]:
    """A window's calls and seconds: the fewest and the longest of several; None if there is none."""
    quotas = [int(found) for found in _QUOTA.findall(f";{policy}")]
    spans = [float(found) for found in _SPAN.findall(f";{policy}")]
    if not quotas or not spans:
        return None, 0.0
    return min(quotas), min(max(spans), WINDOW_LIMIT)


def retry_after_of(value: str, ratelimit: str = "", date: str = "") -> float | None:
    """Seconds of a Retry-After header, a number or a date (RFC 9110 §10.2.3); without one, those of
    `ratelimit` if it has no calls left, else None.

    date: the answer's Date header. A date is relative to that, because the server made it by its own clock.
    """
    value = value.strip()
    seconds: float | None = None
    if value.isascii() and value.isdigit():
        seconds = float(value)
    elif (until := _http_date(value)) is not None:
        since = _http_date(date)
        seconds = until - (time.time() if since is None else since)
    if seconds is None and (window := tightest(ratelimit)) is not None and window[0] == 0:
        seconds = min(window[1], WINDOW_LIMIT)
    if seconds is None:
        return None
    least, most = RETRY_AFTER_LIMITS
    return min(max(least, seconds), most)


def _http_date(value: str) -> float | None:
    """Epoch seconds of a date in any of the three forms of RFC 9110 §5.6.7; None if it is invalid.

    All are in GMT, although asctime's doesn't say so.
    """
    parsed = parsedate_tz(value) if value else None
    if parsed is None or abs(offset := parsed[9] or 0) >= 86400:
        return None
    try:
        return float(calendar.timegm(parsed[:6]) - offset)
    except (ValueError, OverflowError):
        return None
