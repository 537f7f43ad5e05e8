"""Certificates for tests: made in no time, good or as bad as a test wants them."""

import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
"""By what names tests call a server here; every certificate has them beside its own."""


class Certificates(NamedTuple):
    """server, client: contexts for either end. cert, key: the files."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    cert: Path
    key: Path


class Pair(NamedTuple):
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes


def make_pair(
    name: str = "bridge.example",
    *,
    starts: float = -1,
    ends: float = 90,
    rsa_bits: int = 0,
    for_servers: bool = True,
    passphrase: str = "",
) -> Pair:
    """A self-signed pair. starts, ends: days from now. rsa_bits: 0 for an elliptic curve."""
    key = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = ExtendedKeyUsageOID.SERVER_AUTH if for_servers else ExtendedKeyUsageOID.CLIENT_AUTH
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=starts))
        .not_valid_after(now + datetime.timedelta(days=ends))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name), *LOOPBACK]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption),
    )


def write_pair(directory: Path, pair: Pair) -> tuple[Path, Path]:
    """Put a pair where a server looks for it."""
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(pair.certificate)
    key_file.write_bytes(pair.key)
    return cert_file, key_file


def make_certificates(directory: Path) -> Certificates:
    """A good pair in `directory`, and contexts that use and trust it."""
    cert, key = write_pair(directory, make_pair())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return Certificates(server, ssl.create_default_context(cafile=str(cert)), cert, key)


def shake_hands(server: ssl.SSLContext, trusting: bytes, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A client that trusts one certificate, and wants that name, and the server; hands are shaken."""
    context = ssl.create_default_context(cadata=trusting.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        context.wrap_bio(down, up, server_hostname=name),
        server.wrap_bio(up, down, server_side=True),
    )
    for end in ends * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return ends
