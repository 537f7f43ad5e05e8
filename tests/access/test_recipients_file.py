"""The recipients file: what is read of it, what is left out, and what a change does."""

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from smtp2cf.access.recipients import Recipients
from smtp2cf.access.recipients_file import RecipientsFile, parse
from smtp2cf.listen.files import LIMIT, FileError

ALIASES = """\
# /etc/aliases of a Debian host, with mailing lists
mailer-daemon: postmaster
postmaster: root
"nobody": root
root: anna@example.com,
\tben@example.com   # on call
list: "|/usr/lib/mailman/mail/mailman post list", archive@example.com
dump: /var/mail/dump
team: :include:/etc/team
no entry
"""


def test_an_etc_aliases_is_read_as_it_is_and_what_cannot_be_done_is_named() -> None:
    table, left_out = parse(ALIASES)
    assert table == {
        "mailer-daemon": ("postmaster",),
        "postmaster": ("root",),
        "nobody": ("root",),
        "root": ("anna@example.com", "ben@example.com"),
        "list": ("archive@example.com",),
    }
    assert [line.partition(":")[0] for line in left_out] == ["line 7", "line 8", "line 9", "line 10"]


async def test_the_table_wins_and_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "aliases"
    path.write_text(ALIASES)
    found = Recipients()
    found.use_table({"Postmaster": ("ops@example.com",)})
    file = RecipientsFile(path, found.use_file)
    assert found.expand("postmaster") == ("ops@example.com",)
    assert found.expand("nobody") == ("anna@example.com", "ben@example.com")
    path.write_text("nobody: new@example.com\n")
    await file.reread()
    assert found.expand("nobody") == ("new@example.com",)
    path.unlink()
    with capture_logs() as lines:
        await file.reread()
    assert [line["event"] for line in lines] == ["recipients.reload_failed"]
    assert found.expand("nobody") == ("new@example.com",)


async def test_each_line_that_is_left_out_is_told_once_by_who_watches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "aliases"
    path.write_text(ALIASES)
    with capture_logs() as lines:
        RecipientsFile(path, Recipients().use_file)  # as a check of the settings does
        file = RecipientsFile(path, Recipients().use_file, every=60)
        watching = asyncio.create_task(file.watch())
        await asyncio.sleep(0)
        watching.cancel()
    assert [line["event"] for line in lines] == ["recipients.left_out"] * 4
    with capture_logs() as lines:
        await file.reread()
    assert [line["event"] for line in lines] == [*["recipients.left_out"] * 4, "recipients.reloaded"]


def test_what_can_not_be_read_at_the_start_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "aliases"
    with pytest.raises(FileError, match="No such file"):
        RecipientsFile(path, Recipients().use_file)
    os.mkfifo(path)
    with pytest.raises(FileError, match="a FIFO"):
        RecipientsFile(path, Recipients().use_file)
    path.unlink()
    path.write_bytes(b"#" * (LIMIT + 1))
    with pytest.raises(FileError, match="larger than"):
        RecipientsFile(path, Recipients().use_file)
