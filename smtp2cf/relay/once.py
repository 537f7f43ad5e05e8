"""Once: relay one message without a bridge and a spool, for sendmail in a container that runs once.

The caller learns each recipient's outcome before a DSN goes out, and keeps what could not be sent.
"""

import time
from collections.abc import Callable, Mapping

from smtp2cf.envelope import Judged, Outcomes, own_outcomes
from smtp2cf.relay.accept import Relay
from smtp2cf.reply import Reply, SendError

Settle = Callable[[Outcomes, bool], Mapping[str, tuple[int, str, str]]]
"""(each recipient's outcome, whether the mail has expired) → those whom the sender is to be told of, with
code, enhanced status and text."""


async def relay_once(
    relay: Relay, judged: Judged, message: bytes, settle: Settle, *, expires: float, drain_timeout: float
) -> bool:
    """Relay the message, tell `settle`, send the DSN. Returns False if the DSN could not be sent.

    expires: seconds since the epoch. drain_timeout: seconds for calls that are still under way.
    """
    outcomes: Outcomes = {}
    for envelope in judged.envelopes:
        verdict = await relay.accept(envelope, message)
        outcomes |= own_outcomes(verdict, envelope)
    given = {who: outcomes[path] for who, path in judged.given.items()}
    told = settle({**judged.refused, **given}, time.time() >= expires)
    untold = {who: Reply(*reply) for who, reply in told.items()}
    try:
        await relay.bounce(judged.about(untold.keys()), message, untold)
    except SendError:
        return False
    finally:
        await relay.drain(drain_timeout)
    return True
