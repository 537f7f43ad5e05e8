"""The aliases file, in msmtp's format."""

from __future__ import annotations

from .addresses import Mailbox, parse_addresses
from .exit_codes import CONFIG, Failure, why


class Aliases:
    """msmtp's aliases file: `name: address, address`, recursive, `default:` for the rest."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lists: dict[str, str] | None = None

    def _targets(self, name: str) -> list[Mailbox] | None:
        if self._lists is None:
            self._lists = self._read()
        text = self._lists.get(name.lower())
        if text is None:
            return None
        for target in text.split(","):
            if target.strip().startswith(("|", "/", '"|', '"/', ":include:")):
                raise Failure(CONFIG, f"{self._path}: {name}: {target.strip()}: only addresses are supported")
        targets = parse_addresses(text)
        if any(target.source.startswith(("|", "/", '"|', '"/')) for target in targets):
            raise Failure(CONFIG, f"{self._path}: {name}: only addresses are supported")
        return targets

    def _read(self) -> dict[str, str]:
        lists: dict[str, str] = {}
        name = ""
        try:
            with open(self._path, encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise Failure(CONFIG, f"{self._path}: {why(error)}") from error
        for number, full_line in enumerate(lines, 1):
            line = full_line.split("#")[0].rstrip()
            if not line:
                continue
            if line[0] in " \t" and name:
                lists[name] += " " + line.strip()
                continue
            key, colon, value = line.partition(":")
            name = key.strip().strip('"').lower()
            if not colon or not name:
                raise Failure(CONFIG, f"{self._path}, line {number}: expected `name: address, ...`")
            lists[name] = value.strip()
        return lists

    def expand(self, mailbox: Mailbox) -> list[Mailbox]:
        """The mailboxes that this one stands for, in order. A name that leads back to itself is kept."""
        expanded: list[Mailbox] = []
        done: set[str] = set()
        waiting: list[tuple[Mailbox, tuple[str, ...]]] = [(mailbox, ())]
        while waiting:
            one, path = waiting.pop()
            name = str(one.address).lower()
            if one.insert_at is None or name in path:
                expanded.append(one)
                continue
            targets = self._targets(name)
            if targets is None and "default" not in path:
                name, targets = "default", self._targets("default")
            if targets is None:
                expanded.append(one)
            elif name not in done:
                done.add(name)
                waiting += [(target, (*path, name)) for target in reversed(targets)]
        return expanded
