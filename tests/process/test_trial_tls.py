"""A sandbox's TLS: none on the plain port, and on another a certificate that a client can verify."""

import contextlib
import smtplib
import ssl
import stat
from pathlib import Path

import pytest

from tests.support.bridge import Bridge, running_bridge
from tests.support.certificates import make_pair, write_pair
from tests.support.command import running
from tests.support.waiting import PATIENCE

MESSAGE = b"From: app@example.com\r\nSubject: TLS\r\n\r\nHello\r\n"
PLACES = {"SMTP_LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "127.0.0.1:0"}


def connected(place: str) -> smtplib.SMTP:
    host, _, port = place.rpartition(":")
    client = smtplib.SMTP(host, int(port), timeout=PATIENCE)
    client.ehlo()
    return client


def test_the_plain_port_offers_no_starttls(bridge: Bridge) -> None:
    with bridge.client() as client:
        client.ehlo()
        assert not client.has_extn("starttls")
        assert client.docmd("STARTTLS")[0] == 502
        assert b"STARTTLS" not in client.docmd("HELP")[1]


def test_no_plain_port_does(tmp_path: Path) -> None:
    with running_bridge(tmp_path, LMTP_LISTEN="127.0.0.1:0") as bridge:
        (place,) = bridge.wait_for_log("serve.ready")["lmtp"]
        with contextlib.closing(connected(place)) as client:
            assert client.docmd("LHLO a")[0] == 250
            assert client.docmd("STARTTLS")[0] == 502


@pytest.mark.parametrize("name", ["localhost", "bridge.example"])
def test_another_port_does_with_a_ca_to_verify_it(tmp_path: Path, name: str) -> None:
    with running_bridge(tmp_path, HOSTNAME="bridge.example") as bridge:
        ready = bridge.wait_for_log("serve.ready")
        trusted = ssl.create_default_context(cafile=ready["ca_file"])
        trusted.verify_flags |= ssl.VERIFY_X509_STRICT
        with connected(ready["starttls"][0]) as client:
            client._host = name
            assert client.starttls(context=trusted)[0] == 220
            assert client.sendmail("app@example.com", ["anna@example.net"], MESSAGE) == {}
        assert len(bridge.messages()) == 1
        with connected(ready["starttls"][0]) as client, pytest.raises(ssl.SSLCertVerificationError):
            client.starttls(context=ssl.create_default_context())


def test_both_are_shown_at_the_start() -> None:
    sandbox = ("--sandbox", "--sandbox-listen", "127.0.0.1:0", "--sandbox-tls-listen", "127.0.0.1:0")
    with running("serve", *sandbox, **PLACES) as process:
        _, plain, tls, *_ = (process.stdout.readline() for _ in range(5))
        assert plain.startswith("  send mail to   127.0.0.1:")
        assert plain.endswith("  (no TLS)\n")
        assert tls.startswith("  with STARTTLS  127.0.0.1:")
        ca_file = Path(tls.partition("  (trust ")[2].removesuffix(")\n"))
        assert stat.S_IMODE(ca_file.stat().st_mode) == 0o644, "clients may be other users"
        assert stat.S_IMODE((ca_file.parent / "key.pem").stat().st_mode) == 0o600
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert not ca_file.exists()


def test_it_may_be_left_out() -> None:
    sandbox = ("--sandbox", "--sandbox-listen", "127.0.0.1:0", "--sandbox-tls-listen", "none")
    with running("serve", *sandbox, **PLACES) as process:
        shown = "".join(process.stdout.readline() for _ in range(4))
        process.terminate()
    assert "STARTTLS" not in shown


def test_with_a_certificate_of_ones_own_it_is_as_in_production(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path, make_pair())
    with running_bridge(tmp_path, TLS_CERT_FILE=str(cert), TLS_KEY_FILE=str(key)) as bridge:
        ready = bridge.wait_for_log("serve.ready")
        assert not {"starttls", "ca_file"} & ready.keys()
        with connected(bridge.smtp_endpoint) as client:
            assert client.starttls(context=ssl.create_default_context(cafile=str(cert)))[0] == 220
