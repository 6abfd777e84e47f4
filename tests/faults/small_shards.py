"""Starts Rowflow with shards of so many rows that a short first read has many windows.

``python -m tests.faults.small_shards ROWS reader ...``: what follows ROWS is Rowflow's own command line.
"""

from __future__ import annotations

import functools
import sys
from typing import Any
from unittest.mock import patch

from cdc_reader.jobs import JobRunner
from rowflow.main import main as run


def limit_shards(rows: int) -> None:
    """Let no shard have more rows."""
    make = JobRunner.__init__

    @functools.wraps(make)
    def make_with_small_shards(self: JobRunner, *arguments: Any) -> None:
        *others, limits = arguments
        make(self, *others, limits._replace(rows_max=min(rows, limits.rows_max)))  # type: ignore[call-arg]

    patch.object(JobRunner, "__init__", make_with_small_shards).start()


def main(rows: str, *command_line: str) -> int:
    """Limit the shards and run Rowflow."""
    limit_shards(int(rows))
    return run(command_line)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
