"""Sessions as RFC 5321 §4 has them, and as old applications have them."""

import pytest

from tests.smtpd.conftest import Start
from tests.smtpd.dialog import Client


async def test_ehlo_offers_exactly_what_is_there(start: Start) -> None:
    service = await start(max_message_size=5242880)
    await service.play("""
        S: 220 bridge.example ESMTP
        C: EHLO client.example
        S: 250-bridge.example
        S: 250-PIPELINING
        S: 250-SIZE 5242880
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-ENHANCEDSTATUSCODES
        S: 250-DSN
        S: 250-CHUNKING
        S: 250-LIMITS RCPTMAX=1000
        S: 250-PRDR
        S: 250 HELP
        C: QUIT
        S: 221 2.0.0
        S: <closed>
    """)


async def test_a_message_and_its_envelope(start: Start) -> None:
    service = await start()
    await service.play("""
        S: 220
        C: EHLO client.example
        S: 250-bridge.example
        S: 250-PIPELINING
        S: 250-SIZE
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-ENHANCEDSTATUSCODES
        S: 250-DSN
        S: 250-CHUNKING
        S: 250-LIMITS RCPTMAX=1000
        S: 250-PRDR
        S: 250 HELP
        C: MAIL FROM:<anna@example.com>
        S: 250 2.1.0
        C: RCPT TO:<bert@example.net>
        S: 250 2.1.5
        C: RCPT TO:<carla@example.org>
        S: 250 2.1.5
        C: RCPT TO:<bert@example.net>
        S: 250 2.1.5
        C: DATA
        S: 354
        C: Subject: hello
        C:
        C: ..one dot
        C: .
        S: 250 2.0.0 taken
        C: QUIT
        S: 221 2.0.0
        S: <closed>
    """)
    assert service.message == b"Subject: hello\r\n\r\n.one dot\r\n"
    envelope = service.envelope
    assert envelope.reverse_path == "anna@example.com"
    assert envelope.forward_paths == ("bert@example.net", "carla@example.org", "bert@example.net")
    assert (envelope.client, envelope.helo) == ("127.0.0.1", "client.example")
    assert (envelope.body, envelope.smtputf8, envelope.ret, envelope.envid) == ("7BIT", False, None, None)
    assert (envelope.notify, envelope.orcpt) == ({}, {})
    assert (envelope.auth_user, envelope.per_recipient) == ("", False)


async def test_clients_that_know_only_helo(start: Start) -> None:
    service = await start()
    await service.play("""
        S: 220
        C: HELO old.example
        S: 250 bridge.example
        C: MAIL FROM:<anna@example.com>
        S: 250 2.1.0
        C: RCPT TO:<bert@example.net>
        S: 250 2.1.5
        C: DATA
        S: 354
        C: Subject: hello
        C: .
        S: 250 2.0.0
    """)
    assert service.envelope.helo == "old.example"


async def test_what_old_applications_really_write(start: Start) -> None:
    service = await start()
    await service.play("""
        S: 220
        C: helo old.example
        S: 250
        C: mail from: anna@example.com
        S: 250 2.1.0
        C: rcpt to: bert@example.net
        S: 250 2.1.5
        C: Rcpt To:   <@relay.example:carla@example.org>
        S: 250 2.1.5
        C: data
        S: 354
        C: .
        S: 250 2.0.0
        C: quit
        S: 221
        S: <closed>
    """)
    assert service.envelope.reverse_path == "anna@example.com"
    assert service.envelope.forward_paths == ("bert@example.net", "carla@example.org")


async def test_commands_may_end_in_a_bare_line_feed(start: Start) -> None:
    service = await start()
    client = await service.connect()
    await client.send(b"HELO a\nMAIL FROM:<anna@example.com>\nRCPT TO:<bert@example.net>\n")
    await client.play("S: 220\nS: 250\nS: 250 2.1.0\nS: 250 2.1.5")


