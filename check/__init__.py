"""Is the copy right?  Compares the source's tables with their mirrors, value by value.

Comes in: where source and sink are, which tables, and a way to wait until the sink holds what the source has.  Goes out:
a report: rows and values compared, the keys that differ and in which columns.

    forms.py     in which form each column is read, so that equal values are equal bytes on both servers
    plans.py     a table's SELECTs on each side: pages in key order, rows by their keys
    sides.py     runs them
    computed.py  computed columns, computed again from the source's row
    walk.py      first pass: finds the keys that are worth a second look
    recheck.py   second looks, after the sink has caught up: difference, equal after all, or changing
    compare.py   all of it, table by table
    report.py    what was found, and its words

Imports cdc_reader and sink for their sessions and schemas only.  Writes nothing anywhere.
"""
