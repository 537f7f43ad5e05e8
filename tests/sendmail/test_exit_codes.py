"""What the bridge answers is the exit code, and the first line on standard error."""

import subprocess
import sys
from pathlib import Path

import pytest

from smtp2cf.relay.drop_file import read_drop
from smtp2cf.reply import Reply
from smtp2cf.sendmail import exit_codes
from tests.sendmail.conftest import Sendmail
from tests.sendmail.scripted import HANG_UP, scripted
from tests.support.bridge import Bridge, running_bridge

MAIL = b"Subject: s\n\nhi\n"

ANSWERS = [
    ("554 at the greeting", {"": "554 5.3.2 no service"}, 69),
    ("MAIL not allowed", {"MAIL": "550 5.7.1 your address is not in SMTP2CF_ALLOW_NETWORKS"}, 77),
    ("MAIL needs AUTH", {"MAIL": "530 authentication required"}, 77),
    ("MAIL too big", {"MAIL": "552 5.3.4 too big"}, 65),
    ("MAIL later", {"MAIL": "451 4.3.0 later"}, 75),
    ("RCPT unknown", {"RCPT": "550 5.1.1 no such user"}, 67),
    ("RCPT unknown, no enhanced code", {"RCPT": "550 no such user"}, 67),
    ("RCPT not allowed", {"RCPT": "550 5.7.1 no relaying"}, 77),
    ("RCPT later", {"RCPT": "450 4.2.1 busy"}, 75),
    ("DATA refused", {"DATA": "554 5.5.1 no"}, 65),
    ("message bad", {".": "554 5.6.0 invalid"}, 65),
    ("message too big", {".": "552 5.3.4 too big"}, 65),
    ("bounced", {".": "550 5.1.1 bounced"}, 67),
    ("suppressed", {".": "550 5.7.1 the recipient is suppressed"}, 67),
    ("header From not allowed", {".": "550 5.7.1 From is none of yours"}, 77),
    ("null sender", {".": "550 5.1.7 no null sender"}, 65),
    ("throttled", {".": "451 4.7.1 throttled"}, 75),
    ("nonsense before the message", {"DATA": "250 2.0.0 what?"}, 75),
]  # fmt: skip


