"""Following: recipients that Cloudflare took, until it is known what became of their mail.

What an event needs to know of them is kept with the spool, because nothing may depend on the journal: whom to
tell, and what the sender asked to be told. Knows nothing of events, and of neither database.
"""

from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar

from smtp2cf.envelope import Envelope, address_key
from smtp2cf.spool.postings import Postings
from smtp2cf.spool.protocol import NewMail, Spool

T = TypeVar("T")

FOLLOWED_FOR = 8 * 86_400.0
"""Seconds until a recipient of whom nothing was heard is forgotten: Cloudflare gives up earlier."""
ENDED_FOR = 3600.0
"""Seconds for which a message id is known when there is nobody left to follow: its events may come again."""


class Followed(NamedTuple):
    """A recipient whose mail Cloudflare took.

    message_id: Cloudflare's, without angle brackets. envelope: with this recipient alone. original_id: the
    Message-ID that the client gave, "" for none.
    """

    message_id: str
    envelope: Envelope
    original_id: str

    @property
    def recipient(self) -> str:
        """The forward path."""
        return self.envelope.forward_paths[0]

    @property
    def key(self) -> str:
        """What it is found by: Cloudflare may spell an address differently than we did."""
        return recipient_key(self.recipient)


class Following(Protocol):
    """Those who are followed. Every method raises SpoolFull or SpoolUnavailable."""

    def add(self, *recipients: Followed) -> Awaitable[None]:
        """Follow these. Written before whatever the spool is asked to write next; who doesn't wait for it
        loses them at worst."""

    async def find(self, message_id: str, recipient: str) -> Followed | None:
        """The one whom an event is about; None if nobody of that name is followed."""

    async def knows(self, message_id: str) -> bool:
        """Whether somebody is followed whose call has this message id, or was until ENDED_FOR seconds ago."""

    async def end(self, followed: Followed, *dsns: NewMail) -> bool:
        """Follow a recipient no longer, and put the DSNs about that into the spool: both or neither.

        False: it was not followed any more, and nothing was put in.
        """


def recipient_key(address: str) -> str:
    """The form in which recipients are compared: letter case is ignored, as in Cloudflare's answers."""
    return address_key(address).casefold()


def alone(envelope: Envelope, recipient: str) -> Envelope:
    """The envelope as if it were for one recipient."""
    return replace(
        envelope,
        forward_paths=(recipient,),
        notify=_only(recipient, envelope.notify),
        orcpt=_only(recipient, envelope.orcpt),
        given_forward_paths=_only(recipient, envelope.given_forward_paths),
    )


def _only(recipient: str, mapping: Mapping[str, T]) -> Mapping[str, T]:
    return {recipient: mapping[recipient]} if recipient in mapping else {}


class FollowingSpool(Spool, Protocol):
    """A spool that also knows who is followed, and what waits to be posted, as both are."""

    @property
    def following(self) -> Following:
        """Who is followed."""

    @property
    def postings(self) -> Postings:
        """What waits to be posted."""
