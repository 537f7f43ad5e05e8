"""Raw header fields become encoded words, RFC 2231 parameters or raw UTF-8, each where it is due."""

import base64
import quopri
import re

import pytest
import webencodings
from hypothesis import example, given
from hypothesis import strategies as st

from smtp2cf.message.charset import decode
from smtp2cf.message.encoded_words_encode import text_units, write
from smtp2cf.message.fields import convert_field
from tests.support.each import each


def convert(name: str, value: str, charset: str = "iso-8859-1") -> str:
    return convert_field(name, value.encode("latin-1"), charset).decode()


UNSTRUCTURED = [
    (" Grüße", " =?utf-8?b?R3LDvMOfZQ==?="),
    (" Re: Größe eines Büros (fwd)", " Re: =?utf-8?b?R3LDtsOfZSBlaW5lcyBCw7xyb3M=?= (fwd)"),
    ("é", "=?utf-8?b?w6k=?="),
    ("  a  é  b ", "  a  =?utf-8?b?w6k=?=  b "),
    (" =?utf-8?q?a?= é", " =?utf-8?q?a?= =?utf-8?b?IMOp?="),
    (" é =?utf-8?q?a?=", " =?utf-8?b?w6kg?= =?utf-8?q?a?="),
    (" =?utf-8?q?a?=é", " =?utf-8?q?a?= =?utf-8?b?w6k=?="),
    (" é=?utf-8?q?a?=", " =?utf-8?b?w6k=?= =?utf-8?q?a?="),
    (" é\r\n é", " =?utf-8?b?w6kgw6k=?="),
    (" a\r\n\té\r\n b", " a\r\n\t=?utf-8?b?w6k=?=\r\n b"),
    (" é =? no word ?=", " =?utf-8?b?w6k=?= =? no word ?="),
    (" =?iso-8859-1?Q?Frösche?=", " =?utf-8?q?Fr=C3=B6sche?="),
    (" Re: =?iso-8859-2?q?£ódź?= a".replace("ź", "\xbc"), " Re: =?utf-8?b?xYHDs2TFug==?= a"),
    (" =?iso-8859-1?Q?Frö?= =?iso-8859-1?Q?sche?=", " =?utf-8?q?Fr=C3=B6?= =?iso-8859-1?Q?sche?="),
    (" =?iso-8859-1?Q?Frösche im_Teich=21?= x", " =?utf-8?q?Fr=C3=B6sche_im_Teich!?= x"),
    (" =?utf-8?q?J?= Größe", " =?utf-8?q?J?= =?utf-8?b?IEdyw7bDn2U=?="),
    (" =?utf-8?Q?Frösche?=", " =?utf-8?q?Fr=C3=B6sche?="),
    (" =?iso-8859-1?B?RnL2c2é?=", " =?utf-8?b?RnLDtnM=?="),
    (" =?nobody-knows?Q?Frö?=", " =?utf-8?q?Fr=C3=B6?="),
    (" =?a?q?é", " =?utf-8?b?PT9hP3E/w6k=?="),
]


@each(("value", "converted"), UNSTRUCTURED)
@each("name", ["subject", "comments", "x-anything", "content-description"])
def test_text_has_encoded_words_from_the_first_to_the_last_raw_word(
    name: str, value: str, converted: str
) -> None:
    assert convert(name, value) == converted


