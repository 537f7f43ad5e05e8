"""`smtp2cf install-sendmail`: its links, what it moves out of the way, and that --undo brings all back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from smtp2cf.cli.install_sendmail import InstallError, install
from tests.support.needs import needs
from tests.support.waiting import PATIENCE

LINKS = ["sbin/sendmail", "lib/sendmail", "bin/mailq", "bin/newaliases"]


@pytest.fixture
def command(tmp_path: Path) -> Path:
    path = tmp_path / "smtp2cf-sendmail"
    path.write_text("#!/bin/sh\necho ours\n")
    path.chmod(0o755)
    return path


def test_links_are_made_and_taken_away(tmp_path: Path, command: Path) -> None:
    prefix = tmp_path / "usr"
    done = install(prefix, command=command)

    assert done == [f"{prefix / name} -> {command}" for name in LINKS]
    assert all((prefix / name).readlink() == command for name in LINKS)
    assert install(prefix, command=command) == [f"nothing to do below {prefix}"]
    assert install(prefix, undo=True, command=command) == [f"{prefix / name} removed" for name in LINKS]
    assert not any((prefix / name).is_symlink() for name in LINKS)
    assert install(prefix, undo=True, command=command) == [f"nothing to do below {prefix}"]


def test_what_nobody_owns_is_left_alone_and_named(tmp_path: Path, command: Path) -> None:
    other = tmp_path / "sbin" / "sendmail"
    other.parent.mkdir()
    other.write_text("somebody's")

    with pytest.raises(InstallError, match="sbin/sendmail already exists"):
        install(tmp_path, command=command)
    assert other.read_text() == "somebody's"


def test_undo_leaves_other_links_alone(tmp_path: Path, command: Path) -> None:
    other = tmp_path / "bin" / "mailq"
    other.parent.mkdir()
    other.symlink_to("/elsewhere")
    install(tmp_path, undo=True, command=command)

    assert other.readlink() == Path("/elsewhere")


def test_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="nowhere is missing"):
        install(tmp_path, command=tmp_path / "nowhere")


def test_directory_one_may_not_write_to_is_named(tmp_path: Path, command: Path) -> None:
    (tmp_path / "sbin").write_text("a file")

    with pytest.raises(InstallError, match="sbin/sendmail: "):
        install(tmp_path, command=command)


IN_A_COPY_OF_THE_HOST = """
set -e
mount -t tmpfs tmpfs "$0"
for top in usr var etc; do
    mkdir -p "$0/$top/upper" "$0/$top/work"
    mount -t overlay overlay -o "lowerdir=/$top,upperdir=$0/$top/upper,workdir=$0/$top/work" "/$top"
done
"""


def in_a_copy_of_the_host(directory: Path, script: str) -> list[str]:
    """Run a script where /usr, /var and /etc may be written to and nothing of it stays."""
    directory.mkdir()
    command = ["unshare", "--mount", "sh", "-c", IN_A_COPY_OF_THE_HOST + script, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def can_copy_the_host() -> bool:
    test = "mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w && "
    test += "mount -t overlay o -o lowerdir=/usr,upperdir=/mnt/u,workdir=/mnt/w /usr"
    return (
        os.getuid() == 0
        and not subprocess.run(["unshare", "-m", "sh", "-c", test], capture_output=True).returncode
    )


needs_a_copy = pytest.mark.skipif(
    not can_copy_the_host(), reason="needs root, mount namespaces and overlayfs"
)


@needs("dpkg-divert")
@needs_a_copy
def test_another_mta_of_debian_is_diverted_and_comes_back(tmp_path: Path, command: Path) -> None:
    """A file that a package owns stands in for another MTA's sendmail."""
    call = f"{sys.executable} -c \"import sys; sys.path.insert(0, '{Path(__file__).parents[2]}')\n"
    call += "from pathlib import Path; from smtp2cf.cli.install_sendmail import install\n"
    call += f"print(*install(None, {{undo}}, Path('{command}')), sep=chr(10))\"\n"
    script = f"""
        cd /
        rm -f /usr/lib/sendmail /usr/bin/mailq /usr/bin/newaliases /usr/sbin/sendmail
        echo theirs > /usr/sbin/sendmail
        echo /usr/sbin/sendmail >> /var/lib/dpkg/info/hostname.list
        {call.format(undo=False)}
        /usr/sbin/sendmail; cat /usr/sbin/sendmail.before-smtp2cf; dpkg-divert --list '/usr/sbin/sendmail'
        {call.format(undo=True)}
        cat /usr/sbin/sendmail; dpkg-divert --list '/usr/sbin/sendmail'; ls /usr/bin/mailq || echo no mailq
    """
    said = in_a_copy_of_the_host(tmp_path / "copy", script)

    assert said[1] == f"/usr/sbin/sendmail -> {command}"
    assert said[5:8] == [
        "ours", "theirs",
        "local diversion of /usr/sbin/sendmail to /usr/sbin/sendmail.before-smtp2cf",
    ]  # fmt: skip
    assert said[8:10] == ["/usr/sbin/sendmail removed", "/usr/sbin/sendmail: back to what it was"]
    assert said[13:] == ["theirs", "no mailq"]


@needs("update-alternatives")
@needs_a_copy
def test_alternatives_get_one_more_and_lose_it(tmp_path: Path, command: Path) -> None:
    """Red Hat's way: /usr/sbin/sendmail goes through /etc/alternatives."""
    call = f"{sys.executable} -c \"import sys; sys.path.insert(0, '{Path(__file__).parents[2]}')\n"
    call += "from pathlib import Path; from smtp2cf.cli.install_sendmail import install\n"
    call += f"print(*install(None, {{undo}}, Path('{command}')), sep=chr(10))\"\n"
    script = f"""
        cd /
        rm -f /usr/lib/sendmail /usr/bin/mailq /usr/bin/newaliases /usr/sbin/sendmail
        printf '#!/bin/sh\\necho theirs\\n' > /usr/sbin/sendmail.other; chmod 755 /usr/sbin/sendmail.other
        link=/usr/sbin/sendmail
        update-alternatives --quiet --install $link mta $link.other 50 >/dev/null 2>&1
        /usr/sbin/sendmail
        {call.format(undo=False)} >/dev/null
        /usr/sbin/sendmail
        {call.format(undo=True)} >/dev/null
        /usr/sbin/sendmail
    """.replace('"\n >', '" >')
    assert in_a_copy_of_the_host(tmp_path / "copy", script) == ["theirs", "ours", "theirs"]
