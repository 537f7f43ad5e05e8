"""Quotas: what the settings say of how much may be sent, at each way in, and what is said twice."""

from pathlib import Path
from typing import Any

import pytest

from smtp2cf.access.counts import Counts
from smtp2cf.access.limit import Limit
from smtp2cf.reply import Reply
from smtp2cf.serve.rules import GENERAL, RulesInUse
from smtp2cf.settings import quotas, rooms
from smtp2cf.settings.check import doubts
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.fields.tables import ListenerTable
from smtp2cf.settings.listening import Way, ways_of
from smtp2cf.settings.rooms import smtp_policy
from smtp2cf.smtpd import Rules
from tests.access.hashes import line

PRINTERS = {"name": "printers", "listen": "0.0.0.0:25", "client_quota": "2 messages/1m", "user_quota": "none"}


def settings_with(*tables: dict[str, str], **others: Any) -> Settings:
    return Settings(listeners=tuple(ListenerTable.model_validate(table) for table in tables), **others)


def let_through(settings: Settings, way: str, counts: Counts) -> tuple[int, str]:
    """How many messages of one client, user and sender go through, and what the next one is told."""
    found = quotas.quotas_at(settings, next(one for one in ways_of(settings) if one.name == way), counts)
    assert found is not None
    for number in range(100):
        if (refusal := found.message("192.0.2.1", "anna", "shop@example.com")) is not None:
            return number, refusal.text.partition("(")[2].partition(")")[0]
    return 100, ""


@pytest.mark.parametrize(
    ("given", "number", "setting"),
    [
        ({"client_quota": "3 messages/1m"}, 3, "SMTP2CF_CLIENT_QUOTA=3 messages/1m"),
        ({"user_quota": "3 messages/1d"}, 3, "SMTP2CF_USER_QUOTA=3 messages/1d"),
        ({"sender_quota": "1 recipient/1m,3 messages/1h"}, 3, "SMTP2CF_SENDER_QUOTA=3 messages/1h"),
        ({"client_messages_per_minute": 3}, 3, "SMTP2CF_CLIENT_MESSAGES_PER_MINUTE=3 messages/1m"),
        ({"user_messages_per_minute": 3}, 3, "SMTP2CF_USER_MESSAGES_PER_MINUTE=3 messages/1m"),
        ({"client_recipients_per_minute": 3}, 100, ""),
    ],
)
def test_a_quota_holds_whichever_setting_names_it(given: dict[str, Any], number: int, setting: str) -> None:
    assert let_through(Settings(**given), "smtp", Counts()) == (number, setting)


def test_without_a_quota_nothing_is_asked() -> None:
    settings = settings_with(PRINTERS)
    asked = {way.name: quotas.quotas_at(settings, way, Counts()) is not None for way in ways_of(settings)}
    assert asked == {"smtp": False, "smtps": False, "lmtp": False, "printers": True}


def test_a_listeners_own_quota_takes_the_place_of_the_general_one_and_counts_by_itself() -> None:
    settings = settings_with(PRINTERS, client_quota="3 messages/1m", user_quota="1 message/1m")
    counts = Counts()
    assert let_through(settings, "printers", counts) == (
        2,
        "client_quota of [[listener]] printers=2 messages/1m",
    )
    assert let_through(settings, "smtp", counts) == (1, "SMTP2CF_USER_QUOTA=1 message/1m")
    settings = settings_with({"name": "other"}, client_quota="3 messages/1m")
    counts = Counts()
    assert let_through(settings, "other", counts)[0] == 3
    assert let_through(settings, "smtp", counts)[0] == 0, "counted for all together"


def test_a_user_may_have_a_quota_of_its_own_in_the_users_file(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(line("anna", "secret", ":quota=4 messages/1h") + line("bert", "secret"))
    settings = settings_with(PRINTERS, user_quota="2 messages/1d", users_file=users)
    access = rooms.access(settings)
    counts = Counts()
    for way, number in (("smtp", 4), ("printers", 0)):
        found = quotas.quotas_at(
            settings, next(one for one in ways_of(settings) if one.name == way), counts, access.quota_of
        )
        assert found is not None
        anna = next(n for n in range(9) if found.message(f"192.0.2.{n}", "anna", "") is not None)
        assert anna == number, "at every way in together"
        refusal = found.message("192.0.2.9", "anna", "")
        assert isinstance(refusal, Reply)
        assert "(SMTP2CF_USERS_FILE: quota=4 messages/1h)" in refusal.text
        refused = [found.message(f"192.0.3.{n}", "bert", "") is not None for n in range(3)]
        assert refused == [False, False, way == "smtp"], "others go by the settings"
    access.close()


def test_of_two_settings_for_one_thing_the_lower_counts_and_check_says_so() -> None:
    both = Settings(
        client_quota="3 messages/1m, 9 messages/1h",
        client_messages_per_minute=5,
        user_recipients_per_minute=7,
    )
    assert let_through(both, "smtp", Counts()) == (3, "SMTP2CF_CLIENT_QUOTA=3 messages/1m")
    (said,) = (line for line in doubts(both, sandbox=True) if "QUOTA" in line)
    assert said == (
        "SMTP2CF_CLIENT_MESSAGES_PER_MINUTE: 5 messages/1m has no effect, because SMTP2CF_CLIENT_QUOTA allows"
        " only 3 messages/1m: remove one of them"
    )
    other = Settings(client_quota="5 messages/1m", client_messages_per_minute=3)
    assert let_through(other, "smtp", Counts())[0] == 3
    assert not [
        line for line in doubts(Settings(client_quota="3 messages/1m"), sandbox=True) if "QUOTA" in line
    ]


def test_another_quota_is_used_at_once_and_what_was_counted_still_counts() -> None:
    counts = Counts()

    def make(settings: Settings, way: Way) -> Rules:
        return Rules(smtp_policy(settings), quotas=quotas.quotas_at(settings, way, counts))

    settings = settings_with(PRINTERS)
    in_use = RulesInUse(settings, settings.listeners, make)
    rules = {way.name: in_use.at(way) for way in ways_of(settings)}

    def taken(name: str) -> int:
        return next(n for n in range(100) if rules[name].mail_refusal("192.0.2.1", "anna", "") is not None)

    assert taken("printers") == 2
    in_use.use_listeners(
        (settings.listeners[0].model_copy(update={"client_quota": (Limit(7, "messages", 60),)}),)
    )
    assert taken("printers") == 5
    for name in ("client_quota", "client_messages_per_minute"):
        assert name in GENERAL
    in_use.use("client_messages_per_minute", 9)
    assert taken("smtp") == 9
    in_use.use("client_quota", (Limit(8, "messages", 60),))
    assert taken("lmtp") == 0
