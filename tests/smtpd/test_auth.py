"""AUTH as RFC 4954 has it, and as clients of all ages really do it."""

import asyncio
import base64
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.reply import Reply
from smtp2cf.smtpd.sasl import Credentials, parse_auth
from tests.smtpd.conftest import LOOPBACK, Service, Start
from tests.smtpd.dialog import Client, dotted, until
from tests.support.certificates import Certificates

Lines = list[MutableMapping[str, Any]]
WRONG = Reply(535, "5.7.8", "wrong user name or password")
USER, PASSWORD = "anna", "pass word\u20ac"


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


PLAIN = b64(f"\0{USER}\0{PASSWORD}")
LOGIN = (b64(USER), b64(PASSWORD))
GREETED = """
    S: 220
    C: HELO client.example
    S: 250
"""


class Users:
    """Who may authenticate, and who tried. refusal: the answer to all, whatever they say."""

    def __init__(self, refusal: Reply | None = None) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.refusal = refusal

    async def __call__(self, client: str, name: str, password: str) -> Reply | None:
        self.asked.append((client, name, password))
        if self.refusal is not None:
            return self.refusal
        return None if (name, password) in [(USER, PASSWORD), ("bert", "b")] else WRONG


async def begin(start: Start, users: Any = None, **options: Any) -> Service:
    """A server where passwords may come in clear: what is said is the same over TLS."""
    return await start(authenticate=users or Users(), **{"auth_without_tls": True, **options})


# ---- how clients do it

DIALOGS = {
    "PLAIN with an initial response (Go, Python, Java, Nodemailer, swaks, msmtp, curl --sasl-ir)": f"""
        C: AUTH PLAIN {PLAIN}
        S: 235 2.7.0
    """,
    "PLAIN without (curl, old Outlook)": f"""
        C: AUTH PLAIN
        S: 334 \n
        C: {PLAIN}
        S: 235 2.7.0
    """,
    "PLAIN that names the identity it has anyway": f"""
        C: AUTH PLAIN {b64(f"{USER}{chr(0)}{USER}{chr(0)}{PASSWORD}")}
        S: 235 2.7.0
    """,
    "LOGIN (Xerox, curl, PHPMailer, swaks, msmtp)": f"""
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: {LOGIN[0]}
        S: 334 UGFzc3dvcmQ6
        C: {LOGIN[1]}
        S: 235 2.7.0
    """,
    "LOGIN with the name at once (.NET's SmtpClient, Python's smtplib)": f"""
        C: AUTH login {LOGIN[0]}
        S: 334 UGFzc3dvcmQ6
        C: {LOGIN[1]}
        S: 235 2.7.0
    """,
    "lower case": f"""
        C: auth plain {PLAIN}
        S: 235 2.7.0
    """,
    "spaces where there need be none": f"""
        C: AUTH  PLAIN   {PLAIN} \n
        S: 235 2.7.0
    """,
    "after a failure": f"""
        C: AUTH PLAIN {b64(f"{chr(0)}{USER}{chr(0)}wrong")}
        S: 535 5.7.8
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: {LOGIN[0]}
        S: 334 UGFzc3dvcmQ6
        C: {LOGIN[1]}
        S: 235 2.7.0
    """,
}


@pytest.mark.parametrize("dialog", DIALOGS.values(), ids=DIALOGS)
async def test_the_ways_of_clients(start: Start, dialog: str) -> None:
    users = Users()
    service = await begin(start, users, allow_networks=())
    await service.play(
        GREETED
        + dialog
        + """
        C: MAIL FROM:<anna@example.com>
        S: 250 2.1.0
        C: RCPT TO:<bert@example.net>
        S: 250 2.1.5
        C: DATA
        S: 354
        C: .
        S: 250 2.0.0 taken
    """
    )
    assert users.asked[-1] == ("127.0.0.1", USER, PASSWORD)
    assert service.envelope.auth_user == USER


