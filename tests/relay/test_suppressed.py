"""What is known of suppressed recipients: asked once per attempt, and told in answers, log lines and DSNs."""

from collections.abc import Sequence
from email import message_from_bytes
from typing import Any

from structlog.testing import capture_logs

from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import Envelope
from smtp2cf.relay import MessagePolicy, Relay
from smtp2cf.reply import BOUNCED, DELIVERED, SUPPRESSED, Reply, Scope, SendError

MESSAGE = b"From: a@example.com\r\nTo: b@example.net\r\nSubject: hello\r\n\r\nhello\r\n"
IN_CLOUDFLARES_WORDS = SUPPRESSED._replace(text=f"{SUPPRESSED.text} [HTTP 400: recipient_suppressed]")
WHY = SUPPRESSED._replace(text=f"{SUPPRESSED.text} after a complaint, for good")


class Cloudflare:
    """Refuses calls for anna and zoë's domain, drops carl, and knows why of some of them."""

    def __init__(self, *known: str) -> None:
        self.known = known
        self.asked: list[tuple[list[str], str]] = []
        self.sent: list[tuple[str, list[str], bytes]] = []

    async def send(self, sender: str, recipients: Sequence[str], message: bytes, deadline: float) -> Sent:
        if {"anna@example.net", "zoe@xn--bcher-kva.example"}.intersection(recipients):
            raise SendError(IN_CLOUDFLARES_WORDS, Scope.RECIPIENT)
        self.sent.append((sender, list(recipients), message))
        fates = {"carl@example.net": SUPPRESSED, "bounce@example.net": BOUNCED}
        return Sent({who: fates.get(who, DELIVERED) for who in recipients}, "<1@cf>")

    async def look_up(self, recipients: Sequence[str], sender: str) -> dict[str, Reply]:
        self.asked.append((list(recipients), sender))
        return {who: WHY for who in recipients if who in self.known}

    async def relay(self, *recipients: str, **policy: Any) -> tuple[Reply, dict[str, Reply], list[Any]]:
        """The answer, each recipient's own, and what was logged of attempts, when all is done."""
        relay = Relay(self.send, MessagePolicy(**policy), look_up=self.look_up)
        with capture_logs() as lines:
            envelope = Envelope(reverse_path="a@example.com", forward_paths=recipients)
            verdict = await relay.accept(envelope, MESSAGE)
            await relay.drain(60)
        return *verdict, [line for line in lines if line["event"] == "mail.attempt"]


async def test_the_answer_and_the_log_line_say_why() -> None:
    cloudflare = Cloudflare("anna@example.net")
    answer, outcomes, lines = await cloudflare.relay("anna@example.net")
    assert outcomes == {"anna@example.net": WHY}
    assert (answer.code, answer.status) == (550, "5.7.1")
    assert answer.text.endswith(WHY.text)
    assert [(line["status"], line["reply"]) for line in lines] == [("suppressed", str(WHY))]
    assert cloudflare.asked == [(["anna@example.net"], "a@example.com")]


async def test_it_is_asked_once_for_all_who_are_suppressed_and_for_nobody_else() -> None:
    cloudflare = Cloudflare("carl@example.net", "zoe@xn--bcher-kva.example")
    given = (
        "bounce@example.net",
        "anna@example.net",
        "ben@example.net",
        "carl@example.net",
        "zoe@Bücher.example",
    )
    _, outcomes, _ = await cloudflare.relay(*given)
    assert outcomes == dict(zip(given, (BOUNCED, IN_CLOUDFLARES_WORDS, DELIVERED, WHY, WHY), strict=True))
    assert cloudflare.asked == [
        (["anna@example.net", "carl@example.net", "zoe@xn--bcher-kva.example"], "a@example.com")
    ]


async def test_it_is_not_asked_if_nobody_is_suppressed() -> None:
    cloudflare = Cloudflare()
    await cloudflare.relay("ben@example.net", "bounce@example.net")
    assert cloudflare.asked == []


async def test_a_dsn_says_why() -> None:
    cloudflare = Cloudflare("carl@example.net")
    answer, *_ = await cloudflare.relay(
        "carl@example.net", "ben@example.net", null_sender_address="p@example.com"
    )
    assert answer.code == 250
    (dsn,) = (message for _, recipients, message in cloudflare.sent if recipients == ["a@example.com"])
    _, status, _ = message_from_bytes(dsn).get_payload()
    assert isinstance(status, object)
    assert WHY.text in " ".join(status.as_string().split())
