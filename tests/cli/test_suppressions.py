"""smtp2cf suppressions …, against the sandbox. Odd answers: tests/cloudflare/test_suppressions.py."""

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smtp2cf.sandbox import Sandbox
from tests.cli.actions import actions, make_journal
from tests.support.command import Done, smtp2cf
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN

LATER = datetime.now(UTC) + timedelta(days=7)


class Desk:
    """A sandbox whose list holds some addresses, and the commands for it."""

    def __init__(self, sandbox: Sandbox, url: str, directory: Path) -> None:
        self.sandbox = sandbox
        self.directory = directory
        self._url = url
        entries = sandbox.suppressions
        entries.add("anna@example.net", note="asked for it")
        entries.add("anna@example.net", domain="shop.example", reason="complaint", read_only=True)
        entries.add("ben@example.net", domain="shop.example", reason="hard_bounce", expires_at=LATER)

    def __call__(self, *arguments: str) -> Done:
        settings = {"ACCOUNT_ID": "a1", "API_TOKEN": TOKEN, "API_BASE_URL": self._url}
        settings["STATE_DIR"] = str(self.directory)
        return smtp2cf("suppressions", *arguments, **settings)

    def listed(self, *arguments: str) -> set[tuple[str, str]]:
        """Address, and the sender's domain that it is for."""
        done = self("list", "--json", *arguments)
        assert done.status == 0, done.err
        entries = map(json.loads, done.out.splitlines())
        return {(entry["email"], entry["scope"].get("value", "")) for entry in entries}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_sandbox(token=TOKEN) as (sandbox, url):
        yield Desk(sandbox, url, tmp_path)


def test_the_table_says_for_whose_mail_why_and_until_when(desk: Desk) -> None:
    done = desk("list")
    assert done.status == 0, done.err
    head, *rows = done.out.splitlines()
    assert head.split() == ["address", "for", "reason", "until"]
    assert [row.split() for row in rows] == [
        [
            "ben@example.net",
            "mail",
            "from",
            "shop.example",
            "hard_bounce",
            *f"{LATER:%Y-%m-%d %H:%M} UTC".split(),
        ],
        ["anna@example.net", "mail", "from", "shop.example", "complaint", "for", "good", "read-only"],
        ["anna@example.net", "all", "mail", "manual", "for", "good"],
    ]


def test_the_list_can_be_narrowed_down(desk: Desk) -> None:
    anna, annas, ben = (
        ("anna@example.net", ""),
        ("anna@example.net", "shop.example"),
        ("ben@example.net", "shop.example"),
    )
    assert desk.listed() == {anna, annas, ben}
    assert desk.listed("ann") == {anna, annas}
    assert desk.listed("--account") == {anna}
    assert desk.listed("--domain", "Shop.Example.") == {annas, ben}
    assert desk.listed("--reason", "complaint") == {annas}
    assert desk.listed("--domain", "other.example") == set()
    assert desk("list", "zoe").out == "no matching address\n"


