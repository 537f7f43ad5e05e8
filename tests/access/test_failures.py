"""Failures: an address is slowed, refused for a while, hung up on, forgotten; its neighbours never notice."""

import pytest

from smtp2cf.access import failures
from smtp2cf.access.failures import (
    ADDRESSES,
    AT_ONCE,
    DELAYS,
    FORGOTTEN_AFTER,
    KNOCKS,
    REFUSED_AFTER,
    REFUSED_FOR,
    SAME_WITHIN,
    Failures,
)

CLIENT, NEIGHBOUR = "192.0.2.1", "192.0.2.2"


class Clock:
    """Seconds, as a test has them pass."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until told."""
    return Clock()


@pytest.fixture
def known(clock: Clock) -> Failures:
    """Nothing has failed yet."""
    return Failures(clock)


def fail(known: Failures, times: int, client: str = CLIENT) -> list[float]:
    return [known.failed(client) for _ in range(times)]


def test_each_failure_is_answered_later_up_to_a_limit(known: Failures) -> None:
    delays = fail(known, 20)
    assert delays[:4] == [DELAYS[0] * factor for factor in (1, 2, 4, 8)]
    assert delays[-1] == DELAYS[1]
    assert delays == sorted(delays)


def test_who_failed_too_often_is_refused_then_hung_up_on_then_let_in_again(
    known: Failures, clock: Clock
) -> None:
    fail(known, REFUSED_AFTER - 1)
    assert known.refusal(CLIENT) is None
    fail(known, 1)
    answers = [known.refusal(CLIENT) for _ in range(KNOCKS + 3)]
    assert [answer and answer[:2] for answer in answers] == [(454, "4.7.0")] * KNOCKS + [(421, "4.7.0")] * 3
    assert CLIENT in answers[0].text
    assert f"{REFUSED_FOR:.0f} s" in answers[0].text
    clock.now += REFUSED_FOR - 1
    assert known.refusal(CLIENT) is not None, "knocking does not change how long"
    clock.now += 1
    assert known.refusal(CLIENT) is None


def test_who_was_refused_has_one_try_before_it_is_again(known: Failures, clock: Clock) -> None:
    fail(known, REFUSED_AFTER)
    clock.now += REFUSED_FOR
    assert known.refusal(CLIENT) is None
    fail(known, 1)
    assert known.refusal(CLIENT).code == 454


def test_failures_are_forgotten(known: Failures, clock: Clock) -> None:
    fail(known, REFUSED_AFTER)
    clock.now += FORGOTTEN_AFTER + 1
    assert known.refusal(CLIENT) is None
    assert len(known) == 0
    assert fail(known, REFUSED_AFTER - 1)[0] == DELAYS[0]
    assert known.refusal(CLIENT) is None


def test_a_success_resets(known: Failures) -> None:
    fail(known, REFUSED_AFTER - 1)
    known.succeeded(CLIENT)
    assert len(known) == 0
    fail(known, REFUSED_AFTER - 1)
    assert known.refusal(CLIENT) is None


def test_neighbours_are_not_touched(known: Failures) -> None:
    fail(known, 100)
    assert known.refusal(NEIGHBOUR) is None
    assert known.begin(NEIGHBOUR) is None
    assert known.failed(NEIGHBOUR) == DELAYS[0]


def test_who_has_no_address_is_slowed_and_never_refused(known: Failures) -> None:
    assert all(delay > 0 for delay in fail(known, 100, client=""))
    assert known.refusal("") is None
    assert [known.begin("") for _ in range(100)] == [None] * 100
    assert len(known) == 0


def test_one_address_does_not_take_the_whole_line(known: Failures) -> None:
    assert [known.begin(CLIENT) for _ in range(AT_ONCE)] == [None] * AT_ONCE
    refusal = known.begin(CLIENT)
    assert refusal[:2] == (454, "4.7.0")
    assert CLIENT in refusal.text
    assert known.begin(NEIGHBOUR) is None
    known.end(CLIENT)
    assert known.begin(CLIENT) is None


def test_guessing_in_parallel_gets_nobody_more_tries(known: Failures) -> None:
    fail(known, REFUSED_AFTER - 3)
    assert [known.begin(CLIENT) is None for _ in range(5)] == [True] * 3 + [False] * 2


def test_nothing_is_kept_of_who_never_failed(known: Failures) -> None:
    known.begin(CLIENT)
    known.begin(CLIENT)
    known.end(CLIENT)
    known.end(CLIENT)
    known.succeeded(CLIENT)
    assert len(known) == 0


def test_no_more_addresses_are_kept_than_fit(known: Failures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "ADDRESSES", 3)
    for number in range(5):
        fail(known, REFUSED_AFTER, f"192.0.2.{number}")
    assert len(known) == 3
    assert [known.refusal(f"192.0.2.{number}") is None for number in range(5)] == [True] * 2 + [False] * 3
    assert ADDRESSES >= 1000


# ---- the same password by one mechanism after the other


def test_the_same_failure_within_seconds_counts_once(known: Failures, clock: Clock) -> None:
    for number in range(REFUSED_AFTER):
        assert known.refusal(CLIENT) is None, f"{number} tries are not too many"
        first = known.failed(CLIENT, b"%d" % number)
        clock.now += first
        assert known.failed(CLIENT, b"%d" % number) == first
        clock.now += first
    assert known.refusal(CLIENT) is not None


def test_two_users_of_one_address_may_take_turns(known: Failures) -> None:
    for number in range(REFUSED_AFTER // 2):
        for tried in (b"anna%d", b"bert%d", b"anna%d", b"bert%d"):
            known.failed(CLIENT, tried % number)
    assert known.refusal(CLIENT) is not None
    known.succeeded(CLIENT)
    for tried in (b"anna", b"bert") * REFUSED_AFTER:
        known.failed(CLIENT, tried)
    assert known.refusal(CLIENT) is None


def test_the_same_failure_counts_again_later(known: Failures, clock: Clock) -> None:
    for _ in range(REFUSED_AFTER):
        known.failed(CLIENT, b"anna")
        clock.now += SAME_WITHIN + 1
    assert known.refusal(CLIENT) is not None


def test_other_passwords_and_other_addresses_count_each(known: Failures) -> None:
    for number in range(REFUSED_AFTER):
        known.failed(CLIENT, b"%d" % number)
        known.failed(NEIGHBOUR, b"1")
    assert known.refusal(CLIENT) is not None
    assert known.refusal(NEIGHBOUR) is None


def test_what_was_tried_is_forgotten_with_a_success(known: Failures) -> None:
    known.failed(CLIENT, b"anna")
    known.succeeded(CLIENT)
    assert known.failed(CLIENT, b"anna") == DELAYS[0]
    assert len(known) == 1
