"""Charsets: decodes bytes by the label they came with, or without one (RFC 2978).

Labels mean what they mean to browsers, which often use a larger charset than the label names (WHATWG
Encoding, by `webencodings`: iso-8859-1 is read as windows-1252). For labels that only mail uses, Python's
codecs are used. Only supersets of ASCII are known: in any other charset, a header field would not be one.
Knows nothing of headers and MIME.
"""

import codecs
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache

import webencodings

_WESTERN = frozenset({"latin_1", "cp1252"})

_NOT_ON_TOP_OF_ASCII = frozenset({"iso2022_jp", "utf_16_be", "utf_16_le", "replacement", "x_user_defined"})

_MORE = {"cp_850": "cp850", "cp_866": "cp866", "x_windows_949": "cp949"}
"""Labels seen in mail that neither the standard nor Python knows."""

_SUPERSETS = {"big5hkscs": "cp950", "euc_jp": "euc_jis_2004", "gbk": "gb18030"}
"""What readers try next: characters that Windows and NEC put where the charset has none."""

_KNOWN = frozenset(
    """
    big5hkscs cp1125 cp437 cp720 cp737 cp775 cp850 cp852 cp855 cp857 cp858 cp860 cp861 cp862 cp863 cp865 cp866
    cp869 cp932 cp949 cp950 euc_jis_2004 euc_jisx0213 hp_roman8 johab koi8_t kz1048 latin_1 mac_croatian
    mac_cyrillic mac_greek mac_iceland mac_latin2 mac_roman mac_romanian mac_turkish ptcp154
    """.split()  # noqa: SIM905 - quoted one by one they fill a page
)
"""Python's codecs that the standard lacks, or lacks under that name."""

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
    if codec == "ascii" or codec in _WESTERN:
        return codecs.charmap_decode(raw, "strict", _WINDOWS_1252)[0]
    for name in (codec, _SUPERSETS.get(codec)):
        if name:
            try:
                return raw.decode(name)
            except UnicodeDecodeError:
                continue
    return salvage(raw)


def decode_word(raw: bytes, label: str) -> str:
    """The text of an encoded word's bytes, whose charset need not be a superset of ASCII."""
    encoding = webencodings.lookup(label) if len(label) <= _LONGEST_LABEL and label.isascii() else None
    if encoding is not None and encoding.name == "iso-2022-jp":
        return raw.decode("iso2022_jp_ext", "replace")
    return decode(raw, label)


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
    name = _MORE.get(name) or aliases.get(name, name)
    if name == "ascii":
        return name  # windows-1252 in the standard, but it says nothing of what is outside ASCII
    encoding = webencodings.lookup(label) or webencodings.lookup(name.replace("_", "-"))
    if encoding is not None:
        codec = encoding.codec_info.name.replace("-", "_")
        return "" if codec in _NOT_ON_TOP_OF_ASCII else codec
    return name if name in _KNOWN else ""
