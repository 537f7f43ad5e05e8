"""The Cloudflare side: send_raw and the token check, as Replies (Email Sending API).

Knows no SMTP session and no spool. `Client` makes the calls, `outcomes` reads what an accepted one says of
each recipient, `errors` is the table of what the others mean, `pacing` keeps them under the account's limits.
"""

from smtp2cf.cloudflare.client import MAX_RECIPIENTS_PER_CALL, Client, TokenState
from smtp2cf.cloudflare.outcomes import Sent

__all__ = ["MAX_RECIPIENTS_PER_CALL", "Client", "Sent", "TokenState"]
