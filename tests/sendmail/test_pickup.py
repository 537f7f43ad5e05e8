"""The bridge's side of the drop directory."""

import asyncio
import contextlib
import errno
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smtp2cf.envelope import Envelope, Outcomes, Verdict
from smtp2cf.relay.drop import DropDirectory, DropPolicy
from smtp2cf.reply import Reply
from tests.sendmail.conftest import Sendmail
from tests.sendmail.front_door import front_door
from tests.support.news import heard
from tests.support.waiting import PATIENCE

SENT = Reply(250, "2.0.0", "sent")
BOUNCED = Reply(550, "5.1.1", "bounced")
LATER = Reply(451, "4.3.0", "later")
MESSAGE = b"Subject: s\r\n\r\nhi\r\n"
HEAD = {"version": 1, "size": len(MESSAGE), "reverse_path": "a@x", "forward_paths": ["b@y"], "body": "7BIT"}


class Accept:
    """Stands in for the relay: answers from a list, the last answer for ever."""

    def __init__(self, *replies: Reply | Exception | Verdict) -> None:
        self.replies = list(replies)
        self.taken: list[tuple[Envelope, bytes]] = []
        self.changed = asyncio.Event()

    async def __call__(self, envelope: Envelope, message: bytes) -> Verdict:
        self.taken.append((envelope, message))
        self.changed.set()
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return (
            reply
            if isinstance(reply, Verdict)
            else Verdict(reply, dict.fromkeys(envelope.forward_paths, reply))
        )


@pytest.fixture
def policy(tmp_path: Path) -> DropPolicy:
    directory = tmp_path / "drop"
    directory.mkdir(mode=0o3733)
    return DropPolicy(
        directory=directory,
        aside=tmp_path / "aside",
        max_message_size=10_000,
        interval=0.01,
        retry_min=0.01,
        retry_max=0.02,
    )


def put(policy: DropPolicy, name: str = "A.drop", message: bytes = MESSAGE, **head: Any) -> Path:
    """A file as sendmail leaves it, the head changed as the test wants it."""
    fields = {**HEAD, "size": len(message), **head}
    part = policy.directory / f".{name}.part"
    part.write_bytes(json.dumps(fields).encode() + b"\n" + message)
    return part.rename(policy.directory / name)


@contextlib.asynccontextmanager
async def taking(
    policy: DropPolicy, accept: Accept, bounce: Any = None, closed: Any = None
) -> AsyncIterator[DropDirectory]:
    drops = DropDirectory(policy, front_door(), accept, bounce, closed=closed)
    task = asyncio.create_task(drops.run())
    try:
        yield drops
    finally:
        drops.stop()
        await task


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - files tell nobody when they change
            await asyncio.sleep(0.005)