ADDRESSES = [
    (" Müller <m@example.com>", " =?utf-8?q?M=C3=BCller?= <m@example.com>"),
    (" Müller<m@example.com>", " =?utf-8?q?M=C3=BCller?= <m@example.com>"),
    (' "Müller, Hans" <m@example.com>', " =?utf-8?q?M=C3=BCller=2C_Hans?= <m@example.com>"),
    (' "M\\"ü" <m@example.com>', " =?utf-8?b?TSLDvA==?= <m@example.com>"),
    (' "Hans"Müller <m@example.com>', " =?utf-8?q?HansM=C3=BCller?= <m@example.com>"),
    (' Dr. Müller "x" é <m@example.com>', " Dr. =?utf-8?b?TcO8bGxlciB4IMOp?= <m@example.com>"),
    (" m@example.com (Hans Müller)", " m@example.com (Hans =?utf-8?q?M=C3=BCller?=)"),
    (" m@example.com (é (é))", " m@example.com (=?utf-8?b?w6k=?= (=?utf-8?b?w6k=?=))"),
    (" (é)é <m@example.com>", " (=?utf-8?b?w6k=?=) =?utf-8?b?w6k=?= <m@example.com>"),
    (" Hans <mü@example.com>", " Hans <mü@example.com>"),
    (" mü@exämple.com", " mü@exämple.com"),
    (' "mü x"@example.com, é <a@b>', ' "mü x"@example.com, =?utf-8?b?w6k=?= <a@b>'),
    (" Größen: mü@example.com;", " =?utf-8?b?R3LDtsOfZW4=?=: mü@example.com;"),
    (" é mü@example.com", " =?utf-8?b?w6k=?= mü@example.com"),
    (" mü@home <m@example.com>, x", " =?utf-8?b?bcO8QGhvbWU=?= <m@example.com>, x"),
    (' "mü@home", x', " =?utf-8?b?bcO8QGhvbWU=?=, x"),
    (
        " Müller-Lüdenscheidt <mueller-luedenscheidt@example.com>",
        " =?utf-8?b?TcO8bGxlci1Mw7xkZW5zY2hlaWR0?=\r\n <mueller-luedenscheidt@example.com>",
    ),
    (" =?utf-8?q?a?= é <a@b>", " =?utf-8?q?a?= =?utf-8?b?IMOp?= <a@b>"),
    (' "=?iso-8859-1?Q?J=FCrgen?= Größe" <a@b>', " =?utf-8?b?SsO8cmdlbiBHcsO2w59l?= <a@b>"),
    (' "=?iso-8859-1?Q?Jürgen?=" <a@b>', " =?utf-8?q?J=C3=BCrgen?= <a@b>"),
    (' =?iso-8859-1?Q?Jürgen?= "x" <a@b>', ' =?utf-8?q?J=C3=BCrgen?= "x" <a@b>'),
    (" a@b (=?iso-8859-1?Q?Jürgen?=)", " a@b (=?utf-8?q?J=C3=BCrgen?=)"),
    (' "=?utf-8?q?=C3?= =?utf-8?q?=A9?= é" <a@b>', " =?utf-8?b?w6kgw6k=?= <a@b>"),
    (' "=?iso-2022-jp?b?GyRCRnxLXBsoQg==?= é" <a@b>', " =?utf-8?b?5pel5pysIMOp?= <a@b>"),
]


@each(("value", "converted"), ADDRESSES)
@each("name", ["from", "to", "reply-to", "resent-cc"])
def test_addresses_have_encoded_words_in_names_and_comments_only(
    name: str, value: str, converted: str
) -> None:
    assert convert(name, value) == converted


PARAMETERS = [
    (' attachment; filename="Grün.pdf"', " attachment;\r\n filename*=utf-8''Gr%C3%BCn.pdf"),
    (" attachment; filename=Grün.pdf ; size=5", " attachment;\r\n filename*=utf-8''Gr%C3%BCn.pdf; size=5"),
    (' attachment;\r\n\tfilename="Grün;x.pdf"', " attachment;\r\n\tfilename*=utf-8''Gr%C3%BCn%3Bx.pdf"),
    (' a; x="\\"é\\""; y=z', " a;\r\n x*=utf-8''%22%C3%A9%22; y=z"),
    (' a; x="C:\\é"', " a;\r\n x*=utf-8''C%3A%5C%C3%A9"),
    (' a; x="é', " a;\r\n x*=utf-8''%C3%A9"),
    (" a; x=é; X*=utf-8''a", " a; x=é; X*=utf-8''a"),
    (" a; x*0=é; x*1=b", " a; x*0=é; x*1=b"),
    (" a; é; =é; é=a; y=é", " a; é; =é;\r\n é*=utf-8''a;\r\n y*=utf-8''%C3%A9"),
    ("é", "é"),
    (' a; filename="=?utf-8?q?r=C3=A9sum?= é.pdf"', " a;\r\n filename*=utf-8''r%C3%A9sum%20%C3%A9.pdf"),
    (' a; filename="=?iso-8859-1?Q?Frösche?=.pdf"', " a;\r\n filename*=utf-8''Fr%C3%B6sche.pdf"),
    (" a; x==?utf-8?q?a?=; y=é", " a; x==?utf-8?q?a?=;\r\n y*=utf-8''%C3%A9"),
]


