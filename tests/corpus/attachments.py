"""Messages with parts: attachments, messages in messages, signatures, reports, odd boundaries."""

import base64
from collections.abc import Iterator

from tests.corpus.sample import ADDRESSED, HEADER, Sample, lines

BINARY = bytes(octet for octet in range(256) if octet not in b"\r\n") * 3 + b"\r\n" + bytes(range(127, 256))
"""All octets there are, CR and LF as CRLF only."""

PDF = b"%PDF-1.4\r\n%\xe2\xe3\xcf\xd3\r\n1 0 obj\r\nstream\r\n" + BINARY + b"\r\nendstream\r\n%%EOF"

_TEXT = (
    "Content-Type: text/plain; charset=iso-8859-1",
    "Content-Transfer-Encoding: 8bit",
    "",
    "Grüße aus München",
)
_ASCII = ("Content-Type: text/plain", "", "plain text")


def _multipart(*content: str | bytes, kind: str = "mixed; boundary=b") -> bytes:
    return lines(*ADDRESSED, f"Content-Type: multipart/{kind}", "", *content, charset="latin-1")


def samples() -> Iterator[Sample]:
    """Those of this file."""
    yield from _attachments()
    yield from _nested()
    yield from _boundaries()
    yield from _signed()
    yield from _reports()


def _attachments() -> Iterator[Sample]:
    encoded = base64.encodebytes(PDF * 4).replace(b"\n", b"\r\n")
    binary = (
        "Content-Type: application/pdf",
        'Content-Disposition: attachment; filename="Größe.pdf"',
        "",
        PDF,
    )
    yield Sample(
        "attachment/base64",
        _multipart(
            "--b",
            *_ASCII,
            "--b",
            "Content-Type: application/pdf; name=a.pdf",
            "Content-Transfer-Encoding: base64",
            "",
            encoded,
            "--b--",
        ),
    )
    yield Sample(
        "attachment/binary",
        _multipart("--b", *_TEXT, "--b", "Content-Transfer-Encoding: binary", *binary, "--b--"),
        filenames=("Größe.pdf",),
        text="Grüße aus München",
    )
    yield Sample(
        "attachment/binary-unlabelled",
        _multipart("--b", *_ASCII, "--b", *binary, "--b--"),
        filenames=("Größe.pdf",),
    )
    yield Sample(
        "attachment/only-binary", lines(*ADDRESSED, *binary, charset="latin-1"), filenames=("Größe.pdf",)
    )
    yield Sample(
        "attachment/no-header",
        _multipart("--b", "", "Grüße", "--b", "Größe ohne Leerzeile", "zweite Zeile", "--b--"),
    )
    yield Sample(
        "attachment/without-mime-version",
        lines(
            "Subject: x",
            "Content-Type: multipart/mixed; boundary=b",
            "",
            "--b",
            *_TEXT,
            "--b--",
            charset="latin-1",
        ),
    )


def _nested() -> Iterator[Sample]:
    inner = ("From: Jürgen <j@example.com>", "Subject: Größe", *HEADER, *_TEXT)
    yield Sample(
        "nested/message",
        _multipart("--b", *_ASCII, "--b", "Content-Type: message/rfc822", "", *inner, "--b--"),
    )
    yield Sample(
        "nested/message-only",
        lines(*ADDRESSED, "Content-Type: message/rfc822", "", *inner, charset="latin-1"),
    )
    yield Sample(
        "nested/message-clean",
        _multipart("--b", *_TEXT, "--b", "Content-Type: message/rfc822", "", *ADDRESSED, "", "x", "--b--"),
    )
    yield Sample(
        "nested/message-in-message",
        _multipart(
            "--b",
            "Content-Type: message/rfc822",
            "",
            *ADDRESSED,
            "Content-Type: message/rfc822",
            "",
            "Subject: no version",
            "",
            "Größe",
            "--b--",
        ),
    )
    yield Sample(
        "nested/digest",
        _multipart(
            "--b", "", *inner, "--b", "", "Subject: x", "", "plain", "--b--", kind="digest; boundary=b"
        ),
    )
    yield Sample(
        "nested/global",
        _multipart("--b", "Content-Type: message/global", "", "Subject: 你好".encode(), "", "Größe", "--b--"),
    )
    yield Sample(
        "nested/multiparts",
        _multipart(
            "preamble",
            "--b",
            "Content-Type: multipart/related; boundary=c",
            "",
            "--c",
            'Content-Type: multipart/alternative; boundary="d d"',
            "",
            "--d d",
            *_TEXT,
            "--d d",
            "Content-Type: text/html; charset=utf-8",
            "",
            "<p>Größe</p>".encode(),
            "--d d--",
            "--c",
            "Content-Type: image/png",
            "Content-ID: <png>",
            "",
            BINARY,
            "--c--",
            "",
            "--b",
            *_ASCII,
            "--b--",
            "epilogue",
        ),
    )


