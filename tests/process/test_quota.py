"""A bridge whose account has used up its quota: mail is kept, nothing is called, and it says so."""

import json
import urllib.request
from pathlib import Path

from tests.process.metrics import metric, wait_for_metric
from tests.support.bridge import running_bridge
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN

MAIL = b"Subject: x\r\n\r\nx\r\n"


def test_mail_waits_until_the_quota_resets(tmp_path: Path) -> None:
    account = {"ACCOUNT_ID": "a1", "API_TOKEN": TOKEN, "STATE_DIR": str(tmp_path)}
    with (
        running_sandbox(token=TOKEN, quota=5) as (sandbox, url),
        running_bridge(tmp_path, sandbox=False, API_BASE_URL=url, **account) as bridge,
    ):
        wait_for_metric(bridge, "smtp2cf_quota", 5)
        with bridge.client() as client:
            for number in range(6):
                client.sendmail("a@example.com", [f"n{number}@example.net"], MAIL)
            logged = bridge.wait_for_log("api.quota_used_up")
            client.sendmail("a@example.com", ["last@example.net"], MAIL)
        assert (logged["sent"], logged["quota"], logged["unit"]) == (5, 5, "day")
        kept = bridge.wait_for_log("mail.attempt", to=["last@example.net"])
        assert "the quota of the Cloudflare account is used up: 5 of 5 recipients today" in kept["reply"]
        assert kept["delay"] < 5, "its client doesn't wait for what is known to fail"
        assert [call.status for call in sandbox.calls] == [200] * 5 + [429]
        assert metric(bridge, "smtp2cf_quota_sent") == 5
        assert metric(bridge, "smtp2cf_quota_resets_timestamp") == sandbox.quota.resets_at
        request = urllib.request.Request(bridge.admin_url, headers={"Accept": "application/json"})
        with urllib.request.urlopen(request) as answer:
            page = json.load(answer)
        assert page["quota"].startswith("used up: 5 of 5 recipients today, resets 2")
        assert "the quota of the Cloudflare account is used up" in page["rate limit"]
