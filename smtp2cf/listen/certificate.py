"""TLS as a server: the certificate clients are shown, re-read while the bridge runs (RFC 3207, RFC 8314).

A new certificate is taken only if it and its key are a pair that a client can shake hands with; until
then the old one stays. Sessions that are under way keep the one that they began with. Knows nothing of
SMTP or of the settings but their names, which are in what it tells the operator.
"""

import asyncio
import contextlib
import functools
import re
import ssl
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from smtp2cf.journal import news
from smtp2cf.listen import files
from smtp2cf.listen.file_watch import FileWatch, OffLoop, Stamps

CERT_SETTING, KEY_SETTING = "SMTP2CF_TLS_CERT_FILE", "SMTP2CF_TLS_KEY_FILE"

POLL_INTERVAL = 5.0
"""Seconds between looks at the files. A change is read once the files look the same at two of them."""
PATIENCE = 30.0
"""Seconds for which a certificate and a key may not match before that is an error: they are replaced one
after the other."""
WARN_DAYS = 14
"""Days before it expires from which on the log warns every day."""

_VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
# OpenSSL 3 has nothing that TLS before 1.2 could use at a higher level. DEFAULT brings RSA key exchange
# back too, which old devices need; no ciphers without a certificate, where anybody could be in between.
_OLD_CIPHERS = "DEFAULT:!aNULL:!eNULL:!PSK:!SRP:!RC4:!MD5:@SECLEVEL=0"
_MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL calls a key that is not the certificate's: the same kind, or another."""
NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the ssl module has no name for."""
_DAY = 86400.0

log = structlog.stdlib.get_logger("smtp2cf.tls")


class CertificateError(Exception):
    """The certificate can't be used; the text names the setting, the file and what is wrong, on one line."""


class _Pair(NamedTuple):
    """A certificate and its key, ready for use. starts, expires: seconds since the epoch.

    contexts: by the oldest version of TLS that each of them takes.
    """

    contexts: Mapping[str, ssl.SSLContext]
    subject: str
    starts: float
    expires: float


