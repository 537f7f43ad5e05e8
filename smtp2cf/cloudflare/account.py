"""Account: one Cloudflare account that sends, with everything that belongs to it.

Its client, its pacing, whether calls get through, and the probes that find that out. Where there are several,
each has all of that for itself. Knows no settings, no session and no spool.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping

from smtp2cf.cloudflare.budget import Budget
from smtp2cf.cloudflare.client import Client
from smtp2cf.cloudflare.errors import AS_IN_THE_ENVIRONMENT
from smtp2cf.cloudflare.health import NOT_CONNECTED, THROTTLED_STATUS, ApiHealth, State
from smtp2cf.cloudflare.pacing import Pacer
from smtp2cf.cloudflare.quota import QuotaWatch
from smtp2cf.cloudflare.suppression_reasons import SuppressionReasons
from smtp2cf.cloudflare.suppressions import Suppressions
from smtp2cf.reply import Reply, SendError, rough_duration

PROBE_PAUSE = 1.0
"""Seconds between the first two probes; it doubles after each, up to the longest."""
LONGEST_PROBE_PAUSE = 5.0
LONGEST_TOKEN_PAUSE = 60.0
"""The same while the token is refused: such calls count, and another token is tried at once."""
PROBE_TIMEOUT = 10.0
"""Seconds."""
ONE_CALL = 0.01
"""What `blocked_for` is while one call may go out to see whether it gets through."""


class Account:
    """Sends mail for one account.

    base_url, account_id, token, timeout, concurrency, budget, names: see Client. name: what people call it;
    "" where it is the only one. Raises ValueError for a proxy in the environment that can't be used, OSError
    for CA certificates there that can't be.
    """

    def __init__(
        self,
        *,
        base_url: str,
        account_id: str,
        token: str,
        timeout: float,
        concurrency: int,
        name: str = "",
        budget: Budget | None = None,
        names: Mapping[str, str] = AS_IN_THE_ENVIRONMENT,
    ) -> None:
        self.name = name
        self.account_id = account_id
        self.base_url = base_url
        self.health = ApiHealth(account=name)
        self.client = Client(
            base_url=base_url,
            account_id=account_id,
            token=token,
            timeout=timeout,
            concurrency=concurrency,
            health=self.health,
            budget=budget,
            names=names,
        )
        self.suppression_reasons = SuppressionReasons(Suppressions(self.client.api), self.client.pacer)
        self.budget = budget
        self.quota = QuotaWatch(self.client.api, self.client.pacer, account=name)
        self._concurrency = concurrency
        self._token_is_new = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Account {self.account_id}>"

    @property
    def pacer(self) -> Pacer:
        """When its calls may go out."""
        return self.client.pacer

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return self.pacer.waiting

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return self.pacer.in_flight

    @property
    def line(self) -> int:
        """How many calls for mail from the spool may stand in line."""
        return self.pacer.line

    @property
    def blocked_for(self) -> float:
        """Seconds until waiting mail may go out, infinity if nobody knows; 0 if it may now."""
        if self.health.on_trial:
            return max(self.pacer.blocked_for, ONE_CALL)
        if self.health.down or self.health.suspect:
            return math.inf
        return self.pacer.blocked_for

    def use_token(self, token: str) -> None:
        """Call with this token from now on, and check it at once."""
        self.client.use_token(token)
        self.suppression_reasons.token_changed()
        self._token_is_new.set()
        self.quota.ask_soon()

    async def watch(self) -> None:
        """Probe the API for as long as a probe would tell something; from the start, until cancelled."""
        pause = PROBE_PAUSE
        if self.budget is not None:
            await self.budget.ready()
        while True:
            await self.health.doubt.wait()
            self._token_is_new.clear()
            if self.pacer.blocked_for < PROBE_PAUSE:
                await self._probe()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._token_is_new.wait()
            if self.health.doubt.is_set() and not self._token_is_new.is_set():
                pause = min(2 * pause, self._longest_pause)
            else:
                pause = PROBE_PAUSE

    @property
    def _longest_pause(self) -> float:
        return LONGEST_TOKEN_PAUSE if self.health.state is State.TOKEN_REFUSED else LONGEST_PROBE_PAUSE

    async def _probe(self) -> None:
        """Ask whether the token is valid, which also shows whether the API can be reached."""
        began = self.health.now()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                token = await self.client.verify_token(probe=True)
            state = State.UP if token.accepted else State.TOKEN_REFUSED
            reply = None if token.accepted else Reply(451, "4.3.5", token.reason)
        except TimeoutError:
            state, reply = State.UNREACHABLE, Reply(451, "4.3.0", f"no answer from {self.base_url}")
        except SendError as error:
            if error.reply.status == THROTTLED_STATUS and not self.health.down:
                return  # that it was throttled is not over, and no other trouble has begun
            reached = error.reply.status not in (NOT_CONNECTED, "4.3.0")
            state = State.UP if reached else State.UNREACHABLE
            reply = None if reached else error.reply
        self.health.probed(began, state, reply)

    def summary(self) -> Mapping[str, str]:
        """For the status page."""
        pacer, health = self.pacer, self.health
        return {
            "sends to": f"{self.base_url}, account {self.account_id}",
            "API": health.in_words() + (f": {health.reply.text}" if health.state is not State.UP else ""),
            "calls in flight": f"{pacer.in_flight} of {self._concurrency}, {pacer.waiting} waiting",
            "rate limit": self._rate_limit(),
            "quota": str(self.quota),
        }

    def _rate_limit(self) -> str:
        wait = self.pacer.wait()
        state = f"next call in {rough_duration(wait.seconds)}: {wait.why}" if wait.seconds else "not reached"
        if self.budget is None:
            return state
        alone = "; the database is away, so this bridge uses its share only" if self.budget.alone else ""
        return f"{state}; {self.budget.left} of {self.budget.rate.usable} calls left{alone}"

    def gauges(self) -> dict[str, tuple[str, Callable[[], float]]]:
        """For /metrics."""
        pacer, health = self.pacer, self.health
        return {
            "smtp2cf_api_up": (
                "0 while the API is unreachable or refuses the token",
                lambda: not health.down,
            ),
            "smtp2cf_api_calls_in_flight": ("Calls to the API in flight", lambda: pacer.in_flight),
            "smtp2cf_api_calls_waiting": ("Calls that wait for their turn", lambda: pacer.waiting),
            "smtp2cf_api_blocked_seconds": (
                "Seconds until the next call may go out",
                lambda: pacer.blocked_for,
            ),
            "smtp2cf_api_concurrency": (
                "Calls that may be in flight at once (SMTP2CF_API_CONCURRENCY)",
                lambda: self._concurrency,
            ),
            **self._budget_gauges(),
            **self.quota.gauges(),
        }

    def _budget_gauges(self) -> dict[str, tuple[str, Callable[[], float]]]:
        if (budget := self.budget) is None:
            return {}
        return {
            "smtp2cf_api_rate_calls": (
                "Calls that all bridges together may make in the window of SMTP2CF_API_RATE",
                lambda: budget.rate.usable,
            ),
            "smtp2cf_api_rate_window_seconds": (
                "The window of SMTP2CF_API_RATE",
                lambda: budget.rate.seconds,
            ),
            "smtp2cf_api_rate_calls_left": (
                "Calls of these that are left, as far as this bridge knows",
                lambda: budget.left,
            ),
        }

    async def aclose(self) -> None:
        """Close its connections, and report the last calls."""
        await self.client.aclose()
        if self.budget is not None:
            await self.budget.aclose()
