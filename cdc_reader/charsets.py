"""Decodes text by MySQL's character sets.

Comes in: a character set's name and the bytes of a text.  Goes out: the text; UnicodeDecodeError where the bytes are
none in that character set, or hold a character of which the server itself knows no code point.

Guarantees: all 40 character sets for texts of MySQL 8.0 to 9.7 give what the server's CONVERT(... USING utf8mb4) gives.
Where Python's codec differs, the difference stands here; both were compared over all sequences of one and two bytes,
those of three bytes in ujis and eucjpms, and all of the basic plane in gb18030.  The one exception: seven signs of big5
that the server turns into U+FFFD are decoded as the Big5 standard means them.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable

from cdc_reader.errors import TableUnfollowable

Decoder = Callable[[bytes], str]

UTF8_CHARSETS = frozenset({"utf8mb4", "utf8mb3", "utf8"})
"""Character sets whose texts ``bytes.decode()`` decodes."""

_UNDEFINED = "\ufffe"
"""Marks a byte without a character (codecs.charmap_decode)."""

_CODECS = {
    **dict.fromkeys(UTF8_CHARSETS, "utf-8"),
    "ascii": "ascii",
    "cp1250": "cp1250",
    "cp1251": "cp1251",
    "cp1257": "cp1257",
    "cp850": "cp850",
    "cp852": "cp852",
    "cp932": "cp932",
    "euckr": "cp949",
    "gb2312": "gb2312",
    "gbk": "gbk",
    "hp8": "hp-roman8",
    "koi8r": "koi8-r",
    "latin2": "iso8859-2",
    "latin5": "iso8859-9",
    "latin7": "iso8859-13",
    "macce": "mac-latin2",
    "macroman": "mac-roman",
    "utf16": "utf-16-be",
    "utf16le": "utf-16-le",
    "utf32": "utf-32-be",
}
"""Where Python's codec is the server's table; note that the server's utf16 and utf32 are big-endian."""


def _changes(start: int, characters: str) -> dict[int, str]:
    return dict(enumerate(characters, start))


