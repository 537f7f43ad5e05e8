"""Repair takes what Cloudflare refuses out of the header, whole fields only, and touches nothing else."""

from email.policy import compat32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp2cf.message.repair import FROM_LIMIT, KINDS, repair
from smtp2cf.sandbox.invalid import cause_of
from tests.corpus import CORPUS
from tests.message.reading import leaves, read
from tests.support.each import each

GONE = {
    "Received": "Received",
    "Return-Path": "Return-Path",
    "Delivered-To": "Delivered-To",
    "DKIM-Signature": "DKIM-Signature",
    "ARC-Seal": "ARC-*",
    "ARC-Authentication-Results": "ARC-*",
    "Authentication-Results": "Authentication-Results",
    "Feedback-ID": "Feedback-ID",
    "TLS-Required": "TLS-Required",
    "TLS-Report-Domain": "TLS-Report-*",
    "CFBL-Address": "CFBL-*",
    "X-Google-DKIM-Signature": "X-Google-*",
    "X-Gm-Message-State": "X-Gm-*",
}
KEPT = [
    "Date",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Subject",
    "To",
    "Cc",
    "Bcc",
    "Reply-To",
    "Sender",
    "In-Reply-To",
    "References",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "Received-SPF",
    "X-Received",
    "Resent-From",
    "X-DKIM-Signature",
    "Arc",
    "TLS-Report",
    "Auto-Submitted",
]


@each(("name", "kind"), GONE.items())
def test_a_field_that_cloudflare_claims_goes_with_its_folds(name: str, kind: str) -> None:
    for written in (name, name.lower(), name.upper(), name + " "):
        message = f"Subject: x\r\n{written}: a;\r\n b\r\n\tc\r\nTo: y\r\n{written}:\r\n\r\n{name}: body\r\n"
        assert repair(message.encode()) == (f"Subject: x\r\nTo: y\r\n\r\n{name}: body\r\n".encode(), (kind,))


@each("name", KEPT)
def test_any_other_field_stays(name: str) -> None:
    message = f"{name}: (a, b) <c@d>\r\n{name}:\r\n\r\nbody\r\n".encode()
    assert repair(message)[0] is message


def test_from_is_repaired_in_place() -> None:
    message = (
        b"A: 1\r\nFROM : Smith, John\r\n <a@b>\r\nReceived: x\r\nB: 2\r\n\r\nFrom: Smith, John <a@b>\r\n"
    )
    repaired = b'A: 1\r\nFROM : "Smith, John" <a@b>\r\nB: 2\r\n\r\nFrom: Smith, John <a@b>\r\n'
    assert repair(message) == (repaired, ("Received", "From"))


def test_only_what_is_asked_for_is_repaired() -> None:
    message = b"Received: x\r\nDKIM-Signature: y\r\nFrom: J (x) <a@b>\r\n\r\n"
    assert repair(message, ("DKIM-Signature",)) == (
        b"Received: x\r\nFrom: J (x) <a@b>\r\n\r\n",
        ("DKIM-Signature",),
    )
    assert repair(message, ())[0] is message


@each("fields", [b"From: " + b"a,\r\n " * 300_000 + b"b <c@d>\r\n", b"From: a, (b) <c@d>\r\n" * 9_000])
def test_names_are_told_apart_in_a_limited_number_of_octets(fields: bytes) -> None:
    looked_at: list[str] = []

    def counted(value: str) -> str:
        looked_at.append(value)
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smtp2cf.message.repair.quote_display_names", counted)
        assert repair(b"Received: x\r\n" + fields + b"\r\nbody\r\n").changed == ("Received",)
    assert sum(map(len, looked_at)) <= FROM_LIMIT


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\r\nReceived: body\r\n",
        b"Hello,\r\nReceived: body\r\n\r\n",
        b"Subject: x\r\nno field\r\nReceived: body for some readers\r\n\r\n",
        b"Subject: x",
    ],
)
def test_the_body_begins_where_any_reader_sees_it_begin(message: bytes) -> None:
    assert repair(message)[0] is message


@each("message", dict(CORPUS).values())
def test_every_message_keeps_its_parts_and_its_other_fields(message: bytes) -> None:
    if not message.isascii():
        message = message.decode("latin-1").encode()
    claimed = b"Received: from a\r\n by b\r\nDKIM-Signature: v=1;\r\n b=AbC\r\nAuthentication-Results: x\r\n"
    repaired, changed = repair(claimed + message)
    if not read(message).keys():
        return
    assert leaves(repaired, compat32) == leaves(message, compat32)
    kept = [
        (name, value)
        for name, value in read(message, compat32).raw_items()
        if name.lower() not in ("received", "dkim-signature", "authentication-results", "return-path", "from")
        and not name.lower().startswith(("arc-", "x-google-"))
    ]
    after = [pair for pair in read(repaired, compat32).raw_items() if pair[0].lower() != "from"]
    assert after == kept
    assert {"Received", "DKIM-Signature"} <= set(changed) <= set(KINDS)


LINES = st.lists(
    st.sampled_from(
        [
            b"Received: x",
            b"From: Smith, J <a@b>",
            b" y, (z) <c@d>",
            b"A: b",
            b"",
            b"no field",
            b"From a",
            b"ARC-Seal: 1",
        ]
    ),
    max_size=10,
).map(lambda lines: b"".join(line + b"\r\n" for line in lines))


@given(LINES)
def test_twice_is_once(message: bytes) -> None:
    repaired, changed = repair(message)
    assert (repaired is message) == (not changed)
    assert repair(repaired) == (repaired, ())
    assert message.endswith(repaired[repaired.find(b"\r\n\r\n") :]) or b"\r\n\r\n" not in message


@each(
    "field",
    [
        *(f"{name}: x" for name in GONE),
        "From: Smith, John <a@b>",
        "From: John (Sales) <a@b>",
        "From: a@b (Cron Daemon)",
        "From: John <a@b> (work)",
        "From: A <a@b>, B, C\r\n <c@d>",
    ],
)
def test_what_the_sandbox_refuses_it_takes_repaired(field: str) -> None:
    from_ = "" if field.startswith("From") else "From: a@b\r\n"
    message = f"Date: x\r\nMessage-ID: <a>\r\n{from_}{field}\r\nMIME-Version: 1.0\r\n\r\nbody\r\n".encode()
    assert cause_of(repair(message).message, lambda _: True) == ""
