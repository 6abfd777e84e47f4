"""Files of a server set that only their owner may read: values made once and kept, and files with passwords in them."""

import secrets
from collections.abc import Callable
from pathlib import Path


def keep(file: Path, make: Callable[[], str]) -> str:
    """Return the value in the file; the first time it is made and written there."""
    if not file.exists():
        write_private(file, make() + "\n")
    return file.read_text(encoding="utf-8").strip()


def write_private(file: Path, text: str) -> None:
    """Write a file with mode 0600, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(file.name + ".unfinished")
    unfinished.touch(mode=0o600)
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)


def new_password() -> str:
    """Return a random password that needs no quoting in a URL, a shell or SQL."""
    return secrets.token_hex(16)