@each(("value", "converted"), PARAMETERS)
@each("name", ["content-type", "content-disposition"])
def test_raw_parameters_become_extended_ones(name: str, value: str, converted: str) -> None:
    assert convert(name, value) == converted


def test_a_very_long_parameter_comes_in_sections() -> None:
    converted = convert("content-disposition", f' attachment; filename="{"ä" * 1000}"; size=5')
    assert "filename*0*=utf-8''%C3%A4" in converted
    assert converted.endswith("; size=5")
    assert max(map(len, converted.split("\r\n"))) < 100


@pytest.mark.parametrize("name", ["received", "message-id", "references", "dkim-signature", "date"])
def test_other_structured_fields_become_raw_utf8(name: str) -> None:
    assert convert(name, " é <ü@x>\r\n\té; ") == " é <ü@x>\r\n\té; "


CHARSETS = [
    ("Grüße", "latin-1", "iso-8859-1"),
    ("“€”", "cp1252", "iso-8859-1"),
    ("“€”", "cp1252", "us-ascii"),
    ("“€”", "cp1252", ""),
    ("“€”", "cp1252", "x-nobody-knows"),
    ("“€”", "cp1252", "utf-8"),
    ("\x81", "latin-1", "windows-1252"),
    ("Привет", "koi8-r", "KOI8-R"),
    ("Привет", "cp1251", "Windows-1251"),
    ("Привет", "cp1251", "x-cp1251"),
    ("表示ソ①", "cp932", "shift_jis"),
    ("뷁", "cp949", "ks_c_5601-1987"),
    ("㐀€", "gb18030", "gb2312"),
    ("嘅", "big5hkscs", "big5"),
    ("碁€", "cp950", "x-x-big5"),
    ("中文", "big5", "cn-big5"),
    ("表示ソ①", "cp932", "windows-31j"),
    ("①日本", "euc_jis_2004", "x-euc-jp"),
    ("뷁", "cp949", "ks_c_5601-1989"),
    ("Łódź", "iso8859-2", "csisolatin2"),
    ("Grüße", "utf-8", "unicode-1-1-utf-8"),
    ("ελλάς", "iso8859-7", "sun_eu_greek"),
    ("ไทย", "cp874", "dos-874"),
    ("Ünlü İş", "cp1254", "iso-8859-9"),
    ("Łódź", "iso8859-2", " ISO_8859-2:1987 "),
    ("Grüße", "cp850", "cp-850"),
    ("Größe", "mac_roman", "mac_roman"),
    ("Łódź", "cp852", "IBM852"),
    ("Grüße é", "latin-1", "utf-16"),
    ("Grüße \\u0041", "latin-1", "unicode_escape"),
    ("Grüße", "latin-1", "zlib"),
    ("Grüße", "latin-1", "idna"),
    ("Grüße", "latin-1", "a\0b" * 5000),
]


@each(("text", "codec", "label"), CHARSETS)
def test_text_is_what_readers_take_the_label_for(text: str, codec: str, label: str) -> None:
    assert decode(text.encode(codec), label) == text


