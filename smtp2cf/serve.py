"""Serve: the one place where everything is built and wired, drained and stopped."""

import asyncio
import contextlib
import functools
import os
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog
from prometheus_client import REGISTRY, Gauge, Info

from smtp2cf import __version__, spool
from smtp2cf.access.rules import Access, open_access
from smtp2cf.cloudflare import Client
from smtp2cf.envelope import Outcomes, own_outcomes
from smtp2cf.journal import logs, maillog, tasks
from smtp2cf.journal.readiness import Readiness
from smtp2cf.listen import open_relay, trust
from smtp2cf.listen.certificate import Certificate, CertificateError
from smtp2cf.listen.endpoint import Endpoint, group_id
from smtp2cf.listen.signals import LeftBehind, Signals, finished, leave
from smtp2cf.listen.sockets import Doors
from smtp2cf.listen.systemd import HandedOver, HandedOverError, handed_over
from smtp2cf.relay import DropDirectory, Relay
from smtp2cf.reply import Reply, SendError
from smtp2cf.settings import fields, loading, rooms, trial
from smtp2cf.smtpd import LMTP_LISTENER, SMTP_LISTENER, SMTPS_LISTENER, Files, Listener, Server, judge, memory
from smtp2cf.spool import Spool
from smtp2cf.spool.health import Waiting
from smtp2cf.spool.listing import listed
from smtp2cf.web import Admin

if TYPE_CHECKING:
    from smtp2cf.sandbox import Sandbox

TOKEN_CHECK_INTERVAL = 60.0
"""Seconds between looks at a token that was refused."""
FIRST_LOOK = 1.0
"""Seconds that a start waits for the spool's first answer, without which the bridge is not ready."""

LOOK_PATIENCE = 0.5
"""Seconds for a last look at the spool, when the process is to end at once."""
AGAIN = "Ctrl-C once more leaves at once"

FILES_OF_OUR_OWN = 64
"""What a bridge has open without any session: its sockets, the spool, logs, probes."""

log = structlog.stdlib.get_logger("smtp2cf.serve")


class Listening(NamedTuple):
    """Where the bridge can be reached, for those who start it.

    starttls: where a sandbox takes mail with TLS, for clients that trust ca_file; its `smtp` is without.
    """

    smtp: tuple[Endpoint, ...]
    starttls: tuple[Endpoint, ...]
    smtps: tuple[Endpoint, ...]
    lmtp: tuple[Endpoint, ...]
    admin: tuple[Endpoint, ...]
    sandbox: Endpoint | None
    ca_file: Path | None = None


