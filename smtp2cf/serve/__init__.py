"""Serve: the one place where everything is built and wired, drained and stopped.

Like the commands, it knows the settings. `bridge` is what `smtp2cf serve` consists of, and `process` runs it;
`once` relays one message without it.
"""

from smtp2cf.serve.bridge import Bridge
from smtp2cf.serve.once import relay_once
from smtp2cf.serve.process import run

__all__ = ["Bridge", "relay_once", "run"]
