"""Charsets: the text that bytes stand for, by the label they came with or without any (RFC 2978).

Labels that readers take for a larger charset than they name are taken so here (WHATWG Encoding: what
says iso-8859-1 is windows-1252). Only charsets that leave ASCII alone are known: a header field in any
other is not one. Knows nothing of headers and of MIME.
"""

import codecs
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache

_MORE_ALIASES = {
    "cp_850": "cp850",
    "cp_866": "cp866",
    "iso_8859_8_i": "iso8859_8",
    "windows_874": "cp874",
    "windows_949": "cp949",
    "x_cp1250": "cp1250",
    "x_cp1251": "cp1251",
    "x_cp1252": "cp1252",
    "x_euc_jp": "euc_jp",
    "x_gbk": "gbk",
    "x_mac_cyrillic": "mac_cyrillic",
    "x_sjis": "cp932",
    "x_windows_949": "cp949",
}

_WESTERN = frozenset({"ascii", "latin_1", "cp1252"})

_SUPERSETS = {
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso8859_11": "cp874",
    "iso8859_9": "cp1254",
    "shift_jis": "cp932",
    "tis_620": "cp874",
}

_KNOWN = frozenset(
    """
    utf_8 big5 big5hkscs cp1125 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 cp437 cp720 cp737
    cp775 cp850 cp852 cp855 cp857 cp858 cp860 cp861 cp862 cp863 cp865 cp866 cp869 cp874 cp932 cp949 cp950
    euc_jis_2004 euc_jisx0213 euc_jp euc_kr gb18030 gb2312 gbk hp_roman8 iso8859_10 iso8859_11 iso8859_13
    iso8859_14 iso8859_15 iso8859_16 iso8859_2 iso8859_3 iso8859_4 iso8859_5 iso8859_6 iso8859_7 iso8859_8
    iso8859_9 johab koi8_r koi8_t koi8_u kz1048 mac_croatian mac_cyrillic mac_greek mac_iceland mac_latin2
    mac_roman mac_romanian mac_turkish ptcp154 shift_jis tis_620
    """.split()  # noqa: SIM905 - quoted one by one they fill a page
)

_WINDOWS_1252 = "".join(bytes([octet]).decode("cp1252", "ignore") or chr(octet) for octet in range(256))
"""windows-1252 with C1 controls where it has holes, so that it decodes everything (WHATWG)."""

# Python turns a byte that is not UTF-8 into a lone surrogate, U+DC80 to U+DCFF ("surrogateescape"). ASCII
# is here because a character that a table lacks costs str.translate an exception.
_SURROGATES_AS_WINDOWS_1252 = {
    octet if octet < 128 else 0xDC00 + octet: _WINDOWS_1252[octet] for octet in range(256)
}

_LONGEST_LABEL = 40


def decode(raw: bytes, label: str) -> str:
    """The text of `raw` in the charset of this label; if it is "", unknown or not what `raw` is in, then
    as `salvage` reads it."""
    codec = _codec(label)
    if codec in _WESTERN:
        return codecs.charmap_decode(raw, "strict", _WINDOWS_1252)[0]
    for name in (codec, _SUPERSETS.get(codec)):
        if name:
            try:
                return raw.decode(name)
            except UnicodeDecodeError:
                continue
    return salvage(raw)


def salvage(raw: bytes) -> str:
    """The text of `raw` where nobody knows its charset: UTF-8, and each byte that isn't as windows-1252,
    which is what most such bytes have ever been."""
    return raw.decode("utf-8", "surrogateescape").translate(_SURROGATES_AS_WINDOWS_1252)


def says_something(label: str) -> bool:
    """Does the label name a charset that has characters outside ASCII and that we know?"""
    return _codec(label) not in ("", "ascii")


def _codec(label: str) -> str:
    """Python's codec for a label, "" for none."""
    return _look_up(label) if len(label) <= _LONGEST_LABEL and label.isascii() else ""


@lru_cache(maxsize=64)
def _look_up(label: str) -> str:
    # In tables only: codecs.lookup imports modules by the name it is given and keeps every name for good.
    name = normalize_encoding(label).lower()
    name = _MORE_ALIASES.get(name) or aliases.get(name, name)
    return name if name in _KNOWN or name in _WESTERN else ""
