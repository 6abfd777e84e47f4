"""How often Python looks for garbage in processes that handle rows.

Rows are tuples and dicts that come and go by the ten thousand, none of them in a cycle; every few hundred of them Python
would search all that are there.  In the reader that took an eighth of its time (measured: 44,000 rows per CPU second, 50,000
without any search).  What cycles there are come with connections and errors; they are found a little later.
"""

from __future__ import annotations

import gc

_ALLOCATIONS_BETWEEN_SEARCHES = 200_000


def search_garbage_seldom() -> None:
    """To be called once, when all is imported: that is never garbage, and isn't looked at any more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_BETWEEN_SEARCHES, 20, 20)