class Bridge:
    """Everything that runs in one `smtp2cf serve`."""

    def __init__(
        self,
        settings: fields.Settings,
        store: Spool | None,
        sandbox: "Sandbox | None" = None,
        certificate: Certificate | None = None,
    ) -> None:
        self._settings = settings
        self._sandbox = sandbox
        self.certificate = certificate
        self._started = time.time()
        self.spool = store
        self.waiting = Waiting(store, settings.warn_after) if store is not None else None
        self.access = make_access(settings)
        self.client = make_client(settings)
        self.relay = Relay(
            self.client.send,
            rooms.message_policy(settings),
            spool=store,
            retry=rooms.retry_policy(settings),
            bounce=rooms.bounce_policy(settings),
            pace=self.client.pacer,
            sender_refusal=self.access.sender_refusal,
        )
        quotas = rooms.quotas(settings)
        self.server = Server(
            self.relay.accept,
            rooms.smtp_policy(settings),
            self.relay.answered if store is not None else None,
            authenticate=self.access.authenticate,
            sender_refusal=self.access.sender_refusal,
            quotas=quotas if quotas.active else None,
            closed=self._closed if store is not None else None,
            tls=(lambda: certificate.context) if certificate is not None else None,
        )
        self.admin = Admin(
            self.readiness,
            self.status,
            self._queue_items if store is not None else None,
            hosts=rooms.own_names(settings),
        )
        self.drop = DropDirectory(
            rooms.drop_policy(settings),
            functools.partial(judge, rooms.smtp_policy(settings)),
            self.relay.accept,
            self.relay.bounce,
            self.relay.answered,
            closed=self._closed if store is not None else None,
        )
        self._drop_run: asyncio.Task[None] | None = None
        self._watches: list[asyncio.Task[None]] = []
        self._reading: asyncio.Task[bool] | None = None
        self._watch_spool: asyncio.Task[None] | None = None

    def readiness(self) -> Readiness:
        """Not ready while Cloudflare refuses the token, or the spool can't be written."""
        state = self.client.token_state
        if state.accepted is False:
            return Readiness(False, state.reason)
        if self.waiting is not None:
            return self.waiting.readiness()
        return Readiness(True, "")

    def status(self) -> Mapping[str, object]:
        """What the status page shows."""
        pacer, settings = self.client.pacer, self._settings
        return {
            "version": __version__,
            "running since": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._started)),
            "takes mail on": ", ".join(map(str, settings.smtp_listen)),
            **{
                f"takes mail on, over {name}": ", ".join(map(str, endpoints))
                for name, endpoints in (("SMTPS", settings.smtps_listen), ("LMTP", settings.lmtp_listen))
                if endpoints
            },
            "sends to": f"{settings.api_base_url}, account {settings.account_id}",
            "relays for": ", ".join(map(str, settings.allow_networks)),
            "sessions": f"{len(self.server.sessions)} of {settings.max_sessions}",
            "calls in flight": f"{pacer.in_flight} of {settings.api_concurrency}, {pacer.waiting} waiting",
            "rate limit": f"next call in {pacer.blocked_for:.0f} s"
            if pacer.blocked_for
            else "not in the way",
            **({"waiting mail": self.waiting.summary()} if self.waiting is not None else {}),
            "recent": maillog.recent(),
        }

    def _closed(self) -> Reply | None:
        """The reply to new mail while the spool takes none."""
        refusal = self.spool.refusal() if self.spool is not None else None
        return refusal.reply if refusal is not None else None

    async def _queue_items(self) -> AsyncIterator[Mapping[str, object]]:
        assert self.spool is not None  # noqa: S101 - the admin is handed this only where there is one
        async for item in self.spool.items():
            yield listed(item)

    async def start(self, mail: Mapping[Listener, list[socket.socket]], admin: list[socket.socket]) -> None:
        """Take mail and answer probes on listening sockets."""
        await self.admin.start(admin)
        for listener, sockets in mail.items():
            if sockets:
                shared = any(isinstance(sock, HandedOver) for sock in sockets)
                await self.server.start(sockets, listener, shared=shared)
        _gauges(self)
        self._watches.append(tasks.keep_running(self._watch_token, "serve.watch_token"))
        self._watches.append(tasks.keep_running(memory.give_back, "serve.give_back_memory"))
        if self.certificate is not None:
            self._watches.append(tasks.keep_running(self.certificate.watch, "serve.watch_certificate"))
        if self.access.watch is not None:
            self._watches.append(tasks.keep_running(self.access.watch, "serve.watch_users"))
        if self.relay.queue is not None:
            self.relay.queue.start()
        self._drop_run = tasks.keep_running(self.drop.run, "drop.run")
        if self.waiting is not None:
            self._watch_spool = tasks.keep_running(
                self.waiting.watch, "serve.watch_spool", fatal=spool.SpoolError
            )
            self._watches.append(self._watch_spool)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_LOOK):
                    await self.waiting.looked.wait()

    async def until(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set; raises SpoolError where the spool turns out to be none to be used."""
        stopped = asyncio.create_task(stop.wait())
        ends = [stopped] if self._watch_spool is None else [stopped, self._watch_spool]
        try:
            for ended in (await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED))[0]:
                ended.result()
        finally:
            stopped.cancel()

    async def stop(self) -> None:
        """Let what is under way finish, within DRAIN_TIMEOUT, and close everything."""
        deadline = time.monotonic() + self._settings.drain_timeout
        self.drop.stop()
        if self.relay.queue is not None:
            await self.relay.queue.stop_claiming()
        await self.server.drain(self._settings.drain_timeout)
        if self._drop_run is not None:
            await asyncio.wait((self._drop_run,), timeout=max(0.0, deadline - time.monotonic()))
            self._drop_run.cancel()
        await self.relay.drain(max(0.0, deadline - time.monotonic()))
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await self.admin.stop()
        await self.client.aclose()
        self.access.close()
        if self.spool is not None:
            await self.spool.close()
        if self._sandbox is not None:
            await self._sandbox.stop()

    async def left_behind(self) -> LeftBehind:
        """What would not be finished if the process ended now."""
        waiting, place = 0, ""
        if self.waiting is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_PATIENCE):
                    await self.waiting.look()
            waiting = self.waiting.messages
            place = spool.place(self._settings.spool_url.get_secret_value(), self._settings.state_dir)
        sessions = self.server.sessions
        under_way = sum(1 for session in sessions if session.held)
        kept = not trial.is_temporary(self._settings.state_dir)
        return LeftBehind(len(sessions), under_way, waiting, place, kept)

    def reload(self) -> None:
        """Read anew what is in files of its own: the certificate."""
        if self.certificate is not None:
            self._reading = tasks.start(self.certificate.reread(), "serve.reread_certificate")

    async def _watch_token(self) -> None:
        """Find out at the start whether the token is good, and keep looking while it isn't."""
        while True:
            if self.client.token_state.accepted is not True:
                await self._check_token()
            await asyncio.sleep(TOKEN_CHECK_INTERVAL)

    async def _check_token(self) -> None:
        try:
            state = await self.client.verify_token()
        except SendError as error:
            log.warning("token.unknown", reason=error.reply.text)
        else:
            if not state.accepted:
                log.error("token.refused", reason=state.reason)


def make_client(settings: fields.Settings) -> Client:
    """The client for the account of the settings; raises fields.SettingsError for a wrong proxy or CA."""
    try:
        return Client(
            base_url=settings.api_base_url,
            account_id=settings.account_id,
            token=settings.api_token.get_secret_value(),
            timeout=settings.api_timeout,
            concurrency=settings.api_concurrency,
        )
    except OSError as error:
        raise fields.SettingsError(_no_public_cas(error)) from None
    except ValueError as error:
        raise fields.SettingsError(str(error)) from None


def _no_public_cas(error: OSError) -> str:
    """The environment's CAs can't be loaded. ssl.SSLError is an OSError, and an empty file's."""
    variable = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
    why = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
    return f"{variable}: {os.environ.get(variable, '')}: {why}"


def make_access(settings: fields.Settings) -> Access:
    """Who may send; raises fields.SettingsError for a users file that can't be used."""
    try:
        return open_access(settings.users_file, settings.allowed_sender_domains, maillog.login)
    except ValueError as error:
        raise fields.SettingsError(f"SMTP2CF_USERS_FILE: {error}") from None


def load_certificate(settings: fields.Settings) -> Certificate | None:
    """The certificate of the settings; raises fields.SettingsError for one that can't be used."""
    if settings.tls_cert_file is None:
        if settings.tls_key_file is not None:
            raise fields.SettingsError("SMTP2CF_TLS_KEY_FILE is set, but SMTP2CF_TLS_CERT_FILE is not")
        if settings.smtps_listen:
            raise fields.SettingsError(
                "SMTP2CF_SMTPS_LISTEN needs a certificate: SMTP2CF_TLS_CERT_FILE is not set"
            )
        return None
    try:
        return Certificate(settings.tls_cert_file, settings.tls_key_file, settings.tls_min_version)
    except CertificateError as error:
        raise fields.SettingsError(str(error)) from None


def clients_will_refuse(settings: fields.Settings, certificate: Certificate | None) -> list[str]:
    """What clients will not put up with in the certificate; raises fields.SettingsError."""
    if certificate is None:
        return []
    places = (*settings.smtp_listen, *settings.smtps_listen, *settings.lmtp_listen)
    try:
        return list(trust.complaints(certificate, places, settings.hostname, settings.tls_ca_file))
    except OSError as error:
        raise fields.SettingsError(_no_public_cas(error)) from None
    except CertificateError as error:
        raise fields.SettingsError(str(error)) from None


async def open_spool(settings: fields.Settings, *, serve: bool = True) -> Spool | None:
    """The spool of the settings; None where there is to be none. Raises smtp2cf.spool.SpoolError."""
    url = settings.spool_url.get_secret_value()
    if url.lower() == "none":
        return None
    return await spool.open_spool(
        url, state_dir=settings.state_dir, serve=serve, min_free=rooms.spool_min_free(settings)
    )


def relay_once(
    mail: tuple[str, str],
    recipients: Sequence[tuple[str, str]],
    message: bytes,
    written_at: float,
    settle: Callable[[Outcomes, bool], Mapping[str, tuple[int, str, str]]],
) -> bool:
    """Relay one message without a bridge, with the settings of the environment.

    For sendmail in a container that runs once. mail, recipients: addresses, and the parameters of MAIL and
    RCPT. written_at: seconds since the epoch. settle: is told every recipient's outcome, and whether the mail
    has expired, before anybody else is; returns those of whom the sender is to be told, with code, enhanced
    status and text. Returns whether the sender was. Raises fields.SettingsError.
    """
    settings = rooms.require_account(loading.load())
    logs.configure("error", settings.log_format)
    judged = judge(rooms.smtp_policy(settings), mail, recipients, written_at)

    async def once() -> bool:
        client = make_client(settings)
        try:
            relay = Relay(
                client.send,
                rooms.message_policy(settings),
                bounce=rooms.bounce_policy(settings),
                sender_refusal=open_access(
                    None, settings.allowed_sender_domains, maillog.login
                ).sender_refusal,
            )
            outcomes: Outcomes = {}
            for envelope in judged.envelopes:
                verdict = await relay.accept(envelope, message)
                outcomes |= own_outcomes(verdict, envelope)
            given = {who: outcomes[path] for who, path in judged.given.items()}
            expired = time.time() - written_at >= settings.expire_after
            told = settle({**judged.refused, **given}, expired)
            untold = {who: Reply(*reply) for who, reply in told.items()}
            try:
                await relay.bounce(judged.about(untold.keys()), message, untold)
            except SendError:
                return False
            finally:
                await relay.drain(settings.api_timeout)
            return True
        finally:
            await client.aclose()

    return asyncio.run(once())


def warn_of_exposure(settings: fields.Settings, sockets: list[socket.socket]) -> None:
    """Say loudly that everybody may send, or that nobody can who is meant to.

    sockets: all that take mail, listening.
    """
    reachable = open_relay.reachable(sockets)
    if (everybody := open_relay.everybody_in(settings.allow_networks)) is not None:
        log.warning(
            "serve.open_relay",
            listens=reachable,
            note=f"SMTP2CF_ALLOW_NETWORKS holds {everybody}: everybody who reaches this bridge sends mail"
            " with your account, and spammers will (SMTP2CF_I_AM_AN_OPEN_RELAY=yes)",
        )
    if reachable and settings.users_file is None and not open_relay.beyond_loopback(settings.allow_networks):
        log.warning(
            "serve.nobody_may_relay",
            listens=reachable,
            note="other hosts reach this bridge and every one of them is refused: name their networks in"
            " SMTP2CF_ALLOW_NETWORKS, or their users in SMTP2CF_USERS_FILE",
        )


async def run(
    settings: fields.Settings, on_trial: trial.Trial | None, announce: Callable[[Listening], None]
) -> None:
    """Run the bridge until SIGTERM or SIGINT. Raises OSError where it cannot listen.

    on_trial: with a stand-in for Cloudflare. announce: told once mail can be sent.
    """
    _raise_file_limit()
    _leave_no_core()
    with contextlib.ExitStack() as opened:
        places = _listen(_doors(settings, opened), settings, on_trial)
        listening, sandbox = places.at, None
        if listening.sandbox is not None:
            sandbox = await trial.start_sandbox(places.sandbox, rooms.own_names(settings))
            had_one = trial.has_certificate(settings)
            settings = trial.settings_for(settings, listening.sandbox)
            listening = listening._replace(ca_file=None if had_one else settings.tls_ca_file)
        rooms.require_sense(settings)
        settings = settings.model_copy(
            update={
                "smtp_listen": listening.smtp,
                "smtps_listen": listening.smtps,
                "lmtp_listen": listening.lmtp,
                "admin_listen": listening.admin,
            }
        )
        certificate = load_certificate(settings)
        if listening.smtps and certificate is None:
            raise fields.SettingsError("SMTPS needs a certificate: SMTP2CF_TLS_CERT_FILE is not set")
        bridge = Bridge(settings, await open_spool(settings), sandbox, certificate)
        warn_of_few_files(settings, bridge.server.files)
        warn_of_exposure(settings, [sock for sockets in places.mail.values() for sock in sockets])
        for line in clients_will_refuse(settings, certificate):
            log.warning("tls.clients_will_refuse", note=line)
        signals = Signals(bridge.reload)
        await bridge.start(places.mail, places.admin)
        announce(listening)
        log.info("serve.ready", version=__version__, **_where(listening))
        try:
            await bridge.until(signals.stop)
        finally:
            await _end(bridge, signals, opened)


async def _end(bridge: Bridge, signals: Signals, opened: contextlib.ExitStack) -> None:
    """Stop, or leave at once where that is asked for. opened: what closes the listening sockets."""
    log.info("serve.stopping", sessions=len(bridge.server.sessions), note=AGAIN)
    if not await finished(bridge.stop(), signals.at_once):
        left = await bridge.left_behind()
        opened.close()
        trial.clean_up()
        await leave(left)
    log.info("serve.stopped")


class _Places(NamedTuple):
    """Listening sockets, by what is spoken on them, and where they are."""

    mail: Mapping[Listener, list[socket.socket]]
    admin: list[socket.socket]
    sandbox: list[socket.socket]
    at: Listening


def _listen(doors: Doors, settings: fields.Settings, on_trial: trial.Trial | None) -> _Places:
    """Open every place to listen on. A sandbox that makes its certificate has TLS in a place of its own."""
    apart = on_trial is not None and not trial.has_certificate(settings)
    smtp, smtp_at = doors.open("smtp", settings.smtp_listen)
    smtps, smtps_at = doors.open("smtps", settings.smtps_listen)
    lmtp, lmtp_at = doors.open("lmtp", settings.lmtp_listen)
    admin, admin_at = doors.open("admin", settings.admin_listen)
    sandbox, sandbox_at = doors.open("sandbox", (on_trial.listen,) if on_trial is not None else ())
    starttls, starttls_at = doors.open(
        "starttls", (on_trial.starttls,) if on_trial is not None and apart and on_trial.starttls else ()
    )
    mail = {
        replace(SMTP_LISTENER, starttls=not apart): smtp,
        replace(LMTP_LISTENER, starttls=not apart): lmtp,
        SMTPS_LISTENER: smtps,
        SMTP_LISTENER: starttls,
    }
    at = Listening(smtp_at, starttls_at, smtps_at, lmtp_at, admin_at, sandbox_at[0] if sandbox_at else None)
    return _Places(mail, admin, sandbox, at)


def _where(listening: Listening) -> dict[str, object]:
    """Every place that is listened on, for the log; of what is seldom set up only where it is."""
    places = listening._asdict()
    single = {name: str(place) for name in ("sandbox", "ca_file") if (place := places.pop(name))}
    named = {
        name: [str(place) for place in at] for name, at in places.items() if at or name in ("smtp", "admin")
    }
    return {**named, **single}


def _doors(settings: fields.Settings, opened: contextlib.ExitStack) -> Doors:
    """What opens the sockets to listen on; raises fields.SettingsError for those that can't be used."""
    try:
        group = group_id(settings.socket_group)
        return Doors(handed_over(), opened, mode=int(settings.socket_mode, 8), group=group)
    except ValueError as error:
        raise fields.SettingsError(f"SMTP2CF_SOCKET_GROUP: {error}") from None
    except HandedOverError as error:
        raise fields.SettingsError(str(error)) from None


def warn_of_few_files(settings: fields.Settings, files: Files) -> None:
    """Say that the limit of open files is below what the sessions need that may come."""
    needed = settings.max_sessions + settings.api_concurrency + FILES_OF_OUR_OWN
    if files.usable < needed:
        log.warning(
            "serve.few_files",
            limit=files.limit,
            sessions=max(0, files.usable - settings.api_concurrency - FILES_OF_OUR_OWN),
            note=f"SMTP2CF_MAX_SESSIONS is {settings.max_sessions}, but the limit of open files has room for"
            " fewer, and clients beyond that get 421: raise it (LimitNOFILE= in systemd, ulimit -n), or"
            " lower SMTP2CF_MAX_SESSIONS",
        )


def _raise_file_limit() -> None:
    """A session and its call are two files; the usual 1024 would end at 500 of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _leave_no_core() -> None:
    """A core would hold the token and the mail under way; who needs one may raise the limit again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _gauges(bridge: Bridge) -> None:
    gauges = {
        "smtp2cf_sessions": ("SMTP sessions", lambda: len(bridge.server.sessions)),
        "smtp2cf_api_calls_in_flight": ("Calls to the API in flight", lambda: bridge.client.pacer.in_flight),
        "smtp2cf_api_calls_waiting": ("Calls that wait for their turn", lambda: bridge.client.pacer.waiting),
        "smtp2cf_api_blocked_seconds": (
            "Seconds until the next call may go out",
            lambda: bridge.client.pacer.blocked_for,
        ),
        "smtp2cf_ready": ("1 when mail can be taken and sent", lambda: float(bridge.readiness().ready)),
    }
    if (certificate := bridge.certificate) is not None:
        gauges["smtp2cf_tls_certificate_expires_timestamp"] = (
            "When the certificate expires, in seconds since the epoch",
            lambda: certificate.expires,
        )
    for name, (text, value) in gauges.items():
        Gauge(name, text, registry=REGISTRY).set_function(value)
    Info("smtp2cf_build", "What runs").info({"version": __version__})
