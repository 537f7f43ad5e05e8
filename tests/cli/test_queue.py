"""smtp2cf queue … as a process beside a running bridge, and what its admin port tells of the spool."""

import asyncio
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.cli import queue
from smtp2cf.spool.item_json import item_as_json
from tests.process.test_full_disk import LOOKING_OFTEN
from tests.spool.conftest import Backend, new_mail
from tests.support.bridge import Bridge, running_bridge
from tests.support.command import Done, clean_environment, smtp2cf
from tests.support.waiting import PATIENCE

WAITING = 3
NOT_FOUND, UNAVAILABLE, NO_QUEUE, USAGE = os.EX_NOINPUT, os.EX_UNAVAILABLE, os.EX_CONFIG, os.EX_USAGE


class Desk:
    """A running bridge whose mail waits, and the commands for its queue."""

    def __init__(self, bridge: Bridge, directory: Path) -> None:
        self.bridge = bridge
        self.directory = directory
        self.ids: dict[str, str] = {}
        with bridge.client() as client:
            for number in range(WAITING):
                client.sendmail(
                    f"from{number}@example.com",
                    f"to{number}+error@example.org",
                    f"Subject: {number}\r\n\r\nx\r\n",
                )
        self.ids = {line["sender"]: line["queue_id"] for line in self.json("list")}

    def queue(self, *arguments: str) -> Done:
        return smtp2cf("queue", *arguments, STATE_DIR=str(self.directory))

    def json(self, *arguments: str) -> list[dict]:
        done = self.queue(*arguments, "--json")
        assert done.status == 0, done.err
        return [json.loads(line) for line in done.out.splitlines()]

    def statuses(self) -> dict[str, str]:
        return {line["sender"]: line["status"] for line in self.json("list")}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    settings = {"STATE_DIR": str(tmp_path), "SENDMAIL_DROP_DIR": str(tmp_path / "drop")}
    with running_bridge(tmp_path, constants=LOOKING_OFTEN, **settings) as bridge:
        yield Desk(bridge, tmp_path)


def test_the_table_names_what_waits_oldest_first(desk: Desk) -> None:
    done = desk.queue("list")
    assert done.status == 0
    head, *lines = done.out.splitlines()
    assert head.split() == ["id", "age", "size", "status", "tries", "next", "from", "to"]
    rows = [line.split() for line in lines if not line.startswith(" ")]
    assert [row[0] for row in rows] == list(desk.ids.values())
    assert rows[0][3:5] == ["deferred", "1"]
    assert rows[0][6:] == ["from0@example.com", "to0+error@example.org"]
    answers = [line.strip() for line in lines if line.startswith(" ")]
    assert all(answer.startswith("451 4.3.0 ") for answer in answers)
    assert len(answers) == WAITING


def test_json_is_one_object_a_line(desk: Desk) -> None:
    first, *_ = desk.json("list")
    assert first["queue_id"] == desk.ids["from0@example.com"]
    assert (first["status"], first["attempts"], first["sender"]) == ("deferred", 1, "from0@example.com")
    (recipient,) = first["recipients"]
    assert recipient["address"] == "to0+error@example.org"
    assert recipient["reply"].startswith("451 4.3.0 ")
    assert first["next_attempt"] > first["received_at"]


def test_filters_choose(desk: Desk) -> None:
    one = desk.ids["from1@example.com"]
    for arguments, wanted in {
        (one,): 1,
        ("--id", one): 1,
        ("--from", "from1@example.com"): 1,
        ("--from", "<from1@example.com>"): 1,
        ("--from", "*@example.com"): 3,
        ("--to", "to2*"): 1,
        ("--status", "deferred"): 3,
        ("--status", "held"): 0,
        ("--older-than", "0s"): 3,
        ("--older-than", "1h"): 0,
        ("--from", "from1*", "--to", "to2*"): 0,
    }.items():
        assert len(desk.json("list", *arguments)) == wanted, arguments
    assert (
        desk.queue("list", "--from", "nobody@example.com").out
        == f"no matching mail in {desk.directory / 'spool.sqlite3'}\n"
    )
    assert desk.queue("list", "--older-than", "soon").status == USAGE
    assert desk.queue("list", "--status", "lost").status == USAGE


