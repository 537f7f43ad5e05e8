"""The systemd units, as far as they can be used without systemd as the first process.

What the service is told not to do, a bridge does without: it runs here with no privilege, no writable memory
that can be executed, and sockets it is handed. The protocol is tested in
tests/process/test_notify.py.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import smtplib
import socket
import stat
import subprocess
import sys
from pathlib import Path

from smtp2cf.settings import loading
from smtp2cf.settings.fields import Settings
from tests.deploy.units import SYSTEMD, allowed_calls, settings_of
from tests.support.activation import start_with
from tests.support.bridge import Bridge
from tests.support.needs import needs
from tests.support.waiting import PATIENCE, wait_until

EXPOSURE = 1.5
"""What `systemd-analyze security` may say at most, of 10."""
AS_ROOT = {"fchown"}
"""Refused to the service, which has no need of it: SQLite calls it only where it runs as root, as here."""
UNPRIVILEGED = ["--no-new-privs", *(["--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else [])]
MESSAGE = b"From: app@example.com\r\nSubject: unit\r\n\r\nHello\r\n"


@needs("systemd-analyze")
def test_the_service_is_hardened() -> None:
    shown = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", SYSTEMD / "smtp2cf.service"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    exposure = float(re.findall(r"Overall exposure level for smtp2cf.service: ([0-9.]+)", shown)[0])
    assert exposure <= EXPOSURE


@needs("systemd-analyze")
def test_the_units_are_right(tmp_path: Path) -> None:
    for unit in ("smtp2cf.service", "smtp2cf.socket"):
        text = (SYSTEMD / unit).read_text(encoding="utf-8")
        (tmp_path / unit).write_text(text.replace("/opt/smtp2cf/bin/smtp2cf", sys.executable))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()], capture_output=True, text=True
    )
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_service_sets_what_is_a_setting_and_waits_as_long_as_the_bridge() -> None:
    variables = [line.partition("=")[0] for line in settings_of("smtp2cf.service", "Environment")]
    names = {f"SMTP2CF_{name.upper()}" for name in Settings.model_fields}
    assert {name.removesuffix("_FILE") for name in variables} <= names
    assert loading.secret_files.variable_of("api_token") in variables
    (stop_after,) = map(int, settings_of("smtp2cf.service", "TimeoutStopSec"))
    assert stop_after > Settings.model_fields["drain_timeout"].default
    assert {line.rpartition(":")[2] for line in settings_of("smtp2cf.socket", "ListenStream")} == {
        "25",
        "587",
    }
    assert settings_of("smtp2cf.service", "Sockets") == ["smtp2cf.socket"]


@needs("systemd-sysusers", "systemd-tmpfiles")
def test_the_drop_directory_belongs_to_the_bridge_and_takes_mail_from_everybody(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for command in (
        ["systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "smtp2cf.sysusers"],
        ["systemd-tmpfiles", f"--root={tmp_path}", "--create", SYSTEMD / "smtp2cf.tmpfiles"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    users = (line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines())
    made = {name: int(uid) for name, _, uid, *_ in users}
    drop = tmp_path / Settings.model_fields["sendmail_drop_dir"].default.relative_to("/")
    for place, mode in ((drop.parent, 0o755), (drop, 0o3733)):
        assert stat.S_IMODE(place.stat().st_mode) == mode
        assert place.stat().st_uid == made["smtp2cf"]


def _write_no_code() -> None:
    """As MemoryDenyWriteExecute= does; kernels before 6.3 can't be asked to."""
    set_mdwe, refuse_exec_gain = 65, 1
    ctypes.CDLL(None).prctl(set_mdwe, refuse_exec_gain, 0, 0, 0)


@needs("systemd-analyze", "strace", "setpriv")
def test_a_bridge_does_without_what_the_service_is_refused(tmp_path: Path) -> None:
    calls, log = tmp_path / "calls", tmp_path / "bridge.log"
    refused = "!" + ",".join(f"?{call}" for call in sorted(allowed_calls("smtp2cf.service")))
    command = [
        *(shutil.which("setpriv"), *UNPRIVILEGED),
        *(shutil.which("strace"), "-D", "-f", "--seccomp-bpf", "-o", calls, "-e", f"trace={refused}"),
        *(sys.executable, "-m", "smtp2cf", "serve", "--sandbox"),
        *("--sandbox-listen", "127.0.0.1:0", "--sandbox-tls-listen", "none"),
    ]
    env = {
        "PATH": "/usr/bin:/bin",
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "SMTP2CF_ADMIN_LISTEN": "127.0.0.1:0",
        "SMTP2CF_SENDMAIL_DROP_DIR": str(tmp_path / "drop"),
        "SMTP2CF_LOG_FORMAT": "json",
    }
    with socket.create_server(("127.0.0.1", 0)) as smtp, log.open("wb") as said:
        streams = {"stderr": said, "stdout": subprocess.DEVNULL, "env": env, "cwd": tmp_path}
        process = start_with([("smtp", smtp)], list(map(str, command)), preexec_fn=_write_no_code, **streams)
        try:
            bridge = Bridge(process, log)
            with smtplib.SMTP(*smtp.getsockname(), timeout=PATIENCE) as client:
                client.sendmail("app@example.com", ["anna@example.net", "error@example.net"], MESSAGE)
            process.send_signal(signal.SIGHUP)
            bridge.wait_for_log("serve.sighup")
            assert bridge.stop() == 0
        finally:
            process.kill()
            process.wait()
    ended = re.compile(rf"^{process.pid} +\+\+\+ exited", re.MULTILINE)  # the number may be padded
    wait_until(lambda: ended.search(calls.read_text()), "strace has written all", pause=0.05)
    made = set(re.findall(r"^\d+ +(\w+)\(", calls.read_text(), re.MULTILINE))
    assert made <= AS_ROOT, json.dumps(sorted(made))
