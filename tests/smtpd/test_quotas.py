"""Quotas: what one client and one user may have, on a clock that the test turns."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.smtpd import quotas
from smtp2cf.smtpd.quotas import Quota, Quotas
from tests.support.reach import kept_by

CLIENT, USER = "192.0.2.1", "anna"
STEPS = st.tuples(
    st.floats(0, 70) | st.sampled_from([0.0, 0.5, 1.0, 59.0, 59.999, 60.0, 60.001, 61.0]),
    st.sampled_from(["message", "recipient"]),
    st.sampled_from(["192.0.2.1", "2001:db8::1", ""]),
    st.sampled_from(["anna", "bert", ""]),
)


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.25

    def __call__(self) -> float:
        return self.now


def counted(limits: Quotas, what: str, *keys: str) -> int:
    """How many go through before one is refused."""
    number = 0
    while getattr(limits, what)(*keys) is None:
        number += 1
    return number


# ---- sessions


def test_a_client_has_so_many_sessions_and_no_more() -> None:
    limits = Quotas(Quota(sessions=2), Quota())
    assert limits.enter(client=CLIENT) is None
    assert limits.enter(client=CLIENT) is None
    refusal = limits.enter(client=CLIENT)
    assert refusal is not None
    assert (refusal.code, refusal.status) == (421, "4.7.1")
    assert refusal.text == (
        "192.0.2.1 has 2 sessions already (SMTP2CF_CLIENT_MAX_SESSIONS): try again when one has ended"
    )
    assert limits.enter(client="192.0.2.2") is None, "its neighbour is not kept out"
    limits.leave(client=CLIENT)
    assert limits.enter(client=CLIENT) is None


def test_a_user_has_so_many_sessions_wherever_they_come_from() -> None:
    limits = Quotas(Quota(), Quota(sessions=1))
    assert limits.enter(client=CLIENT) is None
    assert limits.enter(user=USER) is None
    assert limits.enter(client="192.0.2.2") is None
    refusal = limits.enter(user=USER)
    assert refusal is not None
    assert "SMTP2CF_USER_MAX_SESSIONS" in refusal.text
    limits.leave(client=CLIENT, user=USER)
    assert limits.enter(user=USER) is None


def test_a_session_that_was_refused_for_its_user_takes_no_place_of_its_client() -> None:
    limits = Quotas(Quota(sessions=1), Quota(sessions=1))
    assert limits.enter(user=USER) is None
    assert limits.enter(client=CLIENT, user=USER) is not None
    assert limits.enter(client=CLIENT) is None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "b", ""]))))
def test_sessions_are_counted_in_and_out(steps: list[tuple[bool, str]]) -> None:
    limits = Quotas(Quota(sessions=2), Quota())
    inside: dict[str, int] = defaultdict(int)
    for enters, client in steps:
        if enters:
            assert (limits.enter(client=client) is None) == (not client or inside[client] < 2)
            inside[client] = min(2, inside[client] + 1)
        elif inside[client]:
            limits.leave(client=client)
            inside[client] -= 1


# ---- messages and recipients


@pytest.mark.parametrize(
    ("what", "client", "user", "setting", "who"),
    [
        ("message", Quota(messages=3), Quota(), "SMTP2CF_CLIENT_MESSAGES_PER_MINUTE", CLIENT),
        ("recipient", Quota(recipients=3), Quota(), "SMTP2CF_CLIENT_RECIPIENTS_PER_MINUTE", CLIENT),
        ("message", Quota(), Quota(messages=3), "SMTP2CF_USER_MESSAGES_PER_MINUTE", USER),
        ("recipient", Quota(), Quota(recipients=3), "SMTP2CF_USER_RECIPIENTS_PER_MINUTE", USER),
    ],
)
def test_one_too_many_is_told_which_setting_and_when_to_come_back(
    what: str, client: Quota, user: Quota, setting: str, who: str
) -> None:
    clock = Clock()
    limits = Quotas(client, user, clock)
    assert counted(limits, what, CLIENT, USER) == 3
    clock.now += 20
    refusal = getattr(limits, what)(CLIENT, USER)
    assert (refusal.code, refusal.status) == (450, "4.7.1")
    assert refusal.text == f"more than 3 {what}s a minute from {who} ({setting}): try again in 41 s"
    clock.now += 40
    assert getattr(limits, what)(CLIENT, USER) is not None
    clock.now += 1
    assert counted(limits, what, CLIENT, USER) == 3


def test_what_is_refused_is_not_counted() -> None:
    clock = Clock()
    limits = Quotas(Quota(messages=1), Quota(messages=1), clock)
    assert limits.message(CLIENT, USER) is None
    for _ in range(60):
        clock.now += 1
        assert limits.message("192.0.2.2", USER) is not None
    clock.now += 1
    assert limits.message("192.0.2.2", USER) is None, "neither its own nor the user's"


def test_a_client_without_an_address_and_nobody_have_no_limit() -> None:
    limits = Quotas(Quota(1, 1, 1), Quota(1, 1, 1))
    for _ in range(3):
        assert limits.enter(client="", user="") is None
        assert limits.message("", "") is None
        assert limits.recipient("", "") is None


def test_without_a_limit_nothing_is_counted() -> None:
    assert not Quotas(Quota(), Quota()).active
    assert Quotas(Quota(), Quota(recipients=1)).active
    limits = Quotas(Quota(), Quota())
    assert limits.enter(client=CLIENT, user=USER) is None
    assert limits.message(CLIENT, USER) is None
    assert limits.recipient(CLIENT, USER) is None


@given(st.integers(1, 4), st.integers(1, 4), st.lists(STEPS, max_size=80))
def test_nobody_gets_more_than_its_limit_in_any_minute_nor_much_less(
    of_client: int, of_user: int, steps: list[tuple[float, str, str, str]]
) -> None:
    clock = Clock()
    limits = Quotas(Quota(0, of_client, of_client), Quota(0, of_user, of_user), clock)
    taken: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for pause, what, client, user in steps:
        clock.now += pause
        keys = [(what, "client", client), (what, "user", user)]
        most = [(key, n) for key, n in zip(keys, (of_client, of_user), strict=True) if key[2]]
        refused = getattr(limits, what)(client, user) is not None

        def within(key: tuple[str, str, str], seconds: float) -> int:
            return sum(clock.now - at <= seconds for at in taken[key])

        if refused:
            assert any(within(key, 61) >= n for key, n in most), "there was room"
        else:
            assert all(within(key, 60) < n for key, n in most), "that was one too many"
            for key, _ in most:
                taken[key].append(clock.now)


# ---- memory


def kept_names(limits: Quotas) -> list[str]:
    """The addresses and users that are counted."""
    counts = [found for found in kept_by(limits) if isinstance(found, dict)]
    return [key for found in counts for key, count in found.items() if isinstance(count, list)]


def test_addresses_that_are_idle_are_forgotten() -> None:
    clock = Clock()
    limits = Quotas(Quota(messages=5), Quota(), clock)
    for number in range(1000):
        limits.message(f"10.0.{number >> 8}.{number & 255}", "")
    clock.now += 61
    for number in range(1000):
        limits.message("192.0.2.1", f"{number}")
        limits.message(f"10.1.{number >> 8}.{number & 255}", "")
    assert len(kept_names(limits)) == 1001


def test_no_more_addresses_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "MAX_KEYS", 100)
    limits = Quotas(Quota(messages=1), Quota(), Clock())
    for number in range(1000):
        assert limits.message(f"client-{number}", "") is None
    assert len(kept_names(limits)) == 100
    assert limits.message("client-999", "") is not None, "the latest are the ones that are kept"


def test_one_address_takes_the_same_room_however_much_it_sends() -> None:
    clock = Clock()
    limits = Quotas(Quota(recipients=1_000_000), Quota(), clock)
    before = len(list(kept_by(limits)))
    for _ in range(20_000):
        clock.now += 0.01
        assert limits.recipient(CLIENT, "") is None
    assert len(list(kept_by(limits))) <= before + 2 + 1 + 2 * 62
