"""`rowflow wait`."""

from __future__ import annotations

import click

from rowflow.options import settings_command
from rowflow.pipeline import pipeline_of
from rowflow.settings import Settings
from rowflow.waiting import Deadline, wait_until_held


@settings_command("wait", "source", "kafka", "sink", example="rowflow wait --timeout 60")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="S", help="Give up after S seconds (exit 1)."
)
def wait(settings: Settings, timeout_s: float | None) -> int:
    """Return when the sink holds all that the source has committed by now.

    Exit 1 if not in time, or at once if a captured table stands still.
    """
    with pipeline_of(settings) as pipeline:
        wait_until_held(pipeline, Deadline.within(timeout_s))
    return 0
