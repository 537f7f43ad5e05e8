"""Log lines: structlog's configuration, the same form for our own and for libraries' lines.

JSON lines for machines, colours for a terminal; to standard error. Tracebacks never show the values
of variables: a token or a message could be among them.
"""

import logging
import sys
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor


def configure(level: str, log_format: Literal["auto", "console", "json"], stream: TextIO | None = None) -> None:
    """Set up logging to `stream` (standard error) once, at start."""
    stream = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console),
        _escape_control_characters,
    ]
    renderers: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=_plain_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    )
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
            foreign_pre_chain=shared,
        )
    )
    # Libraries speak up when something is wrong; aiosmtpd would log every command, with its AUTH.
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


def _json(event: EventDict, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def _plain_traceback(stream: TextIO, exc_info: Any) -> None:
    structlog.dev.plain_traceback(stream, exc_info)


def _escape_control_characters(_: Any, __: str, event: EventDict) -> EventDict:
    """No address or reply may write on somebody's terminal, or a second line into the log."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable() and name != "exception":
            event[name] = value.encode("unicode_escape", "backslashreplace").decode("ascii")
    return event
