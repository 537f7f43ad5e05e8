"""A sandbox for plain tests: Cloudflare's stand-in on an event loop in its own thread."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from smtp2cf.listen.endpoint import Endpoint, bound, listen
from smtp2cf.sandbox import Sandbox
from tests.support.waiting import PATIENCE


@contextlib.contextmanager
def running_sandbox(port: int = 0, **options: Any) -> Iterator[tuple[Sandbox, str]]:
    """A sandbox made with `options`, and the base URL of its API. port: any free one by default."""
    endpoint = Endpoint("127.0.0.1", port)
    sockets = listen(endpoint)
    sandbox = Sandbox(**options)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(sandbox.start(sockets), loop).result(PATIENCE)
        yield sandbox, f"http://{bound(sockets, endpoint)}/client/v4"
    finally:
        asyncio.run_coroutine_threadsafe(sandbox.stop(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
