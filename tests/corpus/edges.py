"""The edges: empty and odd messages, dots, NUL, long lines, transfer encodings, sizes, bare newlines."""

from collections.abc import Iterator

from tests.corpus.attachments import BINARY
from tests.corpus.sample import ADDRESSED, HEADER, Sample, lines

MEGABYTE = 1 << 20


def samples() -> Iterator[Sample]:
    """Those of this file."""
    yield from _shapes()
    yield from _encodings()
    yield from _sizes()
    yield from _newlines()


def _shapes() -> Iterator[Sample]:
    yield Sample("shape/empty", b"")
    yield Sample("shape/empty-line", b"\r\n")
    yield Sample("shape/header-only", lines(*ADDRESSED))
    yield Sample("shape/header-and-empty-line", lines(*ADDRESSED, ""))
    yield Sample("shape/no-header", lines("", "just a body"))
    yield Sample("shape/no-header-8bit", lines("", "Größe", charset="latin-1"))
    yield Sample("shape/no-header-no-empty-line", lines("Hello Bert,", "see you: tomorrow", "", "Anna"))
    yield Sample(
        "shape/no-header-no-empty-line-8bit",
        lines("Grüße Bert,", "Subject: none", "", "Größe", charset="latin-1"),
    )
    yield Sample(
        "shape/header-without-end", lines(*ADDRESSED, "This is no field", "Größe", charset="latin-1")
    )
    yield Sample("shape/empty-body-lines", lines(*ADDRESSED, "", "", "", ""))
    yield Sample("shape/single-dot", lines(*ADDRESSED, "", "."))
    yield Sample("shape/only-dots", lines(*ADDRESSED, "", ".", "..", "...", ".", "."))
    yield Sample(
        "shape/leading-dots", lines(*ADDRESSED, "", ".hidden", "..", "x.", " .", "..two", ".", "end")
    )
    yield Sample(
        "shape/leading-dots-8bit", lines(*ADDRESSED, "", ".größe", "..", ".", ".é.", charset="latin-1")
    )
    yield Sample("shape/dot-in-header", lines("Subject: x", ".", "", "body"))
    yield Sample("shape/nul", lines(*ADDRESSED, "", b"a\0b\0\0", b"\0"))
    yield Sample(
        "shape/nul-8bit", lines("Subject: a\0é", *HEADER, "", b"a\0b\0\xe9\0", b"\0", charset="latin-1")
    )
    yield Sample(
        "shape/controls", lines(*ADDRESSED, "", bytes(octet for octet in range(128) if octet not in b"\r\n"))
    )
    yield Sample("shape/trailing-white-space", lines(*ADDRESSED, "", "a ", "b\t", " ", "\t", "-- ", ""))
    yield Sample("shape/from-line-in-body", lines(*ADDRESSED, "", "From here on", ">From there"))


def _encodings() -> Iterator[Sample]:
    western = "Content-Type: text/plain; charset=iso-8859-1"
    text = ("", "Größe = 5 €".replace("€", "\x80"), ".", "weiß \t", "")

    def encoded(name: str, *content: str | bytes, encoding: str, salvaged: bool = False) -> Sample:
        field = f"Content-Transfer-Encoding:{encoding}"
        return Sample(
            f"encoding/{name}",
            lines(*ADDRESSED, western, field, *content, charset="latin-1"),
            salvaged=salvaged,
        )

    yield Sample("encoding/none", lines(*ADDRESSED, western, *text, charset="latin-1"))
    yield Sample("encoding/no-mime", lines("Subject: x", "From: a@example.com", *text, charset="latin-1"))
    yield Sample("encoding/no-type", lines(*ADDRESSED, "Content-Type: nonsense", *text, charset="latin-1"))
    for label in ("7bit", " 8bit", " 8BIT", " binary", "", " 8-bit", "\r\n 8bit", " utf-8", " x-unknown"):
        name = label.strip().replace(" ", "-") or "empty"
        name += "-folded" if "\n" in label else "-upper" if label.isupper() else ""
        yield encoded(name, *text, encoding=label)
    yield encoded("8bit-in-itself", *text, encoding=" 8bit (é)")
    yield encoded("twice", *text, encoding=" 8bit\r\nX-Between: x\r\nContent-Transfer-Encoding: 7bit")
    yield encoded("quoted-printable", "", "Gr=F6=DFe =3D 5 =", "weiter=20", encoding=" quoted-printable")
    yield encoded(
        "quoted-printable-8bit", "", "Gr=F6ße = 5 =é =Aé =", "weiß=20", encoding=" quoted-printable"
    )
    yield encoded("base64", "", "R3L232U=", encoding=" base64")
    yield encoded("base64-8bit", "", "R3L2é32U=", "é", encoding=" base64")
    yield encoded(
        "uuencode-8bit",
        "größe",
        "",
        "begin 644 a.txt",
        "#0V%T",
        "`",
        "end",
        encoding=" x-uuencode",
        salvaged=True,
    )


def _sizes() -> Iterator[Sample]:
    yield Sample("size/line-1mb", lines(*ADDRESSED, "", "x" * MEGABYTE))
    yield Sample("size/line-1mb-utf8", lines(*ADDRESSED, "", "Größe€👋" * (MEGABYTE // 16), charset="utf-8"))
    yield Sample("size/line-1mb-latin1", lines(*ADDRESSED, "", "Größe" * (MEGABYTE // 5), charset="latin-1"))
    yield Sample("size/lines-of-dots", lines(*ADDRESSED, "", *["." * length for length in range(1, 300)]))
    yield Sample(
        "size/5mb", lines(*ADDRESSED, "", *["0123456789abcdef" * 4 + "0123456789."] * (5 * MEGABYTE // 78))
    )
    yield Sample("size/5mb-dots", lines(*ADDRESSED, "", *[".0123456789"] * (5 * MEGABYTE // 14)))
    yield Sample(
        "size/4mb-utf8",
        lines(*ADDRESSED, "", *["Größe, 你好, Ελληνικά " * 2] * (4 * MEGABYTE // 82), charset="utf-8"),
    )
    yield Sample(
        "size/4mb-latin1",
        lines(
            *ADDRESSED, "", *["Größe, Füße, weiter im Text, " * 2] * (4 * MEGABYTE // 60), charset="latin-1"
        ),
    )
    yield Sample(
        "size/2mb-binary",
        lines(*ADDRESSED, "Content-Type: image/png", "", BINARY * (2 * MEGABYTE // len(BINARY))),
    )


def _newlines() -> Iterator[Sample]:
    """Not for the verbatim test: each has a bare CR or LF."""
    yield Sample("newline/bare-lf", lines(*ADDRESSED, "", "a\nb", ".", "c\n.\nd"))
    yield Sample("newline/bare-cr", lines(*ADDRESSED, "", "a\rb\r.\rc"))
    yield Sample("newline/cr-cr-lf", lines(*ADDRESSED, "", "a\r", "b\r"))
    yield Sample(
        "newline/all-lf", lines(*ADDRESSED, "", "Größe", charset="latin-1").replace(b"\r\n", b"\n") + b"\r\n"
    )
    yield Sample(
        "newline/smuggling", lines(*ADDRESSED, "", "a\n.\nMAIL FROM:<x@example.com>\r.\r", "b\n.\r", ".c")
    )
    yield Sample("newline/bare-8bit", lines(*ADDRESSED, "", "Größe\nzwei\rdrei", charset="latin-1"))
