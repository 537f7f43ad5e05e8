"""The single file, what a call imports, how long it takes, and the relay run without a bridge."""

import compileall
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smtp2cf.cli.install_sendmail import write_single_file
from tests.sendmail.conftest import SOURCE, Sendmail, links_to
from tests.support.bridge import Bridge
from tests.support.needs import needs
from tests.support.secret import TOKEN

MAIL = b"Subject: s\n\nhi\n"
MAIL_4K = b"To: b@y.example\nSubject: s\n\n" + (b"x" * 76 + b"\n") * 52

IMPORTED_TO_SEND = {
    "__future__", "_socket", "pwd", "time", "sendmail",
}  # fmt: skip
"""Modules that a start of Python itself does not bring; more of them is slower."""


def test_imports_are_what_sending_needs(sendmail: Sendmail, tmp_path: Path) -> None:
    shutil.copy(SOURCE, tmp_path / "sendmail.py")
    imports = "import sys; before = set(sys.modules); import sendmail; code = sendmail.main(); "
    imports += "print(*sorted(set(sys.modules) - before)); sys.exit(code)"
    command = [sys.executable, "-c", imports]
    done = subprocess.run(
        command,
        input=MAIL,
        env={**sendmail.env, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        cwd=tmp_path,
    )
    assert done.returncode == 64  # no recipients
    script = f"import sys; sys.argv = ['sendmail', 'b@y.example']; {imports}"
    done = subprocess.run(
        [sys.executable, "-c", script], input=MAIL, env=sendmail.env, capture_output=True, cwd=tmp_path
    )

    assert done.returncode == 0
    assert set(done.stdout.decode().split()) <= IMPORTED_TO_SEND


def test_single_file_is_one_executable_with_a_shebang_and_nothing_beside_it(
    sendmail: Sendmail, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    write_single_file(alone / "sendmail.pyz")
    env = {name: value for name, value in sendmail.env.items() if not name.startswith("PYTHON")}
    done = subprocess.run([alone / "sendmail.pyz", "b@y.example"], input=MAIL, env=env, capture_output=True)

    assert (alone / "sendmail.pyz").read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert os.listdir(alone) == ["sendmail.pyz"]


def test_single_file_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_single_file(tmp_path / name)

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@needs("make")
def test_make_builds_it_with_nothing_installed(tmp_path: Path) -> None:
    root = SOURCE.parent.parent
    (tmp_path / "smtp2cf").mkdir()
    for name in ("Makefile", "smtp2cf/__init__.py", "smtp2cf/sendmail.py", "smtp2cf/cli/install_sendmail.py"):
        shutil.copy(root / name, tmp_path / name)
    subprocess.run(["make", "sendmail.pyz"], check=True, capture_output=True, cwd=tmp_path)

    assert os.access(tmp_path / "sendmail.pyz", os.X_OK)


def installed_like_pip(directory: Path) -> Path:
    """The package with its modules compiled, as an installer leaves it, and the command."""
    package = directory / "site" / "smtp2cf"
    package.mkdir(parents=True)
    for name in ("__init__.py", "sendmail.py"):
        shutil.copy(SOURCE.parent / name, package / name)
    compileall.compile_dir(package, quiet=1)
    script = directory / "smtp2cf-sendmail"
    start = f"import sys\nsys.path.insert(0, {str(package.parent)!r})\n"
    main = "from smtp2cf.sendmail import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    script.write_text(f"#!{sys.executable}\n{start}{main}")
    script.chmod(0o755)
    return script


def seconds(command: list[str], env: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, input=MAIL_4K, env=env, check=True, capture_output=True)
    return time.perf_counter() - started


@pytest.mark.parametrize("form", ["installed", "single file"])
def test_a_call_takes_at_most_three_starts_of_python(
    form: str, sendmail: Sendmail, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if form == "installed":
        command = [str(installed_like_pip(tmp_path))]
    else:
        write_single_file(tmp_path / "sendmail.pyz")
        command = [sys.executable, str(tmp_path / "sendmail.pyz")]
    rivals = {
        "sendmail": [*command, "-t", "-i"],
        "python": [sys.executable, "-I", "-c", "pass"],
    }
    if shutil.which("msmtp"):
        host, port = sendmail.env["SMTP2CF_SENDMAIL_HOST"].split(":")
        rivals["msmtp"] = ["msmtp", f"--host={host}", f"--port={port}", "--from=a@x.example", "-t"]
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(15):  # in turn, so that a busy moment of the machine is everybody's
        for name, rival in rivals.items():
            taken[name].append(seconds(rival, sendmail.env))
    least = {name: min(times) for name, times in taken.items()}  # what others on the machine cost is not ours
    report = ", ".join(f"{name} {1000 * time_:.1f} ms" for name, time_ in least.items())
    record_property("least", report)
    print(f"{form}: {report}")

    assert least["sendmail"] <= 3 * least["python"], report


@pytest.mark.slow
def test_two_hundred_in_parallel_all_arrive(sendmail: Sendmail, bridge: Bridge) -> None:
    def send(number: int) -> int:
        return sendmail("-i", f"r{number}@y.example", input=MAIL).code

    with ThreadPoolExecutor(200) as pool:
        codes = list(pool.map(send, range(200)))

    assert codes == [0] * 200
    recipients = [recipient for message in bridge.wait_for(200) for recipient in message["recipients"]]
    assert sorted(recipients) == sorted(f"r{number}@y.example" for number in range(200))


@pytest.fixture
def direct(bridge: Bridge, away: Sendmail) -> Sendmail:
    """sendmail that relays by itself, to the sandbox of a bridge it does not talk to."""
    account = {
        "SMTP2CF_SENDMAIL_DIRECT": "1",
        "SMTP2CF_API_BASE_URL": f"{bridge.sandbox_url}/client/v4",
        "SMTP2CF_ACCOUNT_ID": "sandbox",
        "SMTP2CF_API_TOKEN": TOKEN,
    }
    return Sendmail(away.directory, away.env | account)


def test_direct_sends_without_a_bridge(direct: Sendmail, bridge: Bridge) -> None:
    result = direct("-f", "a@x.example", "b@y.example", "c@y.example", input=MAIL)

    assert (result.code, result.stderr) == (0, "")
    [message] = bridge.messages()
    assert (message["from"], message["recipients"]) == ("a@x.example", ["b@y.example", "c@y.example"])


@pytest.mark.parametrize(
    ("recipients", "code", "says"),
    [
        (("bounce@y.example",), 67, "550 5.1.1"),
        (("auth@y.example",), 75, "451 4.3.5"),
        (("bounce@y.example", "auth@y.example"), 75, "451 4.3.5"),
        (("good@y.example", "bounce@y.example"), 0, "(<bounce@y.example>)"),
        (("good@y.example", "suppressed@y.example"), 0, "suppressed"),
    ],
)
def test_direct_exits_with_what_cloudflare_said(
    direct: Sendmail, recipients: tuple[str, ...], code: int, says: str
) -> None:
    result = direct(*recipients, input=MAIL)

    assert result.code == code
    assert says in result.reason


def test_direct_without_an_account_is_a_configuration_error(direct: Sendmail) -> None:
    result = direct("b@y.example", input=MAIL, env={"SMTP2CF_API_TOKEN": ""})

    assert result.code == 78
    assert "SMTP2CF_API_TOKEN" in result.reason


def test_direct_smtp_on_standard_input(direct: Sendmail, bridge: Bridge) -> None:
    session = "EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<{}@y.example>\r\nDATA\r\n"
    session += "Subject: s\r\n\r\nhi\r\n.\r\nQUIT\r\n"
    good = direct("-bs", input=session.format("b").encode())
    bad = direct("-bs", input=session.format("bounce").encode())

    assert "\n250 2.0.0 " in good.stdout
    assert "550 5.1.1 " in bad.stdout
    assert bridge.messages()[0]["recipients"] == ["b@y.example"]


def test_direct_queue_run_sends_what_was_dropped(direct: Sendmail, bridge: Bridge) -> None:
    direct.with_drop_directory()
    direct("-f", "a@x.example", "b@y.example", input=MAIL, env={"SMTP2CF_SENDMAIL_DIRECT": "no"})
    assert len(list(direct.drop_directory.iterdir())) == 1

    assert direct("-q").code == 0
    assert list(direct.drop_directory.iterdir()) == []
    [message] = bridge.messages()
    assert (message["from"], message["recipients"]) == ("a@x.example", ["b@y.example"])


def test_direct_from_a_single_file_without_the_package_says_what_is_missing(
    direct: Sendmail, tmp_path: Path
) -> None:
    write_single_file(tmp_path / "sendmail.pyz")
    command = [
        "/usr/bin/env",
        "-i",
        *(f"{name}={value}" for name, value in direct.env.items() if "SMTP2CF" in name),
    ]
    done = subprocess.run(
        [*command, sys.base_prefix + "/bin/python3", tmp_path / "sendmail.pyz", "b@y.example"],
        input=MAIL, capture_output=True, cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 78
    assert b"has no smtp2cf to relay with" in done.stderr


def test_names_decide_what_is_done(sendmail: Sendmail, tmp_path: Path) -> None:
    write_single_file(tmp_path / "sendmail.pyz")
    named = Sendmail(links_to(tmp_path / "sendmail.pyz", tmp_path / "names"), sendmail.env)

    assert named(name="mailq").stdout == "Mail queue is empty\n"
    assert named(name="newaliases").stdout == ""
    assert named("--help").stdout.startswith("usage: sendmail")
