"""The 8-bit conversion, rule by rule: what is encoded how, what is left alone, and where it stops."""

from email.policy import default

from smtp2cf.message.eightbit import MAX_DEPTH, MAX_FIELD_BYTES, MAX_FIELDS, MAX_PARTS, is_utf8, to_utf8
from tests.message.reading import leaves, read
from tests.support.each import each

LATIN1 = "Content-Type: text/plain; charset=iso-8859-1"


def message(*content: str) -> bytes:
    return "".join(line + "\r\n" for line in content).encode("latin-1")


def utf8(*content: str) -> bytes:
    return "".join(line + "\r\n" for line in content).encode()


QP = "Content-Transfer-Encoding: quoted-printable"
VERSION = "MIME-Version: 1.0"

LEAVES = {
    "text is quoted-printable": (
        message(VERSION, LATIN1, "", "Gr\xfc\xdfe = 5 "),
        utf8(VERSION, LATIN1, QP, "", "Gr=FC=DFe =3D 5=20"),
    ),
    "anything else is base64": (
        message(VERSION, "Content-Type: image/png", "", "\xff\xfe"),
        utf8(VERSION, "Content-Type: image/png", "Content-Transfer-Encoding: base64", "", "//4NCg=="),
    ),
    "the transfer encoding is replaced where it stands": (
        message("content-transfer-encoding: 8bit (\xe9)", VERSION, LATIN1, "", "\xe9"),
        utf8(QP, VERSION, LATIN1, "", "=E9"),
    ),
    "only one transfer encoding is left": (
        message("Content-Transfer-Encoding: 8bit", VERSION, "Content-Transfer-Encoding: 7bit", "", "\xe9"),
        utf8(QP, VERSION, "", "=E9"),
    ),
    "no MIME at all": (message("Subject: x", "", "\xe9"), utf8("Subject: x", VERSION, QP, "", "=E9")),
    "no header at all": (message("", "\xe9"), utf8(VERSION, QP, "", "=E9")),
    "no header and no empty line": (message("Hi \xe9"), utf8(VERSION, QP, "", "Hi =E9")),
    "no empty line behind the header": (
        message("Subject: x", "Hi \xe9"),
        utf8("Subject: x", VERSION, QP, "", "Hi =E9"),
    ),
    "quoted-printable stays but for raw bytes": (
        message(QP, "", "a=FCb =3D \xe9 =\xe9 =", "  long enough line  "),
        utf8(QP, "", "a=FCb =3D =E9 =3D=E9 =", "  long enough line  "),
    ),
    "base64 stays but for raw bytes": (
        message("Content-Transfer-Encoding: BASE64", "", "R3L2\xe9", "32U=\xff"),
        utf8("Content-Transfer-Encoding: BASE64", "", "R3L2", "32U="),
    ),
    "raw bytes around uuencode become UTF-8": (
        message(
            "Content-Transfer-Encoding: x-uuencode", "", "Gr\xf6\xdfe", "begin 644 a", "#0V%T", "`", "end"
        ),
        utf8("Content-Transfer-Encoding: x-uuencode", "", "Größe", "begin 644 a", "#0V%T", "`", "end"),
    ),
    "a delivery status becomes UTF-8": (
        message("Content-Type: message/delivery-status", "", "Status: 5.1.1 (\xe9)"),
        utf8("Content-Type: message/delivery-status", "", "Status: 5.1.1 (é)"),
    ),
    "a multipart without parts becomes UTF-8": (
        message("Content-Type: multipart/mixed; boundary=b", "", "Gr\xf6\xdfe", "--a"),
        utf8("Content-Type: multipart/mixed; boundary=b", "", "Größe", "--a"),
    ),
    "a multipart without a boundary becomes UTF-8": (
        message("Content-Type: multipart/mixed", "", "Gr\xf6\xdfe"),
        utf8("Content-Type: multipart/mixed", "", "Größe"),
    ),
    "a boundary does not end in white space": (
        message(VERSION, 'CONTENT-TYPE: MULTIPART/Mixed; BOUNDARY="b "', "", "--b ", "", "\xe9", "--b--"),
        utf8(VERSION, 'CONTENT-TYPE: MULTIPART/Mixed; BOUNDARY="b "', "", "--b ", QP, "", "=E9", "--b--"),
    ),
    "a message in a message gets its own MIME-Version": (
        message("Content-Type: message/rfc822", "", "Subject: x", "", "\xe9"),
        utf8("Content-Type: message/rfc822", VERSION, "", "Subject: x", VERSION, QP, "", "=E9"),
    ),
    "an encoded message is not looked into": (
        message("Content-Type: message/global", QP, "", "Subject: \xe9"),
        utf8("Content-Type: message/global", QP, "", "Subject: =E9"),
    ),
    "a boundary outside ASCII stays the same everywhere": (
        message("Content-Type: multipart/mixed; boundary=\xe9", "", "--\xe9", "", "a", "--\xe9--"),
        utf8("Content-Type: multipart/mixed; boundary=é", "", "--é", "", "a", "--é--"),
    ),
    "a part in UTF-8 beside one that is not stays": (
        message(
            VERSION,
            "Content-Type: multipart/mixed; boundary=b",
            "",
            "--b",
            "",
            "\xc3\xbc",
            "--b",
            "",
            "\xe9",
            "--b--",
        ),
        message(
            VERSION,
            "Content-Type: multipart/mixed; boundary=b",
            "",
            "--b",
            "",
            "\xc3\xbc",
            "--b",
            QP,
            "",
            "=E9",
            "--b--",
        ),
    ),
    "text around the parts becomes UTF-8": (
        message("Content-Type: multipart/mixed; boundary=b", "", "\xe9", "--b", "", "a", "--b--", "\xe8"),
        utf8("Content-Type: multipart/mixed; boundary=b", "", "é", "--b", "", "a", "--b--", "è"),
    ),
}