@pytest.mark.parametrize(
    ("before", "command", "reply"),
    [
        ((), "MAIL FROM:<anna@example.com>", "503 5.5.1 send HELO"),
        ((), "RCPT TO:<bert@example.net>", "503 5.5.1 send HELO"),
        (("HELO a",), "RCPT TO:<bert@example.net>", "503 5.5.1 send MAIL"),
        (("HELO a",), "DATA", "503 5.5.1 send MAIL"),
        (("HELO a", "MAIL FROM:<a@b.c>"), "DATA", "503 5.5.1 send RCPT"),
        (("HELO a", "MAIL FROM:<a@b.c>"), "MAIL FROM:<a@b.c>", "503 5.5.1 MAIL"),
        (("HELO a", "MAIL FROM:<>"), "MAIL FROM:<a@b.c>", "503 5.5.1 MAIL"),
        (("HELO a", "MAIL FROM:<a@b.c>", "RCPT TO:<a@b.c>"), "DATA now", "501 5.5.4"),
        (("HELO a", "MAIL FROM:<a@b.c>", "RCPT TO:<a@b.c>", "RSET"), "DATA", "503 5.5.1 send MAIL"),
        (("HELO a", "MAIL FROM:<a@b.c>", "RCPT TO:<a@b.c>", "HELO a"), "DATA", "503 5.5.1 send MAIL"),
        (("HELO a", "MAIL FROM:<a@b.c>", "RCPT TO:<a@b.c>", "EHLO a"), "DATA", "503 5.5.1 send MAIL"),
        (("HELO a", "MAIL FROM:<a@b.c>", "RSET"), "RCPT TO:<a@b.c>", "503 5.5.1 send MAIL"),
        (("HELO a", "MAIL FROM:<a@b.c>", "RSET extra"), "RCPT TO:<a@b.c>", "250 2.1.5"),
        (("HELO a", "MAIL FROM:<a@b.c>", "NOOP"), "RCPT TO:<a@b.c>", "250 2.1.5"),
        (("HELO a", "MAIL FROM:<a@b.c>", "VRFY x", "HELP", "EXPN x"), "RCPT TO:<a@b.c>", "250 2.1.5"),
        (("HELO a", "MAIL FROM:<a@b.c> X=1"), "RCPT TO:<a@b.c>", "503 5.5.1 send MAIL"),
        ((), "HELO", "501 5.5.4 syntax: HELO"),
        ((), "EHLO ", "501 5.5.4 syntax: EHLO"),
        (("HELO a",), "MAIL", "501 5.5.4 syntax: MAIL FROM"),
        (("HELO a",), "MAIL TO:<a@b.c>", "501 5.5.4 syntax: MAIL FROM"),
        (("HELO a",), "MAIL <a@b.c>", "501 5.5.4 syntax: MAIL FROM"),
        (("HELO a", "MAIL FROM:<a@b.c>"), "RCPT", "501 5.5.4 syntax: RCPT TO"),
        (("HELO a", "MAIL FROM:<a@b.c>"), "RCPT FROM:<a@b.c>", "501 5.5.4 syntax: RCPT TO"),
        ((), "VRFY anna", "252 2.1.5"),
        ((), "VRFY", "501 5.5.4 syntax: VRFY"),
        ((), "RSET", "250 2.0.0"),
        ((), "NOOP whatever", "250 2.0.0"),
        ((), "QUIT", "221 2.0.0"),
    ],
)
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_the_order_of_commands(start: Start, before: tuple[str, ...], command: str, reply: str) -> None:
    client: Client = await (await start()).connect()
    await client.reply()
    for earlier in before:
        await client.ask(earlier)
    assert (await client.ask(command)).startswith(reply)


