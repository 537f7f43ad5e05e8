"""Quotas: how much one client, user and sender may send, on a clock that the test turns."""

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from smtp2cf.access import counts, limit
from smtp2cf.access.counts import Counts
from smtp2cf.access.limit import Named
from smtp2cf.access.quotas import Allowance, DsnQuota, Quotas, Ruling, client_key, ruling, sender_key
from smtp2cf.access.shared_counts import SharedCounts
from smtp2cf.access.usage import SLOTS, Usage
from smtp2cf.journal import quotas as journal
from smtp2cf.spool import SpoolUnavailable
from tests.support.reach import kept_by

CLIENT, USER, SENDER = "192.0.2.1", "anna", "shop@example.com"


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "said", journal.Said())


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.25

    def __call__(self) -> float:
        return self.now


def named(text: str, setting: str = "SMTP2CF_CLIENT_QUOTA") -> Ruling:
    return ruling(*(Named(one, setting) for one in limit.parse(text)))


def quotas_of(clock: Clock, **texts: str) -> Quotas:
    """Quotas by their settings' names in lower case."""
    rulings = {kind: named(text, f"SMTP2CF_{kind.upper()}_QUOTA") for kind, text in texts.items()}
    return Quotas(Allowance(**rulings), Counts(clock=clock))


def let_through(quotas: Quotas, what: str, *keys: str, at_most: int = 100) -> int:
    """How many go through before one is refused."""
    return next((n for n in range(at_most) if getattr(quotas, what)(*keys) is not None), at_most)


