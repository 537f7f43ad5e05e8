"""A sender that may not send: refused at once or deferred, remembered, told once, in nobody else's way."""

import asyncio
import itertools
from collections.abc import Sequence
from email import message_from_bytes
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from smtp2cf.cloudflare import Sent
from smtp2cf.envelope import Envelope
from smtp2cf.relay import BouncePolicy, RetryPolicy, sender_domains
from smtp2cf.relay.attempt import Attempt, Attempts
from smtp2cf.relay.bounces import dsns_for
from smtp2cf.relay.sender_domains import SenderDomains
from smtp2cf.reply import BOUNCED, DELIVERED, Reply, Scope, SendError
from smtp2cf.spool import NewMail, SpoolUnavailable, Status
from tests.relay.world import Api, Call, delivered, failure, world
from tests.spool.conftest import Backend
from tests.support.news import heard
from tests.support.waiting import PATIENCE

REFUSED = Reply(451, "4.3.5", "Cloudflare does not send for the sender's domain: not set up [HTTP 403]")
BROKEN = Reply(451, "4.3.0", "Cloudflare had an internal error")
ANNA, BOB = "anna@example.com", "bob@example.net"


class Clock:
    """time.monotonic, as a test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(sender_domains.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Cloudflare:
    """Refuses some senders' domains. calls: their senders."""

    def __init__(self) -> None:
        self.refused = {"example.com": REFUSED}
        self.bounced: set[str] = set()
        self.calls: list[str] = []
        self.messages: list[bytes] = []
        self.answer = asyncio.Event()
        self.answer.set()

    async def __call__(self, sender: str, recipients: Sequence[str], *, message: bytes, **_: Any) -> Sent:
        self.calls.append(sender)
        self.messages.append(message)
        await self.answer.wait()
        domain = sender.partition("@")[2]
        if (reply := self.refused.get(domain)) is not None:
            raise SendError(reply, Scope.SENDER)
        return Sent(dict.fromkeys(recipients, BOUNCED if domain in self.bounced else DELIVERED), "")


class Notes:
    """What a spool keeps of notes. away: it can't be reached. held: it answers only then."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.away = False
        self.held: asyncio.Event | None = None
        self.amended = asyncio.Event()

    async def amend(self, name: str, change: Any) -> Any:
        self.amended.set()
        if self.away:
            raise SpoolUnavailable("away")
        assert name == sender_domains.NOTE
        self.text, found = change(self.text, 0.0)
        if self.held is not None:
            await self.held.wait()
        return found


class Bridge:
    """Attempts on that Cloudflare. notes: the spool's."""

    def __init__(self, notes: Notes | None = None, postmaster: str = "") -> None:
        self.cloudflare = Cloudflare()
        self._notes = notes or Notes()
        self.domains = SenderDomains(notes)  # type: ignore[arg-type]
        policy = BouncePolicy(hostname="h.example", postmaster=postmaster)
        self._attempts = Attempts(self.cloudflare, "", policy, self.domains)

    async def attempt(self, sender: str = ANNA, **options: Any) -> Attempt:
        envelope = Envelope(reverse_path=sender, forward_paths=("c@x.example",))
        return await self._attempts.make(envelope, ["c@x.example"], b"", patience=1, **options)

    async def send(self, sender: str = ANNA, **options: Any) -> Reply:
        """What its recipient comes to."""
        (reply,) = (await self.attempt(sender, **options)).outcomes.values()
        return reply

    async def send_dsn(self, about: str) -> Reply:
        """A DSN to the sender of a message."""
        envelope = Envelope(reverse_path=about, forward_paths=("c@x.example",))
        (mail,) = dsns_for(envelope, b"", {"c@x.example": BOUNCED}, BouncePolicy(hostname="h.example"))
        paths = mail.envelope.forward_paths
        attempt = await self._attempts.make(mail.envelope, paths, mail.message, patience=1, is_dsn=True)
        return attempt.outcomes[about]

    async def noted(self) -> None:
        """Until what it has just learned is in the spool, or could not be put there."""
        async with asyncio.timeout(PATIENCE):
            await self._notes.amended.wait()
        self._notes.amended.clear()