# What is not on top of ASCII is no charset for a header.
LABELS = {
    label: webencodings.lookup(label).codec_info.name
    for label in webencodings.LABELS
    if webencodings.lookup(label).name
    not in ("replacement", "utf-16be", "utf-16le", "iso-2022-jp", "x-user-defined")
}
SAMPLES = (
    "Größe",
    "Łódź",
    "Ünlü ğ",
    "Привет",
    "ελλάς",
    "שלום",
    "سلام",
    "ไทย",
    "tēze ž",
    "日本語",
    "中文",
    "한국어",
)


@each(("label", "codec"), LABELS.items())
def test_every_label_of_the_standard_is_known(label: str, codec: str) -> None:
    if codec == "cp1252" and "ascii" in label:
        assert decode("“€”".encode("cp1252"), label) == "“€”"
    said = [text for text in SAMPLES if text.encode(codec, "ignore").decode(codec) == text]
    assert said
    for text in said:
        assert decode(text.encode(codec), label) == text


def test_utf8_with_a_broken_character_loses_only_that() -> None:
    assert decode("你好 Grüße é".encode()[:-1], "utf-8") == "你好 Grüße Ã"


text = st.text(st.characters(codec="utf-8", exclude_characters="\r\n?"), min_size=1, max_size=300)
OUR_WORD = r"=\?utf-8\?([qb])\?([^?]*)\?="


def decode_word(word: re.Match[str]) -> str:
    encoded = word[2].replace("_", " ")
    return (quopri.decodestring(encoded) if word[1] == "q" else base64.b64decode(encoded)).decode()


@given(st.lists(text).map(" ".join), st.integers(0, 100))
@example("ä" * 500, 9)
@example("👩\u200d👩\u200d👧" * 50, 70)
@example("a b ä c d  " * 100, 9)
@example("\t é", 60)
def test_encoded_words_say_the_text(said: str, column: int) -> None:
    written = write(text_units(said), column)
    assert written.isascii()
    joined = re.sub(r"(?<=\?=)[ \t]+(?==\?)", "", written.replace("\r\n", ""))
    assert re.sub(OUR_WORD, decode_word, joined) == said


@given(text, st.integers(0, 100))
@example("ä" * 500, 0)
@example("👩\u200d👩\u200d👧" * 50, 70)
def test_encoded_words_are_short_and_each_is_whole_characters(said: str, column: int) -> None:
    for word in re.finditer(OUR_WORD, write(text_units(said), column)):
        assert len(word[0]) <= 75
        assert decode_word(word)


@each("shift", range(12))
def test_quoted_words_are_cut_between_characters(shift: int) -> None:
    said = "你" + "x" * shift + " many letters and one 你" * 20
    words = list(re.finditer(OUR_WORD, write(text_units(said), 0)))
    assert {word[1] for word in words} == {"q"}
    assert "".join(map(decode_word, words)) == said


def test_lines_with_encoded_words_are_short() -> None:
    value = " a b ä c d ü wort " * 30
    lines = ("Subject:" + convert("subject", value)).split("\r\n")
    assert max(len(line) for line in lines if "=?" in line) <= 76


@given(st.text(alphabet='aé@"\\()<>,;: \t=?', max_size=40))
def test_an_address_field_changes_in_names_and_comments_only(value: str) -> None:
    """Whatever it looks like, ASCII in it stays, and all angle brackets with what is in them."""
    converted = convert("to", value)
    assert (
        re.findall(r"<[^>]*>", value)[:1] == re.findall(r"<[^>]*>", converted)[:1]
        or '"' in value
        or "(" in value
    )
    assert converted == value or not value.isascii()


@pytest.mark.parametrize(
    "value",
    [
        b' multipart/mixed; boundary="b" \xe9',
        b' multipart/mixed; boundary=b\r\n \xe9; name="x"',
        b' text/plain; charset="iso-8859-1" \xe9',
    ],
)
def test_where_parts_begin_and_how_they_read_stays_in_its_plain_form(value: bytes) -> None:
    assert convert_field("content-type", value, "iso-8859-1") == value.decode("latin-1").encode()
