"""Quota: how many recipients the account may send to in a day, and what to do when it is used up.

`GET /accounts/{id}/email/sending/limits`. Nothing else tells a used-up quota from a burst: both are a 429,
often without Retry-After. So it is asked at the start, every 15 minutes, and after such a 429; if a call was
refused because the quota is used up, none is made until it resets. Where Cloudflare says nothing (null, 403
or 404: a new account, or a token or plan that may not ask), it is unknown, and nothing is held up.

Knows no mail and no spool.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import structlog

from smtp2cf.cloudflare.api import Api
from smtp2cf.cloudflare.pacing import Pacer
from smtp2cf.journal import news
from smtp2cf.reply import SendError, one_line, rough_duration

ASK_EVERY = 900.0
"""Seconds between two questions, where nothing happens."""
ASK_AGAIN = 60.0
"""Seconds until the next, if there was no answer."""
NOT_BEFORE = 5.0
"""Seconds between two questions, however often calls are refused."""
LOW = 0.8
"""The share of the quota at which there is a warning."""
LEAST_HOLD, LONGEST_HOLD = 60.0, 40 * 86400.0
"""Seconds without calls while the quota is used up: where it should have been reset, and at the most."""
UNIT_LIMIT = 20
"""Characters of Cloudflare's word for the time it counts in."""

USED_UP = "the quota of the Cloudflare account is"
"""How the reply begins while no call is made because of it."""
NOTHING_SAID = "Cloudflare does not say, which is so for new accounts and for some tokens and plans"

log = structlog.stdlib.get_logger("smtp2cf.api")


class Quota(NamedTuple):
    """What `/limits` says.

    value: recipients in a unit, which is `day` or `hour`. sent: of them. used_up: no more are taken until
    resets_at, seconds since the epoch, None where that is unknown.
    """

    unit: str
    value: int
    sent: int
    used_up: bool
    resets_at: float | None

    @property
    def is_low(self) -> bool:
        """It is time to warn."""
        return self.used_up or self.sent >= LOW * self.value

    @property
    def reset(self) -> str:
        """When it resets, for people: "2026-11-27 00:00 UTC"."""
        if self.resets_at is None:
            return "at an unknown time"
        return f"{datetime.fromtimestamp(self.resets_at, UTC):%Y-%m-%d %H:%M} UTC"

    def __str__(self) -> str:
        used_up = "used up: " if self.used_up else ""
        period = "today" if self.unit == "day" else f"this {self.unit}"
        return f"{used_up}{self.sent} of {self.value} recipients {period}, resets {self.reset}"


def read_quota(result: object) -> Quota | None:
    """The `result` of `/limits`, None where it says nothing."""
    if not isinstance(result, dict):
        return None
    quota, usage = result.get("quota"), result.get("usage")
    if not isinstance(quota, dict) or not isinstance(usage, dict):
        return None
    value, sent = _count(quota.get("value")), _count(usage.get("sent"))
    if value is None or sent is None:
        return None
    over = usage.get("over_quota")
    unit = quota.get("unit")
    return Quota(
        unit=one_line(unit, UNIT_LIMIT) if isinstance(unit, str) and unit else "day",
        value=value,
        sent=sent,
        used_up=over if isinstance(over, bool) else sent >= value,
        resets_at=_time(usage.get("resets_at")),
    )


async def ask_quota(api: Api, *, blocked: bool = False) -> tuple[Quota | None, str]:
    """The quota, and where it is unknown None and why. Raises SendError if there is no answer.

    blocked: ask although no other call may go out.
    """
    answer = await api.ask("GET", f"{api.account}/email/sending/limits", probe=blocked)
    if answer.error is None:
        quota = read_quota(answer.result)
        return quota, "" if quota is not None else NOTHING_SAID
    if answer.status in (401, 403, 404):
        return None, f"{NOTHING_SAID} ({answer.error.reply.text})"
    raise answer.error


