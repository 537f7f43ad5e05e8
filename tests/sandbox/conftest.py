"""A sandbox on a port of its own, and the clients that talk to it: Cloudflare's SDK and plain HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import httpx
import pytest
from cloudflare import AsyncCloudflare

from smtp2cf.listen.endpoint import Endpoint, listen
from smtp2cf.sandbox import Sandbox
from tests.support.secret import TOKEN

ACCOUNT = "0123456789abcdef0123456789abcdef"
MESSAGE = "From: a@example.com\r\nSubject: hello\r\n\r\nbody\r\n"
SENDING = f"/client/v4/accounts/{ACCOUNT}/email/sending"


class Running(NamedTuple):
    """A sandbox that serves, and clients for it.

    cloudflare: the SDK, its retries off. http: httpx with the token set.
    """

    sandbox: Sandbox
    port: int
    cloudflare: AsyncCloudflare
    http: httpx.AsyncClient

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def send(self, *recipients: str, **changes: Any) -> Any:
        """send_raw through the SDK."""
        request = {"from_": "a@example.com", "mime_message": MESSAGE, "account_id": ACCOUNT} | changes
        return await self.cloudflare.email_sending.send_raw(recipients=list(recipients), **request)

    async def post(self, **changes: Any) -> httpx.Response:
        """send_raw through httpx, with keys of the request changed, or left out where None."""
        request = {"from": "a@example.com", "recipients": ["b@example.net"], "mime_message": MESSAGE}
        request = {key: value for key, value in (request | changes).items() if value is not None}
        return await self.http.post(f"{SENDING}/send_raw", json=request)


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a sandbox with the given arguments; stopped after the test."""
    started: list[Running] = []

    async def start_one(**arguments: Any) -> Running:
        sockets = listen(Endpoint("127.0.0.1", 0))
        port = sockets[0].getsockname()[1]
        sandbox = Sandbox(**{"token": TOKEN} | arguments)
        await sandbox.start(sockets)
        base = f"http://127.0.0.1:{port}"
        cloudflare = AsyncCloudflare(api_token=TOKEN, base_url=f"{base}/client/v4", max_retries=0)
        http = httpx.AsyncClient(base_url=base, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False)
        started.append(Running(sandbox, port, cloudflare, http))
        return started[-1]

    yield start_one
    for running in started:
        await running.cloudflare.close()
        await running.http.aclose()
        await running.sandbox.stop()


@pytest.fixture
async def running(start: Start) -> Running:
    """A sandbox with its defaults."""
    return await start()
