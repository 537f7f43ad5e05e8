"""Log lines: structlog's configuration, the same form for our own and for libraries' lines.

JSON lines for machines, colours for a terminal; to standard error. Tracebacks never show the values
of variables: a token or a message could be among them.
"""

import asyncio
import atexit
import contextlib
import io
import logging
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, BinaryIO, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from smtp2cf.reply import UNPRINTABLE


def configure(
    level: str, log_format: Literal["auto", "console", "json"], stream: TextIO | None = None
) -> None:
    """Set up logging to `stream` (standard error) once, at start."""
    stream = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False) if console else _Timestamp(),
    ]
    if console:
        shared.append(escape_control_characters)
        render = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), sort_keys=False, exception_formatter=_escaped_traceback
        )
        renderers: list[Processor] = [render]
        sink: Any = structlog.WriteLogger(stream)
    else:
        renderers = [structlog.processors.format_exc_info, render_json]
        sink = _Lines(stream.buffer)
        atexit.register(sink.flush)
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers, _as_text],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        )
    )
    logging.captureWarnings(True)
    # Libraries speak up when something is wrong; aiosmtpd would log every command, with its AUTH.
    # What it thinks of a PROXY header is in our own line about it.
    logging.getLogger("mail.debug").setLevel(logging.ERROR)
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


class _Lines:
    """Writes lines to a file. Those of one turn of the event loop are written together at its end, because
    the write costs more than everything else about a line; without a loop, as in a thread, at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        """Write `line` and a line end."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._write((line, b""))
            return
        if not self._lines:
            loop.call_soon(self.flush)
        self._lines.append(line)

    debug = info = warning = error = critical = write

    def flush(self) -> None:
        """Write what has not been written yet."""
        if self._lines:
            lines, self._lines = [*self._lines, b""], []
            self._write(lines)

    def _write(self, lines: Sequence[bytes]) -> None:
        # A disk that is full takes no lines; nothing else may fail for that.
        with contextlib.suppress(OSError):
            self._file.write(b"\n".join(lines))
            self._file.flush()


class _Timestamp:
    """UTC in ISO 8601. structlog's own takes a third of the cost of a line, formatting every part each
    time."""

    def __init__(self) -> None:
        self._second = 0
        self._prefix = ""

    def __call__(self, _: Any, __: str, event: EventDict) -> EventDict:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._prefix = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        event["timestamp"] = f"{self._prefix}.{int((now - second) * 1e6):06d}Z"
        return event


def render_json(_: Any, __: str, event: EventDict) -> bytes:
    """One line of JSON, whatever the event holds; orjson escapes the C0 control characters itself."""
    try:
        line = orjson.dumps(event, default=str)
    except TypeError:
        line = orjson.dumps(_plain(event))
    if b"\x7f" in line or not line.isascii():
        return UNPRINTABLE.sub(_as_json_escapes, line.decode()).encode()
    return line


def _as_json_escapes(found: re.Match[str]) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in found[0])


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: only text as keys, no surrogates, no huge numbers."""
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | float):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()


def _as_text(_: Any, __: str, line: Any) -> str:
    return line.decode() if isinstance(line, bytes) else str(line)


def escape_control_characters(_: Any, __: str, event: EventDict) -> EventDict:
    """Keep addresses and replies from controlling a terminal or adding a second line to the log."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = _escaped(value)
    return event


def _escaped_traceback(sink: TextIO, exc_info: ExcInfo) -> None:
    """The traceback; its lines are ours, but the exception's text may come from anybody."""
    traceback = io.StringIO()
    structlog.dev.plain_traceback(traceback, exc_info)
    lines = traceback.getvalue().split("\n")
    sink.write("\n".join(line if line.isprintable() else _escaped(line) for line in lines))


def _escaped(text: str) -> str:
    return text.encode("unicode_escape", "backslashreplace").decode("ascii")
