"""Computed columns of the bookshop: what Python can do and SQL can't.

Rowflow runs each function for every row of the table that it is marked with and stores the result in a column of the
function's name beside the table's own.  The annotation of what it returns is the column's type.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from rowflow import computed


@computed("shop.books")
def search_text(row: dict[str, Any]) -> str:
    """Title and author as people type them: 'Les Misérables' by 'Victor Hugo' becomes 'les miserables victor hugo'."""
    letters = unicodedata.normalize("NFKD", f"{row['title']} {row['author']}".casefold())
    return " ".join("".join(letter for letter in letters if not unicodedata.combining(letter)).split())
