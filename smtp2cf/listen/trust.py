"""Trust: what clients make of the certificate. Does it name what they connect to, do they know its CA?

The answer is tried, not read off: handshakes in memory, as a client would have them. A public CA is one
that this host or certifi knows. Knows endpoints, no sockets, and of the settings only their names.
"""

import ipaddress
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from smtp2cf.listen import files
from smtp2cf.listen.certificate import (
    CERT_SETTING,
    NO_CHECK_TIME,
    Certificate,
    CertificateError,
    shake_hands,
    trusting,
)
from smtp2cf.listen.endpoint import Endpoint

CA_SETTING = "SMTP2CF_TLS_CA_FILE"
WHO_REFUSES = (
    "Clients that check certificates refuse to send, which Nodemailer, PHPMailer, Go and others do by default"
    " wherever STARTTLS is offered"
)
_REASONS = {
    18: "it is self-signed",
    19: "its CA is not a public one",
    20: "its CA is not known, or the file lacks the chain",
    21: "its CA is not known, or the file lacks the chain",
}
"""By OpenSSL's X509_V_ERR_ number."""


def complaints(
    certificate: Certificate, places: Sequence[Endpoint], hostname: str, ca_file: Path | None
) -> Iterator[str]:
    """What clients will reject, one line each. Raises CertificateError for a CA file that can't be used.

    places: where they find TLS. hostname: what this host calls itself. ca_file: the CA that clients trust.
    """
    if reason := _distrust(certificate, ca_file):
        yield (
            f"{CERT_SETTING}: {certificate.file} ({certificate.subject}): {reason}."
            f" {WHO_REFUSES}. Use a certificate of a public CA; if your clients trust another CA, name its"
            f" file in {CA_SETTING}"
        )
    for place in places:
        names = " or ".join(_unnamed(certificate, place, hostname))
        if names:
            yield (
                f"{CERT_SETTING}: {certificate.file} is for {certificate.subject}, not for {names}"
                f" ({place}). {WHO_REFUSES}. Have clients connect to a name that is in the certificate, or"
                f" use a certificate for {names}"
            )


def _distrust(certificate: Certificate, ca_file: Path | None) -> str:
    """Why clients don't know who signed it, "" if they do."""
    if ca_file is not None:
        try:
            files.read(ca_file)
            trusted = trusting(ca_file)
        except files.FileError as error:
            raise CertificateError(f"{CA_SETTING}: {error}") from None
        except ssl.SSLError:
            raise CertificateError(f"{CA_SETTING}: {ca_file} holds no certificate in PEM") from None
        except OSError as error:
            raise CertificateError(f"{CA_SETTING}: {ca_file}: {error.strerror}") from None
        if not _refusal(trusted, certificate.context):
            return ""
    public = httpx.create_ssl_context()
    public.load_default_certs(ssl.Purpose.SERVER_AUTH)
    public.check_hostname = False
    public.minimum_version = ssl.TLSVersion.TLSv1_2
    public.verify_flags = (public.verify_flags & ~ssl.VERIFY_X509_STRICT) | NO_CHECK_TIME
    return _refusal(public, certificate.context)


def _refusal(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    try:
        shake_hands(client, server)
    except ssl.SSLCertVerificationError as error:
        return _REASONS.get(error.verify_code, error.verify_message)
    return ""


def _unnamed(certificate: Certificate, place: Endpoint, hostname: str) -> list[str]:
    """The names that clients may use for this place and that are missing in the certificate."""
    if place.path:
        return []
    client = trusting(certificate.file)
    client.check_hostname = True

    def is_named(name: str) -> bool:
        try:
            shake_hands(client, certificate.context, name)
        except ValueError:  # ssl.SSLCertVerificationError is one; so is a name that can be nobody's
            return False
        return True

    names, all_of_them = _names(place, hostname)
    missing = [name for name in names if not is_named(name)]
    return missing if all_of_them or len(missing) == len(names) else []


def _names(place: Endpoint, hostname: str) -> tuple[list[str], bool]:
    """The names that clients may use for a place, and whether all of them are likely to be used."""
    if place.host == "localhost":
        return ["localhost", "127.0.0.1"], True
    try:
        address = ipaddress.ip_address(place.host.partition("%")[0])
    except ValueError:
        return [place.host], True
    if address.is_loopback:
        return ["localhost", str(address)], True
    return [hostname] if address.is_unspecified else [hostname, str(address)], False
