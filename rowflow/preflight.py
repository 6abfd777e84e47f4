"""What is refused before anything is started: a sink that can't take the results, or that would be captured itself.

Comes in: the settings, and both servers.  Goes out: nothing, or the reason as an error.  Only a probe table is made in the
sink, and dropped again.

Captured tables that can't have mirrors are looked for by who captures them.  A worker doesn't: it needs no source, and
refuses them when it meets them.
"""

from __future__ import annotations

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from cdc_reader.errors import SourceAway
from cdc_reader.sql import SourceSession
from rowflow.configs import REACH_TIME_S, sink_config
from rowflow.errors import UnreachableError
from rowflow.settings import Settings
from rowflow.source import Source
from rowflow.waiting import AWAY, LOOK_AGAIN_S
from schemas.addresses import MysqlAddress
from schemas.errors import RefusedError
from sink.config import SinkConfig
from sink.ddl import MirrorImpossibleError, refuse_key, refuse_names
from sink.preflight import ServerIdentity, identity_of, refuse_loop, try_grants
from sink.sql import SessionPool


def check_sink(settings: Settings, *, with_mirrors: bool) -> None:
    """Refuse a sink inside the captured tables, and one that lacks grants; waits for servers for 30 s.

    ``with_mirrors``: refuse tables that can't have a mirror, too.  Raises RefusedError or SettingError.
    """
    try:
        for attempt in Retrying(
            retry=retry_if_exception_type(AWAY), stop=stop_after_delay(REACH_TIME_S), wait=wait_fixed(LOOK_AGAIN_S)
        ):
            with attempt:
                _check(settings, with_mirrors=with_mirrors)
    except RetryError as error:
        away = error.last_attempt.exception()
        setting = "[source] url" if isinstance(away, SourceAway) else "[sink] url"
        raise UnreachableError(
            f"not reached within {REACH_TIME_S:.0f} s: {away}; start it, or mend {setting}"
        ) from None


def _check(settings: Settings, *, with_mirrors: bool) -> None:
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
                if with_mirrors:
                    _refuse_mirrors(config, source)
            try_grants(session)
    finally:
        pool.close()


def _refuse_mirrors(config: SinkConfig, source: Source) -> None:
    """Refuse captured tables that would share a mirror, and keys that are too long for the sink."""
    refuse_names(config, source.captured_tables())
    for schema in source.tables_with_long_keys():
        try:
            refuse_key(schema)
        except MirrorImpossibleError as error:
            raise RefusedError(str(error)) from None


def _identity_of_source(address: MysqlAddress) -> ServerIdentity:
    with SourceSession(address) as session:
        row = session.texts("SELECT @@server_uuid, @@hostname, @@port, @@server_id")[0]
    return ServerIdentity(row[0], row[1], int(row[2]), int(row[3]))
