"""Parameters of MAIL and RCPT (RFC 1870, 3461, 4954, 6152, 6531): taken, kept, refused."""

from typing import Any

import pytest

from tests.smtpd.conftest import Start

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

MAIL_KEPT = [
    ("SIZE=0", {}),
    ("SIZE=1048576", {}),
    ("size=10", {}),
    ("BODY=7BIT", {"body": "7BIT"}),
    ("BODY=8BITMIME", {"body": "8BITMIME"}),
    ("body=8bitmime", {"body": "8BITMIME"}),
    ("SMTPUTF8", {"smtputf8": True}),
    ("smtputf8", {"smtputf8": True}),
    ("RET=FULL", {"ret": "FULL"}),
    ("RET=hdrs", {"ret": "HDRS"}),
    ("ENVID=QQ314159", {"envid": "QQ314159"}),
    ("ENVID=a+20b+2B+3D+00", {"envid": "a+20b+2B+3D+00"}),
    ("ENVID=" + "x" * 100, {"envid": "x" * 100}),
    ("AUTH=<>", {}),  # taken, and of no use to anybody (RFC 4954 §5)
    ("AUTH=e+3Dmc2@example.com", {}),
    (
        "SIZE=9 BODY=8BITMIME SMTPUTF8 RET=HDRS  ENVID=x AUTH=a@b.c",
        {"body": "8BITMIME", "smtputf8": True, "ret": "HDRS", "envid": "x"},
    ),
]
MAIL_REFUSED = [
    ("SIZE", "501 5.5.4 SIZE takes"),
    ("SIZE=", "501 5.5.4 SIZE takes"),
    ("SIZE=x", "501 5.5.4 SIZE takes"),
    ("SIZE=-1", "501 5.5.4 SIZE takes"),
    ("SIZE=\\u0661", "501 5.5.4 SIZE takes"),
    ("SIZE=" + "9" * 21, "501 5.5.4 SIZE takes"),
    ("SIZE=1048577", "552 5.3.4 the message is larger than 1048576 octets"),
    ("SIZE=" + "9" * 20, "552 5.3.4"),
    ("BODY", "501 5.5.4 BODY takes"),
    ("BODY=BINARYMIME", "501 5.5.4 BODY takes"),
    ("SMTPUTF8=", "501 5.5.4 SMTPUTF8 takes no value"),
    ("SMTPUTF8=yes", "501 5.5.4 SMTPUTF8 takes no value"),
    ("RET=SOME", "501 5.5.4 RET takes"),
    ("ENVID=", "501 5.5.4 ENVID takes"),
    ("ENVID=a=b", "501 5.5.4 ENVID takes"),
    ("ENVID=a+zzb", "501 5.5.4 ENVID takes"),
    ("ENVID=a+2bb", "501 5.5.4 ENVID takes"),
    ("ENVID=\\xe9", "501 5.5.4 ENVID takes"),
    ("ENVID=" + "x" * 101, "501 5.5.4 ENVID takes"),
    ("AUTH=", "501 5.5.4 AUTH takes"),
    ("AUTH=a=b", "501 5.5.4 AUTH takes"),
    ("AUTH=" + "x" * 501, "501 5.5.4 AUTH takes"),
    ("SIZE=1 SIZE=1", "501 5.5.4 SIZE is given twice"),
    ("RET=FULL ret=HDRS", "501 5.5.4 RET is given twice"),
    ("SMTPUTF8 SMTPUTF8", "501 5.5.4 SMTPUTF8 is given twice"),
    ("XYZZY", "555 5.5.4 XYZZY: unknown parameter"),
    ("xyzzy=1", "555 5.5.4 XYZZY: unknown parameter"),
    ("NOTIFY=NEVER", "555 5.5.4 NOTIFY: unknown parameter"),
    ("=1", "501 5.5.4 =1: not a parameter"),
    ("<b@c.d>", "553 5.1.3 "),  # two addresses, and nobody knows which is meant
    ("\\u00fc=1", "501 5.5.4"),
]
RCPT_KEPT = [
    ("NOTIFY=NEVER", {"notify": "NEVER"}),
    ("NOTIFY=SUCCESS", {"notify": "SUCCESS"}),
    ("notify=failure,delay,success", {"notify": "FAILURE,DELAY,SUCCESS"}),
    ("ORCPT=rfc822;bert+2Bx@example.net", {"orcpt": "rfc822;bert+2Bx@example.net"}),
    ("ORCPT=rfc822;+00", {"orcpt": "rfc822;+00"}),
    ("ORCPT=utf-8;j\\u00f6rg@example.net", {"orcpt": "utf-8;jörg@example.net"}),
    ("ORCPT=utf-8;j\\x5cx{F6}rg@example.net", {"orcpt": r"utf-8;j\x{F6}rg@example.net"}),
    ("ORCPT=rfc822;a@b NOTIFY=DELAY", {"orcpt": "rfc822;a@b", "notify": "DELAY"}),
]
RCPT_REFUSED = [
    ("NOTIFY", "501 5.5.4 NOTIFY takes"),
    ("NOTIFY=", "501 5.5.4 NOTIFY takes"),
    ("NOTIFY=ALWAYS", "501 5.5.4 NOTIFY takes"),
    ("NOTIFY=NEVER,DELAY", "501 5.5.4 NOTIFY takes"),
    ("NOTIFY=DELAY,", "501 5.5.4 NOTIFY takes"),
    ("ORCPT=bert@example.net", "501 5.5.4 ORCPT takes"),
    ("ORCPT=rfc822;", "501 5.5.4 ORCPT takes"),
    ("ORCPT=rfc822;a=b", "501 5.5.4 ORCPT takes"),
    ("ORCPT=rfc822;\\xe9@b", "501 5.5.4 ORCPT takes"),
    ("ORCPT=utf-8;\\xe9@b", "501 5.5.4 ORCPT takes"),
    ("ORCPT=rfc822;" + "x" * 500, "501 5.5.4 ORCPT takes"),
    ("NOTIFY=NEVER NOTIFY=NEVER", "501 5.5.4 NOTIFY is given twice"),
    ("SIZE=1", "555 5.5.4 SIZE: unknown parameter"),
    ("RRVS=2026-11-01T00:00:00Z", "555 5.5.4 RRVS: unknown parameter"),
]


