"""What is seen of several accounts, as plain values."""

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from smtp2cf.cloudflare.health import State
from smtp2cf.reply import Reply
from smtp2cf.serve.accounts import AccountsInUse
from smtp2cf.settings.accounts import doubts
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.fields.tables import AccountTable

TABLES = tuple(
    AccountTable(name=name, account_id=name, api_token=SecretStr("t"), sender_domains=f"{name}.example")
    for name in ("shoes", "hats")
)


def settings(default: str = "d") -> Settings:
    return Settings(account_id=default, api_token=SecretStr("t"), api_rate=None, accounts=TABLES)


@pytest.fixture
async def accounts() -> AsyncIterator[AccountsInUse]:
    one = AccountsInUse(settings(), None, TABLES)
    yield one
    await one.aclose()


async def test_ready_to_send_as_long_as_one_can(accounts: AccountsInUse) -> None:
    assert (accounts.can_send(), accounts.in_words()) == ((True, ""), "up")
    for number, account in enumerate(accounts, 1):
        account.health.probed(account.health.now(), State.UNREACHABLE, Reply(451, "4.4.1", "away"))
        ready, text = accounts.can_send()
        assert (ready, text.count("away")) == (number < 3, number)
    assert "account hats: away" in text
    assert accounts.in_words().startswith("default unreachable for 0 seconds, shoes unreachable")
    assert accounts.summary()["hats: API"].endswith(": away")


async def test_whose_mail_each_sends_is_shown(accounts: AccountsInUse) -> None:
    shown = {name: value for name, value in accounts.summary().items() if name.endswith("sends for")}
    assert shown == {
        "default: sends for": "all others",
        "shoes: sends for": "shoes.example",
        "hats: sends for": "hats.example",
    }


@pytest.mark.parametrize(
    "tables",
    [
        TABLES[:1],
        (*TABLES, TABLES[0].model_copy(update={"name": "boots"})),
        (TABLES[0].model_copy(update={"account_id": "another", "sender_domains": ("x.example",)}), TABLES[1]),
    ],
    ids=["gone", "new", "another id"],
)
async def test_what_waits_for_a_restart_changes_no_list(
    accounts: AccountsInUse, tables: tuple[AccountTable, ...]
) -> None:
    with pytest.raises(ValueError, match="at the start"):
        accounts.use_tables(tables)
    for name in ("shoes", "hats"):
        outlet = accounts.choice.for_("", f"a@{name}.example")
        assert outlet is not None
        assert outlet.name == name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"postmaster": "p@other.example"}, []),
        ({"account_id": "", "postmaster": "p@shoes.example"}, []),
        ({"account_id": "", "postmaster": "p@other.example"}, ["SMTP2CF_POSTMASTER=p@other.example can't"]),
        (
            {"accounts": (TABLES[0].model_copy(update={"sender_domains": ()}),)},
            ["[[account]] shoes sends no"],
        ),
    ],
)
def test_what_no_account_would_send_is_said(change: dict[str, object], said: list[str]) -> None:
    lines = list(doubts(settings().model_copy(update=change)))
    assert len(lines) == len(said)
    assert all(line.startswith(begins) for line, begins in zip(lines, said, strict=True))


async def test_a_bridge_may_have_no_default(accounts: AccountsInUse) -> None:
    without = AccountsInUse(settings(default=""), None, TABLES)
    assert [account.name for account in without] == ["shoes", "hats"]
    assert without.choice.for_("", "a@other.example") is None
    with pytest.raises(ValueError, match="no default account"):
        without.use_token("another")
    await without.aclose()
