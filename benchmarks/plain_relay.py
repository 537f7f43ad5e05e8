"""Reference (a): the twenty-line relay anybody would write with plain aiosmtpd and httpx.

Run as `python -m benchmarks.plain_relay PORT URL-OF-SEND-RAW`. Knows nothing of smtp2cf.
"""

import signal
import sys

import httpx
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class Relay:
    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.AsyncClient(headers={"Authorization": "Bearer bench"}, timeout=60)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802, ARG002
        message = {
            "from": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "mime_message": envelope.content.decode("utf-8", "replace"),  # type: ignore[union-attr]
        }
        try:
            response = await self.client.post(self.url, json=message)
        except httpx.HTTPError as error:
            return f"451 4.4.1 {error!r}"
        if response.status_code == 429 or response.status_code >= 500:
            return f"451 4.3.0 HTTP {response.status_code}"
        answer = response.json()
        if not answer["success"]:
            return f"554 5.0.0 {answer['errors'][0]['message']}"
        if answer["result"]["permanent_bounces"]:
            return "550 5.1.1 bounced"
        return "250 2.0.0 sent"


if __name__ == "__main__":
    Controller(Relay(sys.argv[2]), hostname="127.0.0.1", port=int(sys.argv[1])).start()
    signal.pause()
