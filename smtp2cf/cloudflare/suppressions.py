"""Suppressions: Cloudflare's list of addresses that get no mail: looked up, listed, added to, removed from.

An entry is one address for the whole account or for one sender's domain. Cloudflare makes most of them
itself, after bounces and complaints; only it can remove a read-only one. Changes take effect a little later.

Knows no mail and no settings.
"""

import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from smtp2cf.cloudflare.api import Api, ApiAnswer
from smtp2cf.cloudflare.errors import TokenRefusedError
from smtp2cf.envelope import address_key, domain_of
from smtp2cf.reply import Reply, Scope, SendError, one_line

PAGE = 1000
"""Entries that one call lists; the most that Cloudflare allows."""
PAGES_LIMIT = 1000
"""Pages of one listing: an empty one may still name the next, and a wrong cursor might never end."""
NOTE_LIMIT = 1000
"""Characters of a note."""
TEXT_LIMIT = 320
"""Characters of any other text of an entry."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
"""It becomes part of a path."""
_WORDS = re.compile(r"\[HTTP [^\]]*\]?$")
"""Cloudflare's own words, at the end of what an error says."""


class Suppression(NamedTuple):
    """One entry.

    reason: a word of Cloudflare's, see `entries`. domain: the sender's domain that it is for, "" for the
    whole account. created: when, as Cloudflare writes it. expires_at: in UTC, None for never. read_only: only
    Cloudflare can remove it.
    """

    id: str
    email: str
    reason: str
    domain: str
    created: str
    expires_at: datetime | None
    read_only: bool
    note: str

    @property
    def created_at(self) -> datetime | None:
        """In UTC; None if Cloudflare doesn't say, or says it in a way of its own."""
        return _moment(self.created)

    @property
    def expired(self) -> bool:
        """It has no effect any more."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    def as_json(self) -> dict[str, object]:
        """The entry as Cloudflare writes it."""
        scope = {"type": "sending_domain", "value": self.domain} if self.domain else {"type": "account"}
        return {
            "id": self.id,
            "email": self.email,
            "reason": self.reason,
            "scope": scope,
            "created_at": self.created or None,
            "expires_at": _written(self.expires_at) if self.expires_at else None,
            "read_only": self.read_only,
            "note": self.note or None,
        }


class ReadOnlyError(Exception):
    """Only Cloudflare itself can change this entry."""


class Suppressions:
    """The list of one account. Every method raises SendError."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._path = f"{api.account}/email/sending/suppressions"

    async def entries(
        self, *, search: str = "", reason: str = "", domain: str | None = None
    ) -> AsyncIterator[Suppression]:
        """All entries, those for one sender's domain first.

        search: the beginning of an address, or `user@` for that user everywhere. reason: manual, complaint,
        hard_bounce, soft_bounce or policy. domain: only those for this sender's domain; "" for only those for
        the whole account.
        """
        filters: dict[str, str | int] = {"per_page": PAGE}
        if search:
            filters["search"] = search
        if reason:
            filters["reason"] = reason
        if domain is not None:
            filters["scope_type"] = "sending_domain" if domain else "account"
        if domain:
            filters["scope_value"] = domain
        async for entry in self._pages(filters):
            yield entry

    async def find(self, email: str, domain: str | None = None) -> list[Suppression]:
        """The entries of one address, in whatever letter case; domain: see `entries`.

        Nobody has said which case Cloudflare's list keeps, nor whether a search minds it.
        """
        wanted = address_key(email).casefold()
        for spelling in dict.fromkeys((email, email.lower())):
            found = [
                entry
                async for entry in self._pages({"email": spelling, "per_page": PAGE})
                if address_key(entry.email).casefold() == wanted
            ]
            if found:
                return [entry for entry in found if domain in (None, entry.domain)]
        return []

    async def add(self, email: str, *, domain: str, expires_at: datetime | None, note: str) -> None:
        """Suppress an address; where it is suppressed already, that entry stays as it is."""
        wanted: dict[str, object] = {"email": email}
        if domain:
            wanted["scope"] = {"type": "sending_domain", "value": domain}
        if expires_at is not None:
            wanted["expires_at"] = _written(expires_at)
        if note:
            wanted["note"] = note
        _require(await self._api.ask("POST", self._path, json=wanted))

    async def remove(self, entry: Suppression) -> None:
        """Take an entry off the list; one that has gone meanwhile is no error.

        Raises ReadOnlyError if only Cloudflare itself can remove it.
        """
        if entry.read_only:
            raise ReadOnlyError
        answer = await self._api.ask("DELETE", f"{self._path}/{entry.id}")
        if answer.status == 403 and not isinstance(answer.error, TokenRefusedError):
            raise ReadOnlyError
        if answer.status != 404:
            _require(answer)

    async def _pages(self, filters: Mapping[str, str | int]) -> AsyncIterator[Suppression]:
        known, cursors = set(), {""}
        params = dict(filters)
        for _ in range(PAGES_LIMIT):
            answer = await self._api.ask("GET", self._path, params=params)
            _require(answer)
            for item in answer.result if isinstance(answer.result, list) else ():
                entry = _entry(item)
                if entry is not None and entry.id not in known:
                    known.add(entry.id)
                    yield entry
            cursor = _cursor_in(answer.info)
            if cursor in cursors:
                return
            cursors.add(cursor)
            params["cursor"] = cursor


def _require(answer: ApiAnswer) -> None:
    """Raise the error of an answer, in words that are not about mail."""
    error = answer.error
    if error is None:
        return
    if error.reply.permanent:
        words = _WORDS.search(error.reply.text)
        text = f"Cloudflare refuses that for its suppression list{f': {words[0]}' if words else ''}"
        raise SendError(Reply(554, "5.5.0", text), Scope.RECIPIENT)
    raise error


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _cursor_in(info: object) -> str:
    """The next page's, by either of its names; "" for none."""
    if isinstance(info, dict):
        for name in ("next_cursor", "cursor"):
            if isinstance(info.get(name), str) and info[name]:
                return str(info[name])
    return ""


def _entry(item: Any) -> Suppression | None:
    if not isinstance(item, dict) or not _ID.fullmatch(_text(item.get("id"))):
        return None
    scope = item.get("scope")
    scope = scope if isinstance(scope, dict) else {}
    scoped = scope.get("type") == "sending_domain"
    return Suppression(
        id=item["id"],
        email=_text(item.get("email")),
        reason=_text(item.get("reason")),
        domain=domain_of(f"@{_text(scope.get('value'))}") if scoped else "",
        created=_text(item.get("created_at")),
        expires_at=_moment(item.get("expires_at")),
        read_only=item.get("read_only") is True,
        note=_text(item.get("note"), NOTE_LIMIT),
    )


def _text(value: object, limit: int = TEXT_LIMIT) -> str:
    return one_line(value, limit) if isinstance(value, str) else ""


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is None:
            return None
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the first and the last day there is, in some time zones
        return None
