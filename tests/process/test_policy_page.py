"""The recipes of docs/policy.md, each run by a bridge exactly as it stands on the page.

Only what a test's host can't have is another: ports, networks (10.0. is 127.0. here) and the file of a token.
"""

import re
import smtplib
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.bridge import Bridge, running_bridge
from tests.support.waiting import PATIENCE

PAGE = Path(__file__).parents[2] / "docs" / "policy.md"
RECIPE = re.compile(r"^## (.+?)\n.*?^```toml\n(.*?)^```\n.*?^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINE = re.compile(
    r"(?P<sender>\S+) → (?P<recipient>\S+)(?: at (?P<at>\S+))? +"
    r"(?:refused (?P<code>\d{3})|sent from (?P<sent_from>\S+) to (?P<to>.+?)(?: through (?P<account>\S+))?)"
)


class Recipe(NamedTuple):
    title: str
    toml: str
    lines: list[str]


def recipes() -> list[Recipe]:
    found = RECIPE.findall(PAGE.read_text(encoding="utf-8"))
    return [Recipe(title, toml, lines.splitlines()) for title, toml, lines in found]


def test_the_page_has_ten_recipes_each_with_mail_that_tries_it() -> None:
    assert len(recipes()) == PAGE.read_text(encoding="utf-8").count("\n## ") == 10
    assert [line for recipe in recipes() for line in recipe.lines if LINE.fullmatch(line) is None] == []


def at(bridge: Bridge, listener: str | None) -> smtplib.SMTP:
    """A client at a listener, from the one network that is allowed there."""
    if listener is None:
        return bridge.client()
    listed = bridge.wait_for_log("serve.ready")["listeners"]
    (place,) = listed[listener]
    source = ("127.0.8.9" if listener == "antique" else "127.0.7.4", 0)
    return smtplib.SMTP("127.0.0.1", int(place.rpartition(":")[2]), timeout=PATIENCE, source_address=source)


@pytest.mark.parametrize("recipe", recipes(), ids=[recipe.title for recipe in recipes()])
def test_a_recipe_does_what_the_page_says(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("token")
    toml = re.sub(r"0\.0\.0\.0:\d+", "127.0.0.1:0", recipe.toml).replace("10.0.", "127.0.")
    config = tmp_path / "smtp2cf.toml"
    config.write_text(re.sub(r"/etc/smtp2cf/\w+\.token", str(tmp_path / "token"), toml))
    account = "0123456789abcdef0123456789abcdef"
    with running_bridge(tmp_path, CONFIG=str(config), ACCOUNT_ID=account, HOSTNAME="relay") as bridge:
        for line in recipe.lines:
            bridge.clear()
            told = LINE.fullmatch(line)
            assert told is not None
            code = send(bridge, told)
            assert code == int(told["code"] or 250), line
            if told["code"]:
                assert bridge.messages() == [], line
            else:
                (sent,) = bridge.messages()
                assert (sent["from"], sent["recipients"]) == (told["sent_from"], told["to"].split(", ")), line
                assert has_its_fields(recipe, sent["mime_message"])
            if told["account"]:
                bridge.wait_for_log("mail.attempt", account=told["account"], **{"from": told["sent_from"]})


def send(bridge: Bridge, told: re.Match[str]) -> int:
    """One message; the last reply's code."""
    with at(bridge, told["at"]) as client:
        client.ehlo("client.example")
        for command in (f"MAIL FROM:<{told['sender']}>", f"RCPT TO:<{told['recipient']}>", "DATA"):
            code, _ = client.docmd(command)
            if code >= 400:
                return code
        client.send(b"From: " + told["sender"].encode() + b"\r\nSubject: x\r\n\r\nhello\r\n.\r\n")
        return client.getreply()[0]


def has_its_fields(recipe: Recipe, message: bytes) -> bool:
    """A message that was asked to have them has the fields that it lacked."""
    return "add_missing_headers" not in recipe.toml or {b"Date:", b"Message-ID:"} <= set(message.split())
