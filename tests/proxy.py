"""A TCP proxy that can fall silent, a network that loses packets without closing a connection, or be cut, a server that ended.

Comes in: a server's port.  Goes out: a port on 127.0.0.1 that leads there, until ``silence``: from then on nothing passes
on the connections that are open, in either direction, and they stay open.  ``speak`` lets new connections through.  ``cut``
closes them, and nobody listens any more, until ``mend``.  ``hang_up`` closes them, and each new one at once, until ``speak``.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

_CHUNK = 1 << 16


class SilentProxy:
    """One listener; a thread for each direction of each connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._silent = threading.Event()
        self._hangs_up = False
        self._sockets: list[socket.socket] = []
        self.refused = 0
        """How many connections were made in vain: nothing was said to them, or they were closed."""
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = self._listen()

    def silence(self) -> None:
        """Let nothing more through."""
        self._silent.set()

    def speak(self) -> None:
        """Let new connections through; those that fell silent stay so."""
        self._silent = threading.Event()
        self._hangs_up = False

    def hang_up(self) -> None:
        """Close the connections that are open, and each new one at once: what is tried in vain is counted."""
        self._hangs_up = True
        self._shut_down()

    def cut(self) -> None:
        """Close the connections that are open and refuse new ones."""
        # Closing alone doesn't wake the thread that waits in it, and the port would stay open as long.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        self._shut_down()

    def mend(self) -> None:
        """Listen again, on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._acceptor = self._listen()

    def close(self) -> None:
        """Close all; what is being accepted just now too."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        for each in self._sockets:
            each.close()

    def _shut_down(self) -> None:
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> threading.Thread:
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._hangs_up:
                    self.refused += 1
                    client.close()
                    continue
                self._sockets.append(client)
                if self._silent.is_set():
                    self.refused += 1
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets.append(server)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, target, self._silent), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, silent: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                if silent.is_set():
                    return
                target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def silent_proxy(port: int) -> Iterator[SilentProxy]:
    """A proxy to a port of this machine."""
    proxy = SilentProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
