"""The process that tests' processes are forked from: it has imported all that `smtp2cf` imports, does nothing
itself, and so each start costs a hundredth of an exec.

One for each test process, started by tests.support.forked, which says what each child is to be. The child
leaves the loop for the top of the interpreter, where nothing of it is left on the stack.
"""

import array
import atexit
import contextlib
import gc
import io
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from smtp2cf.envelope import draw_process

IMPORTED = (
    "smtp2cf.cli.app",
    "smtp2cf.cli.install_sendmail",
    "smtp2cf.serve",
    "smtp2cf.settings.loading",
    "uvloop",
)
"""And what they import."""
LARGEST = 2**18
"""Octets of a request."""
MOST_FDS = 16
_INTERRUPTED = -signal.SIGINT
"""For a status, where the process has to die of it."""


class Start(NamedTuple):
    """What a child is to be.

    main: "module:function", called without arguments. fds: the numbers at which it is to find the file
    descriptors that come with the request, in their order. constants: "module:NAME" with another value.
    """

    main: str
    argv: list[str]
    env: dict[bytes, bytes]
    cwd: bytes
    umask: int
    fds: list[int]
    constants: dict[str, Any]


class Request(NamedTuple):
    """teller: takes the child's process id, and, once it has ended, how. fds: those for the child."""

    start: Start
    teller: socket.socket
    fds: list[int]


def serve(control: socket.socket) -> Callable[[], object] | None:
    """Fork a child for each request until the other end closes.

    Returns in the children, each with what it is to call, and at the end with None.
    """
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, for all who are on it: the tests end us
    tellers: dict[int, socket.socket] = {}
    while True:
        readable, _, _ = select.select([control, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            _tell_ends(tellers)
        if control in readable:
            request = _receive(control)
            if request is None:
                return None
            if not (pid := os.fork()):
                for ours in (control, request.teller, *tellers.values()):
                    ours.close()
                return _become(request)
            for number in request.fds:
                os.close(number)
            tellers[pid] = request.teller
            _tell(request.teller, pid)


def _receive(control: socket.socket) -> Request | None:
    octets, ancillary, _, _ = control.recvmsg(LARGEST, socket.CMSG_SPACE(MOST_FDS * 4))
    if not octets:
        return None
    numbers = array.array("i")
    for _, _, data in ancillary:
        numbers.frombytes(data)
    teller, *fds = numbers
    return Request(pickle.loads(octets), socket.socket(fileno=teller), fds)


def _tell_ends(tellers: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with tellers.pop(ended[0]) as teller:
                _tell(teller, ended[1])


def _tell(teller: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
        teller.send(str(number).encode())


def _become(request: Request) -> Callable[[], object]:
    """In the child: take on what it was asked to be, as after an exec."""
    start = request.start
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _place(request.fds, start.fds)
    os.environb.clear()
    os.environb.update(start.env)
    time.tzset()
    os.chdir(start.cwd)
    os.umask(start.umask)
    sys.argv[:] = start.argv
    _open_streams()
    draw_process()
    for name, value in start.constants.items():
        module, constant = _named(name)
        assert hasattr(module, constant), name
        setattr(module, constant, value)
    module, function = _named(start.main)
    return getattr(module, function)  # type: ignore[no-any-return]


def _named(name: str) -> tuple[ModuleType, str]:
    """The module and what is in it, of "module:what"."""
    module, _, what = name.partition(":")
    return import_module(module), what


def _place(fds: list[int], targets: list[int]) -> None:
    """Put the file descriptors where they belong, and close every other."""
    beyond = max(256, *targets) + 1
    high = [os.dup2(number, beyond + index) for index, number in enumerate(fds)]
    for number, target in zip(high, targets, strict=True):
        os.dup2(number, target)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in targets:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(number)


def _open_streams() -> None:
    """As Python does when it starts."""
    sys.stdin = sys.__stdin__ = _opened(sys.stdin, "rb", line_buffering=False)
    sys.stdout = sys.__stdout__ = _opened(sys.stdout, "wb", line_buffering=os.isatty(1))
    sys.stderr = sys.__stderr__ = _opened(sys.stderr, "wb", line_buffering=True)


def _opened(like: Any, mode: str, *, line_buffering: bool) -> io.TextIOWrapper:
    raw: Any = io.FileIO(like.fileno(), mode, closefd=False)
    raw.name = like.name
    at_once = like.write_through
    binary = io.BufferedReader(raw) if mode == "rb" else raw if at_once else io.BufferedWriter(raw)
    return io.TextIOWrapper(binary, like.encoding, like.errors, None, line_buffering and not at_once, at_once)


def end_with(main: Callable[[], object]) -> NoReturn:
    """Call it and end as Python ends, with modules left whole: taking them apart costs more than the rest."""
    status = _status_of(main)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        status = 120
    if status == _INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status)


def _status_of(main: Callable[[], object]) -> int:
    try:
        sys.exit(main())
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return (left.code or 0) & 0xFF
        print(left.code, file=sys.stderr)
    except BaseException as error:  # noqa: BLE001 - as the interpreter
        sys.excepthook(*sys.exc_info())
        return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 1


def script() -> None:
    """Run sys.argv[1] as `python -c` does."""
    code = sys.argv.pop(1)
    exec(code, {"__name__": "__main__"})


def prepare() -> None:
    """Import everything, and keep the collector's hands off it, so that it stays shared."""
    for module in IMPORTED:
        import_module(module)
    gc.collect()
    gc.freeze()
