"""The sandbox: a local stand-in for Cloudflare's Email Sending API, for trials and for tests.

It implements what CLOUDFLARE.md collects from the published API and from the types of Cloudflare's
official Python SDK, which is the client its tests use. Mail goes nowhere: it is kept in memory to
be looked at.

Knows nothing of the relay or of the client that calls it.
"""

from smtp2cf.sandbox.app import Call, Permission, Sandbox
from smtp2cf.sandbox.limits import RateLimit
from smtp2cf.sandbox.messages import AcceptedMessage

__all__ = ["AcceptedMessage", "Call", "Permission", "RateLimit", "Sandbox"]
