"""Comments in structured header fields: where one ends (RFC 5322 §3.2.2). They may hold others."""

import re

_PIECE = re.compile(r"[()]|\\.|[^()\\]++", re.DOTALL)


def comment_end(text: str, at: int) -> int | None:
    """Where the comment ends that begins at this parenthesis; None if it is not closed."""
    depth = 0
    while (found := _PIECE.match(text, at)) is not None:
        at = found.end()
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            return at
    return None
