"""The process: what opens the places to listen at and the spool, runs a bridge, and ends it at a signal."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from smtp2cf import __version__, spool
from smtp2cf.listen import limits, open_relay
from smtp2cf.listen.notify import Notifier
from smtp2cf.listen.places import Places
from smtp2cf.listen.signals import Signals, finished, leave
from smtp2cf.reply import SendError
from smtp2cf.serve.bridge import FIRST_LOOK, Bridge, log
from smtp2cf.settings import listening, rooms, trial
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.reread import SettingsFile
from smtp2cf.settings.trial import Trial
from smtp2cf.smtpd import Listener
from smtp2cf.spool import FollowingSpool
from smtp2cf.spool.mark import Mark


async def run(
    settings: Settings,
    handed_over: Mapping[str, list[socket.socket]],
    on_trial: Trial | None,
    announce: Callable[[Places], None],
    secrets: Mapping[str, Path],
    file: SettingsFile | None = None,
) -> None:
    """Run the bridge until SIGTERM or SIGINT. Raises OSError if it can't listen.

    settings: checked (settings.check). handed_over: sockets from systemd, by their names. on_trial: with a
    stand-in for Cloudflare. announce: called as soon as mail can be sent. secrets, file: as in
    Bridge.
    """
    limits.raise_file_limit()
    limits.leave_no_core()
    if on_trial is not None:
        settings = on_trial.set_up(settings)
    certificate = rooms.certificate(settings)
    with contextlib.ExitStack() as opened:
        places = listening.open_places(settings, handed_over, opened, on_trial)
        if on_trial is not None:
            settings = await on_trial.start(places.sandbox, settings, rooms.own_names(settings))
        settings = listening.settings_at(settings, places)
        store, mark = await _open_spool(settings, sandbox=on_trial is not None)
        bridge = Bridge(settings, store, certificate, secrets, file, mark)
        listeners = listening.listeners(settings, places, certificate, bridge.rules.at)
        _warn(settings, bridge, listeners)
        notifier = Notifier()
        signals = Signals(functools.partial(bridge.reload, notifier))
        await bridge.start(listeners, places.admin)
        if on_trial is None:  # a sandbox sends for nearly all
            bridge.say_who_reports()
        announce(places)
        log.info("serve.ready", version=__version__, **places.described())
        bridge.tell(notifier)
        try:
            await bridge.until(signals.stop)
        finally:
            notifier.stopping(settings.drain_timeout)
            await _end(bridge, on_trial, signals, opened)


async def _open_spool(settings: Settings, *, sandbox: bool) -> tuple[FollowingSpool | None, Mark | None]:
    """The spool, and what says that it is ours. Raises SpoolError."""
    store = await rooms.open_spool(settings)
    if store is None:
        return None, None
    mark = rooms.mark(settings, store, sandbox=sandbox)
    try:
        async with asyncio.timeout(FIRST_LOOK):
            await mark.take()
    except spool.SpoolError:
        await store.close()
        raise
    except (SendError, TimeoutError):
        pass  # it is away: nothing is sent from it before that is known
    return store, mark


def _warn(settings: Settings, bridge: Bridge, listeners: Sequence[Listener]) -> None:
    """Log what may be wrong and does not stop the start."""
    limits.warn_of_few_files(
        bridge.server.sessions.files.limit,
        bridge.server.sessions.files.usable,
        max_sessions=settings.max_sessions,
        calls=settings.api_concurrency,
    )
    for door in listening.doors(settings, listeners):
        open_relay.log_relay_warnings(door)
    for line in rooms.certificate_complaints(settings, bridge.certificate):
        log.warning("tls.clients_will_refuse", note=line)


async def _end(
    bridge: Bridge, on_trial: Trial | None, signals: Signals, opened: contextlib.ExitStack
) -> None:
    """Stop, or leave at once if that is asked for. opened: what closes the listening sockets."""

    async def stop() -> None:
        await bridge.stop()
        if on_trial is not None:
            await on_trial.stop()

    log.info("serve.stopping", sessions=len(bridge.server.sessions), **signals.hint)
    if not await finished(stop(), signals.at_once):
        left = await bridge.left_behind()
        opened.close()
        trial.clean_up()
        await leave(left)
    log.info("serve.stopped")
