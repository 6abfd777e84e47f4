"""What is said of brokers that can't be worked with, from what librdkafka says of them."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from cdc_reader.errors import BrokerAway, BrokerFenced, BrokerRefused
from cdc_reader.kafka import UNAUTHORIZED, _fatal_or_away
from schemas.brokers import BrokerFailures

FIRST_REFUSED = "sasl_plaintext://kafka:9092/bootstrap: Connect to ipv4#10.0.0.7:9092 failed: Connection refused"
ADVERTISED_REFUSED = (
    "127.0.0.1:9092/1: Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)"
)
UNRESOLVED = "ssl://inside:9093/12: Failed to resolve 'inside:9093': Name or service not known"
ALL_DOWN = "1/1 brokers are down"


@pytest.mark.parametrize(
    ("failures", "words"),
    [
        ([ADVERTISED_REFUSED, ALL_DOWN], "the address that it advertises, 127.0.0.1:9092, can't be reached"),
        ([FIRST_REFUSED, UNRESOLVED], "the address that it advertises, inside:9093, can't be reached"),
        # One that was reached and is gone: by its own address first, then by the one that we were told.
        ([ADVERTISED_REFUSED, FIRST_REFUSED, ALL_DOWN], "(timed out); start it, or mend [kafka] bootstrap_servers"),
        ([ALL_DOWN], "(timed out); start it, or mend [kafka] bootstrap_servers, or advertised.listeners"),
    ],
)
def test_the_broker_that_failed_last_says_which_address_is_wrong(failures: list[str], words: str) -> None:
    noted = BrokerFailures()
    for text in failures:
        noted.note(text)
    message = noted.not_reached("kafka:9092", "timed out")
    assert words in message
    assert message.endswith(words) == (failures[-2:] == [FIRST_REFUSED, ALL_DOWN])


@pytest.mark.parametrize("code", sorted(UNAUTHORIZED))
def test_an_error_of_the_authorizer_is_a_refusal_with_what_is_to_be_allowed(code: int) -> None:
    error = _fatal_or_away(KafkaError(code))
    assert isinstance(error, BrokerRefused)
    assert "Write on transactional ids that begin with rowflow-PREFIX" in str(error)


def test_other_errors_are_waited_out_or_looked_into() -> None:
    assert isinstance(_fatal_or_away(KafkaError(KafkaError._TRANSPORT)), BrokerAway)
    assert isinstance(_fatal_or_away(KafkaError(KafkaError.PRODUCER_FENCED)), BrokerFenced)
