"""From the binlog to Kafka: connection, packets, events, decode plans, transactions, positions, publisher, jobs.

The way of one row, file by file: ``connection`` (bytes from the server) -> ``packets`` -> ``events`` -> ``stream``
(source transactions; ``table_map`` and ``plans`` decode the rows, ``followed`` knows the tables' states) -> ``publisher``
(one Kafka transaction for events and position).  ``jobs`` reads whole tables beside it, through ``shard_reader``.
``reader`` ties them together; ``read`` prints events without Kafka.
"""
