"""Stand-ins for Cloudflare's API that take any message: nginx, and one that takes its time.

nginx answers a fixed success, and counts. It has to have read all of a message before it answers,
as Cloudflare does: a client that is still writing when the answer comes closes its connection, so
an early answer would cost one contender its keep-alive and spare another the work of writing.
`return` answers early. What fits into one read is unharmed by that; the rest goes through a
location that reads the body whole and then asks a second server for the answer, without the body.
"""

import json
import signal
import time
import urllib.request
from collections import Counter
from pathlib import Path

from benchmarks.processes import START_TIMEOUT, BrokenError, Process, free_port, program

SENDER = "bench@example.com"
RECIPIENT = "anna@example.org"

SUCCESS = json.dumps(
    {
        "success": True,
        "errors": [],
        "messages": [],
        "result": {
            "delivered": [RECIPIENT],
            "permanent_bounces": [],
            "queued": [],
            "message_id": "<bench@example.com>",
        },
    },
    separators=(",", ":"),
)
TOKEN = '{"success":true,"errors":[],"messages":[],"result":{"id":"bench","status":"active"}}'
"""The answer to everything else, such as a look at the token."""

ACCOUNT_PATH = "/client/v4/accounts/bench"
SEND_RAW_PATH = f"{ACCOUNT_PATH}/email/sending/send_raw"

_CONFIG = """
daemon off;
# One process, which keeps the user it was started by and writes out its log when told to (SIGUSR1).
master_process off;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;

    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_max_body_size 64m;
    client_body_buffer_size 16m;
    default_type application/json;
    access_log off;
    log_format calls "$status $content_length";

    map $content_length $large {{
        default 0;
        "~^[0-9]{{5,}}$" 1;
        "" 1;
    }}
    upstream answer {{
        server unix:{dir}/answer;
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen unix:{dir}/answer;
        return 200 '{success}';
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = {send_raw} {{
            access_log {dir}/calls calls buffer=64k;
            if ($large) {{ rewrite ^ /whole last; }}
            return 200 '{success}';
        }}
        location = /whole {{
            internal;
            access_log {dir}/calls calls buffer=64k;
            proxy_pass http://answer;
            proxy_http_version 1.1;
            proxy_pass_request_headers off;
            proxy_pass_request_body off;
            proxy_set_header Connection "";
            proxy_set_header Content-Length "";
        }}
        location / {{ return 200 '{token}'; }}
    }}
}}
"""


class FastApi(Process):
    """nginx as Cloudflare's API. url: what to use as the base URL, down to /client/v4."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/client/v4"
        self._calls = directory / "calls"
        config = directory / "nginx.conf"
        config.write_text(
            _CONFIG.format(dir=directory, port=port, send_raw=SEND_RAW_PATH, success=SUCCESS, token=TOKEN)
        )
        log = directory / "nginx.log"
        super().__init__(
            "nginx", [program("nginx"), "-p", str(directory), "-c", str(config), "-e", str(log)], log
        )
        wait_for_http(self, self.url)

    def collect(self, expected: int, size: int, patience: float) -> None:
        """Count the messages taken since the last time: there must be `expected` of them, each of at least
        `size` bytes. Waits for late ones for up to `patience` seconds. Raises BrokenError."""
        taken: Counter[str] = Counter()
        deadline = time.monotonic() + patience
        while True:
            taken += self._new_calls(size)
            if taken.total() >= expected or time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        if taken != Counter({"taken": expected}):
            raise BrokenError(f"{expected} messages were sent; at the API: {dict(taken)}")

    def _new_calls(self, size: int) -> Counter[str]:
        """Calls since the last time: taken, or what was wrong with them.

        nginx writes out what it holds in memory before it opens the log anew, so that once the new
        file is there the old one is complete.
        """
        counted = self._calls.rename(self._calls.with_suffix(".counted"))
        self.signal(signal.SIGUSR1)
        while not self._calls.exists():
            self.check()
            time.sleep(0.001)
        kinds: Counter[str] = Counter()
        for line, count in Counter(counted.read_text().splitlines()).items():
            status, length = line.split()
            if status != "200":
                kinds[f"HTTP {status}"] += count
            elif not length.isdecimal() or int(length) < size:
                kinds[f"too short ({length} bytes)"] += count
            else:
                kinds["taken"] += count
        return kinds


def get(url: str) -> bytes:
    """What a URL of this machine answers. Raises OSError."""
    without_proxies = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with without_proxies.open(url, timeout=5) as answer:
        body: bytes = answer.read()
        return body


def wait_for_http(process: Process, url: str) -> None:
    """Return once `url` answers. Raises BrokenError if it never does."""
    while time.monotonic() - process.started_at < START_TIMEOUT:
        process.check()
        try:
            get(url)
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise process.broken(f"no answer within {START_TIMEOUT:.0f} s")
