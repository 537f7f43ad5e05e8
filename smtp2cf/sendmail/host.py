"""What this host calls itself, and the user who called sendmail: defaults for addresses and names.

Reads /etc/mailname, /etc/hosts and the user database. It never asks the DNS, which might keep a caller
waiting.
"""

from __future__ import annotations

import os

from .addresses import is_domain, is_local
from .exit_codes import CONFIG, Failure
from .output import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def domain_of_host() -> str:
    """/etc/mailname (Debian policy), else the domain in this host's name, else its name."""
    try:
        with open("/etc/mailname", encoding="ascii") as file:
            name = file.readline().strip()
        if name:
            return good_domain(name, "/etc/mailname: ")
    except (OSError, ValueError):
        name = ""  # most hosts have no such file
    name = os.uname().nodename
    if "." not in name:
        name = next((alias for alias in names_in_hosts(name) if "." in alias and is_domain(alias)), name)
    domain = name.partition(".")[2]
    # A host named example.com sends as example.com, not as com.
    return good_domain(domain if "." in domain else name or "localhost", "this host's name: ")


def good_domain(domain: str, where: str) -> str:
    """The domain itself; raises Failure if it is not one. where: what to blame in the message."""
    if not is_domain(domain):
        raise Failure(CONFIG, f"{where}{domain}: not a domain; set SMTP2CF_SENDMAIL_DOMAIN to yours")
    return domain


def name_of_host() -> str:
    """What this host calls itself in SMTP."""
    name = os.uname().nodename
    return name if is_domain(name) else "localhost"


def names_in_hosts(name: str) -> list[str]:
    """The aliases of this host in /etc/hosts."""
    try:
        with open("/etc/hosts", encoding="utf-8", errors="replace") as file:
            lines = [line.split("#")[0].split()[1:] for line in file]
    except OSError:
        return []
    return [alias for names in lines if name in names for alias in names if alias != "localhost.localdomain"]


def user_name() -> str:
    """The user's name as a local part, quoted if need be; `uid1000` if there is none."""
    entry = password_entry()
    name = str(entry.pw_name) if entry else ""
    # A directory service may name users `EXAMPLE\\anna`, `anna@example.com`, `anna smith`.
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return next((local for local in (name, quoted) if name and is_local(local)), f"uid{os.getuid()}")


def full_name() -> str:
    """The user's full name from the user database, where & stands for the login name (passwd(5))."""
    entry = password_entry()
    return one_line(entry.pw_gecos.split(",")[0].replace("&", entry.pw_name.capitalize())) if entry else ""


def password_entry() -> Any:
    import pwd

    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None  # a container that runs as a uid without a name