def test_show_prints_the_envelope_or_the_bytes(desk: Desk) -> None:
    queue_id = desk.ids["from0@example.com"]
    shown = desk.queue("show", queue_id).out
    assert re.search(r"^from: +<from0@example\.com>$", shown, re.MULTILINE)
    assert re.search(r"^to: +<to0\+error@example\.org>\n +451 4\.3\.0 ", shown, re.MULTILINE)
    assert re.search(r"^attempts: +1$", shown, re.MULTILINE)
    assert desk.queue("show", queue_id, "--message").out == "Subject: 0\n\nx\n"
    assert json.loads(desk.queue("show", queue_id, "--json").out)["queue_id"] == queue_id
    missing, spool = desk.queue("show", "NOSUCHMAIL"), desk.directory / "spool.sqlite3"
    assert (missing.status, missing.err) == (NOT_FOUND, f"smtp2cf: NOSUCHMAIL is not in {spool}\n")


async def test_what_the_client_said_is_shown_beside_what_goes_out(
    sqlite: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    mail = new_mail()
    given: dict[str, Any] = {
        "forward_paths": ("ops@example.com", "b@example.com"),
        "reverse_path": "noreply@example.com",
        "given_reverse_path": "root@web07",
        "given_forward_paths": {"ops@example.com": ("root@web07", "admin@web07")},
        "dsn_for": "3C0A9F2B1Q7ZK",
    }
    spool = await sqlite.open()
    await spool.put(dataclasses.replace(mail, envelope=dataclasses.replace(mail.envelope, **given)))
    (item,) = [item async for item in spool.items()]
    queue.print_envelope(item)
    shown = capsys.readouterr().out.splitlines()
    assert "from:         <noreply@example.com> instead of <root@web07>" in shown
    assert "to:           <ops@example.com> instead of <root@web07>, <admin@web07>" in shown
    assert "to:           <b@example.com>" in shown
    assert "DSN about:    3C0A9F2B1Q7ZK" in shown
    said = item_as_json(item)
    assert said["orig_sender"] == "root@web07"
    assert said["orig_recipients"] == {"ops@example.com": ["root@web07", "admin@web07"]}
    assert said["dsn_for"] == "3C0A9F2B1Q7ZK"


def test_mail_is_held_released_and_deleted_while_the_bridge_runs(desk: Desk) -> None:
    one, two = desk.ids["from0@example.com"], desk.ids["from1@example.com"]
    assert desk.queue("hold", one, two).out == "2 held\n"
    assert desk.statuses() == {
        "from0@example.com": "held",
        "from1@example.com": "held",
        "from2@example.com": "deferred",
    }
    assert "held: by hand" in desk.queue("list", "--status", "held").out
    retried = desk.queue("retry", one)
    assert retried.status == NOT_FOUND
    assert "1 held, and not tried: smtp2cf queue release" in retried.err
    before = len([line for line in desk.bridge.log() if line["event"] == "mail.attempt"])
    assert desk.queue("release", one).out == "1 released\n"
    wait_for(lambda: len([x for x in desk.bridge.log() if x["event"] == "mail.attempt"]) > before)
    assert desk.json("delete", "--status", "held") == [{"queue_id": two, "action": "delete"}]
    assert two not in [line["queue_id"] for line in desk.json("list")]


def test_retry_tries_at_once(desk: Desk) -> None:
    assert desk.queue("retry", "--from", "from2@*").out == "1 will be tried now\n"
    queue_id = desk.ids["from2@example.com"]
    desk.bridge.wait_for_log("mail.attempt", queue_id=queue_id, attempts=2)


def test_everything_is_touched_only_with_all(desk: Desk) -> None:
    for action in ("retry", "hold", "release", "delete"):
        refused = desk.queue(action)
        assert refused.status == USAGE
        assert "--all" in refused.err
    assert desk.queue("delete", "--all").out == f"{WAITING} deleted\n"
    assert desk.queue("list").out == f"no mail is waiting in {desk.directory / 'spool.sqlite3'}\n"
    assert desk.queue("delete", "--all").status == 0


def test_where_there_is_no_queue(tmp_path: Path) -> None:
    missing = smtp2cf("queue", "list", STATE_DIR=str(tmp_path))
    assert missing.status == NO_QUEUE
    assert "there is no spool at" in missing.err
    assert smtp2cf("queue", "list", SPOOL_URL="none").status == NO_QUEUE
    assert smtp2cf("queue", "list", SPOOL_URL="postgresql://127.0.0.1:1/none").status == NO_QUEUE


def test_the_admin_port_lists_and_counts_what_waits(desk: Desk) -> None:
    with urllib.request.urlopen(f"{desk.bridge.admin_url}/queue") as answer:
        assert answer.headers["Content-Type"] == "application/jsonl"
        listed = [json.loads(line) for line in answer]
    assert [line["queue_id"] for line in listed] == list(desk.ids.values())
    wait_for(lambda: _metric(desk.bridge, 'smtp2cf_spool_messages{status="deferred"}') == WAITING)
    assert _metric(desk.bridge, 'smtp2cf_spool_bytes{status="deferred"}') > 0
    assert _metric(desk.bridge, "smtp2cf_spool_oldest_seconds") > 0
    assert _metric(desk.bridge, 'smtp2cf_recipient_attempts_total{status="deferred"}') == WAITING


@pytest.mark.slow
def test_readyz_warns_of_old_mail_and_fails_when_the_spool_cannot_be_written(tmp_path: Path) -> None:
    settings = {"STATE_DIR": str(tmp_path), "SENDMAIL_DROP_DIR": str(tmp_path / "drop"), "WARN_AFTER": "0.1"}
    with running_bridge(tmp_path, constants=LOOKING_OFTEN, **settings) as bridge:
        with bridge.client() as client:
            client.sendmail("a@example.com", "b+error@example.org", "Subject: x\r\n\r\nx\r\n")
        wait_for(lambda: "warning: the oldest mail has waited" in _readyz(bridge)[1])
        assert _readyz(bridge)[0] == 200
        (tmp_path / "spool.sqlite3").rename(tmp_path / "elsewhere")
        wait_for(lambda: _readyz(bridge)[0] == 503)
        assert "spool" in _readyz(bridge)[1]
        (tmp_path / "elsewhere").rename(tmp_path / "spool.sqlite3")
        wait_for(lambda: _readyz(bridge)[0] == 200)


@pytest.mark.slow
async def test_a_list_of_thirty_thousand_begins_as_soon_as_one_of_a_hundred(sqlite: Backend) -> None:
    spool = await sqlite.open()
    environment = clean_environment({"SMTP2CF_SPOOL_URL": sqlite.url})

    async def begun_after(*form: str) -> float:
        command = [sys.executable, "-m", "smtp2cf", "queue", "list", *form]
        return min([await asyncio.to_thread(_first_line, command, environment) for _ in range(2)])

    async def put(count: int) -> None:
        await spool.put(*(new_mail(forward_paths=(f"n{number}@example.org",)) for number in range(count)))

    await put(100)
    few = {form: await begun_after(*form) for form in ((), ("--json",))}
    for _ in range(6):
        await put(5000)
    for form, seconds in few.items():
        assert await begun_after(*form) < 2 * seconds, form


def _first_line(command: list[str], environment: dict[str, str]) -> float:
    """Seconds of processor time until the first line of output is there."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        process.kill()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _metric(bridge: Bridge, name: str) -> float:
    with urllib.request.urlopen(f"{bridge.admin_url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)


def _readyz(bridge: Bridge) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{bridge.admin_url}/readyz") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def wait_for(condition, timeout: float = PATIENCE) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
