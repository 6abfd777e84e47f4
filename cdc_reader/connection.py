"""The dump connection: bytes of the binlog from the server.

Comes in: where to begin.  Goes out: chunks of bytes.  mysql-replication makes the connection, the handshake, the request and
the heartbeat; from then on its socket is read here, in big chunks, and none of its decoding is called.
The one module of this room that imports pymysqlreplication and pymysql.

Guarantees: a connection on which nothing comes, no heartbeat either, for ``read_timeout_s`` is SourceAway; it never
reconnects by itself.
"""
# ruff: noqa: SLF001 - the library has no public way to its connected socket

from __future__ import annotations

import random
import socket
import ssl
import time
from contextlib import suppress
from typing import Any

import pymysql
from pymysqlreplication import BinLogStreamReader

from cdc_reader.config import SourceConfig
from cdc_reader.errors import SourceAway, SourceRefused
from cdc_reader.positions import Position

CHUNK_BYTES = 1 << 18
_NET_WRITE_TIMEOUT_S = 3600
_WRONG_LOGIN = {1044, 1045, 1698}
_MISSING_GRANT = {1142, 1227}


class DumpConnection:
    """One dump from one position; a new one is made after any error."""

    def __init__(self, config: SourceConfig, position: Position, *, with_gtids: bool) -> None:
        """Connects and asks for the binlog behind ``position``; raises SourceAway or SourceRefused."""
        self._read_timeout_s = config.read_timeout_s
        self._received_s = time.monotonic()
        address = config.address
        settings: dict[str, Any] = {
            "host": address.host,
            "port": address.port,
            "user": address.user,
            "password": address.password,
            "connect_timeout": 10,
            "read_timeout": config.read_timeout_s,
            "init_command": f"SET SESSION net_write_timeout = {_NET_WRITE_TIMEOUT_S}",
        }
        if address.ssl_ca:
            settings |= {"ssl_ca": address.ssl_ca, "ssl_verify_cert": True, "ssl_verify_identity": True}
        start: dict[str, Any] = {"log_file": position.file, "log_pos": position.pos, "resume_stream": True}
        if with_gtids:
            start = {"auto_position": position.gtids}
        reader = BinLogStreamReader(
            settings,
            config.server_id,
            blocking=True,
            slave_heartbeat=config.heartbeat_s,
            enable_logging=False,
            **start,
        )
        try:
            # The library connects at the first fetchone(), which also decodes; there is no public way to do it alone.
            reader._BinLogStreamReader__connect_to_stream()
        except pymysql.MySQLError as error:
            raise _mapped(error, config) from error
        self.checksums: bool = reader._BinLogStreamReader__use_checksum
        self._connection = reader._stream_connection
        self._socket: socket.socket = self._connection._sock
        self.next_sequence: int = self._connection._next_seq_id
        self._left = self._buffered()

    def _buffered(self) -> bytes:
        """What the library's own buffered reader holds already."""
        self._socket.settimeout(0)
        try:
            left: bytes = self._connection._rfile.peek()
            return bytes(self._connection._rfile.read(len(left))) if left else b""
        except (BlockingIOError, OSError):
            return b""

    def receive(self, timeout_s: float) -> bytes | None:
        """The next bytes, all that are there up to CHUNK_BYTES, or None where none came in time.

        Raises SourceAway where the connection is dead or ended.
        """
        if self._left:
            left, self._left = self._left, b""
            return left
        first = self._receive(timeout_s, CHUNK_BYTES)
        if first is None:
            if time.monotonic() - self._received_s > self._read_timeout_s:
                raise SourceAway(f"nothing came from the source for {self._read_timeout_s:g} s, no heartbeat either")
            return None
        self._received_s = time.monotonic()
        chunks = [first]
        size = len(first)
        # TLS hands out no more than a record, 16 KiB, at a time.
        while size < CHUNK_BYTES and (more := self._receive(0, CHUNK_BYTES - size)) is not None:
            chunks.append(more)
            size += len(more)
        return b"".join(chunks)

    def _receive(self, timeout_s: float, bytes_max: int) -> bytes | None:
        try:
            self._socket.settimeout(timeout_s)
            chunk = self._socket.recv(bytes_max)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return None
        except OSError as error:
            raise SourceAway(f"the binlog connection was lost: {error}") from error
        if not chunk:
            raise SourceAway("the source has closed the binlog connection")
        return chunk

    def pause_allowed(self) -> None:
        """The reader itself was held up (Kafka was away): silence until now says nothing about the source."""
        self._received_s = time.monotonic()

    def close(self) -> None:
        """Closes the socket; the server notices at its next write."""
        with suppress(OSError):
            self._socket.close()


def random_server_id() -> int:
    """A server id for a short-lived reader of its own, far from those that people give."""
    return random.SystemRandom().randrange(1 << 30, (1 << 32) - 1)


def _mapped(error: pymysql.MySQLError, config: SourceConfig) -> Exception:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    user = config.address.user
    if code in _WRONG_LOGIN:
        return SourceRefused(
            f"the source {config.address} refuses the login: {text}; check the password in [source] url, or: "
            f"ALTER USER '{user}'@'%' IDENTIFIED BY '...'"
        )
    if code in _MISSING_GRANT:
        return SourceRefused(
            f"the source refuses the binlog: {text}; as its administrator: "
            f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO '{user}'@'%'"
        )
    return SourceAway(f"the source {config.address} can't be reached: {text} (error {code})")
