"""Who is followed, in both spools: found by what Cloudflare calls them, and ended once, with the DSNs."""

import pytest

from smtp2cf.envelope import Envelope
from smtp2cf.reply import SendError
from smtp2cf.spool import Followed
from smtp2cf.spool.following import FOLLOWED_FOR, alone
from tests.spool.clocks import Host
from tests.spool.conftest import Backend, new_mail

ENVELOPE = Envelope(
    reverse_path="anna@example.com",
    forward_paths=("Ben@example.org", "cora@bücher.example"),
    notify={"Ben@example.org": "SUCCESS,FAILURE", "cora@bücher.example": "NEVER"},
    orcpt={"Ben@example.org": "rfc822;ben"},
    ret="HDRS",
    envid="e+20",
    given_reverse_path="root@localhost",
    given_forward_paths={"cora@bücher.example": ("cora",)},
)
BEN, CORA = (Followed("m1@cf", alone(ENVELOPE, who), "<x@local>") for who in ENVELOPE.forward_paths)


def test_an_envelope_for_one_keeps_only_what_is_theirs() -> None:
    assert BEN.envelope.notify == {"Ben@example.org": "SUCCESS,FAILURE"}
    assert (BEN.envelope.ret, BEN.envelope.envid, BEN.envelope.queue_id) == (
        "HDRS",
        "e+20",
        ENVELOPE.queue_id,
    )
    assert (CORA.envelope.orcpt, CORA.envelope.given_forward_paths) == ({}, {CORA.recipient: ("cora",)})


async def test_the_followed_are_found_by_call_and_recipient_in_any_spelling(backend: Backend) -> None:
    spool = await backend.open()
    await spool.following.add(BEN, CORA)
    assert await spool.following.find("m1@cf", "ben@EXAMPLE.org") == BEN
    assert await spool.following.find("m1@cf", "cora@xn--bcher-kva.example") == CORA
    assert await spool.following.find("m2@cf", "Ben@example.org") is None
    assert await spool.following.find("m1@cf", "dora@example.org") is None
    await spool.following.add(BEN)  # told twice
    assert await spool.following.end(BEN)
    assert await spool.following.find("m1@cf", "Ben@example.org") is None
    assert await spool.following.find("m1@cf", CORA.recipient) == CORA


async def test_following_ends_once_and_only_then_is_a_dsn_put_in(backend: Backend) -> None:
    spool = await backend.open()
    await spool.following.add(BEN)
    dsns = [new_mail(is_dsn=True), new_mail(is_dsn=True)]
    assert await spool.following.end(BEN, dsns[0])
    assert not await spool.following.end(BEN, dsns[1])
    assert [item.queue_id async for item in spool.items()] == [dsns[0].envelope.queue_id]


async def test_a_dsn_that_cannot_be_kept_leaves_the_recipient_followed(backend: Backend) -> None:
    spool = await backend.open()
    await spool.following.add(BEN)
    taken = new_mail(queue_id="0123456789ABC")
    await spool.put(taken)
    with pytest.raises(SendError):
        await spool.following.end(BEN, new_mail(b"another", queue_id="0123456789ABC", helo="other"))
    assert await spool.following.find("m1@cf", BEN.recipient) == BEN


async def test_what_is_added_outlives_the_process_and_is_forgotten_in_the_end(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch, backend)
    spool = await backend.open()
    spool.following.add(BEN)  # nobody waits
    await backend.close(spool)
    spool = await backend.open()
    assert await spool.following.find("m1@cf", BEN.recipient) == BEN
    await host.sleep(FOLLOWED_FOR + 60)
    assert await spool.following.find("m1@cf", BEN.recipient) is None