def _boundaries() -> Iterator[Sample]:
    yield Sample(
        "boundary/prefixes",
        _multipart(
            "--abc",
            "Content-Type: multipart/mixed; boundary=abcd",
            "",
            "--abcd",
            *_TEXT,
            "--abcde",
            "--ab",
            "--abc-",
            "--abcd--",
            "--abc",
            *_TEXT,
            "--abcd",
            "--abc--",
            kind="mixed; boundary=abc",
        ),
    )
    yield Sample(
        "boundary/ends-in-dashes",
        _multipart("--b--", *_TEXT, "--b----", "--b--", kind='mixed; boundary="b--"'),
    )
    yield Sample(
        "boundary/quoted",
        _multipart("--=_(a);:b/c", *_TEXT, "--=_(a);:b/c--", kind='mixed; x="\\";"; boundary="=_(a);:b/c"'),
    )
    yield Sample("boundary/folded", _multipart("--b", *_TEXT, "--b--", kind="mixed;\r\n\tboundary=\r\n b"))
    yield Sample(
        "boundary/in-sections",
        _multipart("--abc", *_TEXT, "--abc--", kind="mixed; boundary*0=ab; boundary*1*=%63"),
    )
    yield Sample(
        "boundary/white-space-behind", _multipart("--b \t", *_TEXT, "--b-- ", kind="mixed; boundary=b")
    )
    yield Sample("boundary/not-closed", _multipart("--b", *_TEXT, "--b", *_TEXT))
    yield Sample("boundary/repeated-lines", _multipart("--b", "--b", *_TEXT, "--b", "--b", *_ASCII, "--b--"))
    yield Sample("boundary/empty", _multipart("--", *_TEXT, "--", *_ASCII, "----", kind='mixed; boundary=""'))
    yield Sample(
        "boundary/same-inside",
        _multipart("--b", "Content-Type: multipart/mixed; boundary=b", "", "--b", *_TEXT, "--b--"),
    )
    yield Sample("boundary/missing", _multipart("--b", *_TEXT, "--b--", kind="mixed"), salvaged=True)
    yield Sample(
        "boundary/never-used", _multipart("--b", *_TEXT, "--b--", kind="mixed; boundary=a"), salvaged=True
    )
    yield Sample("boundary/8bit", _multipart("--é", *_TEXT, "--é--", kind="mixed; boundary=é"), salvaged=True)
    yield Sample(
        "boundary/raw-text-around",
        _multipart("Präambel", "--b", *_ASCII, "--b", *_TEXT, "--b--", "Nachwort: Größe"),
    )
    yield Sample(
        "boundary/encoded-multipart",
        _multipart("--b", *_TEXT, "--b--", kind="mixed; boundary=b\r\nContent-Transfer-Encoding: base64"),
    )


def _signed() -> Iterator[Sample]:
    signature = (
        "Content-Type: application/pgp-signature; name=signature.asc",
        "",
        "-----BEGIN PGP SIGNATURE-----",
        "",
        "iQEzBAEBCAAdFiEE",
        "-----END PGP SIGNATURE-----",
    )
    kind = 'signed; boundary=b; micalg=pgp-sha256; protocol="application/pgp-signature"'
    utf8 = (
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        "Größe".encode(),
    )
    yield Sample("signed/ascii", _multipart("--b", *_ASCII, "--b", *signature, "--b--", kind=kind))
    yield Sample("signed/utf8", _multipart("--b", *utf8, "--b", *signature, "--b--", kind=kind))
    yield Sample("signed/latin1", _multipart("--b", *_TEXT, "--b", *signature, "--b--", kind=kind))
    yield Sample(
        "signed/beside-latin1",
        _multipart(
            "--a",
            *_TEXT,
            "--a",
            f"Content-Type: multipart/{kind}",
            "",
            "--b",
            *utf8,
            "--b",
            *signature,
            "--b--",
            "--a--",
            kind="mixed; boundary=a",
        ),
    )
    yield Sample(
        "signed/smime",
        lines(
            *ADDRESSED,
            'Content-Type: application/pkcs7-mime; smime-type=signed-data; name="smime.p7m"',
            "Content-Transfer-Encoding: base64",
            "",
            base64.b64encode(BINARY),
        ),
    )


def _reports() -> Iterator[Sample]:
    status = (
        "Content-Type: message/delivery-status",
        "",
        "Reporting-MTA: dns; example.com",
        "",
        "Final-Recipient: rfc822; a@example.com",
        "Diagnostic-Code: smtp; 550 Empfänger ungültig",
    )
    kind = "report; report-type=delivery-status; boundary=b"
    yield Sample(
        "report/8bit-status",
        _multipart(
            "--b",
            *_TEXT,
            "--b",
            *status,
            "--b",
            "Content-Type: text/rfc822-headers",
            "",
            "Subject: Größe",
            "--b--",
            kind=kind,
        ),
        salvaged=True,
    )
    yield Sample(
        "report/8bit-notification",
        _multipart(
            "--b",
            *_ASCII,
            "--b",
            "Content-Type: message/disposition-notification",
            "",
            "Reporting-UA: Büro",
            "--b--",
            kind="report; boundary=b",
        ),
        salvaged=True,
    )
    yield Sample(
        "report/partial",
        lines(
            *ADDRESSED,
            "Content-Type: message/partial; id=x; number=2; total=2",
            "",
            "Größe",
            charset="latin-1",
        ),
        salvaged=True,
    )
