"""The Cloudflare side: send_raw and the token check, as Replies (Email Sending API).

Knows no SMTP session and no spool. `Client` makes the calls, `errors` is the table of what they
answer, `pacing` keeps them under the account's limits.
"""

from smtp2cf.cloudflare.client import MAX_RECIPIENTS_PER_CALL, Client, Sent, TokenState

__all__ = ["MAX_RECIPIENTS_PER_CALL", "Client", "Sent", "TokenState"]
