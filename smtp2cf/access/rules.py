"""Access: everything in this room that a bridge needs, built from plain values.

argon2 is loaded only if there are users.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from smtp2cf.access.quotas import OfUser
from smtp2cf.access.senders import SenderRules, Senders
from smtp2cf.envelope import Authenticate, SenderRefusal
from smtp2cf.listen.file_watch import Rereadable

if TYPE_CHECKING:
    from smtp2cf.access.logins import OnLogin


class Access(NamedTuple):
    """What a session and the relay ask. None means that nothing is refused.

    authenticate: see smtp2cf.access.logins. close: ends its threads. users: re-read when they change.
    quota_of: what a user may send, where that is set for the user.
    """

    authenticate: Authenticate | None = None
    sender_refusal: SenderRefusal | None = None
    close: Callable[[], None] = lambda: None
    users: Rereadable | None = None
    quota_of: OfUser | None = None


def open_access(users_file: Path | None, allowed_senders: Sequence[str], on_login: "OnLogin") -> Access:
    """Access with the users of a file (None: no users) and what anybody may send as (empty: anything).

    on_login: called for every login. Raises UsersFileError, a ValueError, if the file can't be used.
    """
    everybody = Senders.parse(allowed_senders)
    if users_file is None:
        return Access(sender_refusal=SenderRules(everybody).refusal if allowed_senders else None)
    from smtp2cf.access.logins import Logins
    from smtp2cf.access.users import UsersFile

    users = UsersFile(users_file)
    logins = Logins(users, on_login)
    refusal = SenderRules(everybody, users.senders_of).refusal
    return Access(logins.authenticate, refusal, logins.close, users, users.quota_of)
