"""Log lines as they come out of a process: their form, what they can't be made to hold, and who is quiet.

Each test runs its lines in a process of its own: logging is set up once for a whole process.
"""

import json
import os
import pty
import smtplib
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge import running_bridge
from tests.support.forked import run_script
from tests.support.sandbox import running_sandbox
from tests.support.secret import TOKEN, shown_in

HOSTILE = "a\r\n250 OK\x00\x07\x1b[2J\x7f\x85\x9b31m\u2028\u2029\u202e\ufeff\u0130"


def run(code: str, *, log_format: str = "json", level: str = "info", **env: str) -> str:
    """Standard error of a process that has set up logging and runs `code`."""
    head = f"""
        import asyncio, logging, os, warnings
        import structlog
        from smtp2cf.journal import logs
        logs.configure({level!r}, {log_format!r})
        log = structlog.stdlib.get_logger("smtp2cf.test")
    """
    script = textwrap.dedent(head) + textwrap.dedent(code)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = run_script(script, env={**os.environ, **env}, **pipes)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert not done.stdout
    return done.stderr.decode("utf-8", "strict")


def lines_of(code: str, **options: Any) -> list[dict]:
    """The JSON objects a process logs, one a line."""
    text = run(code, **options)
    assert text.endswith("\n")
    # Not splitlines(): what it takes for the end of a line is what the lines must not hold.
    return [json.loads(line) for line in text[:-1].split("\n")]


# ---- JSON


def test_a_line_has_its_fields_a_level_and_a_time_in_utc() -> None:
    (line,) = lines_of("log.info('mail.attempt', queue_id='1', to=['a', 'b'], delay=0.25, size=3)")
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "mail.attempt",
        "level": "info",
        "queue_id": "1",
        "to": ["a", "b"],
        "delay": 0.25,
        "size": 3,
    }


def test_hostile_text_is_one_line_of_printable_json_with_the_text_in_it() -> None:
    text = run(f"log.info('event', to={HOSTILE!r}, all=[{HOSTILE!r}], nested={{'x': {HOSTILE!r}}})")
    assert text.count("\n") == 1
    assert all(char.isprintable() for char in text[:-1])
    assert len(text.splitlines()) == 1
    line = json.loads(text)
    assert line["to"] == HOSTILE
    assert line["all"] == [HOSTILE]
    assert line["nested"] == {"x": HOSTILE}


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        (r"'bob\udcff@x'", "bob\\udcff@x"),
        (r"['\ud800']", ["\\ud800"]),
        ("{1: 2, None: 3, (1, 2): 4}", {"1": "2", "None": "3", "(1, 2)": "4"}),
        ("2 ** 80", str(2**80)),
        ("float('nan')", None),
        ("float('inf')", None),
        ("b'bytes'", "b'bytes'"),
        ("{3}", "{3}"),
        ("ValueError('no')", "no"),
        ("object", "<class 'object'>"),
        ("[None, True, {'a': 2 ** 70}]", [None, True, {"a": str(2**70)}]),
    ],
)
def test_a_value_that_json_has_no_form_for_costs_no_line(value: str, logged: object) -> None:
    line, after = lines_of(f"log.info('event', value={value}, id='1')\nlog.info('after')")
    assert line["value"] == logged
    assert line["id"] == "1"
    assert after["event"] == "after"


def test_a_key_may_be_hostile_too() -> None:
    (line,) = lines_of(f"log.info('event', **{{{HOSTILE!r}: 1, 'x\\udcff': 2}})")
    assert line[HOSTILE] in (1, "1")
    assert line["x\\udcff"] in (2, "2")


def test_text_of_any_language_is_readable() -> None:
    assert "Grüße aus Köln, 東京, ☕" in run("log.info('event', text='Grüße aus Köln, 東京, ☕')")


# ---- for a terminal


def test_the_console_shows_one_line_an_event_and_no_control_characters() -> None:
    text = run(f"log.warning('event', to={HOSTILE!r}, all=[{HOSTILE!r}])", log_format="console")
    assert text.count("\n") == 1
    assert text[:-1].isprintable()
    assert "\\x1b[2J" in text


def test_a_librarys_words_can_not_write_on_the_terminal() -> None:
    text = run(f"logging.getLogger('lib').warning({HOSTILE!r})", log_format="console")
    assert text.count("\n") == 1
    assert text[:-1].isprintable()


