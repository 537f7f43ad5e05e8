"""One attempt, with a function for a call that is given the recipients alone."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import Envelope
from smtp2cf.relay.attempt import Attempt, Attempts
from smtp2cf.relay.bounces import BouncePolicy


async def attempt_to_send(
    send: Callable[[Sequence[str]], Awaitable[Sent]], recipients: Sequence[str], *, whole: bool = True
) -> Attempt:
    """Try to send to `recipients`. whole: they are all of the message's recipients."""

    async def send_raw(_: str, part: Sequence[str], **__: Any) -> Sent:
        return await send(part)

    others = () if whole else ("other@example.net",)
    envelope = Envelope(reverse_path="a@example.com", forward_paths=(*recipients, *others))
    attempts = Attempts(send_raw, "", BouncePolicy(hostname="localhost"))
    return await attempts.make(envelope, recipients, b"", patience=60)
