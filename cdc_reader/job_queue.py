"""What was asked of jobs: requests and orders, and how far each job is that was ever begun.

Comes in: records of ``<prefix>.__jobs``, wishes for first reads.  Goes out: the request whose turn it is.  Each request runs
once, whatever it is asked for again.  Pure: states are published by whoever keeps them here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from cdc_reader.followed import FollowedTables
from cdc_reader.positions import Place
from schemas.jobs import JobOrder, JobRequest, JobState, JobStatus
from schemas.tables import TableName

log = logging.getLogger(__name__)


class JobQueue:
    """All jobs of a reader; mutable, owned by its one thread."""

    def __init__(self, tables: FollowedTables) -> None:
        self._tables = tables
        self._requests: dict[str, JobRequest] = {}
        """What was asked for and isn't finished."""
        self.states: dict[str, JobState] = {}
        self.orders: list[JobOrder] = []
        """What jobs are told and nobody has done yet."""

    def load(self, requests: Iterable[JobRequest], states: Iterable[JobState]) -> None:
        """Takes over what was asked and done before, what was begun first; a start over puts its table back to pending.

        A first read has no request in ``__jobs``: its state stands for it.
        """
        self.states = {state.id: state for state in states}
        asked = {request.id: request for request in requests}
        for state in self.states.values():
            if state.open:
                self.add(asked.get(state.id) or _request_of(state))
        for request in asked.values():
            self.add(request)

    def add(self, request: JobRequest) -> None:
        """One more request; one that is known already changes nothing."""
        if request.id in self._requests or self._done(request.id):
            return
        table = self._tables.table(request.name)
        if table is None:
            log.warning("job %s asks for %s, which [source] tables doesn't capture", request.id, request.name)
            return
        self._requests[request.id] = request
        if request.start_over and request.id not in self.states:
            table.publishing, table.state = False, None

    def add_first_reads(self, names: Iterable[TableName], now_ms: int) -> None:
        """Asks for the first read of every table that has no state and none asked for, nor cancelled."""
        asked = {request.name for request in self._requests.values() if request.fresh}
        asked |= {state.name for state in self.states.values() if state.status == JobStatus.CANCELLED}
        for name in names:
            table = self._tables.table(name)
            if table is not None and table.state is None and name not in asked:
                self.add(JobRequest(name.db, name.table, f"first-read-{name}-{now_ms}", "first read", now_ms))

    def _done(self, job_id: str) -> bool:
        state = self.states.get(job_id)
        return state is not None and not state.open

    def next(self) -> JobRequest | None:
        """The request whose turn it is: not that of a paused job, nor a second one between a table's begin and its end."""
        return next(
            (
                asked
                for asked in self._requests.values()
                if not self.is_paused(asked.id) and not (asked.fresh and self._is_begun(asked.name, besides=asked.id))
            ),
            None,
        )

    def _is_begun(self, name: TableName, besides: str) -> bool:
        """Whether another job of the table has had its begin barrier, and not its end: its keys are being noted."""
        return any(
            state.open and state.begun and state.name == name and state.id != besides for state in self.states.values()
        )

    def is_paused(self, job_id: str) -> bool:
        """Whether a job waits for an order to resume."""
        state = self.states.get(job_id)
        return state is not None and state.status == JobStatus.PAUSED

    def request(self, job_id: str) -> JobRequest | None:
        """A request that isn't finished; None: it is, or nobody has asked."""
        return self._requests.get(job_id)

    def keep(self, state: JobState) -> None:
        """The job's state is this from now on; one that isn't open is finished."""
        self.states[state.id] = state
        if not state.open:
            self._requests.pop(state.id, None)

    def new_state(self, request: JobRequest, place: Place, now_ms: int) -> JobState:
        """The state of a job that begins; its rows are counted on behind those of the table's other jobs (R8)."""
        earlier = [state.first_row + state.rows_read for state in self.states.values() if state.name == request.name]
        return JobState(
            request.db,
            request.table,
            request.id,
            request.origin,
            request.fresh,
            JobStatus.READING.value,
            started_ms=now_ms,
            first_row=max(earlier, default=0),
            where=request.where,
            low=str(place),
            updated_ms=now_ms,
        )


def _request_of(state: JobState) -> JobRequest:
    return JobRequest(state.db, state.table, state.id, state.origin, state.started_ms, state.fresh, where=state.where)
