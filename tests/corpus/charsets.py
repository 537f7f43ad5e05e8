# ruff: noqa: RUF001 - these are the letters that the texts are in
"""Messages in every charset: raw, raw with a text and an HTML part, and properly encoded."""

import base64
from collections.abc import Iterator

from tests.corpus.sample import HEADER, Sample, lines

TEXTS = {
    "us-ascii": ("Hello from the office", "Anna", "Nothing special here, 100 % plain = text."),
    "utf-8": (
        "Grüße, 你好 und 👋",
        "Jürgen Größe",
        "Zoë naïvely ate a jalapeño. Ελληνικά, русский, 日本語, 👩‍👩‍👧",
    ),
    "iso-8859-1": (
        "Grüße aus München",
        "Jürgen Größe",
        "Der Fuß, die Äpfel, das Öl: schön. Ça va? ¿Qué? = 5 ½",
    ),
    "iso-8859-15": ("Preis: 5 € für Œuvres", "François Šimek", "Für 5 € gibt es Œuvres und Žižek."),
    "windows-1252": ("“Smart” – quotes…", "Zoë O’Brien", "„Anführung“ – 50 € … ‘so’ ™ ‰"),
    "windows-1250": (
        "Příliš žluťoučký kůň",
        "Łukasz Dvořák",
        "Pchnąć w tę łódź jeża lub ośm skrzyń fig; úpěl ďábelské ódy.",
    ),
    "iso-8859-2": ("Zażółć gęślą jaźń", "Łukasz Żółć", "Zażółć gęślą jaźń. Příliš žluťoučký kůň. Ő, Ű."),
    "windows-1251": (
        "Съешь ещё этих мягких",
        "Иван Ёлкин",
        "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    ),
    "koi8-r": (
        "Широкая электрификация",
        "Иван Петров",
        "Широкая электрификация южных губерний даст мощный толчок.",
    ),
    "iso-8859-5": (
        "Эх, чужак",
        "Пётр Ильич",
        "Эх, чужак! Общий съём цен шляп (юфть) - вдрызг!",
    ),
    "iso-8859-7": ("Ξεσκεπάζω", "Γιώργος Παππάς", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία."),
    "iso-8859-9": ("Pijamalı hasta", "İbrahim Çağlar", "Pijamalı hasta yağız şoföre çabucak güvendi."),
    "windows-1255": ("שלום עולם", "דוד כהן", "דג סקרן שט בים מאוכזב ולפתע מצא חברה."),
    "windows-1256": ("مرحبا بالعالم", "محمد علي", "صف خلق خود كمثل الشمس"),
    "tis-620": ("สวัสดีชาวโลก", "สมชาย ใจดี", "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า"),
    # The second byte of several of these is a backslash, a quote would follow in the header.
    "shift_jis": ("ソフトの表示と予定", "能登 十兵衛", "表示能力ソース、予約、構文。いろはにほへと"),
    "euc-jp": ("日本語の件名", "山田 太郎", "いろはにほへと ちりぬるを 色は匂へど"),
    "iso-2022-jp": ("日本語の件名", "山田 太郎", "いろはにほへと ちりぬるを"),
    "gb2312": ("你好世界", "王小明", "我能吞下玻璃而不伤身体。"),
    "gb18030": ("你好，㐀世界 € 👋", "王小明", "我能吞下玻璃而不伤身体。㐁𠀀"),
    "big5": ("功能許可證", "陳大文", "我能吞下玻璃而不傷身體。許功蓋"),
    "euc-kr": ("안녕하세요 세계", "김철수", "나는 유리를 먹을 수 있어요."),
    "ks_c_5601-1987": ("뷁 안녕", "홍길동", "다람쥐 헌 쳇바퀴에 타고파."),
}
"""By label: subject, display name, a line of text."""

_PYTHON_CODECS = {"ks_c_5601-1987": "cp949"}


def samples() -> Iterator[Sample]:
    """Three of each charset."""
    for label, (subject, name, text) in TEXTS.items():
        codec = _PYTHON_CODECS.get(label, label)
        if label == "iso-2022-jp":  # escape sequences in a raw header field are no text
            subject, name = "Nihongo", "Taro"
        yield Sample(
            f"charset/{label}",
            _plain(label, codec, subject, name, text),
            {"Subject": subject},
            (name,),
            text=text,
        )
        yield Sample(
            f"charset/{label}-alternative",
            _alternative(label, codec, subject, name, text),
            {"Subject": subject},
            (name,),
            text=text,
        )
        yield Sample(f"charset/{label}-encoded", _encoded(label, codec, subject, text))


def _encoded(label: str, codec: str, subject: str, text: str) -> bytes:
    word = base64.b64encode(subject.encode(codec)).decode()
    return lines(
        "From: anna@example.com",
        "To: bert@example.net",
        f"Subject: =?{label}?b?{word}?=",
        *HEADER,
        f"Content-Type: text/plain; charset={label}",
        "Content-Transfer-Encoding: base64",
        "",
        base64.b64encode(text.encode(codec)),
    )


def _plain(label: str, codec: str, subject: str, name: str, text: str) -> bytes:
    return lines(
        f'From: "{name}" <anna@example.com>',
        "To: bert@example.net",
        f"Subject: {subject}",
        *HEADER,
        f'Content-Type: text/plain; charset="{label}"',
        "Content-Transfer-Encoding: 8bit",
        "",
        text,
        "",
        f"> {text} ",
        ".",
        "-- ",
        name,
        charset=codec,
    )


def _alternative(label: str, codec: str, subject: str, name: str, text: str) -> bytes:
    """Nobody declares the charset of the header itself here."""
    return lines(
        f"From: {name} <anna@example.com>",
        "To: bert@example.net",
        f"Subject: {subject}",
        *HEADER,
        "Content-Type: multipart/alternative; boundary=alt",
        "",
        "--alt",
        f"Content-Type: text/plain; charset={label}",
        "",
        text,
        "--alt",
        f"Content-Type: text/html; charset={label}",
        "Content-Transfer-Encoding: 8bit",
        "",
        f'<html><body class="x"><p>{text}</p>' + f"<p>{text}</p>" * 20 + "</body></html>",
        "--alt--",
        charset=codec,
    )
