"""Trial: what is different under `serve --sandbox`, so that no mail leaves this host.

A stand-in takes Cloudflare's place, mail waits apart from real mail, and TLS has a certificate made for the
occasion: on a port of its own too, since clients that use STARTTLS wherever it is offered give up on a
certificate whose CA they don't know.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.listen.places import Place
from smtp2cf.settings.fields import Settings
from smtp2cf.settings.fields.tables import AccountTable

if TYPE_CHECKING:
    from smtp2cf.sandbox import Sandbox

EVENTS_QUEUE = "sandbox"
"""The stand-in's queue that gets the events of all domains."""
TOKEN = "sandbox"  # noqa: S105 - the sandbox takes any
_made: list[Path] = []
"""Directories that end with this process."""


class Trial:
    """One run with a sandbox: `set_up`, then `start`, then `stop`.

    listen: where the stand-in listens. starttls: where mail with TLS is taken, None for nowhere. make:
    makes the stand-in, which takes any token.
    """

    def __init__(self, listen: Endpoint, starttls: Endpoint | None, make: "Callable[..., Sandbox]") -> None:
        self.listen = listen
        self._make = make
        self._starttls = starttls
        self.ca_file: Path | None = None
        """The CA of the certificate that was made, None where the settings name a certificate."""
        self._sandbox: Sandbox | None = None

    def set_up(self, settings: Settings) -> Settings:
        """The settings apart from real mail, and with a certificate. Opens nothing."""
        settings = settings.model_copy(
            update={
                "account_id": settings.account_id or ("" if settings.accounts else "sandbox"),
                "api_token": SecretStr(TOKEN),
                "accounts": tuple(_on_trial(table) for table in settings.accounts),
                "events_queue_id": EVENTS_QUEUE,
                "events_api_token": SecretStr(""),
            }
        )
        if not {"spool_url", "state_dir"} & settings.model_fields_set:
            settings = settings.model_copy(update={"state_dir": _temporary_directory()})
        if "sendmail_drop_dir" not in settings.model_fields_set:  # real mail may wait in the usual one
            settings = settings.model_copy(update={"sendmail_drop_dir": _temporary_directory() / "drop"})
        if "api_rate" not in settings.model_fields_set:
            settings = settings.model_copy(update={"api_rate": None})
        if settings.tls_cert_file is None:
            files = _issue_certificate(settings.hostname)
            self.ca_file = files["tls_ca_file"]
            settings = settings.model_copy(update=files)
        return settings

    @property
    def starttls(self) -> tuple[Endpoint, ...]:
        """Where mail with TLS is taken apart from the other: nowhere if the settings name a certificate."""
        return (self._starttls,) if self._starttls is not None and self.ca_file is not None else ()

    async def start(self, place: Place, settings: Settings, hosts: Sequence[str]) -> Settings:
        """Start the stand-in, and return the settings that send to it.

        hosts: the names by which its pages may be requested.
        """
        self._sandbox = self._make(hosts=tuple(hosts), events=EVENTS_QUEUE)
        await self._sandbox.start(place.sockets)
        return settings.model_copy(update={"api_base_url": f"http://{place.endpoints[0]}/client/v4"})

    async def stop(self) -> None:
        """Stop the stand-in."""
        if self._sandbox is not None:
            await self._sandbox.stop()


def _on_trial(table: AccountTable) -> AccountTable:
    """An account that sends to the stand-in, whose one queue has the events of all."""
    table = table.model_copy(
        update={"api_token": SecretStr(TOKEN), "api_base_url": None, "events_queue_id": EVENTS_QUEUE}
    )
    return table if "api_rate" in table.model_fields_set else table.model_copy(update={"api_rate": None})


def is_temporary(directory: Path) -> bool:
    """It was made for this process, and is removed when the process ends."""
    return directory in _made


@atexit.register
def clean_up() -> None:
    """Remove what was made for this process; runs at exit, but not before `os._exit`."""
    while _made:
        shutil.rmtree(_made.pop(), ignore_errors=True)


def _issue_certificate(hostname: str) -> dict[str, Path]:
    """Files with a certificate made now, its key, and the CA that signed it, by the settings' names."""
    from smtp2cf.listen.throwaway_ca import issue

    directory = _temporary_directory()
    directory.chmod(0o711)  # a client that is another user reads the CA
    issued = issue(hostname)
    files = {f"tls_{name}_file": directory / f"{name}.pem" for name in ("ca", "cert", "key")}
    for file, pem, mode in zip(files.values(), issued, (0o644, 0o600, 0o600), strict=True):
        file.touch(0o600)
        file.chmod(mode)
        file.write_bytes(pem)
    return files


def _temporary_directory() -> Path:
    """A directory for nobody else, which is there until the process ends."""
    directory = Path(tempfile.mkdtemp(prefix="smtp2cf-sandbox-"))
    _made.append(directory)
    return directory
