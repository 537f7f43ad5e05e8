"""Who is measured: the bridge and the references, each as a command and its environment.

To add one: a Contender here, and its name in a Comparison of __main__.py.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from benchmarks import postfix
from benchmarks.api import SEND_RAW_PATH
from benchmarks.processes import Process, UnavailableError, environment, free_port, program

_NODE = Path(__file__).parent / "node"
_NODE_PACKAGES = ("smtp-server", "undici")
_NPM_TIMEOUT = 300


def _nothing(directory: Path) -> None:
    """What most contenders need to be done before they start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something that takes mail over SMTP.

    name: what --only calls it. title: the table's head. command, env: how to start it; {port} is the
    port it must listen on at 127.0.0.1, {api} the base URL of the API (…/client/v4), {send_raw} the whole
    URL, {dir} a directory of its own. calls_api: every message it took with 250 must be at the API.
    prepare: done before it starts, with {dir}; raises UnavailableError where it cannot run here. drain:
    done after each run, with {dir}: returns when it has nothing left to do.
    patience: seconds after the last 250 within which the API must have had everything.
    """

    name: str
    title: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    calls_api: bool = True
    prepare: Callable[[Path], None] = _nothing
    drain: Callable[[Path], None] = _nothing
    patience: float = 2.0

    def start(self, directory: Path, api_url: str) -> "Running":
        """Start it and wait for its greeting. Raises UnavailableError, BrokenError."""
        directory.mkdir(parents=True)
        self.prepare(directory)
        port = free_port()
        send_raw = api_url.removesuffix("/client/v4") + SEND_RAW_PATH
        known = {"port": port, "api": api_url, "send_raw": send_raw, "dir": directory}
        command = [word.format_map(known) for word in self.command]
        command[0] = program(command[0])
        env = {name: value.format_map(known) for name, value in self.env.items()}
        return Running(self, port, directory, Process(self.title, command, directory / "log", env))


class Running:
    """A contender that has greeted. ready: how many seconds after its start it did."""

    def __init__(self, contender: Contender, port: int, directory: Path, process: Process) -> None:
        self.contender = contender
        self.port = port
        self.directory = directory
        self.process = process
        try:
            self.ready = process.wait_for_greeting(port)
        except BaseException:
            process.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.stop()


def _install_node_packages(directory: Path) -> None:  # noqa: ARG001
    program("node")
    if all((_NODE / "node_modules" / package).is_dir() for package in _NODE_PACKAGES):
        return
    # No lock file: it would record where the packages were downloaded from. package.json has exact versions.
    command = [program("npm"), "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        subprocess.run(
            command,
            cwd=_NODE,
            env=environment({}) | {n: v for n, v in os.environ.items() if n.lower().endswith("_proxy")},
            check=True,
            capture_output=True,
            text=True,
            timeout=_NPM_TIMEOUT,
        )
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())[:150]
        raise UnavailableError(f"npm install failed: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"npm install took more than {_NPM_TIMEOUT} s") from error


PLAIN = Contender(
    name="plain",
    title="(a) aiosmtpd + httpx",
    command=[sys.executable, "-m", "benchmarks.plain_relay", "{port}", "{send_raw}"],
)

NODE = Contender(
    name="node",
    title="(b) smtp-server + undici",
    command=["node", str(_NODE / "relay.mjs"), "{port}", "{send_raw}"],
    prepare=_install_node_packages,
)

SINK = Contender(
    name="sink",
    title="(c) smtp-sink",
    # It insists on dropping root, and on nothing where it isn't root.
    command=["smtp-sink", *(["-u", "nobody"] if os.geteuid() == 0 else []), "127.0.0.1:{port}", "1024"],
    calls_api=False,
)

BRIDGE = Contender(
    name="bridge",
    title="smtp2cf",
    command=[sys.executable, "-m", "smtp2cf", "serve"],
    env={
        "SMTP2CF_SMTP_LISTEN": "127.0.0.1:{port}",
        "SMTP2CF_ADMIN_LISTEN": "none",
        "SMTP2CF_API_BASE_URL": "{api}",
        "SMTP2CF_ACCOUNT_ID": "bench",
        "SMTP2CF_API_TOKEN": "bench",
        "SMTP2CF_API_RATE": "none",
        "SMTP2CF_SPOOL_URL": "none",
        "SMTP2CF_STATE_DIR": "{dir}",
        "SMTP2CF_MAX_MESSAGE_SIZE": "25MiB",
    },
)

QUEUE = replace(
    BRIDGE,
    name="queue",
    title="smtp2cf, SQLite",
    env={
        **BRIDGE.env,
        "SMTP2CF_MODE": "queue",
        "SMTP2CF_SPOOL_URL": "sqlite://{dir}/spool.sqlite3",
        "SMTP2CF_SENDMAIL_DROP_DIR": "{dir}/drop",
    },
    # What was taken still has to be sent.
    patience=120.0,
)

POSTFIX = Contender(
    name="postfix",
    title="Postfix, discard",
    command=[sys.executable, "-m", "benchmarks.postfix", "{dir}", "{port}"],
    calls_api=False,
    prepare=postfix.prepare,
    drain=postfix.drain,
)


def on_postgres(url: str) -> Contender:
    """The bridge with its queue in a PostgreSQL; "" for one that is not there."""

    def prepare(_: Path) -> None:
        if not url:
            raise UnavailableError("there is no PostgreSQL on this machine")

    return replace(
        QUEUE,
        name="postgres",
        title="smtp2cf, PostgreSQL",
        # Braces would be taken for fields.
        env={**QUEUE.env, "SMTP2CF_SPOOL_URL": url.replace("{", "{{").replace("}", "}}")},
        prepare=prepare,
    )
