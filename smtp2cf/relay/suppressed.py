"""Suppressed: what the answer about a recipient on Cloudflare's suppression list says beyond that.

Why, until when and for whose mail is asked for once per attempt, after all of its calls. Knows no HTTP.
"""

from collections.abc import Awaitable, Callable, Sequence

from smtp2cf.envelope import Outcomes
from smtp2cf.reply import Reply

LookUp = Callable[[Sequence[str], str], Awaitable[dict[str, Reply]]]
"""(suppressed recipients, sender) → the reply for each of whom more is known. Raises nothing, and takes two
seconds at most: cloudflare's `SuppressionReasons.replies`."""


async def explain(outcomes: Outcomes, sender: str, look_up: LookUp) -> None:
    """Put what is known of them into the replies for those who are suppressed."""
    if suppressed := [who for who, reply in outcomes.items() if reply.suppressed]:
        outcomes.update(await look_up(suppressed, sender))