class QuotaWatch:
    """Knows one account's quota while it is watched, and holds the pacer's calls while it is used up.

    clock: seconds since the epoch. account: its name, "" where there is only one.
    """

    def __init__(
        self, api: Api, pacer: Pacer, clock: Callable[[], float] = time.time, *, account: str = ""
    ) -> None:
        self.quota: Quota | None = None
        self._whose = {"account": account} if account else {}
        self._api = api
        self._pacer = pacer
        self._clock = clock
        self._unknown = "not asked yet"
        self._refused = False
        self._token_is_new = False
        self._woken = asyncio.Event()
        self._warned_of: float | None = -math.inf
        self._holding = False
        pacer.on_unexplained = self._was_refused

    async def watch(self) -> None:
        """Ask at the start, now and then, and when a call is refused without a reason; until cancelled."""
        while True:
            self._token_is_new = False
            pause = await self._ask(refused=self._refused)
            self._refused = (
                False  # this question may have been refused as well, which is no reason for another
            )
            if not self._token_is_new:  # else the one before was asked with
                self._woken.clear()
            await asyncio.sleep(NOT_BEFORE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause - NOT_BEFORE):
                    await self._woken.wait()

    def ask_soon(self) -> None:
        """There is another token, which may be told more."""
        self._token_is_new = True
        self._woken.set()

    def _was_refused(self) -> None:
        self._refused = True
        self._woken.set()

    async def _ask(self, *, refused: bool) -> float:
        """Ask once, and act on it; returns seconds until the next time. refused: a call was."""
        try:
            self.quota, self._unknown = await ask_quota(self._api, blocked=refused or self._holding)
        except SendError as error:
            self._unknown = error.reply.text
            return ASK_AGAIN
        quota = self.quota
        if quota is not None and quota.used_up and (refused or self._holding):
            return min(ASK_EVERY, self._hold(quota))
        if self._holding:
            self._holding = False
            self._pacer.hold(0.0, "")
            log.info("api.quota_available", **_fields(quota), **self._whose)
            self._tell("api.quota_available", "mail goes out again: the quota has reset", quota)
        if quota is not None and quota.is_low and self._warned_of != quota.resets_at:
            self._warned_of = quota.resets_at
            log.warning("api.quota_low", **_fields(quota), **self._whose)
            self._tell("api.quota_low", f"the quota of the Cloudflare account runs out: {quota}", quota)
        elif quota is not None and not quota.is_low:
            self._warned_of = -math.inf
        return ASK_EVERY

    def _hold(self, quota: Quota) -> float:
        """Make no calls until the quota resets; returns for how many seconds."""
        seconds = ASK_EVERY if quota.resets_at is None else quota.resets_at - self._clock() + 1.0
        seconds = min(max(seconds, LEAST_HOLD), LONGEST_HOLD)
        reply = f"{USED_UP} {quota}"
        self._pacer.hold(seconds, reply)
        if not self._holding:
            self._holding = True
            note = f"waiting mail goes out in {rough_duration(seconds)}"
            log.warning("api.quota_used_up", **_fields(quota), **self._whose, note=note)
            self._tell("api.quota_used_up", f"{reply}; {note}", quota)
        return seconds

    def _tell(self, kind: str, text: str, quota: Quota | None) -> None:
        news.tell(kind, text, **_fields(quota), **self._whose)

    def __str__(self) -> str:
        """For the status page."""
        return str(self.quota) if self.quota is not None else f"unknown: {self._unknown}"

    def gauges(self) -> dict[str, tuple[str, Callable[[], float]]]:
        """For /metrics; not a number, and so not shown, where it is unknown."""
        return {
            "smtp2cf_quota": (
                "Recipients that the Cloudflare account may send to in a day (or hour)",
                lambda: self.quota.value if self.quota is not None else math.nan,
            ),
            "smtp2cf_quota_sent": (
                "Recipients of the quota that are used",
                lambda: self.quota.sent if self.quota is not None else math.nan,
            ),
            "smtp2cf_quota_resets_timestamp": (
                "When the quota resets, in seconds since the epoch",
                lambda: (self.quota.resets_at if self.quota is not None else None) or math.nan,
            ),
        }


def _fields(quota: Quota | None) -> dict[str, Any]:
    """For a line of the log."""
    if quota is None:
        return {}
    return {"sent": quota.sent, "quota": quota.value, "unit": quota.unit, "resets_at": quota.reset}


def _count(value: object) -> int | None:
    """A number of recipients."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return None
    return int(value)


def _time(value: object) -> float | None:
    """Seconds since the epoch of a date as in RFC 3339, or a number of seconds or milliseconds."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, OverflowError):
            at = datetime.fromisoformat(value)
            return (at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
        return None
    number = _count(value)
    if number is None:
        return None
    seconds = number / 1000 if number > 10**11 else float(number)
    return seconds if seconds < 2**32 else None
