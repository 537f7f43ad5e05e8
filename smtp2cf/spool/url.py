"""The URL of a spool: which file it names, and how it is shown. Opens nothing."""

import re
from pathlib import Path

SQLITE_FILE = "spool.sqlite3"


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


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"(//[^/@:]*):[^/@]*@", r"\1:***@", url)
