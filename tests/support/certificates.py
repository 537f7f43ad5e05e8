"""A certificate for tests, made by the openssl command: for 127.0.0.1, vouched for by itself."""

import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificates(NamedTuple):
    """server, client: contexts for either end. cert, key: the files."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    cert: Path
    key: Path


def make_certificates(directory: Path) -> Certificates:
    """A key and its certificate in `directory`, and contexts that use and trust them."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return Certificates(server, ssl.create_default_context(cafile=str(cert)), cert, key)
