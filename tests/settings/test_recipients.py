"""Recipients: doubts about lists and maps, and values that would refuse all mail."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from smtp2cf.settings.fields import Settings, SettingsError
from smtp2cf.settings.recipients import contradictions, doubts, recipients
from tests.settings.conftest import Config
from tests.support.each import each

PAGE = Path(__file__).parents[2] / "docs" / "recipients.md"
DOUBTS: list[tuple[dict[str, Any], str]] = [
    ({"allowed_recipients": "example.com,*.example.com", "denied_recipients": "boss@example.com"}, ""),
    ({"allowed_recipients": "example.com", "denied_recipients": "example.com,x.example"}, "admits nobody"),
    (
        {"allowed_recipients": "a@x.example,*.b.example", "denied_recipients": "x.example,*.example"},
        "admits nobody",
    ),
    ({"allowed_recipients": "*.com"}, "contains *.com, which admits nearly every address"),
    ({"denied_recipients": "*.com"}, "contains *.com, which refuses nearly every address"),
    (
        {"allowed_recipients": "example.com", "recipients": {"root": ("ops@example.net",)}},
        '[recipients] "root": mail to <ops@example.net> is not allowed: SMTP2CF_ALLOWED_RECIPIENTS',
    ),
]


@each(("given", "said"), DOUBTS)
def test_a_list_that_admits_everybody_or_nobody_is_a_doubt(given: dict[str, Any], said: str) -> None:
    found = "\n".join(doubts(Settings(**given)))
    assert bool(found) == bool(said)
    assert said in found


CIRCLES: list[tuple[dict[str, tuple[str, ...]], list[str]]] = [
    ({"root": ("admin",), "admin": ("ops@x.example", "root")}, []),
    ({"*": ("ops@x.example",), "ops@x.example": ("ops@x.example", "b@x.example")}, []),
    ({"root": ("admin",), "admin": ("root",)}, ["root", "admin"]),
    ({"a@x.example": ("b@y.example",), "y.example": ("a@x.example",)}, ["a@x.example", "y.example"]),
]


@each(("table", "wrong"), CIRCLES)
def test_an_entry_that_leads_only_back_to_itself_is_refused(
    table: dict[str, tuple[str, ...]], wrong: list[str]
) -> None:
    found = [*contradictions(Settings(recipients=table))]
    assert [line.split('"')[1] for line in found] == wrong


def test_a_file_that_is_missing_is_named() -> None:
    (line,) = contradictions(Settings(recipients_file=Path("/nowhere/aliases")))
    assert line == "SMTP2CF_RECIPIENTS_FILE: /nowhere/aliases: No such file or directory"


@pytest.mark.parametrize(
    "given",
    [{"denied_recipients": "any"}, {"allowed_recipients": "*"}, {"redirect_all_to": "staging"}],
    ids=str,
)
def test_what_would_refuse_all_mail_or_is_no_address_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**given)


def test_what_stands_on_the_page_works(config: Config) -> None:
    """docs/recipients.md: cron's mail from many hosts, and staging."""
    cron, staging = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found = recipients(config.load(cron))
    for name in ("root", "root@web07", "ROOT@db.internal"):
        assert found.expand(name) == ("ops@example.com", "night@example.com")
    assert config.load(staging).redirect_all_to == ("staging@example.com",)


def test_a_target_may_be_a_name_of_the_table_and_no_other(config: Config) -> None:
    with pytest.raises(SettingsError, match="or a name of this table"):
        config.load('[recipients]\nroot = "wwww"\nwww = "a@example.com"\n')
