"""Ways in for mail: what the tables of listeners and the shorthands come to, and what can't be meant."""

from typing import Any

import pytest

from smtp2cf.listen.open_relay import relay_warnings
from smtp2cf.listen.systemd import PROTOCOLS
from smtp2cf.settings import listening
from smtp2cf.settings.check import contradictions
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.fields.tables import ListenerTable
from smtp2cf.smtpd import Policy
from smtp2cf.smtpd.networks import is_in
from tests.support.each import each

PRINTERS = {"name": "printers", "listen": "0.0.0.0:25", "tls": "off", "allow_networks": "10.0.7.11"}
SUBMISSION = {"name": "submission", "listen": "0.0.0.0:587", "tls": "required", "auth": "required"}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMTP2CF_SMTP_LISTEN", raising=False)


def settings_with(*tables: dict[str, str], **others: Any) -> Settings:
    return Settings(listeners=tuple(ListenerTable.model_validate(table) for table in tables), **others)


def test_the_shorthands_are_listeners_of_those_names() -> None:
    settings = settings_with(PRINTERS, {"name": "lmtp", "protocol": "lmtp"}, smtps_listen=":465")
    ways = {way.name: (way.setting, str(*way.described.listen)) for way in listening.ways_of(settings)}
    assert ways == {
        "smtp": ("SMTP2CF_SMTP_LISTEN", "127.0.0.1:2525"),
        "smtps": ("SMTP2CF_SMTPS_LISTEN", "0.0.0.0:465"),
        "printers": ("[[listener]] printers", "0.0.0.0:25"),
        "lmtp": ("[[listener]] lmtp", ""),
    }


def test_a_listener_has_rules_of_its_own_and_the_others_those_of_the_settings() -> None:
    settings = settings_with(PRINTERS, SUBMISSION)
    general = Policy(
        hostname="h",
        allow_networks=settings.allow_networks,
        max_message_size=1,
        max_recipients=1,
        session_timeout=1,
    )
    smtp, *_, printers, submission = (
        listening.policy_at(way, general) for way in listening.ways_of(settings)
    )
    assert smtp is general
    assert [str(network) for network in printers.allow_networks] == ["10.0.7.11/32"]
    assert printers.networks_named == "allow_networks of [[listener]] printers"
    assert (printers.tls_required, printers.auth_required) == (False, False)
    assert submission.allow_networks == general.allow_networks
    assert submission.networks_named == "SMTP2CF_ALLOW_NETWORKS"
    assert (submission.tls_required, submission.auth_required) == (True, True)


def test_where_a_test_message_goes_is_where_it_is_easiest_to_hand_in() -> None:
    table = {"name": "smtp", "listen": "127.0.0.1:25"}
    settings = settings_with(SUBMISSION, table, {"name": "x", "listen": ":465", "protocol": "smtps"})
    assert [str(place) for place in listening.places_of(settings, "smtp")] == ["127.0.0.1:25", "0.0.0.0:587"]
    assert [str(place) for place in listening.places_of(settings, "smtps")] == ["0.0.0.0:465"]


TLS = {"tls_cert_file": "/c"}
USERS = {"users_file": "/u"}


@each(
    ("table", "others", "handed_over", "says"),
    [
        (PRINTERS, {}, (), ""),
        (SUBMISSION, {**TLS, **USERS}, (), ""),
        (SUBMISSION, USERS | {"auth_without_tls": True}, (), "[[listener]] submission needs a certificate"),
        (SUBMISSION, TLS, (), '[[listener]] submission has auth = "required", but SMTP2CF_USERS_FILE'),
        (
            {**SUBMISSION, "tls": "off"},
            {**TLS, **USERS},
            (),
            '[[listener]] submission has auth = "required" and tls = "off", but AUTH is offered over',
        ),
        ({**SUBMISSION, "tls": "off"}, {**USERS, "auth_without_tls": True}, (), ""),
        ({**PRINTERS, "protocol": "smtps", "tls": "offered"}, {}, (), "[[listener]] printers needs a cert"),
        (
            {**PRINTERS, "allow_networks": "0.0.0.0/0"},
            {},
            (),
            "allow_networks of [[listener]] printers contains 0.0.0.0/0: anybody who reaches it",
        ),
        ({**PRINTERS, "allow_networks": "0.0.0.0/0"}, {"i_am_an_open_relay": True}, (), ""),
        ({**SUBMISSION, "allow_networks": "0.0.0.0/0"}, {**TLS, **USERS}, (), ""),  # all must log in
        ({**PRINTERS, "name": "smtp"}, {}, (), ""),
        (
            {**PRINTERS, "name": "smtp"},
            {"smtp_listen": ":26"},
            (),
            "[[listener]] smtp and SMTP2CF_SMTP_LISTEN are both set: set only one of them",
        ),
        (
            {"name": "printers"},
            {},
            ("smtp",),
            "[[listener]] printers has no listen, and systemd has opened no socket named printers",
        ),
        ({"name": "printers"}, {}, ("printers", "admin"), ""),
        (
            PRINTERS,
            {},
            ("printer",),
            "FileDescriptorName=printer of a socket from systemd must be one of smtp, smtps, lmtp, admin, p",
        ),
    ],
)
def test_what_can_not_be_meant_stops_the_start(
    table: dict[str, str], others: dict[str, Any], handed_over: tuple[str, ...], says: str
) -> None:
    said = contradictions(settings_with(table, **others), handed_over=handed_over)
    assert [line[: len(says)] for line in said] == ([says] if says else [])


def test_a_listener_that_others_reach_and_nobody_may_use_is_warned_of_by_its_name() -> None:
    settings = settings_with(PRINTERS, {**SUBMISSION, "allow_networks": "10.0.0.0/8"}, smtp_listen=":2525")
    found = {
        door.listens[0]: [warning.event for warning in relay_warnings(door)]
        for door in listening.doors_of(settings, has_users=False)
    }
    nobody = ["serve.nobody_may_relay"]
    assert found == {"0.0.0.0:2525": nobody, "0.0.0.0:25": [], "0.0.0.0:587": nobody}
    *_, submission = listening.doors_of(settings, has_users=True)
    assert not [*relay_warnings(submission)]


@each(
    ("text", "in_it", "not_in_it"),
    [
        (
            "private",
            "10.1.2.3 172.31.0.1 192.168.0.9 fd00::5 fe80::1 169.254.7.7 ::1",
            "172.32.0.1 2001:db8::1",
        ),
        ("connected", "127.0.0.1", "198.51.100.1"),
        ("Private, 203.0.113.0/24", "10.0.0.1 203.0.113.9", "203.0.114.1"),
        ("none", "", "127.0.0.1"),
    ],
)
def test_networks_have_names(text: str, in_it: str, not_in_it: str) -> None:
    in_settings = Settings(allow_networks=text).allow_networks  # type: ignore[arg-type]
    in_table = ListenerTable.model_validate({"name": "a", "allow_networks": text}).allow_networks
    assert in_settings == in_table
    for address in in_it.split():
        assert is_in(address, in_settings), address
    for address in not_in_it.split():
        assert not is_in(address, in_settings), address


def test_a_proxys_networks_have_no_names() -> None:
    with pytest.raises(ValueError, match="'private' does not appear to be"):
        Settings(proxy_networks="private")  # type: ignore[arg-type]


def test_no_listener_has_the_name_of_a_place_that_is_not_for_mail() -> None:
    assert (*listening.SHORTHANDS, "admin") == PROTOCOLS