def test_one_address_in_full(desk: Desk) -> None:
    done = desk("show", "<Anna@EXAMPLE.net>", "--domain", "shop.example")
    assert done.status == 0, done.err
    lines = dict(line.split(":", 1) for line in done.out.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", lines.pop("since").strip())
    assert {name: value.strip() for name, value in lines.items()} == {
        "address": "anna@example.net",
        "for": "mail from shop.example",
        "reason": "complaint",
        "until": "for good",
        "read-only": "yes: only Cloudflare can remove it",
    }
    (entry,) = map(json.loads, desk("show", "anna@example.net", "--account", "--json").out.splitlines())
    assert (entry["note"], entry["read_only"], entry["expires_at"]) == ("asked for it", False, None)


def test_adding_and_removing(desk: Desk) -> None:
    make_journal(desk.directory)
    before = datetime.now(UTC)
    assert (
        desk("add", "zoe@bücher.example", "--for", "2d", "--note", "moved", "--domain", "shop.example").status
        == 0
    )
    (entry,) = (entry for entry in desk.sandbox.suppressions if entry.email.startswith("zoe"))
    assert (entry.email, entry.domain, entry.note) == ("zoe@xn--bcher-kva.example", "shop.example", "moved")
    assert entry.expires_at is not None
    assert timedelta(days=1.9) < entry.expires_at - before < timedelta(days=2.1)
    done = desk("remove", "zoe@BÜCHER.example")
    assert (done.status, done.out) == (
        0,
        "zoe@xn--bcher-kva.example is no longer suppressed for mail from shop.example\n",
    )
    assert desk("remove", "zoe@bücher.example").status == os.EX_NOINPUT
    what = {"to": ["zoe@xn--bcher-kva.example"], "domains": ["shop.example"]}
    assert actions(desk.directory) == [("operator.unsuppress", what), ("operator.suppress", what)]


def test_what_was_added_is_said_with_its_end(desk: Desk) -> None:
    done = desk("add", "zoe@example.net")
    assert done.out.startswith("zoe@example.net is suppressed for all mail, for good. ")
    done = desk("add", "zoe@example.net", "--domain", "shop.example", "--for", "2d")
    assert re.search(r" for mail from shop\.example, until \d{4}-\d\d-\d\d \d\d:\d\d UTC\. ", done.out)


@pytest.mark.parametrize("options", [(), ("--for", "2d"), ("--note", "other words")])
def test_what_is_on_the_list_already_is_left_as_it_is(desk: Desk, options: tuple[str, ...]) -> None:
    before = [entry.entry() for entry in desk.sandbox.suppressions]
    done = desk("add", "Ben@example.net", "--domain", "shop.example", *options)
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        "smtp2cf: Ben@example.net is already suppressed for mail from shop.example: hard_bounce, until"
        f" {LATER:%Y-%m-%d %H:%M} UTC\n"
    )
    assert [entry.entry() for entry in desk.sandbox.suppressions] == before


def test_several_entries_are_shown_apart(desk: Desk) -> None:
    first, second = desk("show", "anna@example.net").out.split("\n\n")
    assert first.startswith("address:   anna@example.net\nfor:       mail from shop.example\n")
    assert second.startswith("address:   anna@example.net\nfor:       all mail\n")


def test_what_is_read_only_stays_and_the_rest_goes(desk: Desk) -> None:
    done = desk("remove", "anna@example.net", "--json")
    assert done.status == os.EX_NOPERM
    assert [json.loads(line)["domain"] for line in done.out.splitlines()] == [None]
    assert done.err == (
        "smtp2cf: anna@example.net stays suppressed for mail from shop.example: that is read-only, and only"
        " Cloudflare can remove it\n"
    )
    assert desk.listed("anna") == {("anna@example.net", "shop.example")}


def test_what_is_wrong_is_said_on_one_line(desk: Desk) -> None:
    table = {
        ("show", "nobody@example.net"): (os.EX_NOINPUT, "nobody@example.net is not suppressed"),
        ("show", "ben@example.net", "--account"): (os.EX_NOINPUT, "not suppressed for all mail"),
        ("list", "--account", "--domain", "a.example"): (os.EX_USAGE, "one of --domain and --account"),
        ("add", "ben@example.net", "--for", "soon"): (os.EX_USAGE, "'soon': use 90s, 30m, 2h or 3d"),
        ("add", "ben@example.net", "--note", "x" * 1001): (os.EX_USAGE, "more than 1000 characters"),
        ("add", "ben"): (os.EX_USAGE, "'ben' is no address: use name@domain"),
        ("add", "zoë@example.net"): (os.EX_USAGE, "zoë@example.net: "),
        ("add", "ben@example.net", "--domain", "..."): (os.EX_USAGE, "name a domain"),
        ("list", "--reason", "boredom"): (os.EX_USAGE, "boredom"),
    }
    for arguments, (status, said) in table.items():
        done = desk(*arguments)
        assert (done.status, done.err.count("\n"), said in done.err) == (status, 1, True), (
            arguments,
            done.err,
        )


def test_a_token_that_may_not_and_an_api_that_is_away(desk: Desk) -> None:
    desk.sandbox.lacking = ("suppressions",)
    done = desk("list")
    assert (done.status, done.err.count("\n")) == (os.EX_NOPERM, 1)
    assert "permission" in done.err
    away = smtp2cf(
        "suppressions", "list", ACCOUNT_ID="a1", API_TOKEN=TOKEN, API_BASE_URL="http://127.0.0.1:9"
    )
    assert (away.status, away.err.count("\n")) == (os.EX_UNAVAILABLE, 1)
    assert smtp2cf("suppressions", "list").status == os.EX_CONFIG
