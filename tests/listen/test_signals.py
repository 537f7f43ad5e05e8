"""Signals: what a bridge says of them to whoever may press Ctrl-C."""

import os
import pty
import signal
from collections.abc import Iterator

import pytest

from smtp2cf.listen import signals


@pytest.fixture(params=[True, False], ids=["at a terminal", "elsewhere"])
def at_a_terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether one of the standard streams is a terminal."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    ours, theirs = pty.openpty()
    monkeypatch.setattr(signals, "STREAMS", (nothing, theirs) if request.param else (nothing,))
    yield request.param
    for number in (nothing, ours, theirs):
        os.close(number)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
async def test_only_who_pressed_ctrl_c_is_told_to_press_it_again(
    at_a_terminal: bool, first: signal.Signals
) -> None:
    caught = signals.Signals(lambda: None)
    os.kill(os.getpid(), first)
    await caught.stop.wait()
    pressed = first is signal.SIGINT and at_a_terminal
    assert caught.hint == ({"note": signals.AGAIN} if pressed else {})
    assert not caught.at_once.is_set()
