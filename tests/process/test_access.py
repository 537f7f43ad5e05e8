"""What the settings say about who may send reaches the bridge, and its log and counters tell of it."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from smtp2cf.envelope import Envelope
from smtp2cf.serve import Bridge
from smtp2cf.settings import fields
from tests.access.hashes import line


def bridge_of(**settings: Any) -> Bridge:
    return Bridge(fields.Settings(account_id="a1", api_token="t", **settings), None)


def logins(result: str) -> float:
    return REGISTRY.get_sample_value("smtp2cf_logins_total", {"result": result}) or 0.0


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A users file with anna, who may send as example.com."""
    path = tmp_path / "users"
    path.write_text(line("anna", "secret", "example.com"))
    path.chmod(0o600)
    return path


async def test_where_nothing_is_set_nothing_is_asked() -> None:
    bridge = bridge_of()
    assert bridge.access.authenticate is None
    assert bridge.access.sender_refusal is None
    await bridge.accounts.aclose()


async def test_users_may_log_in_and_each_login_is_logged_and_counted(users: Path) -> None:
    bridge = bridge_of(users_file=users)
    assert bridge.access.authenticate is not None
    failed, succeeded = logins("failure"), logins("success")
    with capture_logs() as lines:
        assert await bridge.access.authenticate("192.0.2.1", "anna", "secret") is None
        assert (await bridge.access.authenticate("192.0.2.1", "x" * 200, "wr0ng")).code == 535
    assert [(entry["event"], entry["log_level"]) for entry in lines] == [
        ("auth.success", "debug"),
        ("auth.failed", "warning"),
    ]
    assert lines[1]["client"] == "192.0.2.1"
    assert lines[1]["user"] == "x" * 100
    assert lines[1]["reason"] == "unknown user"
    assert list(lines[1])[:2] == ["client", "user"], "as docs/access.md has it for fail2ban"
    assert "wr0ng" not in str(lines)
    assert (logins("failure"), logins("success")) == (failed + 1, succeeded + 1)
    at_phones = bridge.access.authenticate_at("phones")
    assert at_phones is not None
    with capture_logs() as lines:
        await at_phones("192.0.2.1", "anna", "wr0ng")
    assert [(line["event"], line["listener"]) for line in lines] == [("auth.failed", "phones")]
    bridge.access.close()
    await bridge.accounts.aclose()


@pytest.mark.parametrize(
    ("settings", "user", "sender", "names"),
    [
        ({"allowed_sender_domains": "example.com"}, "", "x@example.org", "SMTP2CF_ALLOWED_SENDER_DOMAINS"),
        ({"users_file": True}, "anna", "x@example.org", "SMTP2CF_USERS_FILE"),
        ({"users_file": True}, "bert", "x@example.com", "SMTP2CF_USERS_FILE"),
        (
            {"users_file": True, "check_header_from": True},
            "anna",
            "x@example.com",
            "SMTP2CF_CHECK_HEADER_FROM",
        ),
    ],
)
async def test_the_relay_refuses_senders_as_the_settings_say(
    users: Path, settings: dict[str, Any], user: str, sender: str, names: str
) -> None:
    if "users_file" in settings:
        settings = {**settings, "users_file": users}
    bridge = bridge_of(**settings)
    envelope = Envelope(reverse_path=sender, forward_paths=("b@example.net",), auth_user=user)
    reply = (await bridge.relay.accept(envelope, b"From: x@example.org\r\n\r\n")).reply
    assert reply[:2] == (550, "5.7.1")
    assert names in reply.text
    bridge.access.close()
    await bridge.accounts.aclose()
