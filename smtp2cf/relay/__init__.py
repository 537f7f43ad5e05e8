"""The relay: the middle between the SMTP side and Cloudflare. Knows neither's protocol.

`Relay.accept` takes a message in, `deliver` sends it, `settle` finds the one answer for it.
"""

from smtp2cf.relay.accept import MessagePolicy, Relay
from smtp2cf.relay.bounces import BouncePolicy
from smtp2cf.relay.drop import DropDirectory, DropPolicy
from smtp2cf.relay.queue import Queue, RetryPolicy

__all__ = ["BouncePolicy", "DropDirectory", "DropPolicy", "MessagePolicy", "Queue", "Relay", "RetryPolicy"]