async def test_the_challenges_to_the_octet(start: Start) -> None:
    """Xerox hangs up at anything else than `Username:` and `Password:`; PLAIN's challenge is empty."""
    client = await (await begin(start)).greeted()
    for command, challenge in {
        "AUTH LOGIN": "334 VXNlcm5hbWU6",
        LOGIN[0]: "334 UGFzc3dvcmQ6",
        "*": "501 5.7.0 authentication cancelled",
        "AUTH PLAIN": "334 ",
    }.items():
        assert await client.ask(command) == challenge


# ---- what is wrong


@pytest.mark.parametrize(
    ("said", "answers"),
    [
        (["AUTH PLAIN ="], ["501 5.5.2 PLAIN takes NUL"]),
        (["AUTH PLAIN", ""], ["334 ", "501 5.5.2 PLAIN takes NUL"]),
        (["AUTH PLAIN", "="], ["334 ", "501 5.5.2 the response is not base64"]),
        (["AUTH LOGIN =", b64("b")], ["334 UGFzc3dvcmQ6", "535 5.7.8"]),
        (["AUTH LOGIN", "", ""], ["334 VXNl", "334 UGFz", "535 5.7.8"]),
        (["AUTH PLAIN", "*"], ["334 ", "501 5.7.0 authentication cancelled"]),
        (["AUTH LOGIN", "*"], ["334 VXNl", "501 5.7.0"]),
        (["AUTH LOGIN", LOGIN[0], "*"], ["334 VXNl", "334 UGFz", "501 5.7.0"]),
        (["AUTH PLAIN *"], ["501 5.5.2 the response is not base64"]),
        (["AUTH PLAIN not!base64"], ["501 5.5.2 the response is not base64"]),
        (["AUTH PLAIN AGE"], ["501 5.5.2 the response is not base64"]),
        (["AUTH PLAIN gr\u00fcn"], ["501 5.5.2 the response is not base64"]),
        ([b"AUTH PLAIN \xff\xfe"], ["501 5.5.2 the response is not base64"]),
        ([b"AUTH LOGIN", b"\xff\xfe\x00"], ["334 VXNl", "501 5.5.2 the response is not base64"]),
        (["AUTH LOGIN", LOGIN[0], "QUJD REVG"], ["334 VXNl", "334 UGFz", "501 5.5.2 the response is not"]),
        ([f"AUTH PLAIN {b64(b'no NUL')}"], ["501 5.5.2 PLAIN takes NUL"]),
        ([f"AUTH PLAIN {b64(chr(0).join('abcd'))}"], ["501 5.5.2 PLAIN takes NUL"]),
        ([f"AUTH PLAIN {b64(bytes([0, 255, 0, 254]))}"], ["501 5.5.2 user name and password must be UTF-8"]),
        (["AUTH LOGIN", b64(b"\xff")], ["334 VXNl", "501 5.5.2 user name and password must be UTF-8"]),
        (["AUTH LOGIN", LOGIN[0], b64(b"\xff")], ["334 VXNl", "334 UGFz", "501 5.5.2 user name"]),
        (
            [f"AUTH PLAIN {b64(f'bert{chr(0)}{USER}{chr(0)}{PASSWORD}')}"],
            ["535 5.7.8 acting as another user"],
        ),
        (["AUTH CRAM-MD5"], ["504 5.5.4 unknown mechanism"]),
        (["AUTH XOAUTH2 abc"], ["504 5.5.4 unknown mechanism"]),
        (["AUTH"], ["501 5.5.4 syntax: AUTH"]),
        (["AUTH PLAIN a b"], ["501 5.5.4 syntax: AUTH"]),
        (["AUTH PLAIN " + "A" * 12277], ["500 5.5.2 the command line is too long"]),
        (["AUTH LOGIN", "A" * 12287], ["334 VXNl", "500 5.5.6 the line is too long for AUTH"]),
        (["AUTH LOGIN", "A" * 300_000], ["334 VXNl", "500 5.5.6 the line is too long for AUTH"]),
        (["AUTH LOGIN", "A" * 12284, "QQ=="], ["334 VXNl", "334 UGFz", "535 5.7.8"]),
        (["AUTH LOGIN", "GET /", "NOOP"], ["334 VXNl", "501 5.5.2 the response is not base64", "250"]),
    ],
    ids=lambda value: repr(value)[:60],
)
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_what_is_wrong_ends_the_exchange_and_not_the_session(
    start: Start, said: list[str | bytes], answers: list[str]
) -> None:
    service = await begin(start)
    client = await service.greeted()
    for line, answer in zip(said, answers, strict=True):
        assert (await client.ask(line)).startswith(answer)
    assert await client.ask("NOOP") == "250 2.0.0 OK", "the next line is a command again"
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("235")


