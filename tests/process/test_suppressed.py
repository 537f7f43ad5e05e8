"""What an answer about a suppressed recipient says, with a sandbox that has the list."""

import smtplib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.bridge import running_bridge
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN

UNTIL = datetime(2099, 1, 2, 3, 4, tzinfo=UTC)


@pytest.mark.parametrize("spool", ["none", "sqlite:///spool.sqlite3"])
def test_an_answer_says_why_and_until_when_if_the_token_may_look(tmp_path: Path, spool: str) -> None:
    message = "Subject: x\r\n\r\nx\r\n"
    with running_sandbox(token=TOKEN) as (sandbox, url):
        sandbox.suppressions.add("anna@example.net", reason="hard_bounce", expires_at=UNTIL)
        account = {"ACCOUNT_ID": "a1", "API_BASE_URL": url, "STATE_DIR": str(tmp_path), "SPOOL_URL": spool}
        with running_bridge(tmp_path, sandbox=False, **account) as bridge, bridge.client() as client:
            with pytest.raises(smtplib.SMTPDataError) as refused:
                client.sendmail("app@example.com", ["anna@example.net"], message)
            assert refused.value.smtp_code == 550
            assert b"(suppressed) after a hard bounce, until 2099-01-02 03:04 UTC" in refused.value.smtp_error
            sandbox.lacking = ("suppressions",)
            sandbox.suppressions.add("ben@example.net")
            with pytest.raises(smtplib.SMTPDataError) as refused:
                client.sendmail("app@example.com", ["ben@example.net"], message)
            said = refused.value.smtp_error.partition(b"(suppressed) ")[2]
            assert said == b"[HTTP 400: email.sending.error.email.recipient_suppressed]"
