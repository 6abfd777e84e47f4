"""What is refused before anything is started: a sink that can't take the results, or that would be captured itself.

Comes in: the settings, and both servers.  Goes out: nothing, or the reason as an error.  Only a probe table is made in the
sink, and dropped again.
"""

from __future__ import annotations

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from cdc_reader.sql import SourceSession
from rowflow.configs import REACH_TIME_S, sink_config
from rowflow.errors import UnreachableError
from rowflow.settings import Settings
from rowflow.source import Source
from rowflow.waiting import AWAY, LOOK_AGAIN_S
from schemas.addresses import MysqlAddress
from sink.preflight import ServerIdentity, identity_of, refuse_loop, try_grants
from sink.sql import SessionPool


def check_sink(settings: Settings) -> None:
    """Refuse a sink inside the captured tables, and one that lacks grants; waits for servers for 30 s.

    Raises RefusedError or SettingError.
    """
    try:
        for attempt in Retrying(
            retry=retry_if_exception_type(AWAY), stop=stop_after_delay(REACH_TIME_S), wait=wait_fixed(LOOK_AGAIN_S)
        ):
            with attempt:
                _check(settings)
    except RetryError as error:
        raise UnreachableError(f"not reached within {REACH_TIME_S:.0f} s: {error.last_attempt.exception()}") from None


def _check(settings: Settings) -> None:
    config = sink_config(settings)
    pool = SessionPool(config.address)
    try:
        with pool.lend() as session:
            if settings.source is not None:
                source = Source(settings.source)
                if source.patterns.reach_into(config.address.database):
                    refuse_loop(
                        config=config,
                        sink=identity_of(session),
                        source=_identity_of_source(source.address),
                        patterns=source.patterns,
                        captured=source.captured_tables(),
                    )
            try_grants(session)
    finally:
        pool.close()


def _identity_of_source(address: MysqlAddress) -> ServerIdentity:
    with SourceSession(address) as session:
        row = session.texts("SELECT @@server_uuid, @@hostname, @@port, @@server_id")[0]
    return ServerIdentity(row[0], row[1], int(row[2]), int(row[3]))
