"""What --help shows, and what wrong arguments are told: words to type, one line, the nearest that is."""

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from smtp2cf.cli.app import app
from tests.support.command import smtp2cf

WORDS = {
    *("ADDRESS", "AGE", "CALLS/SECONDS", "DIRECTORY", "DOMAINS", "FILE", "HOST:PORT", "NAME", "NUMBER"),
    *("DOMAIN", "MESSAGE-ID", "QUEUE-ID", "QUOTA", "REASON", "SENDER", "STATUS", "TEXT"),
}


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that name it."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, *path, name)


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL, ids=[" ".join(path) or "smtp2cf" for path in ALL])
def test_help_shows_words_to_type_and_no_types(path: tuple[str, ...]) -> None:
    done = smtp2cf(*path, "--help")
    assert done.status == 0
    assert f"Usage: smtp2cf {' '.join(path)}".rstrip() in done.out
    assert not re.search(r"<(?!>)", done.out), "<> is the null sender, all else a type"
    assert "bool" not in done.out.lower()
    shown = re.findall(r"^│ .*?--[a-z-]+(?: +-h)? +([A-Z][A-Z:/-]+) ", done.out, re.MULTILINE)
    assert set(shown) <= WORDS
    switches = [param for param in ALL[path].params if getattr(param, "is_flag", False)]
    options = [param for param in ALL[path].params if param.param_type_name == "option"]
    assert len(shown) == len(options) - len(switches)


def test_every_option_says_what_it_is() -> None:
    for path, command in ALL.items():
        for param in command.params:
            assert getattr(param, "help", None), (path, param.name)


WRONG = [
    (("srve",), "unknown command srve: did you mean serve?", ""),
    (("queu", "list"), "unknown command queu: did you mean queue?", ""),
    (("queue", "lst"), "unknown command lst: did you mean list?", "queue"),
    (("user", "ad", "x"), "unknown command ad: did you mean add?", "user"),
    (("xyzzy",), "unknown command xyzzy", ""),
    (("--verison",), "unknown option --verison: did you mean --version?", ""),
    (("serve", "--sandbx"), "unknown option --sandbx: did you mean --sandbox?", "serve"),
    (("queue", "list", "--stauts", "x"), "unknown option --stauts: did you mean --status?", "queue list"),
    (("check", "-x"), "unknown option -x", "check"),
    (("check", "now"), "too many arguments: now", "check"),
    (("queue", "show"), "missing argument 'QUEUE-ID'", "queue show"),
    (("send", "--to", "a@b"), "missing option '--from'", "send"),
    (("send", "--to"), "option '--to' requires an argument", ""),
    (
        ("queue", "list", "--status", "x"),
        "invalid value for '--status': 'x' is not one of 'queued', 'deferred', 'active', 'held'",
        "queue list",
    ),
    (
        ("queue", "list", "--older-than", "soon"),
        "invalid value for --older-than: 'soon': use 90s, 30m, 2h or 3d",
        "queue list",
    ),
]


@pytest.mark.parametrize(("arguments", "said", "path"), WRONG, ids=[" ".join(row[0]) for row in WRONG])
def test_wrong_arguments_are_one_line_with_the_nearest(
    arguments: tuple[str, ...], said: str, path: str
) -> None:
    done = smtp2cf(*arguments)
    assert done.status == os.EX_USAGE
    assert done.out == ""
    assert done.err == f"smtp2cf: {said} (`{f'smtp2cf {path}'.strip()} --help` shows what is possible)\n"


@pytest.mark.parametrize("path", [(), ("queue",), ("user",)])
def test_without_a_command_it_lists_them(path: tuple[str, ...]) -> None:
    done = smtp2cf(*path)
    assert done.status == os.EX_USAGE
    assert "COMMAND" in done.out