class Certificate:
    """The certificate of the bridge and its key, from files.

    cert_file: PEM, the server's own first, then its chain. key_file: PEM; the cert_file holds it too by
    default. min_version: "1.0", "1.1", "1.2" or "1.3". others: versions that some listeners have instead.
    off_loop: calls what reads files while the bridge runs. Raises CertificateError.
    """

    def __init__(
        self,
        cert_file: Path,
        key_file: Path | None = None,
        min_version: str = "1.2",
        off_loop: OffLoop = asyncio.to_thread,
        *,
        others: Collection[str] = (),
    ) -> None:
        self._off_loop = off_loop
        self._cert_file = cert_file
        self._key_file = key_file or cert_file
        self._key_setting = KEY_SETTING if key_file else CERT_SETTING
        self._min_version = min_version
        self._versions = {min_version, *others}
        self._files = FileWatch(
            cert_file, self._key_file, every=POLL_INTERVAL, steady=True, off_loop=off_loop
        )
        self._pair = self._load()
        self._show_newest_in(self._pair)

    def __str__(self) -> str:
        ends = "has expired" if self.expires <= time.time() else "expires"
        return f"{self.subject}, {ends} {_date(self.expires)}"

    @property
    def file(self) -> Path:
        """Where it is."""
        return self._cert_file

    @property
    def context(self) -> ssl.SSLContext:
        """What to shake hands with now. A listener that keeps it still shows newer certificates."""
        return self._pair.contexts[self._min_version]

    def at_least(self, version: str) -> ssl.SSLContext:
        """`context`, for listeners with this oldest version, one of `others`."""
        return self._pair.contexts[version]

    @property
    def subject(self) -> str:
        """Whose certificate it is: its first name."""
        return self._pair.subject

    @property
    def expires(self) -> float:
        """When it expires, in seconds since the epoch."""
        return self._pair.expires

    def reload(self) -> bool:
        """Read the files now. Blocks. False if they can't be used: the log says why, and the previous
        certificate is kept."""
        return self._take(*self._read())

    async def reread(self) -> bool:
        """`reload`, while an event loop runs."""
        return self._take(*await self._off_loop(self._read))

    async def watch(self) -> None:
        """Re-read the files when they change, and warn before the certificate expires; until cancelled."""
        loop = asyncio.get_running_loop()
        log.info("tls.loaded", subject=self.subject, expires=_date(self.expires))
        self._warn_of_time()
        warned = loop.time()
        async for new_for in self._files.looks():
            if loop.time() - warned >= _DAY:
                self._warn_of_time()
                warned = loop.time()
            if new_for is not None:
                self._take(*await self._off_loop(self._read), patient=new_for < PATIENCE)

    def _read(self) -> tuple[Stamps, "_Pair | CertificateError"]:
        """What the files look like, and the pair in them or what is wrong with it. Blocks."""
        stamps = self._files.stamps()
        try:
            new = self._load()
        except CertificateError as error:
            return stamps, error
        if new.expires <= time.time() < self._pair.expires:
            text = f"{CERT_SETTING}: {self._cert_file} has expired on {_date(new.expires)}"
            return stamps, CertificateError(text)
        return stamps, new

    def _take(self, stamps: Stamps, new: "_Pair | CertificateError", *, patient: bool = False) -> bool:
        """Show a new pair from now on. patient: log no error yet."""
        if isinstance(new, CertificateError):
            if not patient:
                self._complain(stamps, new)
            return False
        self._show_newest_in(new)
        self._pair, self._files.read = new, stamps
        log.info("tls.reloaded", subject=new.subject, expires=_date(new.expires))
        self._warn_of_time()
        return True

    def _complain(self, stamps: Stamps, error: CertificateError) -> None:
        self._files.read = stamps
        fields = {"reason": str(error), "kept": self.subject, "expires": _date(self.expires)}
        log.error("tls.reload_failed", **fields)
        news.tell("tls.reload_failed", f"{error}. The certificate in use stays ({self})", **fields)

    def _warn_of_time(self) -> None:
        now, pair = time.time(), self._pair
        if pair.expires <= now:
            log.error("tls.expired", subject=pair.subject, expires=_date(pair.expires))
            self._tell("tls.expired", days=0)
        elif pair.expires - now < WARN_DAYS * _DAY:
            days = round((pair.expires - now) / _DAY, 1)
            log.warning("tls.expires_soon", subject=pair.subject, expires=_date(pair.expires), days=days)
            self._tell("tls.expires_soon", days=days)
        elif pair.starts > now:
            log.warning("tls.not_yet_valid", subject=pair.subject, starts=_date(pair.starts))

    def _tell(self, kind: str, *, days: float) -> None:
        text = f"the certificate in {self._cert_file} ({CERT_SETTING}): {self}"
        news.tell(kind, text, subject=self.subject, expires=_date(self.expires), days=days)

    def _show_newest_in(self, pair: _Pair) -> None:
        for version, context in pair.contexts.items():
            context.sni_callback = functools.partial(self._newest, version)

    def _newest(
        self, version: str, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        handshake.context = self._pair.contexts[version]

    def _load(self) -> _Pair:
        cert, key = self._cert_file, self._key_file
        if not re.search(rb"-----BEGIN ((TRUSTED|X509) )?CERTIFICATE-----", _read(CERT_SETTING, cert)):
            raise CertificateError(f"{CERT_SETTING}: {cert} holds no certificate in PEM")
        if not re.search(rb"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----", _read(self._key_setting, key)):
            unset = f", and {KEY_SETTING} is not set" if self._key_setting == CERT_SETTING else ""
            raise CertificateError(f"{self._key_setting}: {key} holds no private key in PEM{unset}")
        contexts = {version: _server_context(_VERSIONS[version]) for version in self._versions}
        with self._explained():
            for context in contexts.values():
                context.load_cert_chain(cert, key, self._refuse_to_ask)
        try:
            return _Pair(contexts, *_what_clients_see(contexts[self._min_version], cert))
        except (OSError, ValueError) as error:
            why = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
            raise CertificateError(f"{CERT_SETTING}: no client can use {cert}: {why}") from None

    def _refuse_to_ask(self) -> str:
        """Called by OpenSSL for the passphrase, which it would otherwise ask for on the terminal."""
        raise CertificateError(
            f"{self._key_setting}: the key in {self._key_file} is encrypted: remove its passphrase"
            " with `openssl pkey -in … -out …`"
        )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What OpenSSL says of a pair, in words that name the file."""
        cert, key = self._cert_file, self._key_file
        try:
            yield
        except ssl.SSLError as error:
            if error.reason in _MISMATCHES:
                text = (
                    f"{self._key_setting}: {key} is not the key of the certificate in {cert}"
                    " (the server's own certificate must come first in that file)"
                )
            elif not _is_readable(cert):
                text = f"{CERT_SETTING}: the certificate in {cert} can't be read"
            elif error.reason and "PEM" not in error.reason:
                text = f"{CERT_SETTING}: {cert}: {error.reason.replace('_', ' ').lower()}"
            else:
                text = f"{self._key_setting}: the key in {key} can't be read"
            raise CertificateError(text) from None
        except OSError as error:
            raise CertificateError(f"{CERT_SETTING}: {cert}: {error.strerror}") from None


def _server_context(minimum: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    with warnings.catch_warnings():
        # Python calls versions before 1.2 deprecated. So do we; who asks for them knows.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = minimum
    if minimum < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers(_OLD_CIPHERS)
    return context


def _what_clients_see(server: ssl.SSLContext, cert_file: Path) -> tuple[str, float, float]:
    """Shake hands with ourselves: the certificate's first name, and from when until when it is valid.

    The client knows the certificate already, and looks at no clock. Raises ssl.SSLError where no client
    could shake hands, such as for a certificate that is not for servers.
    """
    seen: Mapping[str, Any] = shake_hands(trusting(cert_file), server).getpeercert() or {}
    names = [value for kind, value in seen.get("subjectAltName", ()) if kind == "DNS"]
    names += [value for part in seen["subject"] for kind, value in part if kind == "commonName"]
    starts, expires = (float(ssl.cert_time_to_seconds(seen[end])) for end in ("notBefore", "notAfter"))
    return (names or ["(no name)"])[0], starts, expires


def trusting(cert_file: Path) -> ssl.SSLContext:
    """A client that trusts the certificates of this file, whoever signed them, even expired ones."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.set_ciphers(_OLD_CIPHERS)
    client.load_verify_locations(cert_file)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    return client


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str | None = None) -> ssl.SSLObject:
    """The client's side of a handshake in memory. name: what it connects to. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for side in sides * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return sides[0]


def _is_readable(cert_file: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cert_file)
    except OSError:
        return False
    return True


def _read(setting: str, path: Path) -> bytes:
    try:
        return files.read(path)
    except files.FileError as error:
        raise CertificateError(f"{setting}: {error}") from None


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
