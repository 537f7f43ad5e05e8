"""The URL of a spool: which file it names, and how it is shown. Opens nothing."""

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

SQLITE_FILE = "spool.sqlite3"

_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:,@]*)(?::\d{1,5})?"
_HOSTS = re.compile(rf"(?:.*@)?{_HOST}(?:,{_HOST})*")
_PLACE = ("host", "port", "dbname", "database")
"""Parameters that say where a database is; others may hold a secret."""


def is_sqlite(url: str) -> bool:
    """Whether it names an SQLite file, as "" does too."""
    return not url or url.partition("://")[0] == "sqlite"


def sqlite_path(url: str, state_dir: Path) -> Path:
    """The file it names; sqlite:////path, as SQLAlchemy writes it, means the same as sqlite:///path."""
    rest = url.partition("://")[2]
    return Path("/" + rest.lstrip("/")) if rest else state_dir / SQLITE_FILE


def place(url: str, state_dir: Path) -> str:
    """Where the spool is, for people: the file's path, or the URL without its password."""
    return str(sqlite_path(url, state_dir)) if is_sqlite(url) else without_password(url)


def can_be_read(url: str) -> bool:
    """Whether the URL of a database says what it seems to say: a password with /, # or ? in it ends a part
    of the URL, if it isn't percent-encoded, and what is left of it is taken for a port or a path."""
    try:
        parts = urlsplit(url)
        parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        return False
    return bool(_HOSTS.fullmatch(parts.netloc)) and "@" not in parts.path and not parts.fragment


def without_password(url: str) -> str:
    """The URL as it may be shown: who connects, and where to. Other parameters may hold a password, too."""
    scheme = url.partition("://")[0]
    if not can_be_read(url):
        return f"{scheme}://***"
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    place = urlencode([item for item in parse_qsl(parts.query) if item[0] in _PLACE], safe="/")
    return f"{scheme}://{user}{colon and ':***'}{at}{hosts}{parts.path}{place and f'?{place}'}"
