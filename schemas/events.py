"""The change event as it stands in Kafka, and the barriers among them.

Comes in: the value of a record.  Goes out: its parts.  The envelope is Debezium's (before, after, source, op, ts_ms);
a barrier has op ``m`` (``t`` for TRUNCATE), the key :data:`BARRIER_KEY`, and one more field, ``barrier``.
The exact shapes stand in ``change_event_key.schema.json`` and ``change_event_value.schema.json`` beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

BARRIER_KEY = b'{"rowflow":"barrier"}'
UNDECODABLE_HEADER = "rowflow.undecodable"
"""Header of an event of which a text could not be decoded: a JSON object, column -> hex of its bytes."""
NEW_KEY_HEADER = "__debezium.newkey"
OLD_KEY_HEADER = "__debezium.oldkey"


class Op(StrEnum):
    """What an event is: the letters are Debezium's."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    READ = "r"
    TRUNCATE = "t"
    MESSAGE = "m"


class BarrierKind(StrEnum):
    """Why all partitions of a topic wait for each other."""

    BEGIN = "begin"
    """A whole-table job begins (a first read too), with schema ``fingerprint``: from here on keys are noted in the sink."""
    END = "end"
    """A whole-table job has published its last row: what wasn't noted since its begin isn't on the source."""
    CANCEL = "cancel"
    """A whole-table job was given up: what was noted says nothing."""
    SCHEMA = "schema"
    """The table has the schema ``fingerprint`` from here on; it had ``old_fingerprint``."""
    TRUNCATE = "truncate"
    """All rows of the table are gone."""


@dataclass(frozen=True, slots=True)
class Barrier:
    """One barrier; ``id`` is unique in its topic; ``job`` names the job of BEGIN, END and CANCEL, else it is empty."""

    id: str
    kind: BarrierKind
    fingerprint: str
    old_fingerprint: str = ""
    job: str = ""

    def to_dict(self) -> dict[str, str]:
        """The field ``barrier`` of the event."""
        return {
            "id": self.id,
            "kind": self.kind.value,
            "fingerprint": self.fingerprint,
            "old_fingerprint": self.old_fingerprint,
            "job": self.job,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Barrier:
        """The inverse of :meth:`to_dict`; raises KeyError or ValueError where a part is missing or unknown."""
        return cls(
            record["id"], BarrierKind(record["kind"]), record["fingerprint"], record["old_fingerprint"], record["job"]
        )
