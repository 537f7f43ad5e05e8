"""The relay: the middle between the SMTP side and Cloudflare. Knows neither's protocol.

`accept` takes a message in, `attempt` tries to send it, `settle` says what follows; `queue` does the same for
mail that waits.
"""

from smtp2cf.relay.accept import Relay
from smtp2cf.relay.bounces import BouncePolicy
from smtp2cf.relay.drop import DropDirectory, DropPolicy
from smtp2cf.relay.policy import MessagePolicy
from smtp2cf.relay.queue import Queue
from smtp2cf.relay.retry import RetryPolicy

__all__ = ["BouncePolicy", "DropDirectory", "DropPolicy", "MessagePolicy", "Queue", "Relay", "RetryPolicy"]
