"""Health: whether calls to the API get through, as a state whose changes are logged, once each.

| event               | what shows it                                                                   |
|---------------------|---------------------------------------------------------------------------------|
| `api.unreachable`   | a probe that can't connect, or failing calls with mail (`FAILURES` in a row, or |
|                     | one and a probe)                                                                |
| `api.token_refused` | one answer that says so                                                         |
| `api.throttled`     | one HTTP 429                                                                    |
| `api.recovered`     | a call with mail that gets through; a probe, if a probe had failed as well      |

While it is down (unreachable, or the token refused) no call with mail is made, and probes find out when that
has ended. A probe is another kind of call and may fail where mail goes out, or the other way round: so one
call with mail may try after each probe, unless the probe could not even connect.

No I/O. Knows neither the account's limits (`pacing`) nor what waits.
"""

import asyncio
import enum
import time
from collections.abc import Callable

import structlog

from smtp2cf.cloudflare.errors import TokenRefusedError
from smtp2cf.journal import news
from smtp2cf.journal.metrics import Counters, Histograms
from smtp2cf.reply import Reply, Scope, SendError, rough_duration

FAILURES = 3
"""Calls with mail that fail one after the other, each begun when the one before had failed."""
OUTCOMES = ("success", "refused", "token_refused", "throttled", "error", "unreachable", "unanswered")
"""What becomes of a call: `refused` is about the mail, `error` an answer that is about neither it nor us."""
NOT_CONNECTED, THROTTLED_STATUS = "4.4.1", "4.7.1"
"""Enhanced status of a call that was never made, and of one that came too soon."""

CALLS = Counters("smtp2cf_api_calls_total", "Calls of send_raw, by outcome", "outcome", OUTCOMES)
LATENCY = Histograms(
    "smtp2cf_api_call_seconds",
    "Seconds from the beginning of a call of send_raw to its answer, or to giving up",
    "outcome",
    OUTCOMES,
    buckets=(0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 300),
)

log = structlog.stdlib.get_logger("smtp2cf.api")


class State(enum.StrEnum):
    """What calls come to."""

    UP = "up"
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    TOKEN_REFUSED = "token_refused"  # noqa: S105 - no token