def files(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.exists() else []


async def test_what_is_there_at_the_start_is_taken(policy: DropPolicy) -> None:
    put(policy)
    accept = Accept(SENT)
    async with taking(policy, accept):
        await until(lambda: not files(policy.directory))

    [(envelope, message)] = accept.taken
    assert message == MESSAGE
    assert (envelope.reverse_path, envelope.forward_paths, envelope.body) == ("a@x", ("b@y",), "7BIT")


async def test_what_is_there_waits_while_no_mail_is_taken(policy: DropPolicy) -> None:
    put(policy)
    accept = Accept(SENT)
    asked = 0
    full: Reply | None = Reply(452, "4.3.1", "full")

    def closed() -> Reply | None:
        nonlocal asked
        asked += 1
        return full

    async with taking(policy, accept, closed=closed):
        await until(lambda: asked > 3)
        assert (accept.taken, files(policy.directory)) == ([], ["A.drop"])
        full = None
        await until(lambda: not files(policy.directory))
    assert len(accept.taken) == 1


async def test_what_was_put_off_is_tried_at_once_when_mail_is_taken_again(policy: DropPolicy) -> None:
    put(policy)
    full = Reply(452, "4.3.1", "full")
    accept = Accept(full, SENT)

    def closed() -> Reply | None:
        # Once, behind the first attempt.
        return full if accept.taken and next(times) == 0 else None

    times = itertools.count()
    async with taking(replace(policy, retry_min=3600, retry_max=3600), accept, closed=closed):
        await until(lambda: not files(policy.directory))
    assert len(accept.taken) == 2


async def test_a_reason_that_finds_no_room_is_no_reason_to_keep_the_file(
    policy: DropPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    put(policy, version=99)
    async with taking(policy, Accept(SENT)):
        await until(lambda: not files(policy.directory))
    assert files(policy.aside) == ["A.drop"]


async def test_what_appears_later_is_taken_oldest_name_first(policy: DropPolicy) -> None:
    accept = Accept(SENT)
    async with taking(replace(policy, concurrency=1), accept):
        await asyncio.sleep(0.03)
        for name in ("B.drop", "A.drop", "C.drop"):
            put(policy, name, forward_paths=[f"{name}@y"])
        await until(lambda: not files(policy.directory))

    assert {envelope.forward_paths[0] for envelope, _ in accept.taken} == {"A.drop@y", "B.drop@y", "C.drop@y"}


async def test_directory_that_is_made_later_is_found(policy: DropPolicy) -> None:
    policy.directory.rmdir()
    accept = Accept(SENT)
    async with taking(policy, accept):
        await asyncio.sleep(0.03)
        policy.directory.mkdir()
        put(policy)
        await until(lambda: accept.taken)


async def test_file_is_kept_until_the_answer_is_success(policy: DropPolicy) -> None:
    path = put(policy)
    answer = asyncio.Event()
    seen = []

    async def slow(envelope: Envelope, _: bytes) -> Verdict:
        seen.append(path.exists())
        await answer.wait()
        seen.append(path.exists())
        return Verdict(SENT, dict.fromkeys(envelope.forward_paths, SENT))

    async with taking(policy, slow):  # type: ignore[arg-type]
        await until(lambda: seen)
        answer.set()
        await until(lambda: not path.exists())

    assert seen == [True, True]


async def test_deferred_mail_is_tried_again(policy: DropPolicy) -> None:
    put(policy)
    accept = Accept(LATER, LATER, SENT)
    async with taking(policy, accept):
        await until(lambda: not files(policy.directory))

    assert len(accept.taken) == 3


async def test_only_recipients_without_an_answer_are_tried_again(policy: DropPolicy) -> None:
    put(policy, forward_paths=["gone@y", "later@y"])
    mixed = Verdict(LATER, {"gone@y": BOUNCED, "later@y": LATER})
    accept = Accept(mixed, SENT)
    told: list[Outcomes] = []

    async def bounce(envelope: Envelope, message: bytes, outcomes: Outcomes) -> None:
        told.append(outcomes)

    async with taking(policy, accept, bounce):
        await until(lambda: not files(policy.directory))

    assert [envelope.forward_paths for envelope, _ in accept.taken] == [("gone@y", "later@y"), ("later@y",)]
    assert told == [{"gone@y": BOUNCED}]


async def test_expired_mail_is_bounced(policy: DropPolicy) -> None:
    path = put(policy)
    os.utime(path, (0, 0))
    told: list[Outcomes] = []

    async def bounce(envelope: Envelope, message: bytes, outcomes: Outcomes) -> None:
        told.append(outcomes)

    async with taking(policy, Accept(LATER), bounce):
        await until(lambda: told and not files(policy.directory))

    assert told == [{"b@y": LATER}]


async def test_refused_mail_is_set_aside_with_the_reply(policy: DropPolicy) -> None:
    put(policy)
    with heard() as told:
        async with taking(policy, Accept(BOUNCED)):
            await until(lambda: len(files(policy.aside)) == 2 and told)

    assert told[0].text.endswith("A.550-5.1.1.drop: <b@y>: 550 5.1.1 bounced")
    assert files(policy.directory) == []
    assert files(policy.aside) == ["A.550-5.1.1.drop", "A.550-5.1.1.drop.reason"]
    assert (policy.aside / "A.550-5.1.1.drop.reason").read_text() == "<b@y>: 550 5.1.1 bounced\n"


async def test_refused_mail_is_handed_to_bounce_once(policy: DropPolicy) -> None:
    put(policy)
    told: list[tuple[bytes, Outcomes]] = []

    async def bounce(envelope: Envelope, message: bytes, outcomes: Outcomes) -> None:
        told.append((message, outcomes))

    async with taking(policy, Accept(BOUNCED), bounce):
        await until(lambda: told and not files(policy.directory))

    assert told == [(MESSAGE, {"b@y": BOUNCED})]
    assert files(policy.aside) == []


async def test_message_that_is_too_large_is_refused_unread(policy: DropPolicy) -> None:
    put(policy, message=b"x" * 10_001)
    accept = Accept(SENT)
    async with taking(policy, accept):
        await until(lambda: len(files(policy.aside)) == 2)

    assert accept.taken == []
    assert "A.552-5.3.4.drop" in files(policy.aside)


BAD_HEADS = [
    ({"version": 2}, "version 2; this bridge reads version 1"),
    ({"size": 1}, "is incomplete: 18 octets of 1"),
    ({"reverse_path": None}, "is not text"),
    ({"forward_paths": []}, "no forward_paths"),
    ({"forward_paths": "b@y"}, "no forward_paths"),
    ({"forward_paths": None}, "no forward_paths"),
]


@pytest.mark.parametrize(("head", "reason"), BAD_HEADS)
async def test_bad_head_is_set_aside_with_a_reason(
    policy: DropPolicy, head: dict[str, Any], reason: str
) -> None:
    put(policy, **head)
    await set_aside_and_the_rest_taken(policy, reason)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no end"),
        (b"no json\n", "not JSON"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b"[1]\n", "not a JSON object"),
        (b"\xff\xfe\n", "not JSON"),
        (json.dumps(HEAD).encode(), "no end"),
        (json.dumps(HEAD).encode() + b"\n" + MESSAGE[:-1], "is incomplete"),
    ],
)
async def test_bad_content_is_set_aside_with_a_reason(
    policy: DropPolicy, content: bytes, reason: str
) -> None:
    (policy.directory / "A.drop").write_bytes(content)
    await set_aside_and_the_rest_taken(policy, reason)


