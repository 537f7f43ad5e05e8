"""What Cloudflare refuses as email.invalid, for which the sandbox takes mail unless it is strict."""

import cloudflare
import pytest

from smtp2cf.sandbox.invalid import cause_of, has_misplaced_dot

from .conftest import Running, Start

PLAIN = "From: a@example.com\r\nTo: b@example.net\r\nSubject: Re: hello\r\n"
MIME = (
    "Date: Thu, 26 Nov 2026 08:00:00 +0000\r\nMessage-ID: <1@example.com>\r\nMIME-Version: 1.0\r\n"
    "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
)
CLAIMED = [
    *("Received", "RECEIVED", "Return-Path", "DKIM-Signature", "Authentication-Results", "Feedback-ID"),
    *("ARC-Seal", "ARC-Message-Signature", "TLS-Required", "TLS-Report-Domain", "CFBL-Address"),
]
UNCLAIMED = ["X-Received", "Received-SPF", "List-Unsubscribe", "Delivered-To", "X-Google-Id", "Tls", "Arc"]


def everybody(_domain: str) -> bool:
    return True


def cause(header: str, body: str = "body\r\n") -> str:
    return cause_of(f"{header}\r\n{body}".encode(), everybody)


@pytest.mark.parametrize("name", CLAIMED)
def test_a_field_of_cloudflares_own_is_invalid(name: str) -> None:
    assert cause(f"{PLAIN}{name}: x;\r\n\ty\r\n{MIME}") == f"the field {name} is Cloudflare's own"


@pytest.mark.parametrize("name", UNCLAIMED)
def test_any_other_field_is_taken_and_so_are_date_and_mime(name: str) -> None:
    assert not cause(f"{PLAIN}{name}: x\r\n Received: folded\r\n{MIME}", "Received: in the body\r\n")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a@example.com", ""),
        ("Anna <a@example.com>", ""),
        ('"Doe, Anna (Sales)" <a@example.com>', ""),
        (r'"Doe \", (" <a@example.com>', ""),
        ("=?utf-8?q?M=C3=BCller=2C?= <a@example.com>", ""),
        ("Anna <a@example.com>, b@example.com", ""),
        ("root@example.com (Cron Daemon)", ""),
        ("Doe, Anna <a@example.com>", "comma"),
        ("Doe,\r\n Anna <a@example.com>", "comma"),
        ("Anna (Sales) <a@example.com>", "parentheses"),
        ("Anna <.a@example.com>", "dot"),
        ("Anna <a.@example.com>", "dot"),
        ("a..b@example.com", "dot"),
        ("a@example..com", "dot"),
    ],
)
def test_the_name_in_from_needs_quotes_and_its_address_no_stray_dot(value: str, expected: str) -> None:
    found = cause(f"From: {value}\r\nSubject: x\r\n")
    assert expected in found
    assert bool(found) is bool(expected)


def test_a_line_ending_written_as_characters_is_invalid() -> None:
    assert r"\r\n" in cause(PLAIN.replace("hello", r"hello\r\nBcc: c@example.net"))
    assert not cause(PLAIN, r"\r\n")


def test_a_from_whose_domain_is_not_set_up_is_invalid() -> None:
    message = f"{PLAIN}\r\n".replace("a@example.com", "Anna <a@Example.COM>").encode()
    assert cause_of(message, {"example.org"}.__contains__) == "From's domain is not set up"
    assert cause_of(message, {"example.com"}.__contains__) == ""


@pytest.mark.parametrize("address", [".a@x.example", "a.@x.example", "a..b@x.example", "a@x.example."])
def test_a_misplaced_dot(address: str) -> None:
    assert has_misplaced_dot(address)
    assert not has_misplaced_dot("a.b@x.example")


async def test_strict_refuses_with_email_invalid_and_says_why_in_its_messages(start: Start) -> None:
    running = await start(strict=True)
    await running.send("b@example.net", mime_message=f"{PLAIN}{MIME}\r\n")
    with pytest.raises(cloudflare.BadRequestError) as refused:
        await running.send("b@example.net", mime_message=f"Received: x\r\n{PLAIN}{MIME}\r\n")
    (error,) = refused.value.errors
    assert (error.code, error.message) == (10202, "email.sending.error.email.invalid")
    assert "Received" in refused.value.response.json()["messages"][0]["message"]
    with pytest.raises(cloudflare.BadRequestError, match=r"email\.invalid"):
        await running.send("b..c@example.net")
    assert len(running.sandbox.messages) == 1


async def test_a_sandbox_that_is_not_strict_takes_all_of_it(running: Running) -> None:
    await running.send("b..c@example.net", mime_message="Received: x\r\nFrom: Doe, Anna (x) <..a@x>\r\n\r\n")
    assert len(running.sandbox.messages) == 1
