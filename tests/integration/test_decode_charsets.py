"""Every character set: all single bytes, and the double-byte sequences, give what the server itself converts them to."""

import pytest
from MySQLdb.connections import Connection

from cdc_reader.charsets import CHARSETS, decoder
from tests.helpers import execute

_UNICODE = {"utf8", "utf8mb3", "utf8mb4", "utf16", "utf16le", "utf32", "ucs2"}
_DOUBLE_BYTE = {"big5", "cp932", "eucjpms", "euckr", "gb18030", "gb2312", "gbk", "sjis", "ujis"}
_BIG5_BY_THE_STANDARD = {"A15A", "A1C3", "A1C5", "A1FE", "A240", "A2CC", "A2CE"}


@pytest.mark.parametrize("charset", sorted(CHARSETS - _UNICODE))
def test_fault_d13_text_is_decoded_as_the_server_does(source_root: Connection, database: str, charset: str) -> None:
    sequences = [f"{byte:02X}" for byte in range(256)]
    if charset in _DOUBLE_BYTE:
        sequences += [f"{pair:04X}" for pair in range(0x8100, 0x10000, 3)]
    execute(source_root, f"CREATE TABLE {database}.t (b VARBINARY(2))")
    values = ", ".join(f"(X'{sequence}')" for sequence in sequences)
    execute(source_root, f"INSERT INTO {database}.t VALUES {values}")
    execute(source_root, "SET sql_mode = ''")
    converted = f"CONVERT(b USING {charset})"
    rows = execute(
        source_root,
        f"SELECT HEX(b), HEX(CONVERT({converted} USING utf32)) FROM {database}.t WHERE HEX({converted}) = HEX(b)",
    )
    assert len(rows) > 100
    for sequence, utf32 in rows:
        expected = bytes.fromhex(utf32).decode("utf-32-be") if utf32 else ""
        text = bytes.fromhex(sequence)
        if charset == "big5" and sequence in _BIG5_BY_THE_STANDARD:
            continue
        if not expected or "\ufffd" in expected or expected.count("?") > text.count(b"?"):
            with pytest.raises(UnicodeDecodeError):
                decoder(charset)(text)
        else:
            assert decoder(charset)(text) == expected, sequence
