"""TLS or a login that is required of every client: what is answered until then (RFC 3207 §4, RFC 4954 §6)."""

import ipaddress
import ssl
from typing import Any

import pytest

from smtp2cf.reply import Reply
from smtp2cf.smtpd import Listener, MailProtocol, Policy, Rules
from smtp2cf.smtpd.sasl import Credentials
from smtp2cf.smtpd.session import Session
from smtp2cf.smtpd.steps import CheckPassword, Close, Say, StartTls

MAIL = "MAIL FROM:<a@b.example>"


async def _anybody(*_: str) -> Reply | None:
    return None


def rules_for(**policy: Any) -> Rules:
    """Rules with users, and networks that may send without."""
    return Rules(
        Policy(
            hostname="bridge.example",
            allow_networks=(ipaddress.ip_network("127.0.0.0/8"),),
            max_message_size=100,
            max_recipients=2,
            session_timeout=60.0,
            auth_without_tls=True,
            **policy,
        ),
        authenticate=_anybody,
    )


def make(protocol: MailProtocol = "smtp", *, client: str = "127.0.0.1", **policy: Any) -> Session:
    """A session, in an allowed network by default."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return Session(
        Listener(rules=rules_for(**policy), protocol=protocol, certificate=lambda: context), client
    )


def ask(session: Session, *lines: str) -> Any:
    """The step that the last of some commands leads to."""
    return [session.command(line.encode() + b"\r\n") for line in lines][-1]


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_nothing_of_a_transaction_comes_before_tls_where_it_is_required(protocol: MailProtocol) -> None:
    session = make(protocol, tls_required=True)
    hello = "LHLO a" if protocol == "lmtp" else "EHLO a"
    offered = ask(session, hello).wire
    assert b"STARTTLS" in offered
    assert b"AUTH" not in offered, "not even where passwords may come unencrypted"
    for line in (MAIL, "RCPT TO:<c@d.example>", "DATA", "VRFY a", "AUTH PLAIN AGEAYg=="):
        step = ask(session, line)
        assert isinstance(step, Say)
        assert step.wire.startswith(b"530 5.7.0 send STARTTLS first"), line
    assert isinstance(ask(session, "BDAT 5 LAST"), Close), "its octets may not be taken for commands"
    for line in ("NOOP", "RSET", "HELP", hello):
        assert ask(session, line).code in (214, 250)
    assert isinstance(ask(session, "STARTTLS"), StartTls)
    session.secure = True
    assert b"AUTH" in ask(session, hello).wire
    assert ask(session, MAIL).code == 250


def test_where_tls_comes_first_nothing_else_does() -> None:
    assert ask(make("smtps", tls_required=True), "EHLO a", MAIL).code == 250


def test_tls_that_is_required_must_be_offered() -> None:
    with pytest.raises(ValueError, match="must offer it"):
        Listener(rules=rules_for(tls_required=True), certificate=None)


@pytest.mark.parametrize("client", ["127.0.0.1", ""])
def test_a_login_that_is_required_is_required_of_clients_in_allowed_networks_too(client: str) -> None:
    session = make(client=client, auth_required=True)
    said = ask(session, "EHLO a", MAIL).wire.decode()
    assert said == "530 5.7.0 authenticate first: only users of SMTP2CF_USERS_FILE may relay here\r\n"
    step = ask(session, "AUTH PLAIN AGEAYg==")
    assert isinstance(step, CheckPassword)
    session.password_checked(Credentials("a", "b"), None)
    assert ask(session, MAIL).code == 250


def test_a_refusal_names_the_networks_as_the_operator_does() -> None:
    session = make(client="192.0.2.1", networks_named="allow_networks of [[listener]] printers")
    said = ask(session, "EHLO a", MAIL).wire.decode()
    assert "192.0.2.1 is not in allow_networks of [[listener]] printers" in said