@pytest.mark.parametrize("kind", ["directory", "symlink", "fifo", "hard link", "other name"])
async def test_bad_file_is_set_aside_with_a_reason(policy: DropPolicy, tmp_path: Path, kind: str) -> None:
    path = policy.directory / "A.drop"
    if kind == "directory":
        path.mkdir()
    elif kind == "symlink":
        put(replace(policy, directory=tmp_path), "target.drop")
        path.symlink_to(tmp_path / "target.drop")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "hard link":
        put(policy)
        os.link(path, tmp_path / "kept")
    elif kind == "other name":
        put(policy).rename(policy.directory / "A.txt")
    await set_aside_and_the_rest_taken(policy, "")


async def set_aside_and_the_rest_taken(policy: DropPolicy, reason: str) -> None:
    put(policy, "Z.drop", forward_paths=["good@y"])
    accept = Accept(SENT)
    async with taking(policy, accept):
        await until(lambda: not files(policy.directory) and len(files(policy.aside)) == 2)

    assert [envelope.forward_paths for envelope, _ in accept.taken] == [("good@y",)]
    [told] = policy.aside.glob("*.reason")
    assert reason in told.read_text()


async def test_names_meant_to_harm_do_not(policy: DropPolicy) -> None:
    for name in ("a\nb.drop", "x" * 200 + ".drop", "\x1b[2J.drop", "ü.drop", "-rf.drop"):
        (policy.directory / name).write_bytes(b"nonsense\n")
    async with taking(policy, Accept(SENT)):
        await until(lambda: not files(policy.directory) and len(files(policy.aside)) == 10)

    assert all(name.isascii() and name.isprintable() and len(name) < 120 for name in files(policy.aside))


async def test_where_nothing_can_be_set_aside_the_rest_is_taken_all_the_same(
    policy: DropPolicy, tmp_path: Path
) -> None:
    (tmp_path / "aside").write_text("a file where the directory should be")
    (policy.directory / "A.drop").write_bytes(b"nonsense\n")
    put(policy, "B.drop")
    accept = Accept(SENT)
    async with taking(policy, accept):
        await until(lambda: accept.taken and files(policy.directory) == ["A.drop"])


async def test_message_that_makes_the_relay_fail_is_set_aside_after_three_tries(policy: DropPolicy) -> None:
    put(policy)
    accept = Accept(RuntimeError("a bug"))
    async with taking(policy, accept):
        await until(lambda: len(files(policy.aside)) == 2)

    assert len(accept.taken) == 3


async def test_file_of_a_writer_still_at_work_is_left_alone(policy: DropPolicy) -> None:
    young, old = policy.directory / ".young.part", policy.directory / ".old.part"
    young.write_bytes(b"half")
    old.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    async with taking(policy, Accept(SENT)):
        await until(lambda: not old.exists())

    assert files(policy.directory) == [".young.part"]


async def test_stop_waits_for_what_is_in_flight_and_starts_nothing_more(policy: DropPolicy) -> None:
    put(policy, "A.drop")
    put(policy, "B.drop")
    answer, started = asyncio.Event(), asyncio.Event()

    async def slow(envelope: Envelope, _: bytes) -> Verdict:
        started.set()
        await answer.wait()
        return Verdict(SENT, dict.fromkeys(envelope.forward_paths, SENT))

    drops = DropDirectory(replace(policy, concurrency=1), front_door(), slow)
    task = asyncio.create_task(drops.run())
    await started.wait()
    drops.stop()
    answer.set()
    await task
    assert files(policy.directory) == ["B.drop"]


async def test_many_files_are_taken_a_few_at_a_time(policy: DropPolicy) -> None:
    for number in range(50):
        put(policy, f"{number:03}.drop")
    now, most = 0, 0

    async def count(envelope: Envelope, _: bytes) -> Verdict:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return Verdict(SENT, dict.fromkeys(envelope.forward_paths, SENT))

    drops = DropDirectory(replace(policy, concurrency=4), front_door(), count)
    task = asyncio.create_task(drops.run())
    await until(lambda: not files(policy.directory))
    drops.stop()
    await task
    assert most == 4


async def test_sendmails_own_drop_is_taken(policy: DropPolicy, away: Sendmail) -> None:
    env = {"SMTP2CF_SENDMAIL_DROP_DIR": str(policy.directory)}
    result = await asyncio.to_thread(
        away, "-f", "<>", "jorg@bücher.example", input=b"Subject: s\n\nhi\n", env=env
    )
    accept = Accept(SENT)
    async with taking(policy, accept):
        await until(lambda: accept.taken and not files(policy.directory))

    assert result.code == 0
    envelope, message = accept.taken[0]
    assert (envelope.reverse_path, envelope.forward_paths) == ("", ("jorg@bücher.example",))
    assert envelope.smtputf8
    assert message.endswith(b"\r\n\r\nhi\r\n")