async def test_a_domain_that_never_sent_is_refused_and_the_setting_named(clock: Clock) -> None:
    reply = await Bridge().send()
    assert (reply.code, reply.status) == (550, "5.7.1")
    assert "Cloudflare does not send for example.com: not set up [HTTP 403]" in reply.text
    assert "SMTP2CF_ALLOWED_SENDER_DOMAINS" in reply.text


async def test_it_costs_one_call_in_15_minutes_and_none_of_another_domain(clock: Clock) -> None:
    bridge = Bridge()
    first = await bridge.send()
    for seconds in (1, 600, 298):
        clock.now += seconds
        assert await bridge.send() == first
        assert (await bridge.send(BOB)).success
    assert bridge.cloudflare.calls.count(ANNA) == 1
    clock.now += 2
    await bridge.send()
    assert bridge.cloudflare.calls.count(ANNA) == 2


async def test_a_domain_that_is_set_up_meanwhile_sends_after_15_minutes(clock: Clock) -> None:
    bridge = Bridge()
    await bridge.send()
    bridge.cloudflare.refused.clear()
    clock.now += 901
    assert (await bridge.send()).success
    bridge.cloudflare.refused["example.com"] = REFUSED
    assert (await bridge.send()).transient


async def test_a_domain_whose_mail_only_bounced_has_not_sent(clock: Clock) -> None:
    """Cloudflare is known to call it a bounce where a domain is not set up."""
    bridge = Bridge()
    bridge.cloudflare.refused.clear()
    bridge.cloudflare.bounced.add("example.com")
    await bridge.send()
    bridge.cloudflare.refused["example.com"] = REFUSED
    assert (await bridge.send()).permanent


async def test_a_domain_that_has_sent_is_deferred_and_probed_more_and_more_seldom(clock: Clock) -> None:
    bridge = Bridge(Notes('["example.com"]'))
    attempt = await bridge.attempt()
    (reply,) = attempt.outcomes.values()
    assert (reply.code, reply.status, attempt.retry_after) == (451, "4.3.5", 60.0)
    assert "example.com" in reply.text
    calls = []
    for _ in range(24 * 60):
        clock.now += 60
        before = len(bridge.cloudflare.calls)
        assert (await bridge.send()).transient
        calls.append(len(bridge.cloudflare.calls) - before)
    assert calls[:8] == [1, 0, 1, 0, 0, 0, 1, 0]
    assert sum(calls) <= 24 * 4 + 6


async def test_while_one_probes_the_others_wait(clock: Clock) -> None:
    bridge = Bridge(Notes('["example.com"]'))
    await bridge.send()
    clock.now += 61
    bridge.cloudflare.refused.clear()
    bridge.cloudflare.answer.clear()
    probe = asyncio.ensure_future(bridge.send())
    await asyncio.sleep(0)
    other = await bridge.attempt()
    assert other.retry_after is not None
    assert 10 <= other.retry_after <= 70
    bridge.cloudflare.answer.set()
    assert (await probe).success
    assert (await bridge.send()).success
    assert not bridge.domains.troubles


async def test_a_probe_that_is_given_up_is_followed_by_another(clock: Clock) -> None:
    bridge = Bridge(Notes('["example.com"]'))
    await bridge.send()
    clock.now += 61
    bridge.cloudflare.answer.clear()
    probe = asyncio.ensure_future(bridge.send())
    await asyncio.sleep(0)
    probe.cancel()
    bridge.cloudflare.answer.set()
    bridge.cloudflare.refused.clear()
    clock.now += 11
    assert (await bridge.send()).success


async def test_the_mail_of_a_domain_in_trouble_does_not_come_back_all_at_once(clock: Clock) -> None:
    bridge = Bridge(Notes('["example.com"]'))
    await bridge.send()
    waits = [(await bridge.attempt()).retry_after or 0.0 for _ in range(100)]
    assert min(waits) >= 60
    assert max(waits) - min(waits) > 20


async def test_an_attempt_whose_answer_is_known_counts(clock: Clock) -> None:
    class Lease:
        kept = called = False
        called_at = 0.0

    bridge, lease = Bridge(), Lease()
    await bridge.send()
    await bridge.send(lease=lease)
    assert lease.called


