"""One attempt, with a function for a call that is given the recipients alone."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import Envelope
from smtp2cf.relay.attempt import Attempt, Attempts
from smtp2cf.relay.bounces import BouncePolicy


async def attempt_to_send(
    send: Callable[[Sequence[str]], Awaitable[Sent]], recipients: Sequence[str], *, taken: bool = False
) -> Attempt:
    """Try to send to `recipients`. taken: for others, before."""

    async def send_raw(_: str, part: Sequence[str], **__: Any) -> Sent:
        return await send(part)

    envelope = Envelope(reverse_path="a@example.com", forward_paths=tuple(recipients))
    attempts = Attempts(send_raw, "", BouncePolicy(hostname="localhost"))
    return await attempts.make(envelope, recipients, b"", patience=60, taken=taken)
