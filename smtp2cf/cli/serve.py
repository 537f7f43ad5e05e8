"""smtp2cf serve: start the bridge, and tell a person at a terminal where it is."""

import contextlib
import functools
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smtp2cf import __version__
from smtp2cf.cli import stand_in
from smtp2cf.cli.arguments import EnvFile
from smtp2cf.cli.loop import run_loop
from smtp2cf.cli.terminal import endpoint_of
from smtp2cf.listen.places import Place, Places
from smtp2cf.listen.systemd import PROTOCOLS

if TYPE_CHECKING:
    from smtp2cf.settings.fields import Settings
    from smtp2cf.settings.reread import Loaded, SettingsFile

SANDBOX_ENDPOINT = "127.0.0.1:8787"
SANDBOX_TLS_ENDPOINT = "127.0.0.1:2587"


def serve(
    env_file: EnvFile = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Use a sandbox instead of Cloudflare: no account, no network.")
    ] = False,
    sandbox_listen: Annotated[
        str, typer.Option(help="Where the sandbox's API listens.", metavar="HOST:PORT")
    ] = SANDBOX_ENDPOINT,
    sandbox_tls_listen: Annotated[
        str,
        typer.Option(
            help="Where the sandbox accepts mail with STARTTLS and its own certificate. none: nowhere.",
            metavar="HOST:PORT",
        ),
    ] = SANDBOX_TLS_ENDPOINT,
    sandbox_strict: Annotated[bool, stand_in.strict("--sandbox-strict")] = False,
    sandbox_senders: Annotated[str, stand_in.senders("--sandbox-senders")] = "",
    sandbox_quota: Annotated[int | None, stand_in.quota("--sandbox-quota")] = None,
    sandbox_rate: Annotated[str, stand_in.rate("--sandbox-rate")] = "",
    sandbox_silent: Annotated[bool, stand_in.silent("--sandbox-silent")] = False,
    sandbox_string_codes: Annotated[bool, stand_in.string_codes("--sandbox-string-codes")] = False,
) -> None:
    """Run the bridge: accept mail over SMTP and hand it to Cloudflare."""
    from smtp2cf import serve as bridge
    from smtp2cf.journal import logs
    from smtp2cf.listen.systemd import handed_over
    from smtp2cf.settings.trial import Trial

    sockets = handed_over()
    load = functools.partial(_load, env_file, sandbox, sockets)
    first = load()
    settings = first.settings
    logs.configure(settings.log_level, settings.log_format)
    _warn(settings, env_file, sandbox=sandbox)
    on_trial = None
    if sandbox:
        starttls = None if sandbox_tls_listen.lower() == "none" else endpoint_of(sandbox_tls_listen)
        make = stand_in.maker(
            strict=sandbox_strict,
            senders=sandbox_senders,
            quota=sandbox_quota,
            rate=sandbox_rate,
            silent=sandbox_silent,
            string_codes=sandbox_string_codes,
        )
        on_trial = Trial(endpoint_of(sandbox_listen), starttls, make)
    file = _file(env_file, load, first)
    with _named(env_file):
        run_loop(bridge.run(settings, sockets, on_trial, _announce, first.secrets, file))


@contextlib.contextmanager
def _named(env_file: Path | None) -> Iterator[None]:
    """What is said of settings names them as the file does that has set them."""
    from smtp2cf.settings import loading
    from smtp2cf.settings.fields import SettingsError

    try:
        yield
    except SettingsError as error:
        raise SettingsError(*loading.named(error.args, env_file)) from None


def _load(env_file: Path | None, sandbox: bool, handed_over: Collection[str]) -> "Loaded":
    """The settings, if a bridge can start with them. Raises SettingsError."""
    from smtp2cf.settings import accounts, loading
    from smtp2cf.settings.check import check
    from smtp2cf.settings.reread import Loaded

    settings, secrets = loading.load(env_file), loading.files_of_secrets(env_file)
    with _named(env_file):
        check(settings, sandbox=sandbox, handed_over=handed_over)
    if sandbox:  # it takes any token, and has been given one
        settings = accounts.without_tokens(settings)
        for name in ("api_token", "events_api_token"):
            secrets.pop(name, None)
    return Loaded(settings, secrets)


def _file(env_file: Path | None, load: "Callable[[], Loaded]", first: "Loaded") -> "SettingsFile | None":
    """The TOML file, which is read again when it changes; None for none."""
    from smtp2cf.settings import loading
    from smtp2cf.settings.reread import SettingsFile

    path = loading.toml_path(env_file)
    return SettingsFile(path, load, first) if path is not None else None


def _warn(settings: "Settings", env_file: Path | None, *, sandbox: bool) -> None:
    """Log which settings are unknown, and which are probably not meant."""
    from smtp2cf.serve.bridge import log
    from smtp2cf.settings import check, loading

    for line in loading.unknown_variables(env_file):
        log.warning("settings.unknown", setting=line)
    doubtful = (*check.mistakes(settings, sandbox=sandbox), *check.doubts(settings, sandbox=sandbox))
    for line in loading.named(doubtful, env_file):
        log.warning("settings.doubtful", note=line)


def _lines(what: str, place: Place | None, more: str = "") -> list[str]:
    """A line for each endpoint of a place."""
    return [f"  {what:<14} {endpoint}{more}" for endpoint in place.endpoints] if place is not None else []


def _announce(places: Places) -> None:
    """Tell a person at a terminal where to send mail and where to look."""
    sandbox = places.sandbox.endpoints
    if not sandbox and not sys.stderr.isatty():
        return
    plain = "  (no TLS)" if places.ca_file is not None else ""
    lines = [
        f"smtp2cf {__version__}",
        *_lines("send mail to", places.mail.get("smtp"), plain),
        *_lines("with STARTTLS", places.starttls, f"  (trust {places.ca_file})"),
        *_lines("with TLS", places.mail.get("smtps")),
        *_lines("with LMTP", places.mail.get("lmtp")),
        *(
            line
            for name, place in places.mail.items()
            if name not in PROTOCOLS
            for line in _lines(f"at {name}", place)
        ),
        *(
            f"  what went out  http://{endpoint}/messages  (a sandbox: nothing leaves this host)"
            for endpoint in sandbox
        ),
        *(f"  status         http://{endpoint}/" for endpoint in places.admin.endpoints),
    ]
    typer.echo("\n".join(lines))
    sys.stdout.flush()
