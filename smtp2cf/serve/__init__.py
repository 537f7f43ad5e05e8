"""Serve: the one place where everything is built and wired, drained and stopped.

Like the commands, it knows the settings. `bridge` is `smtp2cf serve`; `once` relays one message without it.
"""

from smtp2cf.serve.bridge import Bridge, run
from smtp2cf.serve.once import relay_once

__all__ = ["Bridge", "relay_once", "run"]
