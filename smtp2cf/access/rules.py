"""Access: what of this room a bridge needs, built from plain values.

argon2 is loaded only where there are users.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from smtp2cf.access.senders import SenderRefusal, SenderRules, Senders
from smtp2cf.reply import Reply

if TYPE_CHECKING:
    from smtp2cf.access.logins import Told


class Access(NamedTuple):
    """What a session and the relay ask. None where nothing is set that it could refuse by.

    authenticate: see smtp2cf.access.logins. close: ends its threads. watch: keeps up with the users file.
    """

    authenticate: Callable[[str, str, str], Awaitable[Reply | None]] | None = None
    sender_refusal: SenderRefusal | None = None
    close: Callable[[], None] = lambda: None
    watch: Callable[[], Coroutine[None, None, None]] | None = None


def open_access(users_file: Path | None, allowed_senders: Sequence[str], told: "Told") -> Access:
    """Access with the users of a file, None for nobody, and what anybody may send as, () for everything.

    told: of every login. Raises UsersFileError, a ValueError, where the file can't be used.
    """
    everybody = Senders.parse(allowed_senders)
    if users_file is None:
        return Access(sender_refusal=SenderRules(everybody).refusal if allowed_senders else None)
    from smtp2cf.access.logins import Logins
    from smtp2cf.access.users import UsersFile

    users = UsersFile(users_file)
    logins = Logins(users, told)
    return Access(
        logins.authenticate, SenderRules(everybody, users.senders_of).refusal, logins.close, users.watch
    )
