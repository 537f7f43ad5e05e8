"""Which transfer encoding a converted body gets: the one that does not make it needlessly long."""

from email import message_from_bytes

import pytest

from smtp2cf.message.eightbit import to_utf8

HEADER = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=koi8-r\r\n\r\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Привет. " * 4000 + "\r\n", "base64"),
        ("Привет.\r\n", "quoted-printable"),
        (("a long line of ASCII text and one word in Russian: привет\r\n") * 1000, "quoted-printable"),
    ],
)
def test_text_is_encoded_in_the_shorter_way(text: str, encoding: str) -> None:
    body = text.encode("koi8-r")
    converted = to_utf8(HEADER + body)
    parsed = message_from_bytes(converted)
    assert parsed["Content-Transfer-Encoding"] == encoding
    assert parsed.get_payload(decode=True) == body
    assert len(converted) < 1.6 * len(HEADER + body) + 100
