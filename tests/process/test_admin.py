"""The admin's pages of a running bridge: probes, metrics, and the status page."""

import contextlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from smtp2cf import __version__
from tests.process.metrics import metric
from tests.support.bridge import Bridge, running_bridge
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN
from tests.support.waiting import wait_until

MESSAGE = b"From: app@example.com\r\nSubject: seen\r\n\r\nHello\r\n"
VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = '"<script>alert(1)</script>&amp;\\""@example.com'


def get(url: str, **headers: str) -> tuple[int, str]:
    """The status and the text of an answer, errors too."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def deliver(bridge: Bridge, *recipients: str, sender: str = "app@example.com") -> int:
    """Send a message; the code of its final answer."""
    with bridge.client() as client:
        client.ehlo()
        assert client.docmd(f"MAIL FROM:<{sender}>")[0] == 250
        for recipient in recipients:
            assert client.docmd(f"RCPT TO:<{recipient}>")[0] == 250
        return client.data(MESSAGE)[0]


@contextlib.contextmanager
def bridge_to(url: str, directory: Path, **settings: str) -> Iterator[Bridge]:
    """A bridge to a sandbox that a test holds."""
    account = {"ACCOUNT_ID": "a1", "API_TOKEN": TOKEN, "API_BASE_URL": url, "STATE_DIR": str(directory)}
    with running_bridge(directory, sandbox=False, **account, **settings) as bridge:
        yield bridge


# ---- probes


@pytest.mark.parametrize("probe", ["/livez", "/readyz"])
def test_a_bridge_in_order_answers_its_probes(bridge: Bridge, probe: str) -> None:
    assert get(f"{bridge.admin_url}{probe}") == (200, "ok\n")


def test_probes_leave_no_log_lines(bridge: Bridge) -> None:
    before = bridge.log()
    for probe in ("/livez", "/readyz", "/metrics"):
        get(f"{bridge.admin_url}{probe}")
    assert bridge.log() == before


def test_a_refused_token_makes_it_not_ready_and_says_why(tmp_path: Path) -> None:
    with running_sandbox(token="another") as (_, url), bridge_to(url, tmp_path) as bridge:
        logged = bridge.wait_for_log("api.token_refused")
        assert get(f"{bridge.admin_url}/readyz") == (200, "ok\n"), "with a spool it takes mail"
        status, text = get(f"{bridge.admin_url}/readyz?sending")
        assert status == 503
        assert "SMTP2CF_API_TOKEN" in text
        assert text.strip() == logged["reason"]
        assert metric(bridge, "smtp2cf_ready") == 1
        assert metric(bridge, "smtp2cf_ready_to_send") == 0
        assert metric(bridge, "smtp2cf_api_up") == 0
        assert get(f"{bridge.admin_url}/livez")[0] == 200, "a restart would not mend the token"
        assert "takes mail, but can&#39;t send: " in get(f"{bridge.admin_url}/")[1]


def test_a_token_that_expires_while_it_runs_is_noticed(tmp_path: Path) -> None:
    with running_sandbox(token=TOKEN) as (sandbox, url), bridge_to(url, tmp_path, SPOOL_URL="none") as bridge:
        assert deliver(bridge, "anna@example.net") == 250
        sandbox.token_status = "expired"
        assert deliver(bridge, "bert@example.net") == 451
        assert get(f"{bridge.admin_url}/readyz")[0] == 503
        sandbox.token_status = "active"
        wait_until(lambda: deliver(bridge, "bert@example.net") == 250, "a probe lets one message try")
        assert get(f"{bridge.admin_url}/readyz")[0] == 200


def test_there_is_no_admin_where_none_is_wanted(tmp_path: Path) -> None:
    with running_bridge(tmp_path, ADMIN_LISTEN="none") as bridge:
        assert bridge.admin_url == ""
        assert deliver(bridge, "anna@example.net") == 250


# ---- metrics


def test_metrics_count_messages_and_what_became_of_their_recipients(tmp_path: Path) -> None:
    with running_bridge(tmp_path, SPOOL_URL="none") as bridge:
        assert deliver(bridge, "anna@example.net", "bounce@example.net") == 250
        assert deliver(bridge, "bounce@example.net") == 550
        assert deliver(bridge, "queued@example.net") == 250
        assert deliver(bridge, "error@example.net") == 451
        answers = {
            kind: metric(bridge, "smtp2cf_messages_total", answer=kind) for kind in ("2xx", "4xx", "5xx")
        }
        assert answers == {"2xx": 2, "4xx": 1, "5xx": 1}
        statuses = ("sent", "bounced", "queued")
        became = {status: metric(bridge, "smtp2cf_recipients_total", status=status) for status in statuses}
        # The bounce of a recipient beside one who got the mail is told in a DSN, which is sent too.
        assert became["bounced"] == 2
        assert became["queued"] == 1
        assert metric(bridge, "smtp2cf_recipient_attempts_total", status="deferred") == 1
        assert metric(bridge, "smtp2cf_deferrals_total", reason="server_error") == 1
        assert metric(bridge, "smtp2cf_build_info", version=__version__) == 1
        assert metric(bridge, "smtp2cf_ready") == 1


def test_metrics_hold_no_address_and_no_token(tmp_path: Path) -> None:
    with running_sandbox(token=TOKEN) as (_, url), bridge_to(url, tmp_path) as bridge:
        deliver(bridge, "anna@example.net")
        text = get(f"{bridge.admin_url}/metrics")[1]
    assert "example" not in text
    assert TOKEN not in text


# ---- the status page


class Page(HTMLParser):
    """Reads a page and sees that each element is closed where it was opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += text


def page(bridge: Bridge) -> Page:
    status, html = get(f"{bridge.admin_url}/")
    assert status == 200
    return Page(html)


def test_the_page_shows_the_latest_mail_and_what_became_of_it(bridge: Bridge) -> None:
    deliver(bridge, "shown@example.net", sender="shown-too@example.com")
    text = page(bridge).text
    assert re.search(r"shown-too@example\.com\s+shown@example\.net\s*sent\s+250 2\.0\.0 ", text), (
        "from, to, status and answer in one row"
    )


def test_the_page_is_json_for_whoever_asks_for_that(bridge: Bridge) -> None:
    deliver(bridge, "json@example.net")
    status, text = get(bridge.admin_url, Accept="application/json")
    assert status == 200
    latest = json.loads(text)["recent"][0]
    assert (latest["recipients"], latest["status"]) == ("json@example.net", "sent")
    assert latest["reply"] == "250 2.0.0 delivered"


def test_the_page_shows_the_null_sender(tmp_path: Path) -> None:
    with running_bridge(tmp_path, NULL_SENDER_ADDRESS="bounces@example.com") as bridge:
        deliver(bridge, "anna@example.net", sender="")
        assert "<>" in page(bridge).text


def test_a_hostile_address_is_text_on_the_page(bridge: Bridge) -> None:
    deliver(bridge, HOSTILE)
    shown = page(bridge)
    assert HOSTILE in shown.text
    assert "script" not in shown.elements


def test_the_page_may_run_no_script_and_load_nothing(bridge: Bridge) -> None:
    with urllib.request.urlopen(f"{bridge.admin_url}/") as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_the_page_does_not_show_the_token(tmp_path: Path) -> None:
    with running_sandbox(token=TOKEN) as (_, url), bridge_to(url, tmp_path) as bridge:
        deliver(bridge, "anna@example.net")
        assert TOKEN not in get(f"{bridge.admin_url}/")[1]
        bridge.stop()
        assert TOKEN not in bridge.log_path.read_text()
