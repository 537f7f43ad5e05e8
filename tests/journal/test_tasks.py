"""What goes on by itself is begun again after an error, or has it logged; all begins in one place."""

import ast
import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import smtp2cf
from smtp2cf.journal import tasks
from tests.support.waiting import PATIENCE

ELSEWHERE = {
    ("access/logins.py", "_verified"): "awaited there; _done logs its error when all who waited have left",
    ("relay/with_spool.py", "_send_or_keep"): "awaited there, or by the queue that it is handed to",
    ("relay/calls.py", "_each"): "in a TaskGroup",
    ("relay/drop.py", "_start_due"): "_done logs its error",
    ("relay/lease.py", "keep"): "awaited there",
    ("serve/bridge.py", "until"): "awaited there",
    ("listen/signals.py", "finished"): "awaited there",
}
"""Where else tasks are begun, by file and function, and who sees their end."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 0.001)


class FlakyError(Exception):
    """What the work here fails with."""


async def test_work_that_fails_is_begun_again_and_logged() -> None:
    ended: list[BaseException | None] = [
        FlakyError("one"),
        asyncio.CancelledError(),
        None,
    ]

    async def work() -> None:
        if (error := ended.pop(0)) is not None:
            raise error

    with capture_logs() as lines:
        await asyncio.wait_for(tasks.keep_running(work, "a test"), PATIENCE)
    assert not ended
    assert [(line["event"], line["task"]) for line in lines] == [("task.failed", "a test")] * 2
    assert [line["again_in"] for line in lines] == [0.001, 0.002]


async def test_work_that_is_cancelled_is_not_begun_again() -> None:
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    task = tasks.keep_running(work, "a test")
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE)


async def test_a_fatal_error_is_for_who_started_the_work() -> None:
    async def work() -> None:
        raise FlakyError

    with pytest.raises(FlakyError):
        await asyncio.wait_for(tasks.keep_running(work, "a test", fatal=FlakyError), PATIENCE)


async def test_what_is_done_once_has_its_error_logged() -> None:
    async def work() -> None:
        raise FlakyError("gone wrong")

    with capture_logs() as lines:
        await asyncio.wait((tasks.start(work(), "a test"),))
        await asyncio.sleep(0)
    assert [(line["event"], line["task"], str(line["exc_info"])) for line in lines] == [
        ("task.failed", "a test", "gone wrong")
    ]


def test_no_task_is_begun_elsewhere_but_where_its_end_is_seen() -> None:
    package = Path(smtp2cf.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        name = str(path.relative_to(package))
        if name == "journal/tasks.py":
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found |= {
                    (name, function.name)
                    for node in ast.walk(function)
                    if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future")
                }
    assert found == set(ELSEWHERE)


def test_nothing_loses_a_cancellation() -> None:
    """asyncio.wait_for of Python 3.11 does, where what it waits for is there at that moment: whoever stops
    the task would wait for ever. asyncio.timeout does the same without."""
    product = Path(smtp2cf.__file__).parent
    users = [path.name for path in product.rglob("*.py") if "asyncio.wait_for(" in path.read_text()]
    assert users == []
