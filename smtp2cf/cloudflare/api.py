"""Api: Cloudflare's low-rate calls: an ordinary httpx.AsyncClient on the bridge's transport.

Token, limits, suppressions and the like; send_raw has its own fast way (client.py). Every call is admitted by
the account's pacer, since all of them count against the token's limit. Knows no mail.
"""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx
import orjson

from smtp2cf import __version__
from smtp2cf.cloudflare.errors import AS_IN_THE_ENVIRONMENT, error_of, no_answer
from smtp2cf.cloudflare.limit_fields import retry_after_of
from smtp2cf.cloudflare.pacing import Pacer
from smtp2cf.reply import SendError

PROBE = "smtp2cf.probe"
"""The extension of a request that may go out while the account is blocked."""


class ApiAnswer(NamedTuple):
    """What the API said.

    status: HTTP's. result, info: `result` and `result_info` of a success, of whatever type they came. error:
    what it means where it is no success, None where it is.
    """

    status: int
    result: Any
    info: Any
    error: SendError | None


class Api:
    """Calls the API for one account.

    base_url: up to and without `/accounts`. timeout: seconds of one call, its turn included. transport: the
    bridge's way to the API. pacer: when a call may go out.
    """

    def __init__(
        self,
        *,
        base_url: httpx.URL,
        account_id: str,
        token: str,
        timeout: float,
        transport: httpx.AsyncBaseTransport,
        pacer: Pacer,
        names: Mapping[str, str] = AS_IN_THE_ENVIRONMENT,
    ) -> None:
        self._names = names
        self.account = f"/accounts/{account_id}"
        """The path of everything that belongs to the account."""
        self._host = base_url.host
        self._timeout = timeout
        self._client = httpx.AsyncClient(
            base_url=base_url,
            transport=_Paced(transport, pacer, timeout),
            headers={
                "User-Agent": f"smtp2cf/{__version__}",
                "Authorization": f"Bearer {token}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            },
            timeout=None,  # noqa: S113 - the transport has its own
            trust_env=False,
        )

    def use_token(self, token: str) -> None:
        """Call with this token from now on."""
        self._client.headers["Authorization"] = f"Bearer {token}"

    def __repr__(self) -> str:
        return f"<Api {self._client.base_url}>"

    async def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: object = None,
        probe: bool = False,
    ) -> ApiAnswer:
        """One call, with an answer of any kind. Raises SendError where there is none.

        path: from the base URL on, such as f"{api.account}/email/sending/limits". json: the body, None for
        none. probe: it may go out while the account is blocked, to find out more about that.
        """
        try:
            response = await self._client.request(
                method, path, params=params, json=json, extensions={PROBE: probe}
            )
        except httpx.HTTPError as failure:
            raise no_answer(failure, self._host, self._timeout) from failure
        body = _object_in(response.content)
        if 200 <= response.status_code < 300 and body.get("success") is True:
            return ApiAnswer(response.status_code, body.get("result"), body.get("result_info"), None)
        error = error_of(response.status_code, response.content, _retry_after(response), self._names)
        return ApiAnswer(response.status_code, None, None, error)

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: object = None,
    ) -> ApiAnswer:
        """The same, for a call that must succeed. Raises SendError where it doesn't."""
        answer = await self.ask(method, path, params=params, json=json)
        if answer.error is not None:
            raise answer.error
        return answer


class _Paced(httpx.AsyncBaseTransport):
    """The bridge's transport, with a turn of the pacer for each call; another closes it."""

    def __init__(self, transport: httpx.AsyncBaseTransport, pacer: Pacer, patience: float) -> None:
        self._transport = transport
        self._pacer = pacer
        self._patience = patience

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange. Raises SendError if it may not go out in time."""
        if request.extensions.get(PROBE):
            turn = self._pacer.probe()
        else:
            turn = await self._pacer.admit(time.monotonic() + self._patience)
        try:
            response = await self._transport.handle_async_request(request)
            await response.aread()
            if response.status_code == 429:
                self._pacer.block(turn, _retry_after(response))
            elif response.status_code < 500:
                header = response.headers.get
                self._pacer.observe(turn, header("Ratelimit", ""), header("Ratelimit-Policy", ""))
            return response
        finally:
            self._pacer.done(turn)


def _retry_after(response: httpx.Response) -> float | None:
    header = response.headers.get
    return retry_after_of(header("Retry-After", ""), header("Ratelimit", ""), header("Date", ""))


def _object_in(body: bytes) -> dict[str, Any]:
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
