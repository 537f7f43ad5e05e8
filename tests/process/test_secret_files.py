"""Files named by the settings, replaced while a whole bridge runs: the token, the spool's URL, the users."""

import signal
from pathlib import Path

from tests.access.hashes import line
from tests.support.bridge import running_bridge
from tests.support.sandbox import running_sandbox
from tests.support.waiting import wait_until

MAIL = b"Subject: x\r\n\r\nhello\r\n"


def mounted(directory: Path, number: int, token: str) -> Path:
    """A token in a Kubernetes volume; later numbers replace it."""
    version, link = directory / f"..{number}", directory / "..data_tmp"
    version.mkdir(parents=True)
    (version / "token").write_text(f"{token}\n")
    link.symlink_to(version.name)
    link.rename(directory / "..data")
    path = directory / "token"
    if not path.is_symlink():
        path.symlink_to("..data/token")
    return path


def test_mail_that_waits_for_a_token_goes_out_at_once_when_there_is_another(tmp_path: Path) -> None:
    token = mounted(tmp_path / "secret", 1, "expired")
    users = tmp_path / "users"
    users.write_text(line("anna", "secret"))
    url = tmp_path / "url"
    url.write_text(f"sqlite://{tmp_path}/spool.sqlite3")
    with (
        running_sandbox(token="fresh") as (sandbox, api),
        running_bridge(
            tmp_path,
            sandbox=False,
            ACCOUNT_ID="a1",
            API_TOKEN="",
            API_TOKEN_FILE=str(token),
            API_BASE_URL=api,
            SPOOL_URL_FILE=str(url),
            USERS_FILE=str(users),
            AUTH_WITHOUT_TLS="yes",
            OPERATOR="ops@example.com",
            constants={"smtp2cf.relay.notices:GATHER": 0.0},
        ) as bridge,
    ):
        for _ in range(3):
            with bridge.client() as client:
                client.sendmail("a@example.com", ["b@example.net"], MAIL)
        assert not sandbox.messages
        assert "(SMTP2CF_API_TOKEN_FILE)" in bridge.wait_for_log("api.token_refused")["reason"]
        bridge.wait_for_log("mail.notice", about="api.token_refused", count=1)
        mounted(tmp_path / "secret", 2, "fresh")
        # They would have been tried again after a minute; so would the notice, which waits like all mail.
        wait_until(lambda: len(sandbox.messages) == 4, "the waiting mail goes out")
        to = [message.recipients for message in sandbox.messages]
        assert to.count(("ops@example.com",)) == 1
        assert bridge.wait_for_log("token.reloaded")["file"] == str(token)

        url.write_text(f"sqlite://{tmp_path}/other.sqlite3")
        users.write_text(line("anna", "secret") + line("ben", "secret"))
        bridge.process.send_signal(signal.SIGHUP)
        assert "restart the bridge" in bridge.wait_for_log("spool_url.reload_failed")["reason"]
        bridge.wait_for_log("users.reread", users=2)
        assert bridge.stop() == 0
        log = bridge.log_path.read_text()
    assert "expired" not in log
    assert "fresh" not in log
