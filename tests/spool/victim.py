"""A process that uses a spool until it is killed: `python -m tests.spool.victim MODE URL STATE_DIR`.

put: puts mail without end from twenty tasks, and prints the queue id of each put that returned.
claim: claims two, begins the first of them, prints both ids and waits.
serve: opens the spool, says so and waits.
"""

import asyncio
import hashlib
import sys
from pathlib import Path
from typing import Any

from smtp2cf.spool import open_spool
from tests.spool.conftest import new_mail


def message_of(queue_id: str) -> bytes:
    """A message that shows if any of it is missing: 1 to 64 KiB that follow from its queue id."""
    digest = hashlib.sha256(queue_id.encode()).digest()
    return digest * (32 * (1 + digest[0] % 64))


async def put(spool: Any) -> None:
    async def without_end() -> None:
        while True:
            mail = new_mail()
            queue_id = mail.envelope.queue_id
            await spool.put(new_mail(message_of(queue_id), queue_id=queue_id))
            print(queue_id, flush=True)

    await asyncio.gather(*(without_end() for _ in range(20)))


async def claim(spool: Any) -> None:
    first, second = await spool.claim(2)
    await spool.begin(first.queue_id)
    print(first.queue_id, second.queue_id, flush=True)
    await asyncio.Event().wait()


async def serve(_spool: Any) -> None:
    print("serving", flush=True)
    await asyncio.Event().wait()


async def main() -> None:
    mode, url, state_dir = sys.argv[1:]
    spool = await open_spool(url, state_dir=Path(state_dir), lease=1.0)
    await {"put": put, "claim": claim, "serve": serve}[mode](spool)


if __name__ == "__main__":
    asyncio.run(main())