responses = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=60).map(base64.b64encode),
    st.tuples(st.text(), st.text(), st.text()).map(
        lambda parts: base64.b64encode("\0".join(parts).encode("utf-8", "replace"))
    ),
)


@given(
    mechanism=st.sampled_from(["PLAIN", "login", "Plain ", "LOGIN  ", "X", ""]),
    said=st.lists(responses, min_size=1, max_size=4),
)
def test_whatever_is_said_comes_to_credentials_or_a_refusal(mechanism: str, said: list[bytes]) -> None:
    step: Any = parse_auth(f"{mechanism} {said[0].decode('utf-8', 'surrogateescape')}")
    if not isinstance(step, Reply):
        exchange, step = step, step.begin()
        for line in said[1:]:
            if isinstance(step, bytes):
                assert step.startswith(b"334 ")
                step = exchange.answer(line)
    if isinstance(step, Reply):
        assert step.permanent
    elif isinstance(step, Credentials):
        step.name.encode()
        step.password.encode()
        assert not step.password or repr(step) == f"Credentials(name={step.name!r})"


@pytest.mark.parametrize("response", [b"GETx", b"PUTx", b"HEADHEAD", b"POSTPOST", b"PRIx"])
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_response_that_comes_octet_by_octet_is_not_taken_for_http(
    start: Start, response: bytes
) -> None:
    service = await begin(start)
    client = await service.greeted()
    await client.ask("AUTH LOGIN")
    (session,) = service.server.sessions
    for end in range(1, len(response) + 1):
        await client.send(response[end - 1 : end])
        await until(lambda sent=response[:end]: session.input.peek(100) == sent)
    assert (await client.ask("")).startswith(("334 UGFz", "501 5.5.2 user name"))


@pytest.mark.parametrize(
    ("refusal", "then"),
    [
        (Reply(535, "5.7.8", "wrong"), "250 2.0.0 OK"),
        (Reply(454, "4.7.0", "later"), "250 2.0.0 OK"),
        (Reply(421, "4.7.0", "too often"), "<closed>"),
    ],
)
async def test_a_refusal_is_passed_on(start: Start, logged: Lines, refusal: Reply, then: str) -> None:
    service = await begin(start, Users(refusal), allow_networks=())
    client = await service.greeted()
    assert await client.ask(f"AUTH PLAIN {PLAIN}") == str(refusal)
    await client.send(b"NOOP\r\n")
    assert await client.line() == then
    if then != "<closed>":
        assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("530 5.7.0")
    assert not any(PASSWORD in repr(line) or PLAIN in repr(line) for line in logged)


async def test_an_error_in_who_checks_is_no_success(start: Start, logged: Lines) -> None:
    async def fail(*_: str) -> None:
        raise ValueError("no such file")

    service = await begin(start, fail, allow_networks=())
    client = await service.greeted()
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("451 4.3.0")
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("530 5.7.0")
    (line,) = [line for line in logged if line["log_level"] == "error"]
    assert (line["event"], line["command"]) == ("session.error", "AUTH")


async def test_wrong_passwords_use_up_the_budget_of_errors(start: Start) -> None:
    client = await (await begin(start)).greeted()
    for _ in range(20):
        assert (await client.ask("AUTH PLAIN AGEAYg==")).startswith("535")
    await client.play("S: 421 4.7.0 too many errors\nS: <closed>")


# ---- when it may be said