_ONE_BYTE: dict[str, tuple[str, dict[int, str]]] = {
    "latin1": ("cp1252", {byte: chr(byte) for byte in b"\x81\x8d\x8f\x90\x9d"}),
    "cp1256": ("cp1256", dict.fromkeys(b"\x8a\x8f\x98\x9a\x9f\xaa\xc0\xff", _UNDEFINED)),
    "cp866": ("cp866", {0xFC: "\u207f", 0xFD: "\u00b2"}),
    "greek": ("iso8859-7", {0xA1: "\u02bd", 0xA2: "\u02bc", **dict.fromkeys(b"\xa4\xa5\xaa", _UNDEFINED)}),
    "hebrew": ("iso8859-8", {0xAF: "\u203e"}),
    "koi8u": ("koi8-u", {0x95: "\u2022"}),
    "tis620": ("tis-620", {}),
    "swe7": (
        "ascii",
        _changes(0x5B, "\u00c4\u00d6\u00c5\u00dc")
        | _changes(0x7B, "\u00e4\u00f6\u00e5\u00fc")
        | {0x40: "\u00c9", 0x60: "\u00e9", 0x7F: _UNDEFINED},
    ),
    "dec8": (
        "latin-1",
        dict.fromkeys(b"\xa4\xa6\xac\xad\xae\xaf\xb4\xb8\xbe\xd0\xde\xf0\xfe\xff", _UNDEFINED)
        | {0xA8: "\u00a4", 0xD7: "\u0152", 0xDD: "\u0178", 0xF7: "\u0153", 0xFD: "\u00ff"},
    ),
    "keybcs2": (
        "cp437",
        {0x80: "\u010c", 0x83: "\u010f", 0x8F: "\u00c1"}
        | _changes(0x85, "\u010e\u0164\u010d\u011b\u011a\u0139\u00cd\u013e\u013a")
        | {0x91: "\u017e", 0x92: "\u017d", 0x95: "\u00d3", 0x96: "\u016f", 0x97: "\u00da", 0x98: "\u00fd"}
        | _changes(0x9B, "\u0160\u013d\u00dd\u0158\u0165")
        | _changes(0xA4, "\u0148\u0147\u016e\u00d4\u0161\u0159\u0155\u0154"),
    ),
    "armscii8": (
        "latin-1",
        _changes(0xA1, "\u2741\u00a7\u0589)(\u00bb\u00ab\u2014.\u055d,-\u055f\u2026\u055c\u055b\u055e")
        | {0xB2 + index: chr(0x0531 + index // 2 + 0x30 * (index % 2)) for index in range(76)}
        | {0xFE: "\u2019", 0xFF: "'"},
    ),
    "geostd8": (
        "latin-1",
        dict.fromkeys((*range(0x80, 0xA0), *range(0xE6, 0x100)), _UNDEFINED)
        | {0x80: "\u20ac", 0x82: "\u201a", 0x89: "\u2030", 0x8B: "\u2039", 0x9B: "\u203a", 0xFD: "\u2116"}
        | _changes(0x84, "\u201e\u2026\u2020\u2021")
        | _changes(0x91, "\u2018\u2019\u201c\u201d\u2022\u2013\u2014")
        | _changes(0xC0, "\u10d0\u10d1\u10d2\u10d3\u10d4\u10d5\u10d6\u10f1\u10d7\u10d8\u10d9\u10da\u10db\u10dc\u10f2")
        | _changes(0xCF, "\u10dd\u10de\u10df\u10e0\u10e1\u10e2\u10f3\u10e3\u10e4\u10e5\u10e6\u10e7\u10e8\u10e9\u10ea")
        | _changes(0xDE, "\u10eb\u10ec\u10ed\u10ee\u10f4\u10ef\u10f0\u10f5"),
    ),
}
"""Character sets of one byte: Python's codec and the bytes for which the server has another character."""


def _table(codec: str, changes: dict[int, str]) -> str:
    characters = [bytes([byte]).decode(codec, "replace") for byte in range(256)]
    characters = [_UNDEFINED if character == "\ufffd" else character for character in characters]
    return "".join(changes.get(byte, character) for byte, character in enumerate(characters))


def _one_byte_decoder(table: str) -> Decoder:
    charmap_decode = codecs.charmap_decode

    def decode(text: bytes) -> str:
        return charmap_decode(text, "strict", table)[0]

    return decode


# ---- several bytes a character, where Python's codec isn't the server's table ----

_IBM_EXTENSIONS = (
    "\u2170\u2171\u2172\u2173\u2174\u2175\u2176\u2177\u2178\u2179\u2160\u2161\u2162\u2163\u2164\u2165"
    "\u2166\u2167\u2168\u2169\uff07\uff02\u3231\u2116\u2121\u70bb\u4efc\u50f4\u51ec\u5307\u5324\ufa0e"
    "\u548a\u5759\ufa0f\ufa10\u589e\u5bec\u5cf5\u5d53\ufa11\u5fb7\u6085\u6120\u654e\u663b\u6665\ufa12"
    "\uf929\u6801\ufa13\ufa14\u6a6b\u6ae2\u6df8\u6df2\u7028\ufa15\ufa16\u7501\u7682\u769e\ufa17\u7930"
    "\ufa18\ufa19\ufa1a\ufa1b\u7ae7\ufa1c\ufa1d\u7da0\u7dd6\ufa1e\u8362\ufa1f\u85b0\ufa20\ufa21\u8807"
    "\ufa22\u8b7f\u8cf4\u8d76\ufa23\ufa24\ufa25\u90de\ufa26\u9115\ufa27\ufa28\u9592\uf9dc\ufa29\u973b"
    "\u974d\u9751\ufa2a\ufa2b\ufa2c\u999e\u9ad9\u9b72\ufa2d\u9ed1"
)
"""eucjpms, 8FF3F3 to 8FF4FE: IBM's extensions of JIS X 0208."""


def _user_defined(row: bytes, first: int) -> str:
    """A character of rows 85 to 94, which EUC maps to the private use area from ``first`` on."""
    return chr(first + (row[0] - 0xF5) * 94 + row[1] - 0xA1)


def _is_pair(pair: bytes, first: int) -> bool:
    return len(pair) == 2 and first <= pair[0] <= 0xFE and 0xA1 <= pair[1] <= 0xFE


def _ujis_extra(text: bytes, start: int) -> tuple[str, int]:
    """The user-defined characters of ujis and eucjpms, and how many bytes they take (0: none here)."""
    if text[start] == 0x8F and _is_pair(text[start + 1 : start + 3], 0xF5):
        return _user_defined(text[start + 1 : start + 3], 0xE3AC), 3
    if _is_pair(text[start : start + 2], 0xF5):
        return _user_defined(text[start : start + 2], 0xE000), 2
    return "", 0


def _eucjpms_extra(text: bytes, start: int) -> tuple[str, int]:
    """Those, NEC's row 13 (as in cp932) and IBM's extensions."""
    pair, triple = text[start : start + 2], text[start : start + 3]
    if pair[0] == 0xAD and _is_pair(pair, 0xAD):
        cell = pair[1] - 0xA1
        return bytes((0x87, 0x40 + cell + (cell >= 63))).decode("cp932"), 2
    if b"\x8f\xf3\xf3" <= triple <= b"\x8f\xf4\xfe" and _is_pair(triple[1:], 0xF3):
        return _IBM_EXTENSIONS[(triple[1] - 0xF3) * 94 + triple[2] - 0xF3], 3
    return _ujis_extra(text, start)


def _big5_extra(text: bytes, start: int) -> tuple[str, int]:
    """Seven ideographs of ETEN's extension, which Python has in its cp950."""
    pair = text[start : start + 2]
    return (pair.decode("cp950"), 2) if b"\xf9\xd6" <= pair <= b"\xf9\xdc" else ("", 0)


def _register(name: str, extra: Callable[[bytes, int], tuple[str, int]]) -> str:
    """Makes an error handler (codecs.register_error) that knows more characters than the codec; its name."""

    def handle(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        character, width = extra(error.object, error.start)
        if not width:
            raise error
        return character, error.start + width

    codecs.register_error(name, handle)
    return name


_UJIS = _register("rowflow-ujis", _ujis_extra)
_EUCJPMS = _register("rowflow-eucjpms", _eucjpms_extra)
_BIG5 = _register("rowflow-big5", _big5_extra)

_EUCJPMS_CHARACTERS = str.maketrans(
    "\u301c\u2016\u2212\u00a2\u00a3\u00ac\u00a6", "\uff5e\u2225\uff0d\uffe0\uffe1\uffe2\uffe4"
)
_GB18030_CHARACTERS = str.maketrans("\u1e3f\ue7c7", "\ue7c7\u1e3f")
"""The server has the tables of GB18030-2005, Python those of 2000: one letter changed places."""


def _ujis(text: bytes) -> str:
    return text.decode("euc_jp", _UJIS).replace("\uff3c", "\\")


def _eucjpms(text: bytes) -> str:
    # 8FA2B7 is a full-width tilde as A1C1 is; Python would give the ASCII one. 8F is never the second byte of another.
    return text.replace(b"\x8f\xa2\xb7", b"\xa1\xc1").decode("euc_jp", _EUCJPMS).translate(_EUCJPMS_CHARACTERS)


def _sjis(text: bytes) -> str:
    return text.decode("shift_jis").replace("\uff3c", "\\")


def _big5(text: bytes) -> str:
    return text.decode("big5", _BIG5)


def _gb18030(text: bytes) -> str:
    return text.decode("gb18030").translate(_GB18030_CHARACTERS)


def _ucs2(text: bytes) -> str:
    """Two bytes each: a pair of surrogates would be one character in UTF-16, in UCS-2 it is none."""
    characters = text.decode("utf-16-be")
    if len(characters) * 2 != len(text):
        raise UnicodeDecodeError("ucs2", text, 0, len(text), "surrogates")
    return characters


def _codec_decoder(codec: str) -> Decoder:
    def decode(text: bytes) -> str:
        return text.decode(codec)

    return decode


_DECODERS: dict[str, Decoder] = {
    **{charset: _codec_decoder(codec) for charset, codec in _CODECS.items()},
    **{charset: _one_byte_decoder(_table(codec, changes)) for charset, (codec, changes) in _ONE_BYTE.items()},
    "big5": _big5,
    "eucjpms": _eucjpms,
    "gb18030": _gb18030,
    "sjis": _sjis,
    "ucs2": _ucs2,
    "ujis": _ujis,
}

CHARSETS = frozenset(_DECODERS)
"""All character sets for texts; ``binary`` is none of them."""


def decoder(charset: str) -> Decoder:
    """What decodes a text of that character set, raising UnicodeDecodeError; TableUnfollowable for an unknown one."""
    try:
        return _DECODERS[charset]
    except KeyError:
        raise TableUnfollowable(f"the character set {charset!r} is unknown to this version of Rowflow") from None
