"""Raw 8-bit header fields of all kinds, and UTF-8 ones that stay as they are."""

from collections.abc import Iterator

from tests.corpus.sample import ADDRESSED, HEADER, Sample, lines

_WESTERN = "Content-Type: text/plain; charset=iso-8859-1"


def _message(*fields: str | bytes, content_type: str = _WESTERN) -> bytes:
    return lines(*fields, *HEADER, content_type, "", "plain", charset="latin-1")


def samples() -> Iterator[Sample]:
    """Those of this file."""
    yield from _unstructured()
    yield from _addresses()
    yield from _other()


def _unstructured() -> Iterator[Sample]:
    yield Sample(
        "field/raw-utf8",
        lines("From: Jürgen <jürgen@größe.example>", "Subject: 你好", *HEADER, "", "x", charset="utf-8"),
    )
    yield Sample(
        "field/encoded-words", lines("Subject: =?iso-8859-1?q?Gr=FC=DFe?= =?utf-8?b?w6k=?=", *HEADER, "", "x")
    )
    yield Sample(
        "field/subject-folded",
        _message("Subject: Viele\r\n Grüße\r\n\taus dem schönen\r\n München sendet der Verein (Nr. 5)"),
        {"Subject": "Viele Grüße\taus dem schönen München sendet der Verein (Nr. 5)"},
    )
    yield Sample(
        "field/subject-beside-encoded-words",
        _message("Subject: a =?utf-8?q?b=C3=A9?= été  =?utf-8?q?c?= d né=?utf-8?q?e?=é f"),
        {"Subject": "a bé été  c d néeé f"},
    )
    yield Sample(
        "field/subject-long",
        _message("Subject: " + ("Übergrößenträger " * 40).strip()),
        {"Subject": ("Übergrößenträger " * 40).strip()},
    )
    yield Sample("field/subject-one-long-word", _message("Subject: " + "ä" * 2000), {"Subject": "ä" * 2000})
    yield Sample(
        "field/subject-charset-unknown",
        _message(
            "Subject: Grüße“".replace("“", "\x94"),
            content_type="Content-Type: text/plain; charset=x-nobody-knows",
        ),
        {"Subject": "Grüße”"},
    )
    yield Sample(
        "field/subject-charset-ascii",
        _message("Subject: Grüße", content_type="Content-Type: text/plain; charset=us-ascii"),
        {"Subject": "Grüße"},
    )
    yield Sample(
        "field/subject-charset-none",
        _message("Subject: Grüße", content_type="X-No: type"),
        {"Subject": "Grüße"},
    )
    yield Sample(
        "field/subject-utf8-cut-short",
        _message(
            "Subject: 你好 Grüße é".encode()[:-1], content_type="Content-Type: text/plain; charset=utf-8"
        ),
        {"Subject": "你好 Grüße Ã"},
    )
    yield Sample(
        "field/subject-nbsp-and-c1", _message(b"Subject: a\xa0b \x80 \x81"), {"Subject": "a\xa0b € \x81"}
    )
    yield Sample(
        "field/long-name",
        _message("X-A-Field-Name-That-Is-Much-Longer-Than-Most-Of-Them: Größe"),
        {"X-A-Field-Name-That-Is-Much-Longer-Than-Most-Of-Them": "Größe"},
    )
    yield Sample(
        "field/description", _message("Content-Description: Größe", "X-Ä: no field name"), salvaged=True
    )


def _addresses() -> Iterator[Sample]:
    yield Sample(
        "field/addresses",
        _message(
            'From: "Müller, Hans" <hans@example.com>',
            'To: Dr. Jürgen "der Große" Weiß <jw@example.com>, p@example.com,\r\n\tCafé <cafe@example.com>,'
            ' "é" <e@example.com>',
            "Cc: Anna <anna@example.com>, =?utf-8?q?J=C3=BCrgen?= Größe <j@example.com>",
        ),
        names=("Müller, Hans", "Dr. Jürgen der Große Weiß", "", "Café", "é", "Anna", "Jürgen Größe"),
    )
    yield Sample(
        "field/address-comment",
        _message("From: hans@example.com (Hans (der) Müller \\) Größe)"),
        names=("Hans der Müller ) Größe",),
    )
    yield Sample(
        "field/address-group",
        _message("To: Größen: Müller <m@example.com>, e@example.com;, f@example.com"),
        names=("Müller", "", ""),
    )
    yield Sample(
        "field/address-raw",
        _message("From: müller@example.com", "To: Hans <größe@exämple.com>, Größe grün@example.com"),
    )
    yield Sample(
        "field/address-broken",
        _message('From: "Müller <a@example.com', "To: Größe <b@example.com, (c", "Cc: é(é)é<é>é,;:\\"),
    )
    yield Sample(
        "field/list-id", _message("List-Id: Größen <list.example.com>", "Keywords: grün, blau, weiß")
    )


def _other() -> Iterator[Sample]:
    yield Sample(
        "field/structured",
        _message(
            "Received: from größe (größe [127.0.0.1])\r\n\tby example.com; Mon, 02 Nov 2026 10:00:00 +0100",
            "References: <ü@example.com>",
            "X-Größe: no",
        ),
        salvaged=True,
    )
    yield Sample(
        "field/mailbox-line",
        lines("From größe Mon Nov  2 10:00:00 2026".encode("latin-1"), *ADDRESSED, "", "x"),
    )
    yield Sample("field/first-is-continuation", lines(" grün".encode("latin-1"), *ADDRESSED, "", "x"))
    yield Sample("field/name-only", lines(*ADDRESSED, "X-Empty:", "X-Blank: ", ":", "", "x"))
    yield Sample(
        "field/received-loop",
        lines(*["Received: from a by b; Mon, 02 Nov 2026 10:00:00 +0100"] * 120, *ADDRESSED, "", "x"),
    )
    yield Sample("field/long-line", lines(*ADDRESSED, "X-Long: " + "abc " * 5000, "", "x"))
    yield Sample(
        "field/filenames",
        lines(
            *ADDRESSED,
            "Content-Type: multipart/mixed; boundary=b",
            "",
            *_attachment('filename="Größe.pdf"'),
            *_attachment("filename=Größe.pdf; size=5"),
            *_attachment('filename="C:\\größe \\"x\\".pdf"'),
            *_attachment("filename=\"a\"; filename*=utf-8''%C3%A9.pdf"),
            *_attachment("filename*0=gr; filename*1=oss.pdf"),
            *_attachment('filename="' + "ä" * 400 + '"'),
            *_attachment('filename="Grö\r\n ße; 2.pdf"'),
            "--b--",
            charset="latin-1",
        ),
        filenames=(
            "Größe.pdf",
            "Größe.pdf",
            'C:\\größe "x".pdf',
            "a",
            "gross.pdf",
            "ä" * 400,
            "Grö ße; 2.pdf",
        ),
    )
    yield Sample(
        "field/filename-twice",
        lines(
            *ADDRESSED,
            "Content-Type: application/pdf; name*=utf-8''%C3%A9.pdf; name=é.pdf; x=é",
            "Content-Transfer-Encoding: base64",
            "",
            "JVBERi0=",
            charset="latin-1",
        ),
    )


def _attachment(parameters: str) -> tuple[str, ...]:
    return (
        "--b",
        "Content-Type: application/octet-stream",
        f"Content-Disposition: attachment; {parameters}",
        "Content-Transfer-Encoding: base64",
        "",
        "AAECAw==",
    )
