"""Dead letters: records that could not be processed, kept in ``_rowflow_dead_letters``.

Comes in: records with reasons, inside the slice's transaction.  Goes out: rows that hold all there is to try again:
topic, partition, offset, key, bytes, headers, reason.

Guarantees: a letter is filed in the transaction that moves the progress past its record, once per record.  More than a
settable number of records in a row that can't be processed are a fault of something else: a loud stop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import orjson

from sink.errors import SinkStopped
from sink.fold import STORED_WITHOUT_TEXT, Failure
from sink.slices import Record
from sink.sql import Session

SHOW_OPEN = (
    "SELECT topic, partition_id, `offset`, CONVERT(`key` USING utf8mb4) AS `key`, reason, created_at"
    " FROM _rowflow_dead_letters WHERE status <> 'outdated' ORDER BY id"
)
"""The statement that shows what is open."""

TABLE = "_rowflow_dead_letters"

_CREATE = f"""CREATE TABLE IF NOT EXISTS {TABLE} (
    id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    topic VARCHAR(249) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    partition_id INT NOT NULL,
    `offset` BIGINT NOT NULL,
    `key` LONGBLOB NULL,
    `value` LONGBLOB NULL,
    headers LONGBLOB NULL COMMENT 'JSON: pairs of name and text',
    reason TEXT CHARACTER SET utf8mb4 NOT NULL,
    status VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'open'
        COMMENT 'open; rereading: the table is being read whole; outdated: it was, since',
    created_at DATETIME(3) NOT NULL COMMENT 'UTC',
    UNIQUE KEY record (topic, partition_id, `offset`),
    KEY status (status)) ENGINE=InnoDB"""

_REASON_LENGTH_MAX_CHARACTERS = 10_000
_PACKET_RESERVE_BYTES = 1024


class InARow(NamedTuple):
    """The longest run of records of which none could be processed, and the offset that it ends at."""

    length: int
    last_offset: int


class RunCounter:
    """Counts failed records in a row, per partition, over slices and over retries of a slice."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, int], dict[int, int]] = {}

    def longest(
        self, topic: str, partition: int, start: int, end: int, records: Sequence[Record], failed: Collection[int]
    ) -> InARow:
        """The longest run up to this slice's end, and in it; ``failed`` holds offsets, ``records`` no tombstones."""
        known = self._at.get((topic, partition), {})
        before = known.get(start, 0)
        run, longest = before, InARow(before, start)
        for record in records:
            run = run + 1 if record.offset in failed else 0
            if run > longest.length:
                longest = InARow(run, record.offset)
        # The run at the start stays: when the transaction fails, the slice comes again.
        self._at[topic, partition] = {start: before, end: run}
        return longest


def prepare_table(session: Session) -> None:
    """Make the table where it is missing."""
    session.execute(_CREATE)


def file_letters(session: Session, topic: str, partition: int, letters: Iterable[Failure]) -> None:
    """Insert letters; one that is there already (its topic was begun anew) is written over."""
    for record, reason, detail in letters:
        parameters = (
            topic,
            partition,
            record.offset,
            record.key,
            record.value,
            orjson.dumps([(name, value.decode("utf-8", "replace")) for name, value in record.headers]),
            ": ".join(filter(None, (reason, detail)))[:_REASON_LENGTH_MAX_CHARACTERS],
        )
        size_bytes = sum(len(session.literal(parameter)) for parameter in parameters) + _PACKET_RESERVE_BYTES
        if size_bytes > session.server.max_packet_bytes:
            raise too_long_for_packet(topic, partition, record.offset, size_bytes)
        session.execute(
            "INSERT INTO _rowflow_dead_letters"
            " (topic, partition_id, `offset`, `key`, `value`, headers, reason, status, created_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, 'open', UTC_TIMESTAMP(3)) ON DUPLICATE KEY UPDATE"
            " `key` = VALUES(`key`), `value` = VALUES(`value`), headers = VALUES(headers), reason = VALUES(reason),"
            " status = 'open', created_at = VALUES(created_at)",
            parameters,
        )


def outdate(session: Session, topic: str) -> None:
    """The topic's table is read whole into an empty mirror from here on: what was open says nothing any more."""
    _mark(session, topic, {"open", "rereading"}, "outdated")


def begin_rereading(session: Session, topic: str) -> None:
    """The topic's table is read whole from here on: what is open says nothing any more when that has come to its end."""
    _mark(session, topic, {"open"}, "rereading")


def end_rereading(session: Session, topic: str, *, whole: bool) -> None:
    """It has, or it was given up."""
    _mark(session, topic, {"rereading"}, "outdated" if whole else "open")


def _mark(session: Session, topic: str, before: Collection[str], after: str) -> None:
    session.execute(
        "UPDATE _rowflow_dead_letters SET status = %s WHERE topic = %s AND status IN %s",
        (after, topic, sorted(before)),
    )


def open_letters(session: Session) -> dict[str, int]:
    """How many letters are open, by topic."""
    rows = session.fetch("SELECT topic, COUNT(*) FROM _rowflow_dead_letters WHERE status <> 'outdated' GROUP BY topic")
    return dict(rows)


def unwritten_rows(session: Session, topic: str, first_row: int, end_row: int) -> int:
    """How many ``r`` events of a topic, by their ``source.row``, are letters and no rows; those stored without a text are."""
    rows = session.fetch(
        "SELECT COUNT(*) FROM (SELECT CONVERT(`value` USING utf8mb4) AS event FROM _rowflow_dead_letters"
        " WHERE topic = %s AND reason NOT LIKE %s) AS letters WHERE IF(JSON_VALID(event),"
        " JSON_UNQUOTE(JSON_EXTRACT(event, '$.op')) = 'r'"
        " AND CAST(JSON_UNQUOTE(JSON_EXTRACT(event, '$.source.row')) AS SIGNED) BETWEEN %s AND %s, FALSE)",
        (topic, f"{STORED_WITHOUT_TEXT}%", first_row, end_row - 1),
    )
    return int(rows[0][0])


def too_many(topic: str, partition: int, run: InARow, reason: str, maximum: int) -> SinkStopped:
    """The loud stop after too many failures in a row."""
    return SinkStopped(
        f"topic {topic} [{partition}]: {run.length} records in a row up to offset {run.last_offset} can't be processed,"
        f" more than [stream] dead_letters_in_a_row_max = {maximum}.  The last one: {reason}.\n"
        f"Those before this slice are filed in the sink, with their reasons: {SHOW_OPEN};\n"
        "Mend what the reasons name; or raise the setting (ROWFLOW_STREAM__DEAD_LETTERS_IN_A_ROW_MAX), to file them all"
    )


def too_long_for_packet(topic: str, partition: int, offset: int, size_bytes: int) -> SinkStopped:
    """The loud stop of a record that one statement can't hold."""
    wanted = 1 << (size_bytes - 1).bit_length()
    return SinkStopped(
        f"topic {topic} [{partition}] offset {offset}: the row needs a statement of {size_bytes} bytes, more than the"
        f" sink's max_allowed_packet.  On the sink, as an administrator: SET GLOBAL max_allowed_packet = {wanted};"
    )
