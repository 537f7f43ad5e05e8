"""Account: one Cloudflare account that sends, with everything that belongs to it.

Its client, its pacing, and what is known of its token. There is one today; several would be a list of these.
Knows no settings, no session and no spool.
"""

import asyncio
import contextlib

import structlog

from smtp2cf.cloudflare.client import Client, TokenState
from smtp2cf.cloudflare.pacing import Pacer
from smtp2cf.reply import SendError

TOKEN_CHECK_INTERVAL = 60.0
"""Seconds between checks of a token that is not known to be good."""

log = structlog.stdlib.get_logger("smtp2cf.serve")


class Account:
    """Sends mail for one account.

    base_url, account_id, token, timeout, concurrency: see Client. Raises ValueError for a proxy in the
    environment that can't be used, OSError for CA certificates there that can't be.
    """

    def __init__(
        self, *, base_url: str, account_id: str, token: str, timeout: float, concurrency: int
    ) -> None:
        self.name = account_id
        self._token_is_new = asyncio.Event()
        self.base_url = base_url
        self.client = Client(
            base_url=base_url, account_id=account_id, token=token, timeout=timeout, concurrency=concurrency
        )

    def __repr__(self) -> str:
        return f"<Account {self.name}>"

    @property
    def pacer(self) -> Pacer:
        """When its calls may go out."""
        return self.client.pacer

    @property
    def token_state(self) -> TokenState:
        """What Cloudflare last said of its token."""
        return self.client.token_state

    def use_token(self, token: str) -> None:
        """Call with this token from now on, and check it at once."""
        self.client.use_token(token)
        self._token_is_new.set()

    async def watch_token(self) -> None:
        """Check the token at the start, and again for as long as it is not known to be good."""
        while True:
            self._token_is_new.clear()
            if self.token_state.accepted is not True:
                await self._check_token()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TOKEN_CHECK_INTERVAL):
                    await self._token_is_new.wait()

    async def _check_token(self) -> None:
        try:
            state = await self.client.verify_token()
        except SendError as error:
            log.warning("token.unknown", reason=error.reply.text)
        else:
            if not state.accepted:
                log.error("token.refused", reason=state.reason)

    async def aclose(self) -> None:
        """Close its connections."""
        await self.client.aclose()