def test_an_exception_can_not_write_on_the_terminal() -> None:
    text = run(
        f"""
        try:
            raise ValueError({HOSTILE!r})
        except ValueError:
            log.exception('event')
        """,
        log_format="console",
    )
    assert "Traceback" in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\\x1b[2J" in text


def test_auto_means_console_on_a_terminal_and_json_elsewhere() -> None:
    assert lines_of("log.info('event')", log_format="auto")[0]["event"] == "event"
    script = "from smtp2cf.journal import logs\nimport structlog\nlogs.configure('info', 'auto')\n"
    script += "structlog.stdlib.get_logger().info('event')"
    ours, theirs = pty.openpty()
    try:
        assert run_script(script, stderr=theirs).returncode == 0
        shown = os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "event" in shown
    assert not shown.startswith("{")
    assert "\x1b[" in shown, "in colour"


# ---- levels


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_what_is_below_the_level_is_not_heard(level: str, heard: list[str]) -> None:
    code = "for name in ('debug', 'info', 'warning', 'error'): getattr(log, name)(name)"
    assert [line["event"] for line in lines_of(code, level=level)] == heard


def test_libraries_are_heard_from_warnings_on_and_never_below_the_level() -> None:
    code = "for name in ('debug', 'info', 'warning', 'error'): getattr(logging.getLogger('lib'), name)(name)"
    assert [line["event"] for line in lines_of(code, level="debug")] == ["warning", "error"]
    assert [line["event"] for line in lines_of(code, level="error")] == ["error"]


@pytest.mark.parametrize("name", ["mail.log", "mail.debug", "aiohttp.client", "aiohttp.access", "asyncio"])
def test_the_loggers_that_tell_every_command_and_request_are_quiet(name: str) -> None:
    code = f"logging.getLogger({name!r}).info('AUTH PLAIN AGFubmEAc2VjcmV0'); log.info('after')"
    assert [line["event"] for line in lines_of(code, level="debug")] == ["after"]


# ---- other people's lines


def test_a_librarys_line_has_the_same_form() -> None:
    (line,) = lines_of(f"logging.getLogger('some.lib').warning('hello %s', {HOSTILE!r})")
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": f"hello {HOSTILE}", "level": "warning", "logger": "some.lib"}


def test_a_librarys_exception_is_one_line() -> None:
    code = """
        try:
            raise ValueError('no')
        except ValueError:
            logging.getLogger('lib').exception('it failed')
    """
    (line,) = lines_of(code)
    assert (line["event"], line["level"]) == ("it failed", "error")
    assert line["exception"].endswith("ValueError: no")


def test_a_warning_of_python_is_a_line() -> None:
    (line,) = lines_of("warnings.warn('this is old', UserWarning)")
    assert line["level"] == "warning"
    assert "UserWarning: this is old" in line["event"]


# ---- what tracebacks tell


def test_a_traceback_shows_no_values_of_variables() -> None:
    code = """
        def fail(token):
            message = 'Subject: private'
            raise ValueError('no')
        try:
            fail('s3cret-token')
        except ValueError:
            log.exception('event')
    """
    for log_format in ("json", "console"):
        text = (
            run(code, log_format=log_format)
            .replace("fail('s3cret-token')", "")
            .replace("'Subject: private'", "")
        )
        assert "ValueError: no" in text
        assert "s3cret" not in text
        assert "private" not in text


def test_the_token_is_in_no_traceback_of_a_failed_call_and_in_no_line_of_an_orphaned_task() -> None:
    """aiohttp's own errors carry the request's headers in their repr."""
    code = """
        from smtp2cf.cloudflare import Client
        from smtp2cf.reply import SendError

        async def garbage(reader, writer):
            await reader.readuntil(b"\\r\\n\\r\\n")
            writer.write(b"HTTP/1.1 abc\\r\\n\\r\\n")
            writer.close()

        async def main():
            server = await asyncio.start_server(garbage, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            client = Client(
                base_url=f"http://127.0.0.1:{port}",
                account_id="1",
                token=os.environ["TOKEN"],
                timeout=5.0,
                concurrency=1,
            )
            deadline = asyncio.get_running_loop().time() + 5
            for _ in range(2):
                try:
                    await client.send("a@x", ["b@x"], b"m", deadline)
                except SendError as error:
                    cause = error.__cause__
                    log.exception("failed", error=error, client=client, cause=cause, shown=repr(cause))
            orphan = asyncio.ensure_future(client.send("a@x", ["b@x"], b"m", deadline))
            await asyncio.wait([orphan])
            del orphan
            await client.aclose()
            server.close()

        asyncio.run(main())
    """
    for log_format in ("json", "console"):
        text = run(code, log_format=log_format, level="debug", TOKEN=TOKEN)
        assert "SendError" in text
        assert "never retrieved" in text
        assert not shown_in(text)


def test_a_bridge_whose_token_is_refused_does_not_log_it_at_any_level(tmp_path: Path) -> None:
    env = {"ACCOUNT_ID": "1", "API_TOKEN": TOKEN, "LOG_LEVEL": "debug", "SPOOL_URL": "none"}
    with (
        running_sandbox(token="another") as (_, url),
        running_bridge(tmp_path, sandbox=False, API_BASE_URL=url, **env) as bridge,
    ):
        with bridge.client() as smtp, pytest.raises(smtplib.SMTPResponseException) as refused:
            smtp.sendmail("a@example.com", ["b@example.net"], b"Subject: x\r\n\r\nhello\r\n")
        assert refused.value.smtp_code == 451
        bridge.wait_for_log("mail.attempt")
        bridge.stop()
        log = bridge.log_path.read_text()
    assert "SMTP2CF_API_TOKEN" in log
    assert not shown_in(log + str(refused.value))


# ---- when lines are written

COUNTED = """
    class Counted(logs.io.BytesIO):
        writes = []
        def write(self, octets):
            self.writes.append(bytes(octets).decode())
            return len(octets)

    class Stream:
        buffer = Counted()
        isatty = lambda self: False
        write = lambda self, text: None
        flush = lambda self: None

    real, stream = __import__('sys').stderr, Stream()
    logs.configure('info', 'json', stream)
    log = structlog.stdlib.get_logger('counted')
"""


def writes_of(code: str) -> list[list[str]]:
    """The events of each write that a process makes."""
    text = run(
        textwrap.dedent(COUNTED) + textwrap.dedent(code) + "\nprint(*Counted.writes, sep='--\\n', file=real)"
    )
    return [[json.loads(line)["event"] for line in write.split("\n") if line] for write in text.split("--\n")]


def test_the_lines_of_one_turn_of_the_event_loop_are_one_write_in_their_order() -> None:
    assert writes_of(
        """
        other = structlog.stdlib.get_logger('other')

        async def main():
            log.info('first')
            other.warning('second')
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            log.info('third')

        asyncio.run(main())
        """
    ) == [["first", "second"], ["third"]]


def test_outside_the_event_loop_a_line_is_written_at_once() -> None:
    assert writes_of("log.info('first'); log.info('second')") == [["first"], ["second"]]
    assert writes_of(
        """
        async def main():
            log.info('first')
            await asyncio.sleep(0)
            await asyncio.to_thread(log.info, 'thread')
            log.info('last')

        asyncio.run(main())
        """
    ) == [["first"], ["thread"], ["last"]]


def test_the_last_lines_before_the_end_are_written() -> None:
    (line,) = lines_of(
        """
        async def main():
            log.info('last')
            raise SystemExit(0)

        asyncio.run(main())
        """
    )
    assert line["event"] == "last"
    (line,) = lines_of(
        """
        async def main():
            log.info('last')

        asyncio.get_event_loop_policy().new_event_loop().run_until_complete(main())
        """
    )
    assert line["event"] == "last"


def test_a_disk_that_takes_no_lines_stops_nothing() -> None:
    script = """
from smtp2cf.journal import logs
import asyncio, structlog
logs.configure('info', 'json')
log = structlog.get_logger()
async def main():
    for number in range(3000):
        log.info('in the loop', number=number)
        await asyncio.sleep(0)
        await asyncio.to_thread(log.info, 'in a thread') if number % 100 == 0 else None
    print('went on')
asyncio.run(main())
"""
    with Path("/dev/full").open("wb") as full:
        done = run_script(script, stdout=subprocess.PIPE, stderr=full)
    assert done.stdout == b"went on\n"
