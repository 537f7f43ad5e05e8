"""A trial: what `serve --sandbox` does otherwise, so that nothing it takes leaves this host.

The stand-in is in Cloudflare's place, mail waits apart from real mail, and TLS has a certificate of its
own: on a port of its own too, since clients that use STARTTLS wherever it is offered give up on a
certificate that no CA they know has signed.
"""

import atexit
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import SecretStr

from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.settings import fields

if TYPE_CHECKING:
    from smtp2cf.sandbox import Sandbox

TOKEN = "sandbox"  # noqa: S105 - the sandbox takes any
_made: list[str] = []
"""Directories of this process."""


class Trial(NamedTuple):
    """Where a trial's own places are. listen: the stand-in. starttls: mail with TLS; None for nowhere."""

    listen: Endpoint
    starttls: Endpoint | None


async def start_sandbox(sockets: list[socket.socket], hosts: Sequence[str]) -> "Sandbox":
    """The stand-in, on listening sockets. hosts: the names by which it may be asked for its pages."""
    from smtp2cf.sandbox import Sandbox

    sandbox = Sandbox(token=None, hosts=tuple(hosts))
    await sandbox.start(sockets)
    return sandbox


def has_certificate(settings: fields.Settings) -> bool:
    """A certificate is named: then TLS is offered as in production."""
    return settings.tls_cert_file is not None or settings.tls_key_file is not None


def settings_for(settings: fields.Settings, sandbox_at: Endpoint) -> fields.Settings:
    """The settings with the sandbox in Cloudflare's place, apart from real mail, and with a certificate."""
    update = {
        "api_base_url": f"http://{sandbox_at}/client/v4",
        "account_id": settings.account_id or "sandbox",
        "api_token": SecretStr(TOKEN),
    }
    return _with_certificate(_apart_from_real_mail(settings.model_copy(update=update)))


def _apart_from_real_mail(settings: fields.Settings) -> fields.Settings:
    """Mail for a sandbox waits in a spool of its own, unless one is named: no real mail may go there."""
    if {"spool_url", "state_dir"} & settings.model_fields_set:
        return settings
    return settings.model_copy(update={"state_dir": _temporary_directory()})


def _with_certificate(settings: fields.Settings) -> fields.Settings:
    """TLS works too: with a certificate made now, unless one is named, and the CA that signed it."""
    if has_certificate(settings):
        return settings
    from smtp2cf.listen.throwaway_ca import issue

    directory = _temporary_directory()
    directory.chmod(0o711)  # a client that is another user reads the CA
    issued = issue(settings.hostname)
    files = {f"tls_{name}_file": directory / f"{name}.pem" for name in ("ca", "cert", "key")}
    for file, pem, mode in zip(files.values(), issued, (0o644, 0o600, 0o600), strict=True):
        file.touch(0o600)
        file.chmod(mode)
        file.write_bytes(pem)
    return settings.model_copy(update=files)


def is_temporary(directory: Path) -> bool:
    """It was made for this process, and goes away with it."""
    return str(directory) in _made


@atexit.register
def clean_up() -> None:
    """Remove what was made for this process; done at its end by itself, unless it ends at once."""
    while _made:
        shutil.rmtree(_made.pop(), ignore_errors=True)


def _temporary_directory() -> Path:
    """A directory for nobody else, which is there until the process ends."""
    directory = tempfile.mkdtemp(prefix="smtp2cf-sandbox-")
    _made.append(directory)
    return Path(directory)
