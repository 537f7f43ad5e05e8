"""The API's calls about suppressions, on the sandbox's suppression list.

Paths, fields, paging and answers are those of the SDK's `email_sending.suppressions`. Its pager goes
on with `result_info.cursor`, its documentation and Cloudflare's name `result_info.next_cursor`:
answers carry both.

Knows nothing of send_raw.
"""

import base64
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from smtp2cf.sandbox import api
from smtp2cf.sandbox.api import MIB, ApiError, JsonObject, malformed
from smtp2cf.sandbox.limits import Limiter, RateLimit
from smtp2cf.sandbox.send_raw import is_address
from smtp2cf.sandbox.suppressions import REASONS, ListFullError, Suppression, Suppressions

BODY_LIMIT = 4 * MIB
BULK_LIMIT = RateLimit(calls=10, window=60.0, block=0.0)
BULK_ITEMS = 1000
NOTE_LIMIT = 1000
PAGE_DEFAULT = 50
PAGE_LIMIT = 1000

_CREATE_KEYS = frozenset({"email", "expires_at", "note", "scope"})
_EDIT_KEYS = frozenset({"expires_at", "note", "scope"})
_SCOPE_TYPES = frozenset({"account", "sending_domain"})


class SuppressionCalls:
    """One method for each call; all raise ApiError."""

    def __init__(self, suppressions: Suppressions) -> None:
        self._suppressions = suppressions
        self._bulk = Limiter(BULK_LIMIT)

    async def list(self, request: web.Request) -> web.Response:
        """GET …/suppressions: one page, domains' entries first, newest first."""
        listing = _Listing.of(request)
        found = (entry for entry in self._suppressions if listing.wants(entry))
        page = list(islice(found, listing.per_page))
        cursor = listing.cursor_after(page[-1]) if next(found, None) else ""
        return api.success(
            [entry.entry() for entry in page],
            {"count": len(page), "per_page": listing.per_page, "cursor": cursor, "next_cursor": cursor},
        )

    async def get(self, request: web.Request) -> web.Response:
        """GET …/suppressions/{id}."""
        return api.success(self._entry(request).entry())

    async def create(self, request: web.Request) -> web.Response:
        """POST …/suppressions; an address that is suppressed already keeps its entry."""
        wanted = _Wanted.of(await _read(request, _CREATE_KEYS))
        try:
            return api.success(self._suppressions.add(**wanted._asdict()).identity())
        except ListFullError as error:
            raise ApiError(api.SUPPRESSIONS_FULL, str(error)) from error

    async def edit(self, request: web.Request) -> web.Response:
        """PATCH …/suppressions/{id}: expiry and note."""
        entry = self._changeable(request)
        changes = await _read(request, _EDIT_KEYS)
        if "scope" in changes:
            raise ApiError(api.SCOPE_IMMUTABLE, "delete the suppression and make another", pointer="/scope")
        expires_at = _expiry(changes["expires_at"]) if "expires_at" in changes else entry.expires_at
        note = _note(changes["note"]) if "note" in changes else entry.note
        entry.expires_at, entry.note = expires_at, note
        return api.success(entry.entry())

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE …/suppressions/{id}."""
        entry = self._changeable(request)
        self._suppressions.remove(entry)
        return api.success(entry.identity())

    async def bulk(self, request: web.Request) -> web.Response:
        """POST …/suppressions/bulk: up to 1,000 items, each with its own fate, ten calls a minute."""
        if wait := self._bulk.admit():
            raise ApiError(api.THROTTLED, "bulk: 10 calls a minute", retry_after=wait)
        items = (await _read(request, frozenset({"items"}))).get("items")
        if not isinstance(items, list):
            raise malformed("/items", "an array is wanted")
        if not 1 <= len(items) <= BULK_ITEMS:
            raise malformed("/items", f"must have 1 to {BULK_ITEMS} items, not {len(items)}")
        return api.success(self._import(items))

    def _import(self, items: Iterable[Any]) -> JsonObject:
        results: list[JsonObject] = []
        counts = dict.fromkeys(("processed", "invalid", "error", "skipped"), 0)
        seen: set[tuple[str, str]] = set()
        total = 0
        for index, item in enumerate(items):
            total += 1
            try:
                wanted = _Wanted.of(item)
            except ApiError as error:
                result: JsonObject = {"status": "invalid", "error": error.detail}
            else:
                key = (wanted.email.lower(), wanted.domain)
                if key in seen:
                    continue
                seen.add(key)
                result = self._import_one(wanted)
            email = item.get("email") if isinstance(item, dict) else None
            results.append({"index": index, "email": email if isinstance(email, str) else None, **result})
            counts[result["status"]] += 1
        return {
            "total": total,
            "deduplicated": total - len(results),
            "processed": counts["processed"],
            "invalid": counts["invalid"],
            "errors": counts["error"],
            "skipped": counts["skipped"],
            "items": results,
        }

    def _import_one(self, wanted: "_Wanted") -> JsonObject:
        try:
            entry = self._suppressions.add(**wanted._asdict())
        except ListFullError as error:
            return {"status": "error", "error": str(error)}
        if entry.read_only:
            return {"status": "skipped", "error": "the suppression is read-only", "scope": entry.scope}
        return {"status": "processed", **entry.identity()}

    def _entry(self, request: web.Request) -> Suppression:
        entry = self._suppressions.get(request.match_info["suppression_id"])
        if entry is None:
            raise ApiError(api.NOT_FOUND)
        return entry

    def _changeable(self, request: web.Request) -> Suppression:
        entry = self._entry(request)
        if entry.read_only:
            raise ApiError(api.READ_ONLY)
        return entry


class _Wanted(NamedTuple):
    """A suppression somebody asks for; its fields are those of Suppressions.add."""

    email: str
    domain: str
    expires_at: datetime | None
    note: str

    @classmethod
    def of(cls, item: Any) -> "_Wanted":
        if not isinstance(item, dict):
            raise malformed("", "a JSON object is wanted")
        email = item.get("email")
        if not isinstance(email, str) or not is_address(email):
            raise malformed("/email", "not an address")
        domain = _domain(item["scope"]) if "scope" in item else ""
        return cls(email, domain, _expiry(item.get("expires_at")), _note(item.get("note", "")))


class _Listing(NamedTuple):
    """Which entries a listing wants. A cursor carries all of it."""

    per_page: int
    email: str = ""
    search: str = ""
    reason: str = ""
    scope_type: str = ""
    scope_value: str = ""
    after: tuple[bool, int] | None = None

    @classmethod
    def of(cls, request: web.Request) -> "_Listing":
        query = request.query
        if cursor := query.get("cursor"):
            return cls._of_cursor(cursor)
        listing = cls(
            per_page=_page_size(query.get("per_page", str(PAGE_DEFAULT))),
            email=query.get("email", "").lower(),
            search=query.get("search", "").lower(),
            reason=query.get("reason", ""),
            scope_type=query.get("scope_type", ""),
            scope_value=query.get("scope_value", "").lower(),
        )
        if listing.reason and listing.reason not in REASONS:
            raise malformed("/reason", f"must be one of {', '.join(sorted(REASONS))}")
        if listing.scope_type and listing.scope_type not in _SCOPE_TYPES:
            raise malformed("/scope_type", f"must be one of {', '.join(sorted(_SCOPE_TYPES))}")
        if listing.scope_value and listing.scope_type != "sending_domain":
            raise malformed("/scope_value", "needs scope_type=sending_domain")
        return listing

    @classmethod
    def _of_cursor(cls, cursor: str) -> "_Listing":
        not_ours = malformed("/cursor", "not a cursor of this list")
        try:
            listing = orjson.loads(base64.urlsafe_b64decode(cursor))
        except ValueError as error:  # of base64, of JSON
            raise not_ours from error
        match listing:
            case [int(size), str(), str(), str(), str(), str(), [bool(), int()]] if 1 <= size <= PAGE_LIMIT:
                return cls._make([*listing[:-1], tuple(listing[-1])])
        raise not_ours

    def cursor_after(self, entry: Suppression) -> str:
        return base64.urlsafe_b64encode(orjson.dumps([*self._replace(after=entry.place)])).decode()

    def wants(self, entry: Suppression) -> bool:
        return (
            (self.after is None or entry.place > self.after)
            and (not self.email or entry.email == self.email)
            and (not self.search or _matches(entry.email, self.search))
            and (not self.reason or entry.reason == self.reason)
            and (not self.scope_type or entry.scope["type"] == self.scope_type)
            and (not self.scope_value or entry.domain == self.scope_value)
        )


def _matches(email: str, search: str) -> bool:
    """`user@` is that user at every domain, a complete address itself, all else a beginning."""
    return email == search if "@" in search and not search.endswith("@") else email.startswith(search)


async def _read(request: web.Request, keys: frozenset[str]) -> JsonObject:
    return api.parse_object(request, await api.read_body(request, BODY_LIMIT), keys)


def _page_size(text: str) -> int:
    if not (re.fullmatch("[0-9]{1,9}", text) and 1 <= int(text) <= PAGE_LIMIT):
        raise malformed("/per_page", f"must be from 1 to {PAGE_LIMIT}")
    return int(text)


def _domain(scope: Any) -> str:
    match scope:
        case {"type": "account", **others} if not others:
            return ""
        case {"type": "sending_domain", "value": str(value), **others} if not others:
            domain = value.lower().rstrip(".")
            if domain.isascii() and is_address(f"postmaster@{domain}"):
                return domain
            raise malformed("/scope/value", "not a domain in its ASCII form")
    raise malformed("/scope", 'neither {"type": "account"} nor {"type": "sending_domain", "value": …}')


def _expiry(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise malformed("/expires_at", "not a moment in ISO 8601") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= datetime.now(UTC):
        raise malformed("/expires_at", "in the past")
    return moment


def _note(value: Any) -> str:
    if not isinstance(value, str) or len(value) > NOTE_LIMIT:
        raise malformed("/note", f"must be a string of at most {NOTE_LIMIT} characters")
    return value
