"""The statements of an SQLite spool that several jobs share, or that a filter makes.

Knows nothing of connections.
"""

import json

from smtp2cf.spool import codec
from smtp2cf.spool.protocol import Action, Filter

INSERT_MAIL = (
    "INSERT INTO mail (id, queue_id, status, due, next_attempt, expires, received_at, attempts, unanswered, "
    "is_dsn, size, owner, sender, recipients, envelope, outcomes) VALUES "
)
MAIL_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_MESSAGE = "INSERT INTO message (id, bytes) VALUES "
MESSAGE_ROW = "(?, ?)"

GIVEN_BACK = (
    "status = CASE WHEN hold_reason != '' THEN 'held' WHEN attempts > 0 THEN 'deferred' ELSE 'queued' END, "
    "due = CASE WHEN hold_reason = '' THEN iif(attempts > 0, min(next_attempt, expires), next_attempt) END, "
    "owner = ''"
)
"""How a claim changes that ends without an answer."""

ACTIONS = {
    Action.RETRY: (
        "status IN ('queued', 'deferred')",
        f"""UPDATE mail SET next_attempt = :first + :span * {codec.SHARE},
        due = iif(attempts > 0, min(:first + :span * {codec.SHARE}, expires),
            :first + :span * {codec.SHARE})""",  # noqa: S608 - a constant
    ),
    Action.HOLD: (
        "status != 'held' AND hold_reason = ''",
        """UPDATE mail SET hold_reason = :reason, status = iif(status = 'active', 'active', 'held'),
        due = iif(status = 'active', due, NULL)""",
    ),
    Action.RELEASE: (
        "hold_reason != ''",
        """UPDATE mail SET hold_reason = '', failures = 0,
        status = iif(status = 'active', 'active', iif(attempts > 0, 'deferred', 'queued')),
        next_attempt = iif(status = 'active', next_attempt, :now), due = iif(status = 'active', due, :now)""",
    ),
    Action.DELETE: ("1", "DELETE FROM mail"),
}
"""For each action: to which mail it can be done, and how."""


def conditions(which: Filter, now: float) -> tuple[str, dict[str, object]]:
    """A filter as an SQL condition and the values it names. now: by the spool's clock."""
    terms = ["1"]
    values: dict[str, object] = {}
    if which.queue_ids:
        terms.append("queue_id IN (SELECT value FROM json_each(:queue_ids))")
        values["queue_ids"] = json.dumps(which.queue_ids)
    if which.sender is not None:
        terms.append("sender REGEXP :sender")
        values["sender"] = codec.lookup_pattern(which.sender, atomic=True)
    if which.recipient is not None:
        terms.append("recipients REGEXP :recipient")
        values["recipient"] = codec.lookup_pattern(which.recipient, atomic=True)
    if which.older_than is not None:
        terms.append("received_at < :received_before")
        values["received_before"] = now - which.older_than
    if which.statuses:
        terms.append("status IN (SELECT value FROM json_each(:statuses))")
        values["statuses"] = json.dumps(which.statuses)
    return " AND ".join(terms), values
