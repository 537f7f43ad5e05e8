"""What clients make of a certificate: whether it names what they connect to, and whose CA they know."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from smtp2cf.listen.certificate import Certificate, CertificateError
from smtp2cf.listen.endpoint import Endpoint
from smtp2cf.listen.throwaway_ca import Issued, issue
from smtp2cf.listen.trust import complaints
from tests.support.certificates import Pair, make_pair, write_pair

HOSTNAME = "mail.example.com"
NAMED = "mail.example.com"
"""The certificate's name; it has localhost and 127.0.0.1 too."""


@pytest.fixture(scope="module")
def issued() -> Issued:
    return issue(NAMED)


def said(
    tmp_path: Path, issued: Issued, *places: str, hostname: str = HOSTNAME, trusted: bytes | None = None
) -> Sequence[str]:
    """What is said of the certificate where clients find it at these places, and trust this CA."""
    certificate = Certificate(*write_pair(tmp_path, Pair(issued.certificate, issued.key)))
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(issued.ca if trusted is None else trusted)
    return list(complaints(certificate, [Endpoint.parse(place) for place in places], hostname, ca_file))


@pytest.mark.parametrize(
    ("place", "hostname", "missing"),
    [
        ("127.0.0.1:25", "", []),
        ("localhost:25", "", []),
        ("[::1]:25", "", []),
        ("127.0.0.2:25", "", ["127.0.0.2"]),
        ("0.0.0.0:25", NAMED, []),
        ("[::]:25", NAMED, []),
        ("0.0.0.0:25", "web1", ["web1"]),
        ("192.0.2.1:25", NAMED, []),
        ("192.0.2.1:25", "web1", ["web1", "192.0.2.1"]),
        ("smtp.internal:25", NAMED, ["smtp.internal"]),
        ("unix:/run/smtp", "web1", []),
        ("0.0.0.0:25", "a" * 255, ["a" * 255]),
        ("0.0.0.0:25", ".x", [".x"]),
    ],
)
def test_names_that_it_has_not_are_told(
    tmp_path: Path, issued: Issued, place: str, hostname: str, missing: list[str]
) -> None:
    lines = said(tmp_path, issued, place, hostname=hostname)
    if not missing:
        assert lines == []
        return
    (line,) = lines
    names = " or ".join(missing)
    assert f"is for {NAMED}, not for {names} ({place}). Clients that check" in line
    assert "refuse to send" in line


def test_a_ca_that_clients_trust_and_one_that_they_do_not(tmp_path: Path, issued: Issued) -> None:
    assert not said(tmp_path, issued)
    (line,) = said(tmp_path, issued, trusted=issue("other").ca)
    assert "its CA is not known, or the file lacks the chain" in line
    assert "SMTP2CF_TLS_CA_FILE" in line
    assert "refuse to send" in line


def test_a_self_signed_one(tmp_path: Path) -> None:
    certificate = Certificate(*write_pair(tmp_path, make_pair("bridge.example")))
    (line,) = complaints(certificate, [], HOSTNAME, None)
    assert line.startswith(
        f"SMTP2CF_TLS_CERT_FILE: {tmp_path / 'cert.pem'} (bridge.example): it is self-signed"
    )


def test_a_chain_that_ends_at_a_ca_of_ones_own(tmp_path: Path, issued: Issued) -> None:
    chain = issued._replace(certificate=issued.certificate + issued.ca)
    (line,) = said(tmp_path, chain, trusted=issue("other").ca)
    assert ": its CA is not a public one. Clients that check" in line


def test_a_public_ca_is_known_without_a_setting(
    tmp_path: Path, issued: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Public is what this host knows: here it is told so, as an operator tells it."""
    certificate = Certificate(*write_pair(tmp_path, Pair(issued.certificate, issued.key)))
    (tmp_path / "public.pem").write_bytes(issued.ca)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.pem"))
    assert not list(complaints(certificate, [], HOSTNAME, None))


def test_its_end_is_not_judged_here(tmp_path: Path) -> None:
    """It has warnings of its own."""
    pair = make_pair("bridge.example", starts=-9, ends=-2)
    certificate = Certificate(*write_pair(tmp_path, pair))
    assert not list(complaints(certificate, [Endpoint("127.0.0.1", 25)], HOSTNAME, tmp_path / "cert.pem"))


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file or directory"), (b"nothing", "holds no certificate in PEM")]
)
def test_a_ca_file_that_is_none(tmp_path: Path, issued: Issued, content: bytes | None, why: str) -> None:
    certificate = Certificate(*write_pair(tmp_path, Pair(issued.certificate, issued.key)))
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    with pytest.raises(CertificateError) as error:
        list(complaints(certificate, [], HOSTNAME, ca_file))
    assert str(error.value).startswith(f"SMTP2CF_TLS_CA_FILE: {ca_file}")
    assert str(error.value).endswith(why)
