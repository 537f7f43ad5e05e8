"""Envelopes and outcomes as columns: nothing an address may hold gets lost or breaks a filter."""

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtp2cf.envelope import Envelope, address_key
from smtp2cf.reply import Reply
from smtp2cf.spool import Filter, codec
from tests.spool.conftest import Backend, new_mail

# Any character, and what is left of bytes that were not UTF-8 (PEP 383).
hostile = st.text(st.characters() | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), max_size=20)
addresses = hostile | st.sampled_from(["", "a@b", 'x\n"y\x00"@b', "*@b", "\\d+@b", "İ@ß", "a" * 300])
replies = st.builds(Reply, st.integers(200, 599), hostile, hostile)
envelopes = st.builds(
    Envelope,
    reverse_path=addresses,
    forward_paths=st.lists(addresses, max_size=5).map(tuple),
    body=st.sampled_from(["7BIT", "8BITMIME"]),
    smtputf8=st.booleans(),
    ret=st.sampled_from([None, "FULL", "HDRS"]),
    envid=st.none() | hostile,
    notify=st.dictionaries(addresses, hostile, max_size=3),
    orcpt=st.dictionaries(addresses, hostile, max_size=3),
    auth_user=hostile,
    client=hostile,
    helo=hostile,
    per_recipient=st.booleans(),
    received_at=st.floats(0, 1e11),
)
rewritten = st.builds(
    dataclasses.replace,
    envelopes,
    given_reverse_path=st.none() | addresses,
    given_forward_paths=st.dictionaries(
        addresses, st.lists(addresses, min_size=1, max_size=3).map(tuple), max_size=3
    ),
    dsn_for=st.sampled_from(["", "3C0A9F2B1Q7ZK"]),
)


@given(rewritten)
def test_an_envelope_comes_back(envelope: Envelope) -> None:
    text = codec.encode_envelope(envelope)
    assert codec.decode_envelope(text) == envelope
    assert "\x00" not in text
    text.encode()


def test_what_the_client_said_is_an_addition_that_older_bridges_pass_over() -> None:
    """They send what goes out; and what they wrote themselves has nothing of it."""
    envelope = Envelope(
        reverse_path="noreply@example.com",
        forward_paths=("ops@example.com",),
        given_reverse_path="root@web07",
        given_forward_paths={"ops@example.com": ("root@web07", "admin@web07")},
        dsn_for="3C0A9F2B1Q7ZK",
    )
    fields = json.loads(codec.encode_envelope(envelope))
    assert (fields["reverse_path"], fields["forward_paths"]) == ("noreply@example.com", ["ops@example.com"])
    added = {name for name in fields if name.startswith("given_") or name == "dsn_for"}
    older = codec.decode_envelope(json.dumps({name: fields[name] for name in fields if name not in added}))
    assert older == dataclasses.replace(envelope, given_reverse_path=None, given_forward_paths={}, dsn_for="")
    assert not any(name in codec.encode_envelope(older) for name in added)


@given(st.dictionaries(addresses, replies, max_size=5))
def test_outcomes_come_back(outcomes: dict[str, Reply]) -> None:
    text = codec.encode_outcomes(outcomes)
    assert codec.decode_outcomes(text) == outcomes
    assert "\x00" not in text
    text.encode()


@given(st.none() | replies)
def test_a_reply_comes_back(reply: Reply | None) -> None:
    assert codec.decode_reply(codec.encode_reply(reply)) == reply


def test_a_reply_that_many_recipients_got_is_kept_once() -> None:
    reply = Reply(451, "4.3.0", "x" * 200)
    text = codec.encode_outcomes({f"r{number}@example.org": reply for number in range(1000)})
    assert len(text) < 30 * 1000


@given(st.lists(addresses, min_size=1, max_size=5), st.data())
def test_an_address_is_found_among_others(those: list[str], data: Any) -> None:
    wanted = data.draw(st.sampled_from(those))
    assert re.search(codec.lookup_pattern(wanted), codec.lookup(those))


@pytest.mark.parametrize("pattern", ["a.c@x", "a+@x", "(a|b)@x", "[ab]@x", "a\\w@x", "$", "^"])
def test_what_means_something_to_regular_expressions_means_itself(pattern: str) -> None:
    assert not re.search(codec.lookup_pattern(pattern), "abc@x\naa@x\na@x")
    assert re.search(codec.lookup_pattern(pattern), f"abc@x\n{pattern}\na@x")


def test_a_pattern_does_not_reach_over_two_addresses() -> None:
    assert not re.search(codec.lookup_pattern("a*z@x"), "a@x\nz@x")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(envelopes, st.binary(max_size=300), st.dictionaries(addresses, replies, max_size=3))
async def test_both_databases_give_back_what_they_got(
    backend: Backend, envelope: Envelope, message: bytes, outcomes: dict[str, Reply]
) -> None:
    spool = await backend.open()
    mail = new_mail(message, outcomes=outcomes)
    object.__setattr__(mail, "envelope", envelope)
    await spool.put(mail)
    (item,) = [item async for item in spool.items(Filter(queue_ids=(envelope.queue_id,)))]
    assert (item.envelope, item.outcomes) == (envelope, outcomes)
    assert await spool.read(envelope.queue_id) == message
    which = Filter(sender=envelope.reverse_path, queue_ids=(envelope.queue_id,))
    if "*" not in envelope.reverse_path:
        assert await spool.count(which) == 1
        assert (
            await spool.count(Filter(sender=address_key(envelope.reverse_path), queue_ids=which.queue_ids))
            == 1
        )
    await backend.close(spool)
