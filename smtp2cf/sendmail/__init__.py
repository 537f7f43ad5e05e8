"""sendmail(1): reads a message from standard input and hands it to the bridge.

A message submission (RFC 6409 §8) over SMTP (RFC 5321); exit codes as in sysexits.h. If the bridge
is away, the message goes into a drop directory.

This package also runs without the rest of smtp2cf, as the single file that `make sendmail.pyz` builds,
on any Python from 3.8 on. So it imports the standard library only (except in direct.py), and its
modules import one another by relative names. Callers wait for every millisecond of the start: a
module that few calls need (-bs, -q, mailq, the drop directory) is imported when one does, and large
modules of the standard library are avoided: socket, pathlib, contextlib, email.
"""

from __future__ import annotations

import os
import sys

from .exit_codes import OK, OS_ERROR, SOFTWARE, Failure, why
from .options import HELP, Options, parse_arguments
from .output import complain, write_stdout
from .settings import Settings

__all__ = ["main"]


def main() -> int:
    """Run one call of sendmail, mailq or newaliases; returns its exit code."""
    open_standard_descriptors()
    try:
        options = parse_arguments(sys.argv)
        return run(options, Settings(dict(os.environ)))
    except Failure as failure:
        complain(str(failure))
        return failure.code
    except BrokenPipeError:
        return OS_ERROR  # nobody reads standard output any more
    except (OSError, MemoryError) as error:
        complain(why(error))
        return OS_ERROR
    except KeyboardInterrupt:
        return 128 + 2
    except Exception as error:  # noqa: BLE001 - a traceback in a cron job's log helps nobody
        complain(f"internal error: {type(error).__name__}: {error}")
        return SOFTWARE


def run(options: Options, settings: Settings) -> int:
    """Do what the command line asks for, importing no more than that takes."""
    if options.mode == "deliver":
        from .delivery import deliver

        return deliver(options, settings)
    if options.mode == "smtp":
        from .bs import smtp_on_stdio

        return smtp_on_stdio(options, settings)
    if options.mode == "mailq":
        from .mailq import mailq

        return mailq(settings)
    if options.mode == "queue":
        from .queue_run import run_queue

        return run_queue(options, settings)
    if options.mode == "verify":
        from .verify import verify

        return verify(options, settings)
    if options.mode == "help":
        write_stdout(HELP)
    return OK  # newaliases: nothing to build, the aliases file is read as it is


def open_standard_descriptors() -> None:
    """Open 0, 1 and 2 if the caller closed them, or a socket would become standard error."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return
