"""The certificate of a running bridge: at start, on SIGHUP, in its metrics, and the sandbox's own."""

import os
import signal
import stat
from pathlib import Path

import pytest
from cryptography import x509

from tests.process.metrics import metric
from tests.support.bridge import running_bridge
from tests.support.certificates import make_pair, write_pair
from tests.support.command import smtp2cf
from tests.support.sandbox import running_sandbox

GOOD, OTHER = make_pair("one.example"), make_pair("two.example")


def expiry(certificate: bytes) -> float:
    """When it ends, in seconds since the epoch."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()


def settings_for(files: tuple[Path, Path]) -> dict[str, str]:
    return {"TLS_CERT_FILE": str(files[0]), "TLS_KEY_FILE": str(files[1])}


def test_sighup_reads_the_certificate_anew(tmp_path: Path) -> None:
    files = write_pair(tmp_path, GOOD)
    with running_bridge(tmp_path, **settings_for(files)) as bridge:
        assert bridge.wait_for_log("tls.loaded")["subject"] == "one.example"
        name = "smtp2cf_tls_certificate_expires_timestamp"
        assert metric(bridge, name) == expiry(GOOD.certificate)
        later = make_pair("two.example", ends=120)
        write_pair(tmp_path, later)
        bridge.process.send_signal(signal.SIGHUP)
        assert bridge.wait_for_log("tls.reloaded")["subject"] == "two.example"
        assert metric(bridge, name) == expiry(later.certificate)
        files[1].write_bytes(OTHER.key)
        bridge.process.send_signal(signal.SIGHUP)
        assert "is not the key of" in bridge.wait_for_log("tls.reload_failed")["reason"]
        assert bridge.stop() == 0


def test_a_bad_certificate_stops_the_start(tmp_path: Path) -> None:
    files = write_pair(tmp_path, GOOD)
    files[1].unlink()
    done = smtp2cf("serve", "--sandbox", SMTP_LISTEN="127.0.0.1:0", **settings_for(files))
    assert done.status == os.EX_CONFIG
    assert done.err == f"smtp2cf: SMTP2CF_TLS_KEY_FILE: {files[1]}: No such file or directory\n"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"SMTPS_LISTEN": "127.0.0.1:0"},
            "SMTP2CF_SMTPS_LISTEN needs a certificate: SMTP2CF_TLS_CERT_FILE is not set",
        ),
        ({"TLS_KEY_FILE": "/key"}, "SMTP2CF_TLS_KEY_FILE is set, but SMTP2CF_TLS_CERT_FILE is not"),
    ],
    ids=["TLS from the first byte", "a key alone"],
)
def test_tls_without_a_certificate_stops_the_start(settings: dict[str, str], said: str) -> None:
    done = smtp2cf(
        "serve", ACCOUNT_ID="a1", API_TOKEN="t", SMTP_LISTEN="127.0.0.1:0", ADMIN_LISTEN="none", **settings
    )
    assert done.status == os.EX_CONFIG
    assert done.err == f"smtp2cf: {said}\n"


def test_check_looks_at_the_certificate(tmp_path: Path) -> None:
    files = write_pair(tmp_path, GOOD)
    with running_sandbox() as (_, url):
        settings = {
            "ACCOUNT_ID": "a1",
            "API_TOKEN": "sandbox-token",
            "API_BASE_URL": url,
            "SPOOL_URL": "none",
            "SMTP_LISTEN": "127.0.0.1:0",
            "ADMIN_LISTEN": "none",
            **settings_for(files),
        }

        def said_of_it(**more: str) -> list[str]:
            done = smtp2cf("check", **settings | more)
            return [line for line in done.out.splitlines() if ": certificate: " in line]

        good, complaint = said_of_it()
        assert good.startswith("ok: certificate: one.example, expires 20")
        assert complaint.startswith(
            f"warning: certificate: SMTP2CF_TLS_CERT_FILE: {files[0]} (one.example): "
        )
        assert said_of_it(TLS_CA_FILE=str(files[0])) == [good]
        files[1].write_bytes(OTHER.key)
        (wrong,) = said_of_it()
    assert wrong.startswith(f"error: certificate: SMTP2CF_TLS_KEY_FILE: {files[1]} is not the key of ")


def test_the_start_says_what_clients_will_do_with_it(tmp_path: Path) -> None:
    files = write_pair(tmp_path, GOOD)
    with running_bridge(tmp_path, **settings_for(files), SMTP_LISTEN="127.0.0.2:0") as bridge:
        bridge.wait_for_log("serve.ready")
        notes = [line["note"] for line in bridge.log() if line["event"] == "tls.clients_will_refuse"]
    assert ["it is self-signed" in note for note in notes] == [True, False]
    assert "is for one.example, not for 127.0.0.2" in notes[1]


def test_a_sandbox_makes_its_own_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with running_bridge(tmp_path, HOSTNAME="bridge.example") as bridge:
        assert bridge.wait_for_log("tls.loaded")["subject"] == "bridge.example"
        (key,) = tmp_path.glob("smtp2cf-sandbox-*/key.pem")
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o711, "clients that are other users read the CA"
        assert bridge.stop() == 0
    assert not list(tmp_path.glob("smtp2cf-sandbox-*"))


def test_without_tls_there_is_no_certificate_and_nothing_to_read_anew(tmp_path: Path) -> None:
    with running_sandbox() as (_, url):
        account = {"ACCOUNT_ID": "a1", "API_TOKEN": "sandbox-token", "API_BASE_URL": url}
        with running_bridge(
            tmp_path, sandbox=False, **account, STATE_DIR=str(tmp_path), HOSTNAME="bridge.example"
        ) as bridge:
            bridge.process.send_signal(signal.SIGHUP)
            bridge.wait_for_log("serve.sighup")
            assert bridge.stop() == 0
            assert not any(str(line["event"]).startswith("tls.") for line in bridge.log())
