"""The rows of docs/sendmail.md's two tables: how each caller calls, what it feeds, what must come out.

`message` is the header and body that must reach send_raw, with LF for CRLF; {date} and {id} stand
for what sendmail makes up. A case without one must send nothing.
"""

# ruff: noqa: E501 - a command line, or a message, is easier to read as one line

from dataclasses import dataclass

USER = "root"
DOMAIN = "example.com"


@dataclass(frozen=True)
class Case:
    """One call."""

    row: str
    arguments: tuple[str, ...]
    input: bytes = b""
    sender: str = f"{USER}@{DOMAIN}"
    recipients: tuple[str, ...] = ()
    message: str = ""
    code: int = 0
    name: str = "sendmail"
    stdout: tuple[str, ...] = ()
    stderr: str = ""
    wire: tuple[str, ...] = ()
    """Commands that -v must show: what the options asked of the bridge."""


PHP = b"To: anna@example.net\r\nSubject: Hello\r\nFrom: shop@example.org\r\n\r\nLine one\r\n.\r\nLine two\r\n"
PHP_OUT = (
    "To: anna@example.net\nSubject: Hello\nFrom: shop@example.org\nDate: {date}\nMessage-ID: {id}\n\n"
    "Line one\n.\nLine two\n"
)
MAIL = b"From: a@example.org\nTo: b@example.net\nSubject: s\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nMessage-ID: <1@x>\n\nhi\n"
MAIL_OUT = MAIL.decode()
B = ("b@example.net",)

