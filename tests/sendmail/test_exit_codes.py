"""What the bridge answers is the exit code, and the first line on standard error."""

import pytest

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
    assert "not kept either" in result.reason


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
    assert (result.code, result.stderr) == (67, "sendmail: 550 5.1.1 unknown (<bad@example.net>)\n")


def test_no_address_does_not_cost_the_others_their_mail(sendmail: Sendmail, bridge: Bridge) -> None:
    result = sendmail("a@example.net", "John Doe", "x@", "@y", "<b@example.net", "c@example.net", input=MAIL)

    assert [one["recipients"] for one in bridge.messages()] == [["a@example.net", "c@example.net"]]
    assert result.code == 67
    assert [line.partition("no address: ")[2] for line in result.stderr.splitlines()] == [
        "John Doe", "x@", "@y", "<b@example.net",
    ]  # fmt: skip


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
        away("-f", "a@example.org", "jörg@example.net", input="Subject: ö\n\nü\n".encode(), env=env)
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
        result = away("jörg@example.net", input=MAIL, env=env)

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
