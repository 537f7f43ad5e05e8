"""Session limits: how many sessions one client address, and one user, may have at once. No I/O."""

from smtp2cf.reply import Reply


class SessionLimits:
    """Counts sessions in and out.

    client, user: how many one of them may have, 0 for any number. A client or a user that is "" (a unix
    socket, nobody who authenticated) has no limit.
    """

    def __init__(self, client: int = 0, user: int = 0) -> None:
        self.active = bool(client or user)
        self.client = client
        self._clients = _Side(client, "SMTP2CF_CLIENT_MAX_SESSIONS")
        self._users = _Side(user, "SMTP2CF_USER_MAX_SESSIONS")

    def enter(self, *, client: str = "", user: str = "") -> Reply | None:
        """A session of this client begins, or turns out to be this user's; the 421 if it is one too many.

        Without a refusal, `leave` has to be called with the same names when the session ends.
        """
        refusal = self._clients.full(client) or self._users.full(user)
        if refusal is None:
            self._clients.enter(client)
            self._users.enter(user)
        return refusal

    def leave(self, *, client: str = "", user: str = "") -> None:
        """A session that was let in has ended."""
        self._clients.leave(client)
        self._users.leave(user)


class _Side:
    """The sessions of all clients, or of all users."""

    def __init__(self, limit: int, setting: str) -> None:
        self._limit = limit
        self._setting = setting
        self._sessions: dict[str, int] = {}

    def full(self, key: str) -> Reply | None:
        """The refusal of one more session, if it would be one too many."""
        if not self._limit or not key or self._sessions.get(key, 0) < self._limit:
            return None
        text = f"{key} has {self._limit} sessions already ({self._setting}): try again when one has ended"
        return Reply(421, "4.7.1", text)

    def enter(self, key: str) -> None:
        if self._limit and key:
            self._sessions[key] = self._sessions.get(key, 0) + 1

    def leave(self, key: str) -> None:
        left = self._sessions.get(key, 0) - 1
        if left > 0:
            self._sessions[key] = left
        else:
            self._sessions.pop(key, None)