# ---- what one too many is told


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is shortly after midnight in a zone two hours east."""
    monkeypatch.setenv("TZ", "XXX-02:00")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: 1795730400.0)
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("wall_clock")
@pytest.mark.parametrize(
    ("what", "kind", "who"),
    [
        (what, kind, who)
        for what in ("message", "recipient")
        for kind, who in (("client", CLIENT), ("user", USER), ("sender", SENDER))
    ],
)
def test_one_too_many_is_told_which_setting_and_when_it_ends(what: str, kind: str, who: str) -> None:
    clock = Clock()
    quotas = quotas_of(clock, **{kind: f"3 {what}s/1m"})
    assert let_through(quotas, what, CLIENT, USER, SENDER) == 3
    clock.now += 20
    refusal = getattr(quotas, what)(CLIENT, USER, SENDER)
    assert (refusal.code, refusal.status) == (450, "4.7.1")
    setting = f"SMTP2CF_{kind.upper()}_QUOTA=3 {what}s/1m"
    until = "try again after 2026-11-27 00:00:41 +0200"
    assert refusal.text == f"{who} has sent 3 {what}s in 1m ({setting}): {until}"
    clock.now += 40
    assert getattr(quotas, what)(CLIENT, USER, SENDER) is not None
    clock.now += 1
    assert let_through(quotas, what, CLIENT, USER, SENDER) == 3


def test_of_several_limits_the_one_that_lasts_longest_is_told() -> None:
    quotas = quotas_of(Clock(), client="2 messages/1m", user="2 messages/1d", sender="2 messages/1h")
    assert let_through(quotas, "message", CLIENT, USER, SENDER) == 2
    assert "SMTP2CF_USER_QUOTA=2 messages/1d" in quotas.message(CLIENT, USER, SENDER).text  # type: ignore[union-attr]


def test_what_is_refused_is_not_counted_by_any_limit() -> None:
    clock = Clock()
    quotas = quotas_of(clock, client="1 message/1m", user="1 message/1m")
    assert quotas.message(CLIENT, USER, SENDER) is None
    for _ in range(60):
        clock.now += 1
        assert quotas.message("192.0.2.2", USER, SENDER) is not None
    clock.now += 1
    assert quotas.message("192.0.2.2", USER, SENDER) is None, "neither its own nor the user's"


# ---- who is counted


def test_a_client_without_an_address_and_nobody_have_no_quota_but_the_null_sender_has() -> None:
    quotas = quotas_of(Clock(), client="1 message/1m", user="1 message/1m")
    assert let_through(quotas, "message", "", "", "") == 100
    quotas = quotas_of(Clock(), sender="3 messages/1m")
    assert let_through(quotas, "message", "", "", "") == 3
    assert let_through(quotas, "message", "", "", SENDER) == 3


@pytest.mark.parametrize(
    ("client", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("unknown", "unknown"),
    ],
)
def test_a_client_is_counted_by_its_address_and_ipv6_by_its_network(client: str, key: str) -> None:
    assert client_key(client) == key


@pytest.mark.parametrize(
    ("sender", "key"),
    [
        ("", "<>"),
        ("Shop@Example.COM", "shop@example.com"),
        ('"shop"@example.com.', "shop@example.com"),
        ("root", "root"),
        ("shop@bücher.example", "shop@xn--bcher-kva.example"),
    ],
)
def test_a_sender_is_counted_as_an_address(sender: str, key: str) -> None:
    assert sender_key(sender) == key


def test_counts_of_one_listener_are_its_own() -> None:
    shared = Counts(clock=Clock())
    general = Quotas(Allowance(client=named("2 messages/1m")), shared)
    printers = Quotas(Allowance(client=named("2 messages/1m")._replace(scope="printers")), shared)
    assert let_through(general, "message", CLIENT, "", "") == 2
    assert let_through(printers, "message", CLIENT, "", "") == 2
    other = Quotas(Allowance(client=named("3 messages/1m")), shared)
    assert let_through(other, "message", CLIENT, "", "") == 1, "those without a quota of their own share it"


def test_a_users_own_quota_takes_the_place_of_the_general_one() -> None:
    twice = (Named(one, "users file") for one in limit.parse("5 messages/1m, 7 messages/1m"))
    own = {"anna": tuple(twice), "free": ()}
    quotas = Quotas(Allowance(user=named("2 messages/1m")), Counts(clock=Clock()), own.get)
    assert let_through(quotas, "message", CLIENT, "anna", "") == 5
    assert let_through(quotas, "message", CLIENT, "bert", "") == 2
    assert let_through(quotas, "message", CLIENT, "free", "") == 100


# ---- never more, and hardly less


STEPS = st.tuples(
    st.floats(0, 70) | st.sampled_from([0.0, 0.5, 1.0, 59.0, 59.999, 60.0, 60.001, 61.0]),
    st.sampled_from(["message", "recipient"]),
    st.sampled_from(["192.0.2.1", "2001:db8::1", ""]),
    st.sampled_from(["anna", "bert", ""]),
)


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 7, 60, 86400]), st.lists(STEPS, max_size=80))
def test_nobody_gets_more_than_its_limit_in_any_window_nor_much_less(
    of_client: int, of_user: int, window: int, steps: list[tuple[float, str, str, str]]
) -> None:
    clock = Clock()
    quotas = quotas_of(
        clock,
        client=f"{of_client} messages/{window}, {of_client} recipients/{window}",
        user=f"{of_user} messages/{window}, {of_user} recipients/{window}",
    )
    taken: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for pause, what, client, user in steps:
        clock.now += pause * window / 60
        keys = [(what, "client", client), (what, "user", user)]
        most = [(key, n) for key, n in zip(keys, (of_client, of_user), strict=True) if key[2]]
        refused = getattr(quotas, what)(client, user, SENDER) is not None

        def within(key: tuple[str, str, str], seconds: float) -> int:
            return sum(clock.now - at <= seconds for at in taken[key])

        if refused:
            assert any(within(key, window * 61 / 60) >= n for key, n in most), "there was room"
        else:
            assert all(within(key, window * 0.999999) < n for key, n in most), "that was one too many"
            for key, _ in most:
                taken[key].append(clock.now)


@pytest.mark.parametrize("window", ["1m", "1h", "30d"])
@pytest.mark.parametrize("number", [1, 7, 100])
def test_who_keeps_to_the_limit_but_for_a_slot_is_never_refused(number: int, window: str) -> None:
    clock = Clock()
    quotas = quotas_of(clock, client=f"{number} messages/{window}")
    seconds = limit.parse(f"1 message/{window}")[0].seconds
    for _ in range(3 * number + 3):
        assert quotas.message(CLIENT, "", "") is None
        clock.now += seconds * (SLOTS + 1) / SLOTS / number * 1.000001


# ---- what is kept of a count


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 3)), max_size=80), st.floats(-50, 100))
def test_a_count_that_is_written_and_read_is_the_same(steps: list[tuple[float, int]], later: float) -> None:
    now, usage = 1e9, Usage()
    for pause, times in steps:
        now += pause
        usage.forget(now, 60)
        for _ in range(times):
            usage.add(now, 60)
    read = Usage.read(usage.text(), now + later, 60)
    assert read.sum == usage.sum
    if later >= 0:
        assert read.text() == usage.text()
    read.forget(now + max(later, 0) + 62, 60)
    assert read.sum == 0, "nothing seems to come from the future, whatever the clock did"


@pytest.mark.parametrize("text", ["", "x", "{}", "[1, 1]", '["a", 1]', "[-1e99, 1]", "null", "[[1, 2]]"])
def test_a_count_that_can_not_be_read_is_none(text: str) -> None:
    assert Usage.read(text, 1000.0, 60).sum == 0


# ---- the warning


def test_who_nears_a_limit_is_named_once_a_window() -> None:
    clock = Clock()
    quotas = quotas_of(clock, client="10 messages/1m", user="4 messages/1m")
    with capture_logs() as lines:
        for number in range(1, 11):
            assert quotas.message(CLIENT, "", SENDER) is None
            assert len(lines) == (number >= 8)
        assert lines[0] == {
            "event": "quota.scarce",
            "log_level": "warning",
            "who": CLIENT,
            "used": 8,
            "limit": "10 messages/1m",
            "setting": "SMTP2CF_CLIENT_QUOTA",
        }
        clock.now += 61
        assert let_through(quotas, "message", CLIENT, "", SENDER) == 10
        assert len(lines) == 2
        assert let_through(quotas, "message", "", USER, SENDER) == 4
        assert len(lines) == 2, "the last part of so small a quota is worth no line"


def test_many_who_near_a_limit_are_a_few_lines_and_the_latest_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 5000.0
    monkeypatch.setattr(journal.time, "monotonic", lambda: now)
    quotas = quotas_of(Clock(), sender="5 messages/1h")
    with capture_logs() as lines:
        for number in range(40):
            assert let_through(quotas, "message", "", "", f"n{number}@example.com") == 5
        assert len(lines) == 30
        now += 61
        assert let_through(quotas, "message", "", "", "last@example.com") == 5
    assert lines[-1]["left_out"] == 10
    assert journal.near()[0] == "last@example.com, 5 messages/1h (SMTP2CF_SENDER_QUOTA)"
    assert len(journal.near()) == 10
    now += 3550
    assert len(journal.near()) == 1
    now += 100
    assert journal.near() == []


# ---- memory


def kept_names(quotas: Quotas) -> list[str]:
    """The names that are counted."""
    found = [one for one in kept_by(quotas) if isinstance(one, dict)]
    return [name for one in found for name, usage in one.items() if isinstance(usage, Usage)]


def test_addresses_that_are_idle_are_forgotten() -> None:
    clock = Clock()
    quotas = quotas_of(clock, client="5 messages/1m")
    for number in range(1000):
        quotas.message(f"10.0.{number >> 8}.{number & 255}", "", "")
    clock.now += 61
    for number in range(1000):
        quotas.message(f"10.1.{number >> 8}.{number & 255}", "", "")
    assert len(kept_names(quotas)) == 1000


def test_no_more_addresses_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MAX_KEYS", 100)
    quotas = quotas_of(Clock(), client="1 message/1m")
    for number in range(1000):
        assert quotas.message(f"client-{number}", "", "") is None
    assert len(kept_names(quotas)) == 100
    assert quotas.message("client-999", "", "") is not None, "the latest are the ones that are kept"


def test_one_address_takes_the_same_room_however_much_it_sends() -> None:
    clock = Clock()
    quotas = quotas_of(clock, client="100000 recipients/30d")
    for number in range(20_000):
        clock.now += 500
        assert quotas.recipient(CLIENT, "", "") is None, number
    (usage,) = (one for one in kept_by(quotas) if isinstance(one, Usage))
    assert len(usage.text()) < 61 * 20


# ---- reports


def reports(clock: Clock, text: str, counts: Any = None) -> DsnQuota:
    limits = [Named(one, "SMTP2CF_DSN_QUOTA") for one in limit.parse_reports(text)]
    return DsnQuota(limits, counts or Counts(clock=clock))


async def test_so_many_reports_go_to_one_address_in_any_hour() -> None:
    clock = Clock()
    quota = reports(clock, "3/1h")
    for address in ("anna@example.com", "ANNA@Example.COM", "anna@example.com"):
        assert await quota.over(address) is None
    refused = await quota.over("anna@example.com")
    assert refused is not None
    assert str(refused.charge.named.limit) == "3/1h"
    assert await quota.over("ben@example.com") is None
    clock.now += 3600 * (1 + 1 / SLOTS)
    assert await quota.over("anna@example.com") is None


async def test_a_report_is_sent_if_nobody_knows_how_many_there_were() -> None:
    class Away:
        async def recount(self, *_: object) -> Any:
            raise SpoolUnavailable("away")

    quota = reports(Clock(), "1/1h", SharedCounts(Away()))
    for _ in range(3):
        assert await quota.over("anna@example.com") is None
