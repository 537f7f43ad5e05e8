"""Access: everything in this room that a bridge needs, built from plain values.

argon2 is loaded only if there are users.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from smtp2cf.access.quotas import OfUser
from smtp2cf.access.sender_rewriting import SenderRewriting
from smtp2cf.access.senders import SenderRules, Senders
from smtp2cf.envelope import Authenticate, SenderRefusal
from smtp2cf.listen.file_watch import Rereadable

if TYPE_CHECKING:
    from smtp2cf.access.logins import OnLogin


class Access(NamedTuple):
    """What a session and the relay ask. None means that nothing is refused.

    authenticate: see smtp2cf.access.logins; authenticate_at: at the listener with a name. close: ends
    its threads. users: re-read when they change. quota_of: what a user may send, where that is set for the
    user. recipients_of: to whom a user's mail may go. refusal_at: sender_refusal at the listener with a name.
    use_allowed: takes another list of what anybody may send as.
    """

    authenticate: Authenticate | None = None
    authenticate_at: Callable[[str], Authenticate | None] = lambda _: None
    sender_refusal: SenderRefusal | None = None
    close: Callable[[], None] = lambda: None
    users: Rereadable | None = None
    quota_of: OfUser | None = None
    recipients_of: Callable[[str], Senders] | None = None
    refusal_at: Callable[[str], SenderRefusal | None] = lambda _: None
    use_allowed: Callable[[Sequence[str]], None] = lambda _: None


def open_access(
    users_file: Path | None,
    allowed_senders: Sequence[str],
    on_login: "OnLogin",
    rewriting: SenderRewriting | None = None,
) -> Access:
    """Access with the users of a file (None: no users) and what anybody may send as (empty: anything).

    rewriting: what becomes of senders, which may change at any time; None if nothing ever does. on_login:
    called for every login. Raises UsersFileError, a ValueError, if the file can't be used.
    """
    everybody = Senders.parse(allowed_senders)
    if users_file is None and not allowed_senders and rewriting is None:
        return Access()
    rewriting = rewriting or SenderRewriting(allowed=everybody)
    rules = SenderRules(everybody, becomes=rewriting.becomes)

    def use_allowed(patterns: Sequence[str]) -> None:
        rules.everybody = Senders.parse(patterns)
        rewriting.use_allowed(rules.everybody)

    access = Access(
        sender_refusal=rules.refusal,
        refusal_at=lambda name: functools.partial(rules.refusal, listener=name),
        use_allowed=use_allowed,
    )
    if users_file is None:
        return access
    from smtp2cf.access.logins import Logins
    from smtp2cf.access.users import UsersFile

    users = UsersFile(users_file)
    rules.senders_of = users.senders_of
    rewriting.use_default_of(users.sender_default_of)
    logins = Logins(users, on_login)
    return access._replace(
        authenticate=logins.authenticate,
        authenticate_at=lambda name: functools.partial(logins.authenticate, listener=name),
        close=logins.close,
        users=users,
        quota_of=users.quota_of,
        recipients_of=users.recipients_of,
    )
