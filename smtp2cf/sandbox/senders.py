"""Senders: which domains are set up for sending, and what mail from any other is told.

Each name counts for itself; `*.example.com` is every name below it. Without a list, every domain is set up
but those with `unconfigured` or `disabled` among their labels, such as unconfigured.example.com.

Knows nothing of HTTP.
"""

from collections.abc import Iterable

from smtp2cf.sandbox.api import SENDER_NOT_CONFIGURED, SENDING_DISABLED, Refusal

_BY_LABEL = {"unconfigured": SENDER_NOT_CONFIGURED, "disabled": SENDING_DISABLED}


class Senders:
    """The domains that are set up. configured: in lower case; may be changed, empty for every domain."""

    def __init__(self, configured: Iterable[str] = ()) -> None:
        self.configured = {domain.lower().rstrip(".") for domain in configured}

    def refusal(self, domain: str) -> Refusal | None:
        """Why mail from this domain is refused, None if it is not."""
        if self.configured:
            _, _, parents = domain.partition(".")
            below = {f"*.{domain.split('.', count)[-1]}" for count in range(1, parents.count(".") + 2)}
            return None if self.configured & {domain, *below} else SENDER_NOT_CONFIGURED
        labels = domain.split(".")
        return next((refusal for label, refusal in _BY_LABEL.items() if label in labels), None)

    def may_send(self, domain: str) -> bool:
        """Mail from this domain is not refused."""
        return self.refusal(domain) is None

    def zones(self) -> list[str]:
        """The zones that hold the domains of the list: for the sandbox, the last two labels of a name."""
        return sorted({zone_of(domain) for domain in self.configured})

    def below(self, zone: str) -> list[str]:
        """The names in a zone that are set up, or were; all of them without a list."""
        if self.configured:
            return sorted(domain for domain in self.configured if zone_of(domain) == zone)
        return [] if "unconfigured" in zone.split(".") else [zone, f"*.{zone}"]


def zone_of(domain: str) -> str:
    """The zone that a name is in."""
    return ".".join(domain.rsplit(".", 2)[-2:])
