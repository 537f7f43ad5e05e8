"""Check: settings that can't work together stop the start, each with its line, before anything is opened."""

from typing import Any

import pytest

from smtp2cf.settings import fields
from smtp2cf.settings.check import check
from tests.support.command import smtp2cf

ACCOUNT = {"account_id": "a1", "api_token": "t"}
NO_CERTIFICATE = "SMTP2CF_SMTPS_LISTEN needs a certificate: SMTP2CF_TLS_CERT_FILE is not set"
KEY_ALONE = "SMTP2CF_TLS_KEY_FILE is set, but SMTP2CF_TLS_CERT_FILE is not"


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"mode": "queue", "spool_url": "none"}, ["SMTP2CF_MODE=queue needs a spool"]),
        ({"users_file": "/etc/users"}, ["SMTP2CF_USERS_FILE is set, but nobody could log in"]),
        ({"smtps_listen": "127.0.0.1:0"}, [NO_CERTIFICATE]),
        ({"tls_key_file": "/k"}, [KEY_ALONE]),
        ({"tls_key_file": "/k", "smtps_listen": "127.0.0.1:0"}, [KEY_ALONE]),
        ({"webhook_url": "https://hooks.example.com"}, ["SMTP2CF_WEBHOOK_URL needs SMTP2CF_WEBHOOK_SECRET"]),
        ({"socket_group": "no-such-group"}, ["SMTP2CF_SOCKET_GROUP: there is no group 'no-such-group'"]),
        (
            {"allow_networks": "::/0", "proxy_networks": "0.0.0.0/0", "tls_key_file": "/k"},
            [
                "SMTP2CF_ALLOW_NETWORKS contains 0.0.0.0/0",
                "SMTP2CF_PROXY_NETWORKS contains 0.0.0.0/0",
                KEY_ALONE,
            ],
        ),
    ],
    ids=lambda row: " ".join(row) if isinstance(row, dict) else "",
)
def test_settings_that_cannot_work_together_are_each_said(given: dict[str, Any], wrong: list[str]) -> None:
    with pytest.raises(fields.SettingsError) as error:
        check(fields.Settings(**ACCOUNT, **given))
    assert len(error.value.args) == len(wrong)
    for line, begins in zip(error.value.args, wrong, strict=True):
        assert line.startswith(begins)


def test_a_socket_from_systemd_needs_a_certificate_too() -> None:
    settings = fields.Settings(**ACCOUNT)  # type: ignore[arg-type]
    with pytest.raises(fields.SettingsError, match="SMTPS needs a certificate"):
        check(settings, handed_over={"smtps"})
    check(settings, handed_over={"smtp", "lmtp", "admin"})


def test_a_sandbox_makes_its_own_certificate() -> None:
    check(fields.Settings(smtps_listen="127.0.0.1:0", users_file="/u"), sandbox=True)  # type: ignore[arg-type]
    with pytest.raises(fields.SettingsError, match="SMTP2CF_TLS_KEY_FILE is set"):
        check(fields.Settings(tls_key_file="/k"), sandbox=True)  # type: ignore[arg-type]


def test_who_has_a_certificate_or_does_without_may_have_users() -> None:
    check(fields.Settings(**ACCOUNT, users_file="/u", tls_cert_file="/c"))  # type: ignore[arg-type]
    check(fields.Settings(**ACCOUNT, users_file="/u", auth_without_tls=True))  # type: ignore[arg-type]


def test_it_is_checked_before_a_socket_is_opened() -> None:
    """No host has this address: to listen there would be the error."""
    done = smtp2cf("serve", "--sandbox", SMTP_LISTEN="192.0.2.1:25", MODE="queue", SPOOL_URL="none")
    assert done.err == "smtp2cf: SMTP2CF_MODE=queue needs a spool, but SMTP2CF_SPOOL_URL is none\n"
