"""`rowflow worker`."""

from __future__ import annotations

from rowflow.configs import functions_watch, sink_functions, worker_config
from rowflow.kafka import check_options
from rowflow.lifeline import has_lifeline, hold_lifeline, was_restarted
from rowflow.memory import search_garbage_seldom
from rowflow.options import settings_command
from rowflow.preflight import check_sink
from rowflow.settings import Settings
from sink.mirrors import MirrorTarget
from sink.preflight import make_target
from sink.sql import SessionPool
from stream_app.app import run_worker
from stream_app.config import WorkerConfig
from stream_app.schema_topic import SchemaTopic


@settings_command("worker", "source", "kafka", "sink", "stream", example="rowflow worker --config rowflow.toml")
def worker(settings: Settings) -> int:
    """Write partitions of the topics into the sink, until it is stopped: one process, for containers."""
    hold_lifeline()
    check_options(settings.require_kafka())
    functions = sink_functions(settings)
    watch = functions_watch(settings, functions)
    if not has_lifeline():
        check_sink(settings, with_mirrors=False)

    def mirrors(config: WorkerConfig, pool: SessionPool, schemas: SchemaTopic) -> MirrorTarget:
        return make_target(config=config.sink, pool=pool, schemas=schemas, functions=functions, look_at_functions=watch)

    search_garbage_seldom()
    return run_worker(worker_config(settings, restarted=was_restarted()), mirrors, watch)
