"""The user's cache directory for downloads, and lists of SHA-256 sums in the form of sha256sum(1)."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path


def cache_directory() -> Path:
    """Return rowflow's directory in the user's cache, made if need be (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(base) / "rowflow"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextmanager
def exclusive(lock_file: Path, notice: str = "") -> Iterator[None]:
    """Hold a lock that other processes respect; while another holds it, print the notice and wait."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if notice:
                print(notice, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def sha256_sums(directory: Path) -> dict[str, str]:
    """Return the SHA-256 (hex) of each regular file below a directory, by relative path; no symbolic links."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    with ThreadPoolExecutor() as pool:
        sums = pool.map(_sha256, paths)
        return {str(path.relative_to(directory)): digest for path, digest in zip(paths, sums, strict=True)}


def read_sums(sums_file: Path) -> dict[str, str]:
    """Read lines of `SHA256  NAME`; names to sums."""
    lines = sums_file.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def write_sums(sums_file: Path, sums: dict[str, str]) -> None:
    """Write what `read_sums` and `sha256sum --check` read."""
    sums_file.write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
