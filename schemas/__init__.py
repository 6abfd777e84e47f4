"""The contract between the rooms: change events, table schemas, keys, topic names, job records, errors.

Comes in: nothing; this room performs no I/O and reads no clock.  Goes out: the shapes that the reader writes to Kafka
and the workers read back.  It imports no other room.
"""
