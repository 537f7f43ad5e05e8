"""A sandbox and a real bridge never send what the other left in a spool: whole processes."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge import running_bridge
from tests.support.sandbox import running_sandbox

MAIL = b"Subject: x\r\n\r\nhello\r\n"


@pytest.mark.parametrize("sandbox", [True, False], ids=["a sandbox's", "real"])
def test_what_one_left_the_other_refuses_to_take(tmp_path: Path, sandbox: bool) -> None:
    with running_sandbox(token="another") as (api, url):
        settings: dict[str, Any] = {"STATE_DIR": str(tmp_path), "MODE": "queue", "ACCOUNT_ID": "a1"}
        settings |= {} if sandbox else {"API_BASE_URL": url}
        who = "auth@example.net" if sandbox else "b@example.net"
        with running_bridge(tmp_path, sandbox=sandbox, **settings) as bridge, bridge.client() as client:
            client.sendmail("a@example.com", [who], MAIL)
            bridge.wait_for_log("mail.attempt", status="deferred")
        (tmp_path / "bridge.log").unlink()
        settings["API_BASE_URL"] = url
        with (
            pytest.raises(AssertionError, match="holds 1 message of a") as refused,
            running_bridge(tmp_path, sandbox=not sandbox, **settings),
        ):
            pass
        assert "serve.ready" not in str(refused.value).partition("\n")[2]
        with running_bridge(tmp_path, sandbox=sandbox, **settings) as bridge:
            assert bridge.stop() == os.EX_OK
        assert not api.messages