@each(("before", "after"), LEAVES.values())
def test_conversion(before: bytes, after: bytes) -> None:
    assert to_utf8(before).decode() == after.decode()


def test_lines_of_quoted_printable_and_base64_are_short() -> None:
    text, image = (
        to_utf8(message("", "\xe9" * 500)),
        to_utf8(message("Content-Type: image/x", "", "\xe9" * 500)),
    )
    assert max(map(len, text.split(b"\r\n"))) <= 76
    assert max(map(len, image.split(b"\r\n"))) <= 76


def test_a_text_without_line_end_has_crlf_in_its_soft_line_breaks() -> None:
    part = message("Content-Type: multipart/mixed; boundary=b", "", "--b", "", "\xe9" * 100, "--b--")
    assert b"=\r\n" in to_utf8(part)
    assert b"\n" not in to_utf8(part).replace(b"\r\n", b"")


def test_bare_newlines_in_an_encoded_body_stay_what_they_are() -> None:
    body = b"\xe9\n a \n\r b \r\r\n"
    assert leaves(to_utf8(b"Subject: x\r\n\r\n" + body), default) == [body]


FIELD_CHARSETS = [
    (LATIN1.replace("iso-8859-1", "koi8-r"), "text", "Тема"),
    (
        "Content-Type: multipart/mixed; boundary=b",
        "--b\r\nContent-Type: text/plain; charset=koi8-r\r\n\r\nx",
        "Тема",
    ),
    ("Content-Type: text/plain", "the charset=koi8-r", "Тема"),
    ("Content-Type: text/plain; charset=us-ascii", "x", "ôÅÍÁ"),
    ("X-Other: x", "x", "ôÅÍÁ"),
]


@each(("field", "body", "subject"), FIELD_CHARSETS)
def test_a_field_is_in_the_charset_of_its_part_or_else_of_the_message(
    field: str, body: str, subject: str
) -> None:
    raw = b"Subject: " + "Тема".encode("koi8-r") + f"\r\n{field}\r\n\r\n{body}\r\n".encode()
    assert str(read(to_utf8(raw))["Subject"]) == subject


WORDS = {
    "Subject": (b"=?iso-8859-1?Q?Fr\xf6sche?= im =?utf-8?q?Teich?=", "Frösche im Teich"),
    "From": (b'"=?iso-8859-1?Q?J=FCrgen?= Gr\xf6\xdfe" <a@x>', "Jürgen Größe <a@x>"),
    "To": (
        b"=?iso-8859-2?b?o/Nk\xbcvA==?= <a@x>, =?iso-8859-1?q?J\xfcrgen M?= <b@x>",
        "Łódź <a@x>, Jürgen M <b@x>",
    ),
    "X-Long": (b"=?iso-8859-1?Q?" + b"Gr\xfc\xdfe " * 40 + b"?=", "Grüße " * 39 + "Grüße"),
}


@each(("name", "value", "read_as"), [(name, *row) for name, row in WORDS.items()])
def test_encoded_words_with_raw_octets_are_read(name: str, value: bytes, read_as: str) -> None:
    field = name.encode() + b": " + value
    charset = b"" if name != "To" else b"Content-Type: text/plain; charset=iso-8859-2\r\n"
    found = str(read(to_utf8(field + b"\r\n" + charset + b"\r\nx"))[name]).strip()
    assert found == read_as


