"""The demo: changes of an online bookshop's books arrive in a result table, exactly once, through crashes.

In: servers, named in the environment (`make demo` starts them).  Out: a story on the terminal, and an exit code that is
0 only if all that it tells held.

    demo          the story, from the first book to the exit code
    books         20,000 books, the same each time
    workload      a shop that is open: inserts, updates, deletes, transactions of several rows
    functions     functions.py as users write it: one computed column
    pipeline      `rowflow up` as a child process, kill -9, and the other commands beside it
    exactly_once  the proof: what the progress did, against what lies in the topic
    topic         what a plain Kafka consumer sees of the topic
    gauges        rows per second, lag, partitions
    screen        the terminal: a bar and a live table, or plain lines
    stage         the servers: addresses, settings, connections
    errors        the one error

Nothing here imports a room of Rowflow: the demo sees what any user sees, through plain clients.
"""