class ApiHealth:
    """One account's.

    account: its name, "" where there is only one. clock: seconds. changed: called when more mail may go out
    than before: all of it, or one message that may try (`on_trial`). recovered: called first if it was down.
    doubt: set while a probe would tell something.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, account: str = "") -> None:
        self._account = account
        self._whose = {"account": account} if account else {}
        self._calls = CALLS.of(account)
        self.state = State.UP
        self.reply = Reply(250, "2.0.0", "")
        """While it is down: what any call would come to."""
        self.since = clock()
        self.on_trial = False
        """It is down, and one call with mail may try whether it still is."""
        self.doubt = asyncio.Event()
        self.doubt.set()
        self.recovered: Callable[[], None] = _nothing
        self.changed: Callable[[], None] = _nothing
        self.now = clock
        """When a call begins or ends."""
        self._failures = 0
        self._failed_at = self.since
        self._probe_failed = False
        self._new_token = False

    @property
    def down(self) -> bool:
        """No call gets through, and nobody knows until when."""
        return self.state in (State.UNREACHABLE, State.TOKEN_REFUSED)

    @property
    def suspect(self) -> bool:
        """The last call with mail failed, and the next probe or call will show what that means."""
        return self._failures > 0 and self.doubt.is_set()

    @property
    def seconds(self) -> float:
        """For how long it has been like this."""
        return self.now() - self.since

    def in_words(self) -> str:
        """For people: "up", or such as "unreachable for 3 minutes"."""
        state = self.state.replace("_", " ")
        return state if self.state is State.UP else f"{state} for {rough_duration(self.seconds)}"

    # ---- calls with mail

    def require(self) -> None:
        """Raise SendError if a call with mail may not be made now."""
        if self.down and not self.on_trial:
            raise SendError(self.reply, Scope.ACCOUNT)

    def begin(self) -> None:
        """A call with mail begins. Raises SendError if it may not be made; need not be asked while up."""
        self.require()
        self.on_trial = False

    def ended(self, began: float, error: SendError | None) -> None:
        """A call with mail ended. error: what its answer means, None for a success."""
        self._count(error, self.now() - began)
        if error is None or error.scope is not Scope.ACCOUNT:
            self._failures = 0
            if began >= self.since:
                self._is_up()
        elif error.reply.status == THROTTLED_STATUS:
            self._failures = 0
            self._enter(State.THROTTLED, error.reply)
        elif isinstance(error, TokenRefusedError):
            self._enter(State.TOKEN_REFUSED, error.reply)
        else:
            self._failed(began, error.reply)

    def _count(self, error: SendError | None, seconds: float) -> None:
        outcome = "success" if error is None else _outcome(error)
        self._calls[outcome] += 1
        LATENCY.observe(outcome, seconds, self._account)

    def _failed(self, began: float, reply: Reply) -> None:
        self.doubt.set()
        if began >= self._failed_at:
            self._failures += 1
            self._failed_at = self.now()
        if self._failures >= FAILURES:
            self._enter(State.UNREACHABLE, reply)

    # ---- probes

    def probed(self, began: float, state: State, reply: Reply | None = None) -> None:
        """A probe ended. state: what it showed. reply: why it isn't up."""
        if began < self.since:
            return  # overtaken by what mail showed
        if reply is None:
            if self._probe_failed or not self.down:
                self._is_up()
                return
        elif state is State.TOKEN_REFUSED or self.down or self._failures or reply.status == NOT_CONNECTED:
            self._enter(state, reply)
            self._probe_failed = True
        if self.down and (reply is None or reply.status != NOT_CONNECTED):
            self.on_trial = True
            self.changed()

    def token_replaced(self) -> None:
        """What is known was about the previous token: a call with mail and a probe may try this one."""
        self.doubt.set()
        if self.state is State.TOKEN_REFUSED:
            self._new_token = self._probe_failed = self.on_trial = True
            self.changed()

    # ---- the state

    def _enter(self, state: State, reply: Reply) -> None:
        self.reply = reply
        if state is not State.THROTTLED:
            self.doubt.set()
        if state is self.state and not self._new_token:
            return
        self._new_token = False
        self.state, self.since = state, self.now()
        self._probe_failed = self.on_trial = False
        (log.error if state is State.TOKEN_REFUSED else log.warning)(
            f"api.{state}", reason=reply.text, **self._whose
        )
        news.tell(f"api.{state}", f"mail waits: {reply.text}", reason=reply.text, **self._whose)

    def _is_up(self) -> None:
        if self.doubt.is_set():
            self.doubt.clear()
            self.changed()
        if self.state is State.UP:
            return
        ended = {"was": str(self.state), "after": round(self.seconds, 3), **self._whose}
        log.info("api.recovered", **ended)
        news.tell("api.recovered", f"mail goes out again after {rough_duration(self.seconds)}", **ended)
        was_down = self.down
        self.state, self.since = State.UP, self.now()
        self._probe_failed = self.on_trial = self._new_token = False
        if was_down:
            self.recovered()
        self.changed()


class Unwatched(ApiHealth):
    """Of an account that nobody probes: every call is made, since nothing else would show that it is back."""

    def require(self) -> None:
        """Nothing is known to be down."""


def _nothing() -> None:
    """Nobody wants to be told."""


def _outcome(error: SendError) -> str:
    if isinstance(error, TokenRefusedError):
        return "token_refused"
    if error.reply.status == THROTTLED_STATUS:
        return "throttled"
    if error.scope is not Scope.ACCOUNT:
        return "refused"
    if error.reply.status == NOT_CONNECTED:
        return "unreachable"
    return "unanswered" if error.unanswered else "error"
