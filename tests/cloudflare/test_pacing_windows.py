"""What the pacer makes of Ratelimit, Ratelimit-Policy and Retry-After. No real time passes."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.cloudflare.limit_fields import RETRY_AFTER_LIMITS, retry_after_of
from tests.cloudflare.callers import Callers, in_virtual_time, now, pacer_of
from tests.support.each import each

# ---- Ratelimit


@in_virtual_time
async def test_when_the_window_is_used_up_nobody_calls_before_it_resets() -> None:
    callers = Callers(pacer_of(8))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=0;t=30', '"default";q=100;w=60')
    told_at = now()
    await callers.ask(1, 2)
    await asyncio.sleep(30)
    assert callers.order == [0]
    await asyncio.sleep(2)
    assert callers.went[1][1] - told_at >= 30
    assert len(callers.order) == 3


@in_virtual_time
async def test_the_calls_that_are_left_are_used_and_not_one_more() -> None:
    callers = Callers(pacer_of(50))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=12;t=30')
    await callers.ask(*range(1, 40))
    await asyncio.sleep(30)
    assert len(callers.order) - 1 == 12


@in_virtual_time
async def test_calls_in_flight_are_taken_as_not_counted_yet() -> None:
    callers = Callers(pacer_of(50))
    await callers.ask(*range(10))
    await callers.succeed(0, '"default";r=15;t=30', '"default";q=20;w=60')
    await callers.ask(*range(10, 40))
    await asyncio.sleep(30)
    assert len(callers.order) == 10 + 15 - 9


@in_virtual_time
async def test_an_answer_that_was_overtaken_gives_no_calls_back() -> None:
    callers = Callers(pacer_of(50))
    await callers.ask(*range(10))
    for name, left in zip(range(1, 10), range(8, -1, -1), strict=True):
        await callers.succeed(name, f'"default";r={left};t=30')
    await callers.succeed(0, '"default";r=9;t=30')  # it was answered first and comes last
    await callers.ask(10)
    await asyncio.sleep(29)
    assert 10 not in callers.order


@in_virtual_time
async def test_a_call_that_ran_alone_tells_the_true_number() -> None:
    callers = Callers(pacer_of(50))
    await callers.ask(*range(10))
    for name in range(10):  # the newest answer came first, and the others in flight counted as not in it
        await callers.succeed(name, f'"default";r={30 + name};t=30')
    await callers.ask(10)
    await callers.succeed(10, '"default";r=29;t=30')
    await callers.ask(*range(11, 60))
    await asyncio.sleep(29)
    assert len(callers.order) == 11 + 29


@in_virtual_time
async def test_others_who_use_the_account_are_noticed() -> None:
    callers = Callers(pacer_of(5))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=1000;t=100')
    await callers.ask(1)
    await callers.succeed(1, '"default";r=0;t=100')
    await callers.ask(2, wait=50)
    assert (await callers.error_of(2)).reply.status == "4.7.1"


@in_virtual_time
async def test_the_last_fifth_of_a_window_is_spread_over_what_is_left_of_it() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=19;t=57', '"default";q=100;w=300')
    await callers.ask(*range(1, 20))
    await asyncio.sleep(57)
    times = [at for _, at in callers.went[1:]]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == 19
    assert min(gaps) > 2
    assert max(gaps) < 4


@in_virtual_time
async def test_before_the_last_fifth_nobody_waits() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=60;t=57', '"default";q=100;w=300')
    started = now()
    await callers.ask(*range(1, 40))
    assert len(callers.order) == 40
    assert now() == started


@in_virtual_time
async def test_a_new_window_starts_with_a_few_calls() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=50;t=5', '"default";q=50;w=10')
    await asyncio.sleep(7)
    await callers.ask(*range(1, 60))
    assert len(callers.order) == 1 + 10, "a fifth of the 50"
    await callers.succeed(1, '"default";r=49;t=10', '"default";q=50;w=10')
    await callers.succeed(2, '"default";r=48;t=10', '"default";q=50;w=10')
    assert len(callers.order) > 11


@in_virtual_time
async def test_a_new_window_of_unknown_size_starts_with_one_call() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=50;t=5')
    await asyncio.sleep(7)
    await callers.ask(*range(1, 60))
    assert len(callers.order) == 1 + 1


@in_virtual_time
async def test_all_of_a_window_is_used_where_answers_come_in_order() -> None:
    callers = Callers(pacer_of(10))
    await callers.ask(*range(60))
    started = now()
    for name in range(20):
        await callers.tasks[name]
        reset = round(30 - (now() - started))
        await callers.succeed(name, f'"default";r={19 - name};t={reset}', '"default";q=20;w=30')
    assert now() - started < 30
    assert len(callers.order) == 20


@in_virtual_time
async def test_an_answer_from_before_the_newest_one_tells_nothing() -> None:
    """Somebody else has used up the window since."""
    callers = Callers(pacer_of(10))
    await callers.ask(0, 1)
    await callers.succeed(1, '"default";r=50;t=30')
    await callers.ask(2)
    await callers.succeed(2, '"default";r=0;t=30')
    await callers.succeed(0, '"default";r=51;t=30')
    await callers.ask(3)
    assert 3 not in callers.order


@in_virtual_time
async def test_what_was_sent_in_an_earlier_window_does_not_count_in_the_next() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=9;t=5', '"default";q=10;w=50')
    await asyncio.sleep(7)
    await callers.ask(1, 2)
    await callers.end(1)
    await callers.end(2)
    await asyncio.sleep(60)
    for name in range(3, 30):
        await callers.ask(name)
        if name in callers.turns:
            await callers.end(name)
    assert len(callers.order) == 1 + 2 + 8, "the 2 may have been of this one"


@in_virtual_time
async def test_a_window_nobody_told_of_is_not_overdrawn() -> None:
    """What a window holds is known from an earlier one; what was sent since may count in it."""
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=4;t=5', '"default";q=5;w=50')
    await asyncio.sleep(7)
    for name in range(1, 20):
        await callers.ask(name)
        if name in callers.turns:
            await callers.end(name)  # without a word about limits
    assert len(callers.order) == 1 + 4
    await asyncio.sleep(52)
    assert len(callers.order) == 1 + 4 + 1


@in_virtual_time
async def test_calls_in_flight_may_fill_the_next_window_so_it_waits_for_one_of_them() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"default";r=2;t=5', '"default";q=3;w=50')
    await callers.ask(1, 2, 3)
    assert callers.order == [0, 1, 2]
    await asyncio.sleep(30)
    assert callers.order == [0, 1, 2]
    await callers.end(1)
    assert callers.order == [0, 1, 2]
    await callers.end(2)
    assert callers.order == [0, 1, 2, 3], "one to see, when none is left whose answer could tell"


@in_virtual_time
async def test_after_a_429_its_retry_after_counts_and_no_window_told_before() -> None:
    callers = Callers(pacer_of(2))
    await callers.ask(0, 1)
    await callers.succeed(0, '"default";r=0;t=1000')
    await callers.throttle(1, 10)
    await callers.ask(2)
    await asyncio.sleep(11)
    assert callers.order == [0, 1, 2]


@in_virtual_time
async def test_of_several_policies_the_fewest_calls_and_the_longest_time_count() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"daily";r=9;t=5', '"daily";q=100;w=500, "burst";q=10;w=2')
    await asyncio.sleep(7)
    await callers.ask(*range(1, 60))
    assert len(callers.order) == 1 + 2, "a fifth of the 10"
    for name in range(1, 60):
        if name in callers.turns:
            await callers.end(name)
    assert len(callers.order) == 1 + 9
    await asyncio.sleep(400)
    assert len(callers.order) == 1 + 9, "nothing is known of a reset before the 500 s are over"


@in_virtual_time
async def test_of_several_windows_the_tightest_counts() -> None:
    callers = Callers(pacer_of(100))
    await callers.ask(0)
    await callers.succeed(0, '"burst";r=90;t=10, "daily";r=2;t=1000')
    await callers.ask(*range(1, 60))
    await asyncio.sleep(3000)
    assert len(callers.order) == 1 + 2 + 1, "two of the day, and one to see what the next day brings"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "r=",
        "r=x;t=y",
        '"default";r=-1;t=-1',
        '"default";r=5',
        '"default";t=5',
        '"default";r=99999999999999999999;t=1',
        '"default";rr=0;tt=9',
        "\xff\xfe;r=\xb2;t=\xb9",
        "," * 8000,
        '"default";r=' + "9" * 8000 + ";t=1",
    ],
    ids=lambda header: ascii(header[:40]),
)
@in_virtual_time
async def test_headers_that_make_no_sense_stop_nobody(header: str) -> None:
    callers = Callers(pacer_of(4))
    await callers.ask(0)
    await callers.succeed(0, header, header)
    await callers.ask(1, 2, 3)
    assert callers.order == [0, 1, 2, 3]


@pytest.mark.parametrize("seconds", ["999999999", "9" * 8000])
@in_virtual_time
async def test_no_window_is_believed_to_last_longer_than_an_hour(seconds: str) -> None:
    callers = Callers(pacer_of(4))
    await callers.ask(0)
    await callers.succeed(0, f'"default";r=0;t={seconds}')
    await callers.ask(1)
    await asyncio.sleep(3602)
    assert callers.order == [0, 1]


# ---- Retry-After


@each(
    ("value", "seconds"),
    [
        ("0", 1.0),
        ("1", 1.0),
        ("17", 17.0),
        (" 17 ", 17.0),
        ("300", 300.0),
        ("7200", 7200.0),
        ("604800", 604800.0),
        ("999999999999", 2.0**31),
        ("9" * 5000, 2.0**31),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("\xb2", None),
        ("\u0661", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1.0),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
        ("1 Jan 1 1:1:1 +9999999999", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after_of(value) == seconds


IMF, RFC850, ASCTIME = "%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"
"""The forms of a date (RFC 9110 §5.6.7)."""
SEVENTH = datetime(2026, 11, 7, 8, 49, 37, tzinfo=UTC)


@pytest.fixture(params=["UTC0", "JST-9", "PST8PDT,M3.2.0,M11.1.0"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the bridge's host is."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize("of_date", [IMF, RFC850, ASCTIME])
@pytest.mark.parametrize("of_value", [IMF, RFC850, ASCTIME])
@pytest.mark.parametrize("seconds", [1, 120, 7200, 604_800])
def test_a_date_counts_from_the_answers_own(of_value: str, of_date: str, seconds: int) -> None:
    """Our own clock is years away from theirs."""
    value = (SEVENTH + timedelta(seconds=seconds)).strftime(of_value)
    date = SEVENTH.strftime(of_date)
    assert retry_after_of(value, date=date) == seconds


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize("form", [IMF, RFC850, ASCTIME])
@pytest.mark.parametrize("date", ["", "soon", "Mon, 99 Foo 99999 00:00:00 GMT"])
@pytest.mark.parametrize("seconds", [90, 90_000])
def test_a_date_counts_from_now_where_the_answer_tells_no_date(form: str, date: str, seconds: int) -> None:
    value = datetime.fromtimestamp(time.time() + seconds, UTC).strftime(form)
    assert retry_after_of(value, date=date) == pytest.approx(seconds, abs=2)


def test_a_leap_second_is_one() -> None:
    ends = "Thu, 31 Dec 2026 23:59:{} GMT"
    assert retry_after_of(ends.format(60), date=ends.format(50)) == 10.0


def test_without_retry_after_a_window_that_is_used_up_tells() -> None:
    assert retry_after_of("", '"default";r=0;t=42') == 42.0
    assert retry_after_of("", '"default";r=3;t=42') is None
    assert retry_after_of("7", '"default";r=0;t=42') == 7.0
    assert retry_after_of("", '"default";r=0;t=999999') == 3600.0


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,6} [A-Z][a-z]{2} \d{1,6} [\d:]{0,9} [-+A-Z\d]{0,6}"))
def test_any_retry_after_is_none_or_within_the_limits(value: str) -> None:
    least, most = RETRY_AFTER_LIMITS
    for seconds in (retry_after_of(value), retry_after_of(value, date="Thu, 01 Jan 1970 00:00:00 GMT")):
        assert seconds is None or least <= seconds <= most
    assert retry_after_of("Thu, 01 Jan 1970 00:00:07 GMT", date=value) is not None
