"""Free TCP ports on 127.0.0.1.

Ports come from below the range that the kernel gives to outgoing connections (Linux: 32768 and up). A port from inside
it can be taken by any client while its server is being restarted; a client that reconnects in a loop can even be
connected to itself.
"""

import random
import socket

_LOWEST = 20_000
_HIGHEST = 32_000


def is_free(port: int) -> bool:
    """Can a server listen on this port of 127.0.0.1 now?"""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port that nobody listens on. Nothing reserves it: start the server at once."""
    candidates = random.SystemRandom().sample(range(_LOWEST, _HIGHEST), k=200)
    return next(port for port in candidates if is_free(port))
