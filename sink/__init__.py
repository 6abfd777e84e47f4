"""Slices into MySQL: progress, mirrors, barriers, statements.

Comes in: slices of one partition's records, and the sink's address.  Goes out: rows, and in the same transaction the
partition's next offset.  Guarantees that every event takes effect once (exactness.md W1-W13, B1-B3); it does not know
how slices come to be, and never talks to Kafka.
"""
