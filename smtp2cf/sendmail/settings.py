"""The settings: SMTP2CF_* in the environment, and sendmail.conf."""

from __future__ import annotations

from .addresses import Mailbox
from .exit_codes import CONFIG, Failure, why
from .host import domain_of_host, good_domain

CONFIG_FILE = "/etc/smtp2cf/sendmail.conf"

DEFAULTS = {
    "SMTP2CF_SENDMAIL_HOST": "127.0.0.1:2525",
    "SMTP2CF_SENDMAIL_ALIASES": "/etc/smtp2cf/aliases",
    "SMTP2CF_SENDMAIL_DROP_DIR": "/var/spool/smtp2cf/drop",
    "SMTP2CF_ADMIN_LISTEN": "127.0.0.1:8025",
}

CONTROL = frozenset(map(chr, (*range(32), 127)))


class Settings:
    """The settings. The environment takes precedence over the file."""

    def __init__(self, environ: dict[str, str]) -> None:
        path = environ.get("SMTP2CF_SENDMAIL_CONF", CONFIG_FILE)
        self._values = {**DEFAULTS, **read_settings_file(path)}
        self._values.update((key, value) for key, value in environ.items() if key.startswith("SMTP2CF_"))
        self._domain = ""
        self._domain_is_good = False

    def get(self, name: str) -> str:
        return self._values.get("SMTP2CF_SENDMAIL_" + name, "").strip()

    def yes(self, name: str) -> bool:
        """A setting that is on or off; raises Failure for any other value."""
        value = self.get(name).lower()
        if value in ("1", "yes", "true", "on"):
            return True
        if value in ("", "0", "no", "false", "off"):
            return False
        raise Failure(CONFIG, f"SMTP2CF_SENDMAIL_{name}={value}: use yes or no")

    @property
    def bridge(self) -> str:
        return self.get("HOST")

    @property
    def admin(self) -> str:
        """Where the bridge answers HTTP; "" if it doesn't."""
        first = self._values["SMTP2CF_ADMIN_LISTEN"].split(",")[0].strip()
        return "" if first == "none" else first

    @property
    def domain(self) -> str:
        """The domain for addresses that have none; raises Failure if it is not a domain."""
        if not self._domain_is_good:
            given = self.get("DOMAIN")
            self._domain = good_domain(given, "SMTP2CF_SENDMAIL_DOMAIN=") if given else domain_of_host()
            self._domain_is_good = True
        return self._domain

    def qualified(self, mailbox: Mailbox) -> str:
        """Its address, with our domain if it has none."""
        return str(mailbox.address) if mailbox.insert_at is None else f"{mailbox.address}@{self.domain}"

    @property
    def drop_directory(self) -> str:
        return self.get("DROP_DIR") or DEFAULTS["SMTP2CF_SENDMAIL_DROP_DIR"]

    def password(self) -> str:
        path = self.get("PASSWORD_FILE")
        if not path:
            return self._values.get("SMTP2CF_SENDMAIL_PASSWORD", "")
        try:
            with open(path, encoding="utf-8") as file:
                return file.read().rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise Failure(CONFIG, f"SMTP2CF_SENDMAIL_PASSWORD_FILE={path}: {why(error)}") from error


def read_settings_file(path: str) -> dict[str, str]:
    """KEY=VALUE lines; # starts a comment, quotes around a value are removed. {} if there is no file."""
    values = {}
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise Failure(CONFIG, f"{path}: {why(error)}") from error
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or CONTROL.intersection(line):
            raise Failure(CONFIG, f"{path}, line {number}: not KEY=VALUE, or contains a control character")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        values[key.strip()] = value
    if "SMTP2CF_SENDMAIL_PASSWORD" in values:
        instead = "set SMTP2CF_SENDMAIL_PASSWORD_FILE, not SMTP2CF_SENDMAIL_PASSWORD"
        raise Failure(CONFIG, f"{path}: everyone can read this file: {instead}")
    return values
