"""HTTP for people and probes: /livez, /readyz, /metrics, and a status page at /.

Knows neither the relay nor Cloudflare: it is passed functions that return what to show. Probes leave no
log lines.
"""

from smtp2cf.web.app import Admin

__all__ = ["Admin"]