@pytest.mark.parametrize(
    ("before", "reply"),
    [
        ([], "503 5.5.1 send HELO or EHLO"),
        (["EHLO a", f"AUTH PLAIN {PLAIN}"], "503 5.5.1 already authenticated"),
        (["EHLO a", f"AUTH PLAIN {PLAIN}", "RSET", "EHLO b"], "503 5.5.1 already authenticated"),
        (["EHLO a", "MAIL FROM:<a@b.c>"], "503 5.5.1 no AUTH during a transaction"),
        (["EHLO a", "MAIL FROM:<a@b.c>", "RSET"], "235 2.7.0"),
        (["HELO a"], "235 2.7.0"),
    ],
)
async def test_when_auth_may_be_said(start: Start, before: list[str], reply: str) -> None:
    client = await (await begin(start)).connect()
    await client.reply()
    for command in before:
        await client.ask(command)
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith(reply)


async def test_without_users_it_is_not_offered(start: Start) -> None:
    client = await (await start(auth_without_tls=True)).connect()
    await client.reply()
    assert "AUTH" not in await client.ask("EHLO a")
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("502 5.5.1 AUTH is not offered here")
    assert "AUTH" not in await client.ask("HELP")


async def test_no_password_in_clear(start: Start, certificates: Certificates) -> None:
    users = Users()
    service = await start(authenticate=users, tls=certificates.server, allow_networks=())
    client = await service.connect()
    await client.reply()
    assert "AUTH" not in await client.ask("EHLO a")
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("538 5.7.11 AUTH requires TLS")
    refused = await client.ask("MAIL FROM:<anna@example.com>")
    assert refused.startswith("530 5.7.0 start TLS and authenticate first: 127.0.0.1")
    assert users.asked == []
    await client.ask("STARTTLS")
    await client.start_tls(certificates.client)
    assert "250-AUTH PLAIN LOGIN\n" in await client.ask("EHLO a")
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("235")
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("250")


async def test_nothing_said_before_tls_counts(start: Start, certificates: Certificates) -> None:
    service = await begin(start, tls=certificates.server, allow_networks=())
    client = await service.greeted()
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("235")
    await client.ask("MAIL FROM:<anna@example.com>")
    assert (await client.ask("STARTTLS")).startswith("220")
    await client.start_tls(certificates.client)
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("503 5.5.1 send HELO")
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("503 5.5.1 send HELO")
    await client.ask("EHLO a")
    assert (await client.ask("RCPT TO:<bert@example.net>")).startswith("503 5.5.1 send MAIL")
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("530 5.7.0 authenticate first")
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("235")


# ---- pipelined, and left


async def test_commands_behind_the_last_response_wait_for_its_answer(start: Start) -> None:
    service = await begin(start, allow_networks=())
    client = await service.greeted()
    await client.send(
        f"AUTH LOGIN\r\n{LOGIN[0]}\r\n{LOGIN[1]}\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n".encode()
        + dotted(b"x\r\n")
    )
    codes = [(await client.reply())[:3] for _ in range(7)]
    assert codes == ["334", "334", "235", "250", "250", "354", "250"]
    assert service.envelope.auth_user == USER


async def test_a_command_in_an_exchange_is_a_bad_response(start: Start) -> None:
    service = await begin(start)
    client = await service.greeted()
    await client.send(b"AUTH PLAIN\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\n")
    assert [(await client.reply())[:9] for _ in range(3)] == ["334 ", "501 5.5.2", "503 5.5.1"]