async def test_one_internal_error_stops_nobody_and_three_in_a_row_stop_their_domain_only(
    clock: Clock,
) -> None:
    bridge = Bridge()
    cloudflare = bridge.cloudflare
    cloudflare.refused["example.com"] = BROKEN
    with capture_logs() as lines:
        for _ in range(10):
            assert await bridge.send() == BROKEN
    assert len(cloudflare.calls) == 3
    assert [line["event"] for line in lines] == ["sender.failing"]
    assert (await bridge.send(BOB)).success
    clock.now += 61
    cloudflare.refused.clear()
    assert (await bridge.send()).success
    cloudflare.refused["example.com"] = BROKEN
    for _ in range(3):
        await bridge.send()
    assert len(cloudflare.calls) == 8, "the count began again"


async def test_who_got_the_mail_before_a_refusal_got_it(clock: Clock) -> None:
    """And so the domain has sent, in the very attempt that is refused at last."""
    recipients = [f"r{number}@x.example" for number in range(60)]
    bridge = Bridge()
    cloudflare = bridge.cloudflare
    cloudflare.refused.clear()

    async def first_call_only(sender: str, part: Sequence[str], **call: Any) -> Sent:
        if len(part) < 50:
            cloudflare.refused["example.com"] = REFUSED
        return await cloudflare(sender, part, **call)

    attempts = Attempts(first_call_only, "", BouncePolicy(hostname="h"), bridge.domains)
    envelope = Envelope(reverse_path=ANNA, forward_paths=tuple(recipients))
    outcomes = (await attempts.make(envelope, recipients, b"", patience=1)).outcomes
    assert [outcomes[who].code for who in recipients] == [250] * 50 + [451] * 10
    assert "example.com" in outcomes[recipients[-1]].text


async def test_which_have_sent_is_kept_in_the_spool(clock: Clock) -> None:
    notes = Notes()
    bridge = Bridge(notes)
    bridge.cloudflare.refused.clear()
    for sender in (BOB, ANNA):
        await bridge.send(sender)
        await bridge.noted()
    await bridge.send(BOB)
    assert not notes.amended.is_set()
    assert notes.text == '["example.net","example.com"]'
    assert await Bridge(notes).domains.that_have_sent() == ["example.net", "example.com"]


async def test_a_domain_that_first_sends_while_another_is_noted_is_noted_as_well(clock: Clock) -> None:
    notes = Notes()
    bridge = Bridge(notes)
    bridge.cloudflare.refused.clear()
    notes.held = asyncio.Event()
    await bridge.send(BOB)
    await bridge.noted()
    await bridge.send(ANNA)
    notes.held.set()
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert sender_domains.domains_in(notes.text) == ["example.net", "example.com"]


@pytest.mark.parametrize("text", ["{", "{}", "[1, null]", "7", '["a", {}'])
async def test_a_note_that_can_not_be_read_is_a_new_one(clock: Clock, text: str) -> None:
    bridge = Bridge(Notes(text))
    assert (await bridge.send()).permanent
    assert (await bridge.send(BOB)).success


async def test_what_another_replica_has_sent_is_looked_up_before_anything_is_refused(clock: Clock) -> None:
    notes = Notes()
    bridge = Bridge(notes)
    assert await bridge.domains.that_have_sent() == []
    notes.text = '["example.com"]'
    assert (await bridge.send()).transient


async def test_while_the_spool_is_away_nothing_is_refused_for_good(clock: Clock) -> None:
    notes = Notes()
    notes.away = True
    bridge = Bridge(notes)
    assert (await bridge.send()).transient
    notes.amended.clear()
    assert (await bridge.send(BOB)).success
    await bridge.noted()
    notes.away = False
    await bridge.send(BOB)
    await bridge.noted()
    assert notes.text == '["example.net"]', "it is noted after the next message"


async def test_it_is_one_line_per_domain_and_hour(clock: Clock) -> None:
    bridge = Bridge()
    bridge.cloudflare.refused["example.net"] = REFUSED
    with capture_logs() as lines:
        for _ in range(70):
            await bridge.send()
            await bridge.send(BOB)
            clock.now += 60
    told = [line for line in lines if line["event"] == "sender.not_configured"]
    assert [line["domain"] for line in told] == ["example.com", "example.net"] * 2
    assert {line["log_level"] for line in told} == {"error"}


