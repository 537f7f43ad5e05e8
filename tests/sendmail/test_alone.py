"""The single file, what a call imports, and the relay run without a bridge."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from smtp2cf.cli.install_sendmail import write_single_file
from tests.sendmail.conftest import PACKAGE, Sendmail, links_to, single_file
from tests.support.bridge import Bridge
from tests.support.needs import needs
from tests.support.secret import TOKEN
from tests.support.waiting import PATIENCE

MAIL = b"Subject: s\n\nhi\n"

TO_SEND = {
    "__future__", "_socket", "pwd", "time", "sendmail", "sendmail.addresses", "sendmail.aliases",
    "sendmail.client", "sendmail.delivery", "sendmail.endpoint", "sendmail.envelope", "sendmail.exit_codes",
    "sendmail.header", "sendmail.host", "sendmail.message", "sendmail.options", "sendmail.output",
    "sendmail.reply", "sendmail.settings", "sendmail.submission",
}  # fmt: skip
"""What sending to a bridge that is there imports, besides what every Python has imported: more is slower."""
MOST_CODE = 150_000
"""Octets of compiled code in our modules among those (133,000 on Python 3.11): reading it takes time."""

SHOW_IMPORTS = """
import sys
before = set(sys.modules)
from sendmail import main
code = main()
for name in sorted(set(sys.modules) - before):
    print(name, getattr(sys.modules[name], "__file__", None), file=sys.stderr)
sys.exit(code)
"""


def imports_of_a_call(
    path: Path, env: dict[str, str], *arguments: str, standard_input: bytes = MAIL
) -> dict[str, str]:
    """The modules that a call imports, the package or the single file being at that path, and their files."""
    command = [sys.executable, "-c", SHOW_IMPORTS, *arguments]
    environ = {**env, "PYTHONPATH": str(path)}
    done = subprocess.run(command, input=standard_input, env=environ, capture_output=True, check=True)
    return dict(line.split(" ", 1) for line in done.stderr.decode().splitlines())


@pytest.fixture(params=["package", "single file"])
def importable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What to put on PYTHONPATH for `import sendmail`."""
    if request.param == "single file":
        return single_file(tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "package" / "sendmail")
    return tmp_path / "package"


def test_sending_imports_only_what_it_needs(sendmail: Sendmail, importable: Path) -> None:
    assert set(imports_of_a_call(importable, sendmail.env, "-i", "b@y.example")) <= TO_SEND


@pytest.mark.parametrize(
    ("arguments", "modules"),
    [
        (["-bs"], {"bs"}),
        (["-bp"], {"mailq", "dropped"}),
        (["-bv", "b@y.example"], {"verify"}),
        (["-q"], {"queue_run"}),
        (["--help"], {"options"}),
    ],
)
def test_what_few_calls_need_is_imported_on_demand(
    sendmail: Sendmail, tmp_path: Path, arguments: list[str], modules: set[str]
) -> None:
    imported = imports_of_a_call(single_file(tmp_path), sendmail.env, *arguments, standard_input=b"QUIT\r\n")

    found = {name.rpartition(".")[2] for name in imported if name.startswith("sendmail.")}
    assert modules <= found
    assert "session" not in found  # the bridge is there
    assert "submission" not in found or arguments[0] in ("-bv", "-q")


def test_code_of_a_call_is_small_and_compiled(sendmail: Sendmail, tmp_path: Path) -> None:
    """A start takes as long as there is code to read; compiling it would double that."""
    file = single_file(tmp_path)
    imported = imports_of_a_call(file, sendmail.env, "-i", "b@y.example")

    ours = [path for name, path in imported.items() if name.partition(".")[0] == "sendmail"]
    assert [path for path in ours if not path.endswith(".pyc")] == []
    with zipfile.ZipFile(file) as archive:
        octets = sum(archive.getinfo(path[len(f"{file}/") :]).file_size for path in ours)
    print(f"{octets} octets of code in {len(ours)} modules")
    assert octets < MOST_CODE


def test_package_imports_the_standard_library_alone() -> None:
    """On demand as well: a host that has the single file has nothing else. direct.py says so itself."""
    for module in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            foreign = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}
            assert not foreign or module.name == "direct.py", (module.name, foreign)


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
    root = PACKAGE.parents[1]
    shutil.copytree(PACKAGE, tmp_path / "smtp2cf/sendmail")
    (tmp_path / "smtp2cf/cli").mkdir()
    for name in (
        "Makefile",
        "smtp2cf/__init__.py",
        "smtp2cf/cli/__init__.py",
        "smtp2cf/cli/install_sendmail.py",
    ):
        shutil.copy(root / name, tmp_path / name)
    subprocess.run(["make", "sendmail.pyz"], check=True, capture_output=True, cwd=tmp_path)

    assert os.access(tmp_path / "sendmail.pyz", os.X_OK)


TWO_HUNDRED_AT_ONCE = """
import os, sys
from smtp2cf.sendmail import delivery, main  # imported once, not by each of them
waiting, start = os.pipe()
callers = []
for number in range(200):
    mail, mail_end = os.pipe()
    os.write(mail_end, b"Subject: s\\n\\nhi\\n")
    os.close(mail_end)
    callers.append(os.fork())
    if not callers[-1]:
        os.dup2(mail, 0)
        os.close(start)
        os.read(waiting, 1)  # until the last of them is there
        sys.argv = ["sendmail", "-i", f"r{number}@y.example"]
        os._exit(main())
    os.close(mail)
os.close(start)
sys.exit(any([os.waitpid(caller, 0)[1] for caller in callers]))
"""


def test_two_hundred_at_once_all_arrive(sendmail: Sendmail, bridge: Bridge) -> None:
    command = [sys.executable, "-c", TWO_HUNDRED_AT_ONCE]
    done = subprocess.run(command, env=sendmail.env, capture_output=True, timeout=PATIENCE)

    assert (done.returncode, done.stderr) == (0, b"")
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
        "SMTP2CF_REPLY_TIMEOUT": "3s",  # as long as a throttled call is made again
    }
    return Sendmail(away.directory, away.env | account, installed=True)


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
    assert says in result.stderr


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
    assert b"smtp2cf is not installed for" in done.stderr


def test_names_decide_what_is_done(sendmail: Sendmail, tmp_path: Path) -> None:
    write_single_file(tmp_path / "sendmail.pyz")
    named = Sendmail(links_to(tmp_path / "sendmail.pyz", tmp_path / "names"), sendmail.env)

    assert named(name="mailq").stdout == "Mail queue is empty\n"
    assert named(name="newaliases").stdout == ""
    assert named("--help").stdout.startswith("usage: sendmail")