def test_a_file_name_of_encoded_words_and_raw_octets_is_read() -> None:
    value = b'attachment; filename="=?utf-8?q?r=C3=A9sum?= \xe9.pdf"'
    assert read(to_utf8(b"Content-Disposition: " + value + b"\r\n\r\nx")).get_filename() == "résum é.pdf"


def test_fields_in_utf8_stay_beside_raw_ones() -> None:
    before = "Subject: Grüße\r\n".encode() + message("From: \xe9 <a@b>", "", "x")
    assert to_utf8(before) == "Subject: Grüße\r\n".encode() + message("From: =?utf-8?b?w6k=?= <a@b>", "", "x")


def nested(depth: int, core: bytes) -> bytes:
    """`core` in so many multiparts."""
    opening = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(depth)
    )
    return opening + core + b"".join(b"\r\n--b%d--" % n for n in reversed(range(depth)))


def test_parts_are_looked_into_up_to_a_depth() -> None:
    core = message(LATIN1, "", "\xe9")
    assert b"=E9" in to_utf8(nested(MAX_DEPTH, core))
    assert "é".encode() in to_utf8(nested(MAX_DEPTH + 1, core))


def test_parts_are_looked_into_up_to_a_number() -> None:
    parts = b"--b\r\n\r\n\xe9\r\n" * (MAX_PARTS + 5)
    converted = to_utf8(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + parts)
    assert converted.count(b"=E9") == MAX_PARTS
    assert converted.endswith("--b\r\n\r\né\r\n".encode())


def test_parts_with_more_fields_than_anybody_writes_are_not_looked_into() -> None:
    header = b"Subject: \xe9\r\n" + b"X-A: b\r\n" * (MAX_FIELDS - 1)
    assert to_utf8(header + b"\r\n\xe9").endswith(b"=E9")
    assert to_utf8(header + b"X-A: b\r\n\r\n\xe9") == (header + b"X-A: b\r\n\r\n\xe9").replace(
        b"\xe9", b"\xc3\xa9"
    )


def test_fields_become_encoded_words_up_to_a_number_of_bytes() -> None:
    field = b"X-A: " + b"\xe9" * 1000 + b"\r\n"
    converted = to_utf8(field * 1000 + b"\r\n")
    assert converted.startswith(b"X-A: =?utf-8?b?")
    assert converted.endswith("ééé\r\n\r\n".encode())
    assert converted.count(b"=?utf-8?b?w6nDqc") > MAX_FIELD_BYTES // 1000


HOSTILE = {
    "10,000 deep": nested(10_000, b"\xe9"),
    "messages 10,000 deep": b"Content-Type: message/rfc822\r\n\r\n" * 10_000 + b"\xe9",
    "a header of 5 MB": b"Subject: \xe9\r\n" * 400_000,
    "one field of 5 MB": b"To: " + b'\xe9"(<,;' * 800_000 + b"\r\n\r\n",
    "parameters without end": b"Content-Type: multipart/x" + b'; a="\xe9\\' * 500_000 + b"\r\n\r\n",
    "delimiters only": b"Content-Type: multipart/x; boundary=b\r\n\r\n" + b"--b\r\n" * 800_000 + b"\xe9",
    "almost delimiters": b"Content-Type: multipart/x; boundary=b\r\n\r\n" + b"--bb\r\n" * 800_000 + b"\xe9",
    "parts only": b"Content-Type: multipart/x; boundary=b\r\n\r\n" + b"--b\r\n\xe9\r\n" * 500_000,
    "a boundary of 2 MB": b"Content-Type: multipart/x; boundary="
    + b"-" * 2_000_000
    + b"\r\n\r\n"
    + b"-" * 2_000_000
    + b"\xe9",
    "an empty boundary": b'Content-Type: multipart/x; boundary=""\r\n\r\n' + b"--\r\n\xe9\r\n" * 500_000,
    "encoded words without end": b"Subject: " + b"=?a?q?x" * 30_000 + b"\xe9\r\n\r\n",
    "encoded words with raw octets": b"Subject: " + b"=?a?q?\xe9?=" * 300_000 + b"\r\n\r\n",
    "NUL": b"\0\xe9" * 2_000_000,
    "quoted-printable": b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b"=\xe9" * 500_000,
}


@each("hostile", HOSTILE.values())
def test_hostile_messages_come_out_as_utf8(hostile: bytes) -> None:
    assert is_utf8(to_utf8(hostile))