async def test_an_envelope_holds_nothing_of_the_one_before(start: Start) -> None:
    service = await start()
    await service.play("""
        S: 220
        C: HELO a
        S: 250
        C: MAIL FROM:<anna@example.com> SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=one AUTH=<>
        S: 250 2.1.0
        C: RCPT TO:<bert@example.net> NOTIFY=NEVER ORCPT=rfc822;bert@example.net
        S: 250 2.1.5
        C: DATA
        S: 354
        C: first
        C: .
        S: 250 2.0.0
        C: MAIL FROM:<carla@example.org>
        S: 250 2.1.0
        C: RCPT TO:<bert@example.net>
        S: 250 2.1.5
        C: DATA
        S: 354
        C: second
        C: .
        S: 250 2.0.0
        C: MAIL FROM:<> RET=FULL
        S: 250 2.1.0
        C: RCPT TO:<lost@example.net> NOTIFY=NEVER
        S: 250 2.1.5
        C: RSET
        S: 250 2.0.0
        C: MAIL FROM:<dora@example.org>
        S: 250 2.1.0
        C: RCPT TO:<bert@example.net>
        S: 250 2.1.5
        C: DATA
        S: 354
        C: third
        C: .
        S: 250 2.0.0
    """)
    first, second, third = (envelope for envelope, _ in service.taken)
    assert (first.smtputf8, first.body, first.ret, first.envid) == (True, "8BITMIME", "HDRS", "one")
    assert first.notify == {"bert@example.net": "NEVER"}
    for later, sender in ((second, "carla@example.org"), (third, "dora@example.org")):
        assert (later.reverse_path, later.forward_paths) == (sender, ("bert@example.net",))
        assert (later.smtputf8, later.body, later.ret, later.envid) == (False, "7BIT", None, None)
        assert (later.notify, later.orcpt) == ({}, {})
    assert len({first.queue_id, second.queue_id, third.queue_id}) == 3
    assert [message for _, message in service.taken] == [b"first\r\n", b"second\r\n", b"third\r\n"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("a b", "a b"),
        ("no\\tsense", "no\\tsense"),
        ("\\xff\\xfe", "\\udcff\\udcfe"),
        ("gr\\u00fcn", "gr\\xfcn"),
        ("\\x1b[31m", "\\x1b[31m"),
    ],
)
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_any_name_is_taken_in_hello_and_kept_as_plain_text(start: Start, given: str, kept: str) -> None:
    service = await start()
    await service.play(f"""
        S: 220
        C: HELO {given}
        S: 250 bridge.example
        C: MAIL FROM:<anna@example.com>
        S: 250
        C: RCPT TO:<bert@example.net>
        S: 250
        C: DATA
        S: 354
        C: .
        S: 250
    """)
    assert service.envelope.helo == kept


async def test_nothing_behind_quit_is_done(start: Start) -> None:
    service = await start()
    client = await service.connect()
    await client.send(
        b"HELO a\r\nMAIL FROM:<anna@example.com>\r\nRCPT TO:<bert@example.net>\r\nQUIT\r\n"
        b"DATA\r\nsmuggled\r\n.\r\n"
    )
    replies = (await client.everything()).splitlines()
    assert [reply[:3] for reply in replies] == ["220", "250", "250", "250", "221"]
    assert service.taken == []


@pytest.mark.parametrize(
    "command",
    ["XCLIENT ADDR=192.0.2.1", "XFORWARD ADDR=192.0.2.1", "ETRN x", "TURN", "BURL imap://x LAST", "SEND x"],
)
async def test_what_is_not_offered_is_not_there(start: Start, command: str) -> None:
    client = await (await start()).greeted()
    assert await client.ask(command) == "500 5.5.1 unknown command"


async def test_help_names_what_is_there(start: Start) -> None:
    client = await (await start()).greeted()
    everything = "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP"
    assert await client.ask("HELP") == f"214 2.0.0 commands: {everything}"
    for command in everything.split():
        assert (await client.ask(f"HELP {command.lower()}")).startswith(f"214 2.0.0 syntax: {command}")
    assert await client.ask("HELP AUTH") == "504 5.5.4 AUTH: no such command"
    assert await client.ask("HELP STARTTLS") == "504 5.5.4 STARTTLS: no such command"


async def test_limits_tell_how_many_recipients_a_message_may_have(start: Start) -> None:
    client = await (await start(max_recipients=7)).connect()
    await client.reply()
    assert "250-LIMITS RCPTMAX=7\n" in await client.ask("EHLO a")