@pytest.mark.parametrize(("answers", "code"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
def test_answer_is_exit_code_and_reason(away: Sendmail, answers: dict[str, str], code: int) -> None:
    with scripted(answers) as server:
        result = away("b@example.net", input=MAIL, env={"SMTP2CF_SENDMAIL_HOST": server.endpoint})

    assert result.code == code
    assert next(iter(answers.values())) in result.reason


@pytest.mark.parametrize(
    "answers",
    [{"": HANG_UP}, {"": "421 4.3.2 too many"}, {"": "HTTP/1.1 400"}, {"DATA": HANG_UP}, {".": HANG_UP},
     {"RCPT": "421 4.3.2 shutting down"}, {"EHLO": HANG_UP}],
)  # fmt: skip
def test_lost_bridge_without_drop_directory_is_try_again(away: Sendmail, answers: dict[str, str]) -> None:
    with scripted(answers) as server:
        result = away("b@example.net", input=MAIL, env={"SMTP2CF_SENDMAIL_HOST": server.endpoint})

    assert result.code == 75
    assert "could not be kept" in result.reason


def test_long_reply_is_one_reason(away: Sendmail) -> None:
    with scripted({".": "550-5.1.1 the first half\r\n550 5.1.1 and the second"}) as server:
        result = away("b@example.net", input=MAIL, env={"SMTP2CF_SENDMAIL_HOST": server.endpoint})

    assert result.reason == "550 5.1.1 the first half and the second (<b@example.net>)"


def test_refused_recipient_does_not_cost_the_others_their_mail(away: Sendmail) -> None:
    answers = {"RCPT": lambda line: "550 5.1.1 unknown" if "bad" in line else "250 2.1.5 ok"}
    with scripted(answers) as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        result = away("a@example.net", "bad@example.net", "c@example.net", input=MAIL, env=env)

    assert len(server.messages) == 1
    assert (result.code, result.stderr) == (0, "sendmail: 550 5.1.1 unknown (<bad@example.net>)\n")


def test_no_address_does_not_cost_the_others_their_mail(sendmail: Sendmail, bridge: Bridge) -> None:
    result = sendmail("a@example.net", "John Doe", "x@", "@y", "<b@example.net", "c@example.net", input=MAIL)

    assert [one["recipients"] for one in bridge.messages()] == [["a@example.net", "c@example.net"]]
    assert result.code == 0
    assert [line.partition("not an address: ")[2] for line in result.stderr.splitlines()] == [
        "John Doe", "x@", "@y", "<b@example.net",
    ]  # fmt: skip


def by_name(line: str) -> str:
    """RCPT's answer, as the recipient's name has it."""
    replies = {"bad": "550 5.1.1 unknown", "busy": "450 4.2.1 busy", "denied": "550 5.7.1 not to them"}
    return next((reply for name, reply in replies.items() if name in line), "250 2.1.5 ok")


OK, BAD, DENIED, BUSY = ("ok@y.example", "bad@y.example", "denied@y.example", "busy@y.example")
MIXED = [
    # recipients, DATA's answer, exit code, who is kept, of whom the sender is told
    ((OK,), "250 ok", 0, [], []),
    ((OK, BAD), "250 ok", 0, [], [BAD]),
    ((OK, DENIED, BAD), "250 ok", 0, [], [DENIED, BAD]),
    ((OK, BUSY), "250 ok", 0, [BUSY], []),
    ((OK, BUSY, BAD), "250 ok", 0, [BUSY], [BAD]),
    ((OK, "nobody at all"), "250 ok", 0, [], ["nobody at all"]),
    ((BAD,), "250 ok", 67, [], []),
    ((DENIED,), "250 ok", 77, [], []),
    ((BAD, "nobody at all"), "250 ok", 67, [], []),
    ((BUSY,), "250 ok", 75, [], []),
    ((BUSY, BAD), "250 ok", 75, [], []),
    ((BAD, BUSY), "250 ok", 75, [], []),
    (("nobody at all",), "250 ok", 64, [], []),
    ((OK, BAD), "554 5.6.0 bad", 67, [], []),
    ((OK,), "554 5.6.0 bad", 65, [], []),
    ((OK, BAD), "451 4.3.0 later", 75, [], []),
    ((OK,), HANG_UP, 0, [OK], []),
    ((OK, BAD), HANG_UP, 0, [OK], [BAD]),
    ((BAD, OK, "nobody at all"), HANG_UP, 0, [OK], [BAD, "nobody at all"]),
    ((OK, BUSY, BAD), HANG_UP, 0, [OK, BUSY], [BAD]),
]


@pytest.mark.parametrize(("recipients", "answer", "code", "kept", "told"), MIXED)
def test_what_becomes_of_several_recipients(
    away: Sendmail, recipients: tuple[str, ...], answer: str, code: int, kept: list[str], told: list[str]
) -> None:
    """Once anybody is served or kept the code is 0, and somebody tells the sender of the others."""
    away.with_drop_directory()
    with scripted({"RCPT": by_name, ".": answer}) as server:
        result = away(
            "-f", "a@x.example", *recipients, input=MAIL, env={"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        )

    files = [read_drop(file, 10_000) for file in sorted(away.drop_directory.iterdir())]
    assert result.code == code
    assert [who for file in files for who, _ in file.recipients] == kept
    assert [who for file in files for who in file.refused] == told
    assert all(who in result.stderr for who in recipients if who not in (OK, BUSY))


@pytest.mark.parametrize(
    ("recipients", "code"), [((OK, BAD), 0), ((OK, BUSY), 75), ((OK, "nobody at all"), 0)]
)
def test_several_recipients_without_a_drop_directory(
    away: Sendmail, recipients: tuple[str, ...], code: int
) -> None:
    with scripted({"RCPT": by_name}) as server:
        result = away(
            "-f", "a@x.example", *recipients, input=MAIL, env={"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        )

    assert result.code == code
    assert recipients[1] in result.stderr


def test_lost_bridge_leaves_those_it_had_the_message_for_by_themselves(away: Sendmail) -> None:
    """The bridge knows the same recipients and bytes again, and sends nothing twice."""
    away.with_drop_directory()
    count = 0

    def rcpt(line: str) -> str:
        nonlocal count
        count += 1
        return "452 4.5.3 too many" if count > 3 else by_name(line)

    recipients = ("r1@y.example", BAD, "r2@y.example", "r3@y.example", "r4@y.example")
    with scripted({"RCPT": rcpt, ".": HANG_UP}) as server:
        result = away(
            "-f", "a@x.example", *recipients, input=MAIL, env={"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        )

    files = [read_drop(file, 10_000) for file in sorted(away.drop_directory.iterdir())]
    assert result.code == 0
    assert [[who for who, _ in file.recipients] for file in files] == [
        ["r1@y.example", "r2@y.example"], ["r3@y.example", "r4@y.example"],
    ]  # fmt: skip
    assert [file.refused for file in files] == [{BAD: Reply(550, "5.1.1", "unknown")}, {}]


def test_all_or_none_of_the_lost_are_kept(away: Sendmail, tmp_path: Path) -> None:
    """Where the second file finds no room the first goes too: the caller sends to all of them again."""
    away.with_drop_directory()
    code = "import sys, smtp2cf.sendmail.drop as s; real, calls = s.write_drop, []\n"
    code += (
        "def full(*a, **k):\n    calls.append(1)\n    if len(calls) > 1: raise OSError(28, 'No space left')\n"
    )
    code += "    return real(*a, **k)\ns.write_drop = full\nsys.argv = ['sendmail', 'ok@y', 'busy@y']\n"
    code += "from smtp2cf.sendmail import main\nsys.exit(main())"
    with scripted({"RCPT": by_name, ".": HANG_UP}) as server:
        env = {**away.env, "SMTP2CF_SENDMAIL_HOST": server.endpoint}
        done = subprocess.run([sys.executable, "-c", code], input=MAIL, env=env, capture_output=True)

    assert done.returncode == 75
    assert b"could not be kept" in done.stderr
    assert list(away.drop_directory.iterdir()) == []


def test_recipient_that_bounces_behind_a_success_is_named_and_the_sender_told(
    sendmail: Sendmail, bridge: Bridge
) -> None:
    result = sendmail("-f", "a@x.example", "good@y.example", "bounce@y.example", input=MAIL)

    assert result.code == 0
    assert result.reason.startswith("not sent to <bounce@y.example> (550 5.1.1 ")
    assert result.stderr.count("\n") == 1
    report = bridge.wait_for(2)[1]
    assert report["recipients"] == ["a@x.example"]
    assert b"bounce@y.example" in report["mime_message"]


def test_recipients_that_are_refused_before_the_message_are_reported_by_the_bridge(
    away: Sendmail, own_bridge_directory: Path
) -> None:
    away.with_drop_directory()
    drop = str(away.drop_directory)
    with running_bridge(own_bridge_directory, SENDMAIL_DROP_DIR=drop) as bridge:
        result = away("-f", "a@x.example", "good@y.example", "John Doe", "b@", input=MAIL, env=bridge.env)
        first, report = bridge.wait_for(2)

    assert (result.code, first["recipients"], report["recipients"]) == (
        0,
        ["good@y.example"],
        ["a@x.example"],
    )
    assert b"John Doe" in report["mime_message"]
    assert list(away.drop_directory.iterdir()) == []


def test_deferred_recipient_is_kept_when_others_were_served(away: Sendmail) -> None:
    away.with_drop_directory()
    answers = {"RCPT": lambda line: "450 4.2.1 busy" if "busy" in line else "250 2.1.5 ok"}
    with scripted(answers) as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        result = away("a@example.net", "busy@example.net", input=MAIL, env=env)

    assert (result.code, result.stderr) == (0, "")
    assert len(server.messages) == 1
    [dropped] = away.drop_directory.iterdir()
    assert b'"forward_paths": ["busy@example.net"]' in dropped.read_bytes()


def test_deferred_message_is_the_callers_to_try_again(away: Sendmail) -> None:
    away.with_drop_directory()
    with scripted({".": "451 4.7.1 throttled"}) as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        assert away("a@example.net", input=MAIL, env=env).code == 75

    assert list(away.drop_directory.iterdir()) == []


def test_more_recipients_than_a_transaction_takes(away: Sendmail) -> None:
    taken: list[str] = []

    def rcpt(line: str) -> str:
        if len(taken) == 7:
            return "452 4.5.3 too many recipients"
        taken.append(line)
        return "250 2.1.5 ok"

    def end(_: str) -> str:
        taken.clear()
        return "250 2.0.0 taken"

    with scripted({"RCPT": rcpt, ".": end}) as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        result = away(*(f"r{n}@example.net" for n in range(20)), input=MAIL, env=env)

    assert (result.code, len(server.messages)) == (0, 3)


def test_plain_helo_server(away: Sendmail) -> None:
    with scripted({"EHLO": "500 what?", "HELO": "250 old"}) as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        result = away("-R", "full", "b@example.net", input=MAIL, env=env)

    assert result.code == 0
    assert server.commands[2].startswith("MAIL FROM:<")
    assert server.commands[2].endswith(">")


def test_parameters_only_where_offered_and_needed(away: Sendmail) -> None:
    with scripted() as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        away("-f", "a@example.org", "b@example.net", input=MAIL, env=env)
        away("-f", "a@example.org", "jorg@bücher.example", input="Subject: ö\n\nü\n".encode(), env=env)
        away("-f", "a@example.org", "b@example.net", input="Subject: s\n\nü\n".encode(), env=env)
        away("-f", "a@example.org", "b@example.net", input=b"Subject: \xff\n\nhi\n", env=env)

    wanted = [
        line.partition("> SIZE=")[2].partition(" ")[2] for line in server.commands if line[:4] == "MAIL"
    ]
    assert wanted == [
        "", "BODY=8BITMIME SMTPUTF8", "BODY=8BITMIME", "BODY=8BITMIME",
    ]  # fmt: skip


def test_address_outside_ascii_needs_smtputf8(away: Sendmail) -> None:
    with scripted({"EHLO": "250 small"}) as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        result = away("jorg@bücher.example", input=MAIL, env=env)

    assert result.code == 65
    assert "5.6.7" in result.reason


def test_announced_size_is_the_size(away: Sendmail) -> None:
    with scripted() as server:
        env = {"SMTP2CF_SENDMAIL_HOST": server.endpoint}
        away("b@example.net", input=MAIL + b"x\n" * 1000, env=env)

    size = next(int(line.partition("SIZE=")[2]) for line in server.commands if "SIZE=" in line)
    assert size == len(server.messages[0])


def test_real_bridge_says_too_big(tmp_path_factory: pytest.TempPathFactory, away: Sendmail) -> None:
    with running_bridge(tmp_path_factory.mktemp("small"), MAX_MESSAGE_SIZE="2000") as small:
        result = away("b@example.net", input=MAIL + b"x\n" * 2000, env=small.env)

    assert result.code == 65
    assert result.reason.startswith("552 5.3.4")


@pytest.mark.parametrize(
    ("recipient", "code", "reply"),
    [
        ("bounce@x.example", 67, "550 5.1.1"), ("suppressed@x.example", 67, "550 5.7.1"),
        ("queued@x.example", 0, ""), ("throttle@x.example", 75, "451 4.7.1"),
        ("auth@x.example", 75, "451 4.3.5"), ("error@x.example", 75, "451 4.3.0"),
    ],
)  # fmt: skip
def test_what_cloudflare_says(
    own_bridge_directory, away: Sendmail, recipient: str, code: int, reply: str
) -> None:
    with running_bridge(own_bridge_directory, REPLY_TIMEOUT="1", SPOOL_URL="none") as bridge:
        result = away(recipient, input=MAIL, env=bridge.env)

    assert (result.code, result.reason[:9]) == (code, reply)


def test_exit_codes_are_those_of_the_docs_table() -> None:
    text = (Path(__file__).parents[2] / "docs/sendmail.md").read_text()
    table = text.partition("## Exit codes\n")[2].partition("\n\n")[0]
    documented = {int(row.split("|")[1]) for row in table.splitlines()[2:]}

    assert documented == {code for code in vars(exit_codes).values() if isinstance(code, int)}
