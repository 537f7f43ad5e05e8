"""Session limits: how many sessions one client and one user may have."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.smtpd import SessionLimits

CLIENT, USER = "192.0.2.1", "anna"


def test_a_client_has_so_many_sessions_and_no_more() -> None:
    limits = SessionLimits(client=2)
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
    limits = SessionLimits(user=1)
    assert limits.enter(client=CLIENT) is None
    assert limits.enter(user=USER) is None
    assert limits.enter(client="192.0.2.2") is None
    refusal = limits.enter(user=USER)
    assert refusal is not None
    assert "SMTP2CF_USER_MAX_SESSIONS" in refusal.text
    limits.leave(client=CLIENT, user=USER)
    assert limits.enter(user=USER) is None


def test_a_session_that_was_refused_for_its_user_takes_no_place_of_its_client() -> None:
    limits = SessionLimits(client=1, user=1)
    assert limits.enter(user=USER) is None
    assert limits.enter(client=CLIENT, user=USER) is not None
    assert limits.enter(client=CLIENT) is None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "b", ""]))))
def test_sessions_are_counted_in_and_out(steps: list[tuple[bool, str]]) -> None:
    limits = SessionLimits(client=2)
    inside: dict[str, int] = defaultdict(int)
    for enters, client in steps:
        if enters:
            assert (limits.enter(client=client) is None) == (not client or inside[client] < 2)
            inside[client] = min(2, inside[client] + 1)
        elif inside[client]:
            limits.leave(client=client)
            inside[client] -= 1


def test_nobody_and_a_client_without_an_address_have_as_many_as_they_like() -> None:
    assert not SessionLimits().active
    limits = SessionLimits(client=1, user=1)
    assert limits.active
    for _ in range(3):
        assert limits.enter(client="", user="") is None
        assert SessionLimits().enter(client=CLIENT, user=USER) is None
