"""What every new server would make anew, made once and kept in the user's cache.

In: a name that holds all that it depends on (versions, settings), and a function that makes it. Out: its place; it appears
there whole, or not at all, however many ask at a time.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from servers.downloads import cache_directory, exclusive


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """Return the file or directory of that name, which `make` has made at the path that it is given."""
    place = cache_directory() / name
    if not place.exists():
        with exclusive(cache_directory() / f"{name}.lock"):
            if not place.exists():
                with tempfile.TemporaryDirectory(dir=cache_directory(), prefix=f"{name}.") as scratch:
                    made = Path(scratch, "made")
                    make(made)
                    made.rename(place)
    return place


def copied(template: Path, target: Path) -> None:
    """Copy a directory; the copy appears whole or not at all."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(template, unfinished)
    unfinished.rename(target)
