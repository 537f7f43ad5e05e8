"""Rules: who may do what in a session, and how much. Sessions ask this one object and nothing else.

Knows no session and no socket: it is given a client's address, a user's name and a reverse path.
"""

import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from smtp2cf.envelope import Authenticate, Network, SenderRefusal
from smtp2cf.reply import Reply
from smtp2cf.smtpd import replies
from smtp2cf.smtpd.networks import is_in
from smtp2cf.smtpd.path import TakesName
from smtp2cf.smtpd.session_limits import SessionLimits


class Recipients(Protocol):
    """Who gets mail, as far as that is not simply who RCPT names."""

    def takes_name(self, name: str) -> bool:
        """Whether somebody gets the mail of a name without a domain."""

    def refusal(self, address: str, user: str = "") -> Reply | None:
        """The reply if no mail, or none of this user's, may go to a recipient."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Who may send, and how much.

    hostname: what the greeting says. allow_networks: clients that may relay without AUTH.
    max_message_size: octets. max_recipients: in one transaction. session_timeout: seconds of silence, and
    seconds in which a command must be complete. auth_without_tls: passwords may come unencrypted.
    proxy_networks: proxies that must say whom they connect for. crlf_only: refuse a command that ends with LF
    alone. postmaster: who gets mail to `<Postmaster>`, "" for nobody. tls_required, auth_required: of every
    client, whatever its address. networks_named: what the operator calls allow_networks. recipients: names
    without a domain that are taken, and recipients that are not; None for neither. takes_sender:
    whether something may become of a sender without a domain; None if nothing does.
    """

    hostname: str
    allow_networks: tuple[Network, ...]
    max_message_size: int
    max_recipients: int
    session_timeout: float
    auth_without_tls: bool = False
    proxy_networks: tuple[Network, ...] = ()
    crlf_only: bool = False
    postmaster: str = ""
    tls_required: bool = False
    auth_required: bool = False
    recipients: Recipients | None = None
    networks_named: str = "SMTP2CF_ALLOW_NETWORKS"
    takes_sender: TakesName | None = None

    def may_relay(self, client: str) -> bool:
        """A client at this address may relay. A client on a unix socket has no address, and may."""
        if self.auth_required:
            return False
        return not client or is_in(client, self.allow_networks)


Judging = Coroutine[Any, Any, Reply | None]
"""What to await for a refusal, if it takes its time."""
Judgement = Reply | Judging | None
"""A refusal, None for none; or what to await for that."""


class Quotas(Protocol):
    """How much a client, a user and a sender may send. "" is a client without an address, nobody, and the
    null sender."""

    def message(self, client: str, user: str, sender: str) -> Judgement:
        """At MAIL: count a message, or the reply if it is one too many."""

    def recipient(self, client: str, user: str, sender: str) -> Judgement:
        """At RCPT: count a recipient, or the reply if it is one too many."""


class Rules:
    """Who may do what.

    authenticate: None if nobody may. sender_refusal: checks a reverse path against what its user may send
    as. sessions: how many one client and one user may have. quotas: how much they and each sender may send,
    None for any amount. closed: the reply to MAIL while no mail can be taken.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        authenticate: Authenticate | None = None,
        sender_refusal: SenderRefusal | None = None,
        sessions: SessionLimits | None = None,
        quotas: Quotas | None = None,
        closed: Callable[[], Reply | None] | None = None,
    ) -> None:
        self.policy = policy
        self.sessions = sessions if sessions is not None else SessionLimits()
        self._quotas = quotas
        self._authenticate = authenticate
        self.sender_refusal = sender_refusal
        self._closed = closed
        self._may_relay = functools.lru_cache(maxsize=4096)(policy.may_relay)

    def become(self, other: "Rules") -> None:
        """Judge by other rules from now on, in sessions under way too."""
        vars(self).update(vars(other))

    # ---- what is offered

    @property
    def offers_auth(self) -> bool:
        """There are users."""
        return self._authenticate is not None

    def may_authenticate(self, *, secure: bool) -> bool:
        """A password may come over this connection."""
        unencrypted = self.policy.auth_without_tls and not self.policy.tls_required
        return self.offers_auth and (secure or unencrypted)

    def is_proxy(self, client: str) -> bool:
        """This client must say whom it connects for."""
        return bool(client) and is_in(client, self.policy.proxy_networks)

    # ---- who may

    def session_refusal(self, client: str) -> Reply | None:
        """Count a session of this client in; the reply if it has too many."""
        return self.sessions.enter(client=client) if self.sessions.active else None

    def session_ended(self, client: str) -> None:
        """Count a session of this client out."""
        if self.sessions.active:
            self.sessions.leave(client=client)

    async def login_refusal(self, client: str, name: str, password: str) -> Reply | None:
        """The reply if this is not that user's password."""
        return (
            replies.NO_AUTH
            if self._authenticate is None
            else await self._authenticate(client, name, password)
        )

    def relay_refusal(self, client: str, user: str, *, secure: bool) -> Reply | None:
        """The reply if this client may not relay: by its address, or as a user."""
        if user or self._may_relay(client):
            return None
        networks = self.policy.networks_named
        if not self.offers_auth:
            return replies.relaying_denied(client, networks)
        if self.policy.auth_required:
            networks = ""
        tls_first = not self.may_authenticate(secure=secure)
        return replies.authentication_required(client, networks, tls_first=tls_first)

    def no_mail_now(self) -> Reply | None:
        """The reply while no mail can be taken from anybody."""
        return self._closed() if self._closed is not None else None

    def mail_refusal(self, client: str, user: str, reverse_path: str) -> Judgement:
        """The reply if this user may not send as that, or has sent too many messages lately."""
        if self.sender_refusal is not None and (refusal := self.sender_refusal(user, reverse_path)):
            return refusal
        return self._quotas.message(client, user, reverse_path) if self._quotas is not None else None

    def recipient_refusal(self, client: str, user: str, reverse_path: str) -> Judgement:
        """The reply if there were too many recipients lately."""
        return self._quotas.recipient(client, user, reverse_path) if self._quotas is not None else None
