"""Whether a message may still be sent is asked when its call has its turn, and right before it is made."""

import time

import pytest

from smtp2cf.cloudflare import Client
from smtp2cf.reply import DELIVERED, Reply, Scope, SendError
from tests.cloudflare.conftest import MESSAGE, RECIPIENT, SENDER, MakeClient
from tests.cloudflare.raw_server import always, http, ok, serving

GONE = SendError(Reply(451, "4.3.0", "another bridge has it"), Scope.ACCOUNT)


class Lease:
    """One that has lapsed the first `lapses` times it is looked at, and can be confirmed `confirms` times."""

    def __init__(self, client: Client, lapses: int = 0, confirms: int = 100) -> None:
        self.said: list[str] = []
        self._client = client
        self._lapses = lapses
        self._confirms = confirms

    kept = True

    def holds(self) -> bool:
        self.said.append("holds")
        self._lapses -= 1
        return self._lapses < 0

    async def confirm(self) -> None:
        self.said.append("confirm")
        assert self._client.pacer.in_flight == 1, "it has its turn"
        self._confirms -= 1
        if self._confirms < 0:
            raise GONE


async def send(client: Client, lease: Lease) -> dict[str, Reply]:
    return (await client.send(SENDER, (RECIPIENT,), MESSAGE, time.monotonic() + 10, lease)).outcomes


async def test_it_is_confirmed_for_each_call_and_looked_at_last(make_client: MakeClient) -> None:
    async with serving(always(ok(RECIPIENT))) as server:
        client = make_client(server.base_url)
        for _ in range(2):
            lease = Lease(client)
            assert await send(client, lease) == {RECIPIENT: DELIVERED}
            assert lease.said == ["confirm", "holds"]


async def test_what_lapsed_while_it_connected_is_confirmed_again_on_that_connection(
    make_client: MakeClient,
) -> None:
    async with serving(always(ok(RECIPIENT))) as server:
        client = make_client(server.base_url)
        lease = Lease(client, lapses=2)
        assert await send(client, lease) == {RECIPIENT: DELIVERED}
        assert lease.said == ["confirm", "holds"] * 3
        assert (len(server.requests), server.connections) == (1, 1)


@pytest.mark.parametrize("confirms", [0, 1])
async def test_what_is_anothers_is_not_sent(make_client: MakeClient, confirms: int) -> None:
    async with serving(always(ok(RECIPIENT))) as server:
        client = make_client(server.base_url)
        with pytest.raises(SendError) as caught:
            await send(client, Lease(client, lapses=1, confirms=confirms))
        assert caught.value is GONE
        assert server.requests == []
        assert client.pacer.in_flight == 0


async def test_a_call_that_is_repeated_after_a_429_asks_again(make_client: MakeClient) -> None:
    busy = http("429 Too Many Requests", b"{}", Retry_After="1")
    async with serving(always(busy)) as server:
        client = make_client(server.base_url)
        lease = Lease(client, confirms=1)
        with pytest.raises(SendError) as caught:
            await send(client, lease)
        assert caught.value is GONE
        assert len(server.requests) == 1