async def test_the_page_says_whether_mail_is_refused_or_sent_from_another_address(clock: Clock) -> None:
    domains = SenderDomains()
    for instead, words in (
        ("", "example.com: mail is refused ("),
        ("noreply@a.example", "example.com: mail is refused where <noreply@a.example> does not stand in ("),
    ):
        if instead:
            domains.refusal("example.com", keep=False, waits=False, instead=instead)
        else:
            await domains.refused("example.com", REFUSED, keep=False)
        assert domains.summary().startswith(words)
    clock.now += sender_domains.NEVER_SET_UP
    await domains.refused("example.com", REFUSED, keep=False, instead="noreply@a.example")
    domains.refusal("example.com", keep=True, waits=True)
    assert domains.summary().startswith("example.com: mail is sent as <noreply@a.example> instead (")


async def test_after_an_hour_of_waiting_it_is_told_of_once_an_hour(clock: Clock) -> None:
    bridge = Bridge()
    bridge.cloudflare.refused = {}
    await bridge.send()  # so it is set up, and its mail waits; that of example.net is refused at once
    bridge.cloudflare.refused = {"example.com": REFUSED, "example.net": REFUSED}
    with capture_logs() as lines, heard() as told:
        for _ in range(130):
            await bridge.send()
            await bridge.send(BOB)
            clock.now += 60
    assert sum(line["event"] == "sender.not_configured" for line in lines) > len(told)
    assert [(one.kind, one.facts["domain"]) for one in told] == [("sender.not_configured", "example.com")] * 2
    assert told[0].text.startswith("mail from example.com has waited for 60 minutes: Cloudflare does not")


async def test_there_is_a_limit_to_what_is_remembered(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_domains, "DOMAINS_LIMIT", 3)
    bridge = Bridge()
    for number in range(9):
        await bridge.send(f"a@{number}.example")
        bridge.cloudflare.refused[f"{number}.example.org"] = REFUSED
        await bridge.send(f"a@{number}.example.org")
    domains = bridge.domains
    assert await domains.that_have_sent() == ["6.example", "7.example", "8.example"]
    assert len(domains.troubles) == 3


# ---- who DSNs come from

DSN_SENDERS = [
    # that have sent, that are refused, POSTMASTER, whom the DSN goes to, whom it comes from
    ([], [], "", "root@web1.local", "mailer-daemon@web1.local"),
    ([], [], "post@p.example", "root@web1.local", "post@p.example"),
    (["b.example"], [], "post@p.example", "root@web1.local", "post@p.example"),
    (["b.example", "c.example"], [], "", "root@web1.local", "mailer-daemon@b.example"),
    (["b.example", "c.example"], [], "", "carl@c.example", "mailer-daemon@c.example"),
    (["b.example", "c.example"], ["b.example"], "", "root@web1.local", "mailer-daemon@c.example"),
    (["b.example", "c.example"], ["b.example"], "", "bob@b.example", "mailer-daemon@c.example"),
    (["b.example"], ["b.example"], "", "root@web1.local", "mailer-daemon@b.example"),
    (["b.example"], ["p.example"], "post@p.example", "root@web1.local", "mailer-daemon@b.example"),
    ([], ["p.example"], "post@p.example", "root@web1.local", "post@p.example"),
]


async def test_dsns_come_from_an_address_that_may_send_and_so_does_from_say(clock: Clock) -> None:
    for sent, refused, postmaster, to, expected in DSN_SENDERS:
        bridge = Bridge(postmaster=postmaster)
        cloudflare = bridge.cloudflare
        for domain in sent:
            assert (await bridge.send(f"a@{domain}")).success
        cloudflare.refused = dict.fromkeys([*refused, "web1.local"], REFUSED)
        for domain in refused:
            await bridge.send(f"a@{domain}")
        del cloudflare.calls[:]
        await bridge.send_dsn(to)
        if cloudflare.calls:
            assert cloudflare.calls == [expected]
            header = message_from_bytes(cloudflare.messages[-1])
            assert header.get_all("From") == [f"Mail Delivery System <{expected}>"]
        policy = BouncePolicy(hostname="h", postmaster=postmaster)
        assert await bridge.domains.sender_of_dsn(policy, to) == expected