CALLERS = [
    Case("PHP mail()", ("-t", "-i"), PHP, recipients=("anna@example.net",), message=PHP_OUT),
    Case(
        "PHP mail() with -f",
        ("-t", "-i", "-fbounce-me@example.org"),
        PHP,
        sender="bounce-me@example.org",
        recipients=("anna@example.net",),
        message=PHP_OUT,
    ),
    Case(
        "PHPMailer",
        ("-froot@localhost.example", "-i", "-t"),
        b"Date: Mon, 1 Jan 2024 00:00:00 +0000\nTo: Anna <anna@example.net>\nCc: bob@example.net\n"
        b"Bcc: hidden@example.net\nFrom: Root User <root@localhost.example>\nMessage-ID: <2@x>\n\nbody\n",
        sender="root@localhost.example",
        recipients=("anna@example.net", "bob@example.net", "hidden@example.net"),
        message="Date: Mon, 1 Jan 2024 00:00:00 +0000\nTo: Anna <anna@example.net>\nCc: bob@example.net\n"
        "From: Root User <root@localhost.example>\nMessage-ID: <2@x>\n\nbody\n",
    ),
    Case(
        "Symfony, Laravel, SwiftMailer, Drupal",
        ("-bs",),
        b"EHLO [127.0.0.1]\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
        + MAIL.replace(b"\n", b"\r\n")
        + b"..dot\r\n.\r\nQUIT\r\n",
        sender="a@example.org",
        recipients=B,
        message=MAIL_OUT + ".dot\n",
        stdout=("220 ", "250-PIPELINING", "250 2.1.0", "250 2.1.5", "354 ", "250 2.0.0", "221 2.0.0"),
    ),
    Case(
        "Nodemailer",
        ("-i", "-f", "a@example.org", "b@example.net", "c@example.net"),
        MAIL,
        sender="a@example.org",
        recipients=("b@example.net", "c@example.net"),
        message=MAIL_OUT,
    ),
    Case(
        "Ruby mail, Rails",
        ("-i", "-f", "a@example.org", "--", "b@example.net", "-dash@example.net"),
        MAIL,
        sender="a@example.org",
        recipients=("b@example.net", "-dash@example.net"),
        message=MAIL_OUT,
    ),
    Case("git send-email", ("-i", "b@example.net"), MAIL, recipients=B, message=MAIL_OUT),
    Case(
        "git send-email with an envelope sender",
        ("-f", "a@example.org", "-i", "b@example.net"),
        MAIL,
        sender="a@example.org",
        recipients=B,
        message=MAIL_OUT,
    ),
    Case(
        "Debian cron",
        ("-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"),
        b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@web> job\nX-Cron-Env: <SHELL=/bin/sh>\n\n.\nout\n",
        recipients=("root@example.com",),
        message="From: root@example.com (Cron Daemon)\nTo: root@example.com\nSubject: Cron <root@web> job\n"
        "X-Cron-Env: <SHELL=/bin/sh>\nDate: {date}\nMessage-ID: {id}\n\n.\nout\n",
    ),
    Case(
        "newer cronie",
        ("-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "<>"),
        b'From: "(Cron Daemon)" <root>\nTo: root\nAuto-Submitted: auto-generated\n\nout\n',
        code=65,
        stderr="550 5.1.7",
        wire=("MAIL FROM:<>",),
    ),
    Case(
        "other crons",
        ("-FCronDaemon", "-odi", "-oem", "-oi", "-t"),
        b"From: root\nTo: anna@example.net\nSubject: Cron\n\nout\n",
        recipients=("anna@example.net",),
        message="From: root@example.com\nTo: anna@example.net\nSubject: Cron\nDate: {date}\nMessage-ID: {id}\n\nout\n",
    ),
    Case(
        "mdadm, sudo",
        ("-t",),
        b"From: mdadm monitoring <root>\nTo: root\nSubject: DegradedArray event\n\nThis is automatic\n",
        recipients=("root@example.com",),
        message="From: mdadm monitoring <root@example.com>\nTo: root@example.com\nSubject: DegradedArray event\n"
        "Date: {date}\nMessage-ID: {id}\n\nThis is automatic\n",
    ),
    Case(
        "logwatch",
        ("-t",),
        b"To: root\nTo: anna@example.net\nFrom: Logwatch@web\nSubject: Logwatch\n\nreport\n",
        recipients=("root@example.com", "anna@example.net"),
        message="To: root@example.com\nTo: anna@example.net\nFrom: Logwatch@web\nSubject: Logwatch\n"
        "Date: {date}\nMessage-ID: {id}\n\nreport\n",
    ),
    Case(
        "mutt",
        (
            "-oem",
            "-oi",
            "-f",
            "a@example.org",
            "-N",
            "failure,delay",
            "-R",
            "hdrs",
            "-B8BITMIME",
            "--",
            "b@example.net",
        ),
        MAIL,
        sender="a@example.org",
        recipients=B,
        message=MAIL_OUT,
        wire=("RET=HDRS", "NOTIFY=FAILURE,DELAY"),
    ),
    Case(
        "unattended-upgrades",
        ("-oi", "-t"),
        b"To: root\nSubject: upgrades\n\nnone\n",
        recipients=("root@example.com",),
        message="To: root@example.com\nSubject: upgrades\nFrom: {user}\nDate: {date}\nMessage-ID: {id}\n\nnone\n",
    ),
]

OPTIONS = [
    Case(
        "-t: command line recipients are added, Bcc is removed",
        ("-t", "-i", "c@example.net"),
        b"Bcc: h@example.net\n" + MAIL,
        recipients=("c@example.net", "h@example.net", "b@example.net"),
        message=MAIL_OUT,
    ),
    Case(
        "-t: Resent-* recipients alone where there are any",
        ("-t", "-i"),
        b"Resent-To: r@example.net\nResent-Bcc: rb@example.net\nBcc: h@example.net\nCc: c@example.net\n" + MAIL,
        recipients=("r@example.net", "rb@example.net"),
        message="Resent-To: r@example.net\nCc: c@example.net\n" + MAIL_OUT,
    ),
    Case("without -t Bcc stays", ("-i", *B), b"Bcc: h@example.net\n" + MAIL, recipients=B,
         message="Bcc: h@example.net\n" + MAIL_OUT),
    Case("-i", ("-i", *B), MAIL + b".\nmore\n", recipients=B, message=MAIL_OUT + ".\nmore\n"),
    Case("-oi", ("-oi", *B), MAIL + b".\nmore\n", recipients=B, message=MAIL_OUT + ".\nmore\n"),
    Case("without -i a lone dot ends the message", B, MAIL + b".\nmore\n", recipients=B, message=MAIL_OUT),
    Case("without -i, CRLF", B, MAIL.replace(b"\n", b"\r\n") + b".\r\nmore\r\n", recipients=B, message=MAIL_OUT),
    Case("-f A", ("-f", "a@example.org", *B), MAIL, "a@example.org", B, MAIL_OUT),
    Case("-fA", ("-fa@example.org", *B), MAIL, "a@example.org", B, MAIL_OUT),
    Case("-r A", ("-r", "a", *B), MAIL, "a@example.com", B, MAIL_OUT),
    Case("-f '<>'", ("-f", "<>", *B), MAIL, code=65, stderr="550 5.1.7", wire=("MAIL FROM:<>",)),
    Case("-f ''", ("-f", "", *B), MAIL, code=65, stderr="550 5.1.7", wire=("MAIL FROM:<>",)),
    Case(
        "-F NAME",
        ("-F", "Jörg, der \"Große\"", "-f", "j@example.org", *B),
        b"Subject: s\n\nhi\n",
        "j@example.org",
        B,
        "Subject: s\nFrom: =?utf-8?B?SsO2cmcsIGRlciA=?=\n =?utf-8?B?Ikdyb8OfZSI=?= <j@example.org>\n"
        "Date: {date}\nMessage-ID: {id}\n\nhi\n",
    ),
    Case(
        "-F NAME, quoted",
        ("-F", "Doe, John", "-f", "j@example.org", *B),
        b"\nhi\n",
        "j@example.org",
        B,
        'From: "Doe, John" <j@example.org>\nDate: {date}\nMessage-ID: {id}\n\nhi\n',
    ),
    Case("-bm", ("-bm", *B), MAIL, recipients=B, message=MAIL_OUT),
    Case("-bs", ("-bs",), b"HELO x\r\nNOOP\r\nQUIT\r\n", stdout=("220 ", "250 ", "250 2.0.0", "221 2.0.0")),
    Case("-bp", ("-bp",), stdout=("Mail queue is empty\n",)),
    Case("mailq", (), name="mailq", stdout=("Mail queue is empty\n",)),
    Case("-bi", ("-bi",)),
    Case("-I", ("-I",)),
    Case("newaliases", (), name="newaliases"),
    Case("-bv", ("-bv", "anna", "b@example.net"),
         stdout=("anna@example.com... deliverable\n", "b@example.net... deliverable\n")),
    *(Case(f"-b{mode}", (f"-b{mode}",), MAIL, code=64, stderr=f"-b{mode}: this sendmail does not") for mode in "dDthH"),
    Case("-bd -q30m", ("-bd", "-q30m"), code=64, stderr="start `smtp2cf serve`"),
    Case("-q", ("-q",)),
    Case("-qTIME", ("-q30m",)),
    Case("-v", ("-v", *B), MAIL, recipients=B, message=MAIL_OUT, wire=("EHLO", "DATA", "QUIT")),
    Case("-N never", ("-N", "never", *B), MAIL, recipients=B, message=MAIL_OUT, wire=("NOTIFY=NEVER",)),
    Case("-R full", ("-R", "full", *B), MAIL, recipients=B, message=MAIL_OUT, wire=("RET=FULL",)),
    Case("-V envid", ("-V", "a+b=c", *B), MAIL, recipients=B, message=MAIL_OUT, wire=("ENVID=a+2Bb+3Dc",)),
    *(
        Case(f"ignored: {' '.join(ignored)}", (*ignored, *B), MAIL, recipients=B, message=MAIL_OUT)
        for ignored in (
            ("-B", "8BITMIME"), ("-B7BIT",), ("-O", "DeliveryMode=b"), ("-OQueueDirectory=/tmp/x",), ("-odb",),
            ("-o", "em"), ("-Ac",), ("-A", "m"), ("-C", "/etc/mail/x.cf"), ("-L", "tag"), ("-h", "3"),
            ("-p", "SMTP:host"), ("-X", "/nonexistent/log"), ("-d",), ("-d0.1",), ("-G",), ("-U",), ("-n",),
            ("-m",), ("-x",), ("-E",), ("-em",), ("-Gnim",),
        )
    ),
    Case("--", ("--", "-f@example.net"), MAIL, recipients=("-f@example.net",), message=MAIL_OUT),
    Case("options after recipients", ("b@example.net", "-f", "a@example.org"), MAIL, "a@example.org", B, MAIL_OUT),
    Case(
        "recipients as lists and with names",
        ("a@example.net, Bob <b@example.net>", '"C, D" <c@example.net>,d', "B@EXAMPLE.NET"),
        MAIL,
        recipients=("a@example.net", "b@example.net", "c@example.net", "d@example.com", "B@example.net"),
        message=MAIL_OUT,
    ),
    Case("recipients with blanks between them", ("a@example.net b@example.net", "c@example.net\td"), MAIL,
         recipients=("a@example.net", "b@example.net", "c@example.net", "d@example.com"), message=MAIL_OUT),
    Case(
        "-t: recipients with blanks between them",
        ("-t", "-i"),
        b"From: a@example.org\nTo: b@example.net c@example.net\n d@example.net\nCc: root e@example.net\n"
        b"Date: Mon, 1 Jan 2024 00:00:00 +0000\nMessage-ID: <1@x>\n\nhi\n",
        recipients=("b@example.net", "c@example.net", "d@example.net", "root@example.com", "e@example.net"),
        message="From: a@example.org\nTo: b@example.net c@example.net\n d@example.net\n"
        "Cc: root@example.com e@example.net\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nMessage-ID: <1@x>\n\nhi\n",
    ),
    Case("a From line is dropped", B, b"From root Mon Jan  1 00:00:00 2024\n" + MAIL, recipients=B, message=MAIL_OUT),
    Case("a >From line is dropped", B, b">From root Mon Jan  1 2024\n" + MAIL, recipients=B, message=MAIL_OUT),
    Case("no recipients", (), MAIL, code=64, stderr="no recipients"),
    Case("-t and no recipients", ("-t",), b"Subject: s\n\nhi\n", code=64, stderr="no recipients"),
]  # fmt: skip
