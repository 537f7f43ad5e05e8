"""A forked process is as one that was executed, in all that a test of what it does can see."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import clean_environment
from tests.support.forked import ROOT, Forked, start_smtp2cf
from tests.support.waiting import PATIENCE, wait_until

PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
Start = Callable[..., "subprocess.Popen[str]"]


def seen() -> None:
    """What a process finds when it starts."""
    ignored = [n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN]
    handled = [n for n in signal.valid_signals() if callable(signal.getsignal(n))]
    streams = [sys.stdin, sys.stdout, sys.stderr]
    found = {
        "argv": sys.argv[1:],
        "environment": dict(os.environ),
        "of libc": os.fsdecode(subprocess.run(["env"], capture_output=True, check=True).stdout),
        "directory": os.getcwd(),
        "umask": os.umask(0o022),
        "files": sorted(
            n for n in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{n}")
        ),
        "signals": [ignored, handled, list(signal.pthread_sigmask(signal.SIG_BLOCK, []))],
        "streams": [(s.encoding, s.errors, s.line_buffering, s.fileno(), s.name) for s in streams],
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "threads": threading.active_count(),
        "given": sys.stdin.read(),
    }
    print(json.dumps(found))


def leaves(how: str) -> None:
    print("said")
    match how:
        case "thread":
            threading.Thread(target=lambda: print("by a thread")).start()
        case "error":
            raise ValueError("not caught")
        case "interrupt":
            raise KeyboardInterrupt
        case "words":
            sys.exit("in words")
        case "status":
            sys.exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)


def leaves_as_told() -> None:
    leaves(sys.argv[1])


def waits() -> None:
    signal.pause()


def executed(function: Callable[[], None], *arguments: str, **popen: Any) -> "subprocess.Popen[str]":
    call = f"from {__name__} import {function.__name__} as main; main()"
    return subprocess.Popen([sys.executable, "-c", call, *arguments], text=True, **popen)


def forked(function: Callable[[], None], *arguments: str, **popen: Any) -> "subprocess.Popen[str]":
    return Forked(f"{__name__}:{function.__name__}", ["x", *arguments], text=True, **popen)


def ended(process: "subprocess.Popen[str]", given: str = "") -> tuple[str, str, int]:
    out, err = process.communicate(given, timeout=PATIENCE)
    return out, err, process.returncode


def test_it_finds_what_it_would_find(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        env = clean_environment({"SMTP2CF_ODD": "\udcff=ö", "PYTHONPATH": str(ROOT), "TZ": "Asia/Kolkata"})
        options = {**PIPES, "env": env, "cwd": tmp_path, "pass_fds": [writing]}
        one, other = (ended(start(seen, "ä", "b c", **options), "given") for start in (executed, forked))
    finally:
        os.close(reading)
        os.close(writing)
    assert json.loads(one[0]) == json.loads(other[0])
    assert json.loads(other[0])["files"] == [0, 1, 2, writing]
    assert one[1:] == other[1:] == ("", 0)


@pytest.mark.parametrize("how", ["", "thread", "error", "interrupt", "words", "status", "killed"])
def test_it_ends_as_it_would_end(how: str) -> None:
    one, other = (ended(start(leaves_as_told, how, **PIPES)) for start in (executed, forked))
    assert one[0] == other[0]
    assert one[1].splitlines()[-1:] == other[1].splitlines()[-1:]
    assert one[2] == other[2]


def test_it_can_be_asked_waited_for_and_signalled() -> None:
    with forked(waits) as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.terminate()
        wait_until(lambda: process.poll() is not None, "it ends")
        assert process.returncode == process.wait() == -signal.SIGTERM


def test_no_two_draw_the_same_queue_ids() -> None:
    drawn = {ended(forked(print_queue_id, stdout=subprocess.PIPE))[0].strip()[-3:] for _ in range(4)}
    assert len(drawn) > 1


def print_queue_id() -> None:
    from smtp2cf.envelope import new_queue_id

    print(new_queue_id())


def print_constant() -> None:
    from smtp2cf.spool import health

    print(health.INTERVAL)


def test_a_constant_may_have_another_value_in_that_process_alone() -> None:
    for constants, shown in (({"smtp2cf.spool.health:INTERVAL": 0.25}, "0.25"), ({}, "5.0")):
        assert ended(forked(print_constant, constants=constants, stdout=subprocess.PIPE))[0].strip() == shown
    with pytest.raises(AssertionError, match="has to be executed"):
        start_smtp2cf(["--version"], executed=True, constants={"smtp2cf.spool.health:INTERVAL": 0.25})


def test_where_python_would_start_otherwise_there_is_an_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, otherwise = clean_environment({}), clean_environment({"PYTHONIOENCODING": "ascii"})
    for env, kind in ((usual, Forked), (otherwise, subprocess.Popen)):
        with start_smtp2cf(["--version"], env=env, stdout=subprocess.PIPE) as process:
            assert type(process) is kind
            process.communicate()


def test_where_a_limit_is_another_there_is_an_exec() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    other = hard if soft != hard else 0
    resource.setrlimit(resource.RLIMIT_CORE, (other, hard))
    try:
        with start_smtp2cf(["--version"], stdout=subprocess.PIPE) as process:
            process.communicate()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    assert type(process) is (Forked if other == soft else subprocess.Popen)
