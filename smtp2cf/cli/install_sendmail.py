"""Install sendmail: the symlinks that make smtp2cf-sendmail this host's sendmail(1), and the single file.

On Debian another MTA's files are diverted, not overwritten (dpkg-divert(1)); where the names belong
to the alternatives system (Red Hat's `mta`), an alternative is added. Whatever else stands in the
way is left alone and named. Imports the standard library only, so that `make sendmail.pyz` needs
nothing installed.
"""

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

COMMAND = "smtp2cf-sendmail"
PREFIX = Path("/usr")
LINKS = ("sbin/sendmail", "lib/sendmail", "bin/mailq", "bin/newaliases")
DIVERTED = ".before-smtp2cf"
"""What is behind the name of a file that was moved out of the way, and by which --undo knows it."""
PRIORITY = "90"
TIMEOUT = 60
"""Seconds for dpkg-divert and update-alternatives."""

SENDMAIL = Path(__file__).parents[1] / "sendmail"
START_OF_SINGLE_FILE = b"#!/usr/bin/env python3\n"
MAIN_OF_SINGLE_FILE = "import sys\n\nfrom sendmail import main\n\nsys.exit(main())\n"


class InstallError(Exception):
    """Why the links can't be made or removed, in one line."""


def install(prefix: Path | None = None, undo: bool = False, command: Path | None = None) -> list[str]:
    """Make the links below `prefix` (default /usr), or remove those that were made.

    command: what they point to, by default the smtp2cf-sendmail beside this Python. Returns what
    was done, a line each. Raises InstallError; what was done until then stays and --undo removes it.
    """
    target = command or command_here()
    if not undo and not os.access(target, os.X_OK):
        raise InstallError(f"{target} is missing or not executable")
    done = []
    for name in LINKS:
        link = (prefix or PREFIX) / name
        try:
            done += _remove(link, target) if undo else _place(link, target)
        except OSError as error:
            raise InstallError(f"{link}: {error.strerror or error}") from error
    return done or [f"nothing to do below {prefix or PREFIX}"]


def command_here() -> Path:
    """Where this Python's scripts are."""
    return Path(sys.executable).parent / COMMAND


def _place(link: Path, target: Path) -> list[str]:
    if _points_to(link, target):
        return []
    alternative = _alternative(link)
    if alternative:
        _run("update-alternatives", "--install", str(link), alternative, str(target), PRIORITY)
        _run("update-alternatives", "--set", alternative, str(target))
        return [f"{link}: alternative {alternative} is {target}"]
    done = []
    if link.exists() or link.is_symlink():
        owner = _dpkg_owner(link)
        if not owner:
            raise InstallError(f"{link} already exists and no package owns it: move it away first")
        diverted = f"{link}{DIVERTED}"
        _run("dpkg-divert", "--local", "--rename", "--divert", diverted, "--add", str(link))
        done.append(f"{link}: {owner}'s is now {diverted}")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    return [*done, f"{link} -> {target}"]


def _remove(link: Path, target: Path) -> list[str]:
    alternative = _alternative(link)
    if alternative:
        if str(target) not in _run("update-alternatives", "--list", alternative, check=False).splitlines():
            return []
        _run("update-alternatives", "--remove", alternative, str(target))
        return [f"{link}: alternative {alternative} without {target}"]
    if not _points_to(link, target):
        return []
    link.unlink()
    done = [f"{link} removed"]
    if Path(f"{link}{DIVERTED}").exists() or Path(f"{link}{DIVERTED}").is_symlink():
        _run("dpkg-divert", "--local", "--rename", "--divert", f"{link}{DIVERTED}", "--remove", str(link))
        done.append(f"{link}: back to what it was")
    return done


def _points_to(link: Path, target: Path) -> bool:
    return link.is_symlink() and link.readlink() == target


def _alternative(link: Path) -> str:
    """The alternative's name where the link goes through /etc/alternatives, else ""."""
    to = link.readlink() if link.is_symlink() else None
    return to.name if to is not None and to.parent == Path("/etc/alternatives") else ""


def _dpkg_owner(path: Path) -> str:
    if shutil.which("dpkg-divert") is None:
        return ""
    found = _run("dpkg", "--search", str(path), check=False).splitlines()
    owners = [line.partition(":")[0] for line in found if not line.startswith("diversion by")]
    return owners[0] if owners else ""


def _run(*command: str, check: bool = True) -> str:
    """Standard output of a command of the system; raises InstallError with what it said."""
    try:
        done = subprocess.run(  # noqa: S603 - names from this file, paths from the command line
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"{command[0]}: {error}") from error
    if check and done.returncode:
        raise InstallError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def write_single_file(to: Path) -> None:
    """Write the package smtp2cf/sendmail as one executable file for any Python from 3.8 on.

    A zip archive behind a #! line (zipapp), with the source, and compiled for the Python that runs
    this: that one starts in half the time, any other compiles the source. The package is called
    `sendmail` there, so that SMTP2CF_SENDMAIL_DIRECT still finds an smtp2cf that is installed.
    """
    contents = [("__main__.py", MAIN_OF_SINGLE_FILE.encode())]
    for module in sorted(SENDMAIL.glob("*.py")):
        if module.name != "__main__.py":
            name, source = f"sendmail/{module.name}", module.read_bytes()
            contents += [(name, source), (f"{name}c", _compiled(name, source))]
    with to.open("wb") as file:
        file.write(START_OF_SINGLE_FILE)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, content in contents:
                archive.writestr(zipfile.ZipInfo(name), content)  # no time: the same bytes every time
    to.chmod(to.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _compiled(name: str, source: bytes) -> bytes:
    """A .pyc that is not checked against the source (PEP 552): both are in one archive."""
    import marshal

    flags = 0b01
    code = compile(source, name, "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + flags.to_bytes(4, "little") + bytes(8) + marshal.dumps(code)


if __name__ == "__main__":
    write_single_file(Path(sys.argv[1]))