async def _envelope(start: Start, mail: str, rcpt: str) -> Any:
    service = await start()
    await service.play(f"""
        S: 220
        C: HELO a
        S: 250
        C: MAIL FROM:<anna@example.com> {mail}
        S: 250 2.1.0
        C: RCPT TO:<bert@example.net> {rcpt}
        S: 250 2.1.5
        C: DATA
        S: 354
        C: .
        S: 250
    """)
    return service.envelope


@pytest.mark.parametrize(("given", "kept"), MAIL_KEPT)
async def test_parameters_of_mail_reach_the_envelope(start: Start, given: str, kept: dict[str, Any]) -> None:
    envelope = await _envelope(start, given, "")
    nothing = {"body": "7BIT", "smtputf8": False, "ret": None, "envid": None}
    assert {name: getattr(envelope, name) for name in nothing} == nothing | kept


@pytest.mark.parametrize(("given", "kept"), RCPT_KEPT)
async def test_parameters_of_rcpt_reach_the_envelope(start: Start, given: str, kept: dict[str, str]) -> None:
    envelope = await _envelope(start, "", given)
    for name in ("notify", "orcpt"):
        expected = {"bert@example.net": kept[name]} if name in kept else {}
        assert getattr(envelope, name) == expected


@pytest.mark.parametrize(("given", "reply"), MAIL_REFUSED)
async def test_parameters_that_mail_refuses(start: Start, given: str, reply: str) -> None:
    service = await start()
    await service.play(f"""
        S: 220
        C: HELO a
        S: 250
        C: MAIL FROM:<anna@example.com> {given}
        S: {reply}
        C: RCPT TO:<bert@example.net>
        S: 503 5.5.1 send MAIL
        C: MAIL FROM:<anna@example.com>
        S: 250 2.1.0
    """)


@pytest.mark.parametrize(("given", "reply"), RCPT_REFUSED)
async def test_parameters_that_rcpt_refuses(start: Start, given: str, reply: str) -> None:
    service = await start()
    await service.play(f"""
        S: 220
        C: HELO a
        S: 250
        C: MAIL FROM:<anna@example.com>
        S: 250
        C: RCPT TO:<bert@example.net> {given}
        S: {reply}
        C: DATA
        S: 503 5.5.1 send RCPT
    """)


async def test_each_recipient_has_its_own(start: Start) -> None:
    service = await start()
    await service.play("""
        S: 220
        C: HELO a
        S: 250
        C: MAIL FROM:<anna@example.com>
        S: 250
        C: RCPT TO:<bert@example.net> NOTIFY=NEVER
        S: 250
        C: RCPT TO:<carla@example.net>
        S: 250
        C: RCPT TO:<dora@example.net> NOTIFY=DELAY ORCPT=rfc822;d@example.net
        S: 250
        C: DATA
        S: 354
        C: .
        S: 250
    """)
    assert service.envelope.notify == {"bert@example.net": "NEVER", "dora@example.net": "DELAY"}
    assert service.envelope.orcpt == {"dora@example.net": "rfc822;d@example.net"}