async def test_a_dsn_is_never_refused_for_its_sender(clock: Clock) -> None:
    bridge = Bridge()
    assert (await bridge.send_dsn("root@example.com")).transient
    assert (await bridge.send_dsn("root@example.com")).transient
    assert (await bridge.send()).permanent
    assert len(bridge.cloudflare.calls) == 1
    assert (await bridge.send(BOB)).success
    assert (await bridge.send_dsn("root@example.com")).success
    assert bridge.cloudflare.calls[-1] == "mailer-daemon@example.net"


@pytest.mark.parametrize("has_sent", [True, False])
async def test_a_dsn_does_not_wait_for_its_usual_sender_which_is_tried_again(
    clock: Clock, has_sent: bool
) -> None:
    """POSTMASTER's domain is refused: the next attempt comes from another, and one in 15 minutes from it."""
    bridge = Bridge(Notes('["p.example", "b.example"]' if has_sent else '["b.example"]'), "post@p.example")
    bridge.cloudflare.refused = {"p.example": REFUSED}
    waited = 0
    for _ in range(24 * 60):
        if not (await bridge.send_dsn("carl@c.example")).success:
            waited += 1
            assert (await bridge.send_dsn("carl@c.example")).success, "the next attempt comes from b.example"
        clock.now += 60
    assert 24 * 4 - 4 <= waited <= 24 * 4 + 6
    assert set(bridge.cloudflare.calls) == {"post@p.example", "mailer-daemon@b.example"}
    bridge.cloudflare.refused.clear()
    clock.now += 901
    assert (await bridge.send_dsn("carl@c.example")).success
    assert bridge.cloudflare.calls[-1] == "post@p.example"


async def test_it_is_told_when_a_domain_that_never_sent_may_send(clock: Clock) -> None:
    bridge = Bridge()
    await bridge.send()
    clock.now += 901
    bridge.cloudflare.refused.clear()
    with capture_logs() as lines:
        assert (await bridge.send()).success
        assert not bridge.domains.summary()
        bridge.cloudflare.refused["example.com"] = REFUSED
        await bridge.send()
    events = [(line["event"], line["domain"]) for line in lines]
    assert events == [("sender.recovered", "example.com"), ("sender.not_configured", "example.com")]


async def test_a_dsn_that_comes_back_is_known_whoever_it_came_from(clock: Clock) -> None:
    for postmaster, ours in (
        ("", ["mailer-daemon@example.com", "mailer-daemon@b.example"]),
        ("post@p.example", ["post@p.example", "post@P.example.", "mailer-daemon@b.example"]),
    ):
        policy = BouncePolicy(hostname="h.example", postmaster=postmaster)
        for sender in ours:
            envelope = Envelope(reverse_path=sender, forward_paths=("c@x.example",))
            assert dsns_for(envelope, b"", {"c@x.example": BOUNCED}, policy) == []


# ---- the whole relay

MANY = 10_000
NOT_SET_UP = failure(403, 10203, "email.sending.error.email.sender_not_configured")


async def only_from(domain: str, call: Any) -> Any:
    return await (delivered if call.sender.endswith(f"@{domain}") else NOT_SET_UP)(call)


async def test_root_at_a_host_is_refused_at_once_and_others_are_sent(backend: Backend, api: Api) -> None:
    api.answer = lambda call: only_from("example.com", call)
    async with world(await backend.open(), api) as here:
        for number in range(3):
            answer = await here.accept(
                reverse_path="root@web1.local", message=b"Subject: %d\r\n\r\n" % number
            )
            assert answer.startswith("550 5.7.1")
            assert "web1.local" in answer
        assert (await here.accept()).startswith("250")
        assert await here.spool.count() == 0
    assert [call.sender for call in api.calls] == ["root@web1.local", "anna@example.com"]


