"""Makes Faust's worker hand every slice over twice, as a replay would; with or without what protects from it.

In: the name of what to do, in the variable DEMO_FAULT: ``twice``, or ``twice and unchecked``, where the compare of the
progress' compare-and-set is taken out.  Out: patched modules in the process that imports this.

It is for processes that are started by others: :func:`launch_through` gives the environment that makes Python import it at
the start of each worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from sink import progress
from sink.sql import Session
from stream_app.agents import Delivery, SliceWriter
from stream_app.places import TopicPartition

VARIABLE = "DEMO_FAULT"
TWICE = "twice"
UNCHECKED = "twice and unchecked"

_AT_START = """\
import sys

if "worker" in sys.orig_argv:
    from tests.faults import slices_twice

    slices_twice.install()
"""


def launch_through(directory: Path, fault: str) -> dict[str, str]:
    """Variables with which every worker that is started below does as ``fault`` says; files go into ``directory``."""
    (directory / "sitecustomize.py").write_text(_AT_START, encoding="utf-8")
    root = Path(__file__).resolve().parents[2]
    return {VARIABLE: fault, "PYTHONPATH": os.pathsep.join((str(directory), str(root)))}


def install() -> None:
    """Patch this process by the variable."""
    handle = SliceWriter.handle

    async def handle_twice(self: SliceWriter, delivery: Delivery, seek_anew: Callable[[TopicPartition], None]) -> None:
        await handle(self, delivery, seek_anew)
        await handle(self, delivery, seek_anew)

    patch.object(SliceWriter, "handle", handle_twice).start()

    def advance_always(session: Session, topic: str, partition: int, start: int, end: int, *, records: int) -> bool:
        session.execute(
            "UPDATE _rowflow_progress SET next_offset = %s, records = records + %s WHERE topic = %s AND partition_id = %s",
            (end, records, topic, partition),
        )
        return True

    if os.environ[VARIABLE] == UNCHECKED:
        patch.object(progress, "advance", advance_always).start()
    sys.stderr.write(f"fault installed: {os.environ[VARIABLE]}\n")
    sys.stderr.flush()