@pytest.mark.parametrize("how", ["reset", "end"])
async def test_a_client_that_leaves_while_its_password_is_checked(
    start: Start, logged: Lines, how: str
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slowly(*_: str) -> None:
        asked.set()
        await answer.wait()

    service = await begin(start, slowly)
    client = await service.greeted()
    await client.send(f"AUTH PLAIN {PLAIN}\r\n".encode())
    await asked.wait()
    getattr(client, how)()
    await until(lambda: all(s.client_ended or s.transport is None for s in service.server.sessions))
    answer.set()
    await until(lambda: not service.server.sessions)
    assert [line["event"] for line in logged if line["log_level"] != "debug"] == []


async def test_an_exchange_left_open_is_silence(start: Start) -> None:
    client = await (await begin(start, session_timeout=0.2)).greeted()
    await client.ask("AUTH LOGIN")
    await client.play("S: 421 4.4.2\nS: <closed>")


# ---- who may send what


async def test_a_user_may_relay_from_outside_and_nobody_else(start: Start, logged: Lines) -> None:
    service = await begin(start, allow_networks=())
    client, other = await service.greeted(), await service.greeted()
    assert await client.ask("MAIL FROM:<anna@example.com>") == (
        "530 5.7.0 authenticate first: 127.0.0.1 is not in SMTP2CF_ALLOW_NETWORKS, so only users of"
        " SMTP2CF_USERS_FILE may relay"
    )
    assert (await client.ask("RCPT TO:<bert@example.net>")).startswith("503 5.5.1 send MAIL")
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("235")
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("250")
    assert (await other.ask("MAIL FROM:<anna@example.com>")).startswith("530")
    denied = [line for line in logged if line["event"] == "session.relaying_denied"]
    assert [line["client"] for line in denied] == ["127.0.0.1"] * 2


async def test_who_need_not_may_authenticate(start: Start) -> None:
    service = await begin(start, allow_networks=LOOPBACK)
    client = await service.greeted()
    await _send(client, "anna@example.com")
    assert (await client.ask("AUTH PLAIN AGJlcnQAYg==")).startswith("235")
    await _send(client, "bert@example.com")
    assert [envelope.auth_user for envelope, _ in service.taken] == ["", "bert"]


async def test_a_sender_its_user_may_not_use_is_refused(start: Start, logged: Lines) -> None:
    asked: list[tuple[str, str]] = []

    def own_only(user: str, sender: str) -> Reply | None:
        asked.append((user, sender))
        if sender in ("", f"{user}@example.com"):
            return None
        return Reply(550, "5.7.1", f"{user} may not send as <{sender}>")

    service = await begin(start, sender_refusal=own_only)
    client = await service.greeted()
    await client.ask(f"AUTH PLAIN {PLAIN}")
    refused = await client.ask("MAIL FROM:<boss@example.com> SMTPUTF8 RET=FULL")
    assert refused == "550 5.7.1 anna may not send as <boss@example.com>"
    assert (await client.ask("RCPT TO:<bert@example.net>")).startswith("503")
    await _send(client, "anna@example.com")
    await _send(client, "")
    assert asked == [(USER, "boss@example.com"), (USER, "anna@example.com"), (USER, "")]
    assert (service.taken[0][0].smtputf8, service.taken[0][0].ret) == (False, None)
    (line,) = [line for line in logged if line["event"] == "session.sender_refused"]
    assert (line["user"], line["client"]) == (USER, "127.0.0.1")


async def test_a_refused_sender_is_one_that_was_understood(start: Start) -> None:
    """A path that is none is a matter of syntax; nobody is asked who may use it."""

    def refuse(*_: str) -> Reply:
        raise AssertionError

    client = await (await begin(start, sender_refusal=refuse)).greeted()
    assert (await client.ask("MAIL FROM:<nobody>")).startswith("553 5.1.3")


async def test_lmtp_has_users_too(start: Start) -> None:
    service = await begin(start, protocol="lmtp", allow_networks=())
    client = await service.connect()
    await client.reply()
    assert "AUTH PLAIN LOGIN" in await client.ask("LHLO a")
    assert (await client.ask(f"AUTH PLAIN {PLAIN}")).startswith("235")
    assert (await client.ask("MAIL FROM:<anna@example.com>")).startswith("250")


async def _send(client: Client, sender: str) -> None:
    for command in (f"MAIL FROM:<{sender}>", "RCPT TO:<bert@example.net>", "DATA", "."):
        reply = await client.ask(command)
    assert reply == "250 2.0.0 taken"
