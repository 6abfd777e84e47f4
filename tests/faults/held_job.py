"""Starts Rowflow so that its reader stops itself (SIGSTOP) when a job has published its first shard, of sixteen rows.

``python -m tests.faults.held_job JOB reader ...``: what follows the job's id is Rowflow's own command line.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any
from unittest.mock import patch

from cdc_reader.jobs import JobRunner
from cdc_reader.running_job import RunningJob
from rowflow.main import main as run


def hold(job_id: str) -> None:
    """Let the job's second shard wait to be published until somebody sends SIGCONT."""
    publish = JobRunner._publish_shard

    def stop_and_publish(self: JobRunner, job: RunningJob, *arguments: Any) -> Any:
        if job.state.id == job_id and job.state.shards == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return publish(self, job, *arguments)

    patch.object(JobRunner, "_publish_shard", stop_and_publish).start()


def main(job_id: str, *command_line: str) -> int:
    """Hold the job and run Rowflow."""
    hold(job_id)
    return run(command_line)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
