"""What is said of Kafka brokers that can't be worked with: the same words from all who talk to them.

Comes in: the addresses that were asked, and what librdkafka says of brokers.  Goes out: a message with the setting that
mends it.
"""

from __future__ import annotations

import re

_BROKER = re.compile(r"(?:\w+://)?(?P<address>\S+)/(?P<node>bootstrap|\d+): ")
"""How librdkafka begins what it says of a broker: those that it was told of itself have no number yet."""


class BrokerFailures:
    """Which broker has failed last: one that was asked first, or one by the address that it gives to its clients.

    The latter is known by one that answered: who can be reached, but not by the address that it advertises.
    """

    def __init__(self) -> None:
        self._advertised: str | None = None
        """The advertised address, where the last failure is of one; None: no failure was told, as where nothing answers."""

    def note(self, text: str) -> None:
        """Take in what librdkafka says; what isn't said of a broker changes nothing."""
        found = _BROKER.match(text)
        if found is not None:
            self._advertised = "" if found["node"] == "bootstrap" else found["address"]

    def not_reached(self, servers: str, reason: str) -> str:
        """Brokers that can't be reached, in words."""
        if self._advertised:
            return (
                f"the broker at {servers} answers, but the address that it advertises, {self._advertised}, can't be reached "
                "from here; set advertised.listeners in the broker's configuration to an address that can"
            )
        ways_on = "start it, or mend [kafka] bootstrap_servers"
        if self._advertised is None:
            ways_on += ", or advertised.listeners in its configuration, where that can't be reached from here"
        return f"Kafka at {servers} doesn't answer ({reason}); {ways_on}"


def not_authorized(who: str, reason: str, operations: str) -> str:
    """A client that the brokers' authorizer turns away; ``operations``: what its user has to be allowed, and on what."""
    return f"Kafka refuses {who}: {reason}; let its user (kafka-acls --add) {operations}, PREFIX being [kafka] prefix"
