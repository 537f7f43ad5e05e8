"""The envelope and its addresses; queue ids."""

import dataclasses
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp2cf import envelope
from smtp2cf.envelope import Envelope, address_key, domain_of, new_queue_id, unique_addresses


def test_queue_ids_are_13_letters_and_digits_and_rise() -> None:
    ids = [new_queue_id() for _ in range(10_000)]
    assert all(re.fullmatch("[0-9A-Z]{13}", queue_id) for queue_id in ids)
    assert len(set(ids)) == len(ids)
    assert sorted(ids) == ids


def test_a_queue_id_tells_the_time() -> None:
    before, queue_id, after = time.time(), new_queue_id(), time.time()
    assert before - 0.1 <= int(queue_id[:10], 36) / 1e6 <= after + 0.1


def test_queue_ids_go_on_rising_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    first = new_queue_id()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3_600 * 10**9)
    later = [new_queue_id() for _ in range(100)]
    assert sorted({first, *later}) == [first, *later]


def test_two_processes_make_different_queue_ids() -> None:
    code = "from smtp2cf.envelope import new_queue_id; print(new_queue_id())"
    ids = {subprocess.check_output([sys.executable, "-c", code], text=True)[-4:] for _ in range(3)}
    assert len(ids) > 1


def test_an_envelope_does_not_change() -> None:
    one = Envelope(reverse_path="a@x", forward_paths=("b@x",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.reverse_path = "c@x"
    assert (one.notify, one.orcpt, one.client, one.auth_user, one.per_recipient) == ({}, {}, "", "", False)
    assert one.queue_id != Envelope(reverse_path="a@x", forward_paths=("b@x",)).queue_id


@pytest.mark.parametrize(
    ("address", "key", "domain"),
    [
        ("Anna@Example.COM", "Anna@example.com", "example.com"),
        ('"a@b"@X.org', '"a@b"@x.org', "x.org"),
        ("jörg@MÜNCHEN.example", "jörg@münchen.example", "münchen.example"),
        ("postmaster", "postmaster", ""),
        ("", "", ""),
        ("@", "@", ""),
    ],
)
def test_the_domain_in_any_letter_case_is_the_same_address(address: str, key: str, domain: str) -> None:
    assert address_key(address) == key
    assert domain_of(address) == domain


def test_addresses_are_sent_to_once_in_their_first_spelling() -> None:
    given_addresses = ["b@X", "a@x", "b@x", "B@x", "a@x", "b@X"]
    assert list(unique_addresses(given_addresses)) == ["b@X", "a@x", "B@x"]
    assert list(unique_addresses(["a@x"])) == ["a@x"]
    assert list(unique_addresses([])) == []


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a@x", "a@X", "A@x", "b@x", "b@X", "c"])))
def test_no_address_is_lost_and_none_is_there_twice(addresses: list[str]) -> None:
    unique = list(unique_addresses(addresses))
    keys = [address_key(address) for address in unique]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {address_key(address) for address in addresses}


def test_the_pairs_of_digits_are_all_there() -> None:
    assert len(envelope._PAIRS) == 36 * 36
    assert sorted(envelope._PAIRS, key=lambda pair: int(pair, 36)) == envelope._PAIRS