async def test_a_domain_that_has_sent_waits_like_other_mail_after_a_restart_too(
    backend: Backend, api: Api
) -> None:
    async with world(await backend.open(), api) as here:
        await here.accept()
        assert await here.relay.sender_domains.that_have_sent() == ["example.com"]
    api.answer = NOT_SET_UP
    async with world(await backend.open(), api) as here:
        assert (await here.accept(message=b"Subject: another\r\n\r\nx\r\n")).startswith("250")
        item = await here.until(lambda item: item.status is Status.DEFERRED)
    assert item.last_reply is not None
    assert item.last_reply.status == "4.3.5"


async def test_mail_taken_with_250_from_a_domain_that_never_sent_is_reported_from_one_that_has(
    backend: Backend, api: Api
) -> None:
    api.answer = lambda call: only_from("example.com", call)
    async with world(await backend.open(), api, mode="queue") as here:
        await here.accept()
        await here.until_empty()
        assert (await here.accept(reverse_path="root@web1.local")).startswith("250")
        await here.until_empty()
    report = api.calls[-1]
    assert (report.sender, report.recipients) == ("mailer-daemon@example.com", ["root@web1.local"])
    assert report.parsed()["From"] == "Mail Delivery System <mailer-daemon@example.com>"
    assert [call.sender for call in api.calls].count("mailer-daemon@web1.local") == 0


def waiting_mail(sender: str, **fields: Any) -> NewMail:
    """Mail in the spool that is due."""
    envelope = Envelope(reverse_path=sender, forward_paths=("ben@example.org",))
    return NewMail(envelope=envelope, message=b"Subject: x\r\n\r\n", expires_in=3600.0, **fields)


@pytest.mark.parametrize("has_sent", [True, False])
async def test_much_waiting_mail_of_one_domain_is_not_in_the_way_of_another(
    sqlite: Backend, api: Api, has_sent: bool
) -> None:
    other_came = asyncio.Event()

    async def answer(call: Call) -> web.Response:
        if call.sender == BOB:
            other_came.set()
        return await (NOT_SET_UP if call.sender.endswith("@example.com") else delivered)(call)

    api.answer = answer
    spool = await sqlite.open()
    if has_sent:
        await spool.amend(sender_domains.NOTE, lambda *_: ('["example.com"]', None))
    spelled = itertools.cycle([ANNA, "ANNA@Example.COM"])
    await spool.put(*(waiting_mail(next(spelled), attempts=1) for _ in range(MANY)))
    await spool.put(waiting_mail(BOB, attempts=1))
    with capture_logs() as lines:
        async with world(spool, api, retry=RetryPolicy(parallel=20)):
            async with asyncio.timeout(PATIENCE):
                await other_came.wait()
            due = [item async for item in spool.items() if item.due and item.status is Status.DEFERRED]
    tried = [line for line in lines if line["event"] == "mail.attempt" and line["from"] != BOB]
    assert len(tried) < MANY / 4
    assert len(due) < MANY / 4
    assert len([call for call in api.calls if call.sender.endswith("@example.com")]) <= 20


@pytest.mark.parametrize("found_out_by", ["an operator", "new mail"])
async def test_what_waits_for_a_domain_goes_when_it_may_send_again(
    backend: Backend, api: Api, monkeypatch: pytest.MonkeyPatch, found_out_by: str
) -> None:
    mended = asyncio.Event()

    async def answer(call: Call) -> web.Response:
        return await (delivered if mended.is_set() else NOT_SET_UP)(call)

    api.answer = answer
    monkeypatch.setattr(sender_domains, "FIRST_PAUSE", 3600.0 if found_out_by == "an operator" else 0.001)
    spool = await backend.open()
    await spool.amend(sender_domains.NOTE, lambda *_: ('["xn--bcher-kva.example"]', None))
    sender = "anna@b\u00fccher.example"
    async with world(spool, api, retry=RetryPolicy(minimum=3600.0)) as here:
        await spool.put(*(waiting_mail(sender, attempts=1, delay=3600.0) for _ in range(5)))
        assert "kept" in await here.accept(reverse_path=sender)
        mended.set()
        if found_out_by == "an operator":
            here.relay.sender_domains.ask_again()
        else:
            assert "delivered" in await here.accept(reverse_path=sender, message=b"Subject: new\r\n\r\n")
        await here.until_empty()
