"""Kafka into slices: the Faust app with its slice transport, and what places, hands over and commits slices.

Comes in: records of the captured tables' topics.  Goes out: slices, each written by a target of sink/ in one transaction
together with the partition's progress.  Guarantees exactness.md W1-W13: the sink's progress row alone decides where a
partition stands, whatever Faust, a rebalance or a worker that was stopped and came back does.

    transport.py     the only module that knows Faust and aiokafka: slices, seeks, the app
    places.py        epochs and chains: which slice follows which
    placement.py     where a partition goes on, read from the sink; waits at barriers
    agents.py        one slice, one transaction, tried again until it is in or given up
    kafka.py         the only module that knows confluent-kafka: topic facts, compacted topics, the outbox
    schema_topic.py  table schemas by fingerprint
    functions.py     a functions.py that changes while its worker runs
    app.py           a worker process from its start to its exit code
"""
