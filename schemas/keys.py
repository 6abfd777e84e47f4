"""Keys and their partitions.

Comes in: the values of a row's primary key.  Goes out: the record key, a compact JSON object in key order, and the
partition that every Kafka client with the murmur2 partitioner (Java, aiokafka, librdkafka's ``murmur2_random``) gives it.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from schemas.tables import TableSchema


def key_bytes(values: Mapping[str, Any], key_columns: Iterable[str]) -> bytes:
    """The record key of a row: ``{"id":7}``, columns in key order."""
    return orjson.dumps({column: values[column] for column in key_columns})


def row_key(schema: TableSchema, row: Mapping[str, Any]) -> bytes:
    """The record key of a row's event values; of a key part that is a prefix, only the prefix tells rows apart."""
    values = {}
    for column, prefix_chars in schema.primary_key:
        value = row[column]
        if prefix_chars:
            value = value[:prefix_chars] if schema.by_name[column].charset else base64_prefix(value, prefix_chars)
        values[column] = value
    return orjson.dumps(values)


def base64_prefix(text: str, size_bytes: int) -> str:
    """Base64 of the first bytes of what is given in base64."""
    return b64encode(b64decode(text)[:size_bytes]).decode("ascii")


def murmur2(data: bytes) -> int:
    """The 32-bit MurmurHash2 with Kafka's seed, unsigned (org.apache.kafka.common.utils.Utils.murmur2)."""
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    length = len(data)
    digest = (0x9747B28C ^ length) & mask
    whole = length & ~3
    for offset in range(0, whole, 4):
        block = int.from_bytes(data[offset : offset + 4], "little") * multiplier & mask
        block = (block ^ block >> 24) * multiplier & mask
        digest = (digest * multiplier & mask) ^ block
    if length & 3:
        digest = (digest ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    digest = (digest ^ digest >> 13) * multiplier & mask
    return digest ^ digest >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: the sign bit off, modulo the number of partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
