"""HTTP for people and probes: /livez, /readyz, /metrics, and a status page at /.

Knows no relay and no Cloudflare: it is handed functions that tell how things are. Probes leave no
log lines.
"""

from smtp2cf.web.app import Admin

__all__ = ["Admin"]
