"""Java programs, fetched by Maven from wherever this machine's Maven fetches; each file checked by its SHA-256."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from servers.commands import succeeds
from servers.downloads import cache_directory, exclusive, read_sums, sha256_sums
from servers.errors import ServerError


@dataclass(frozen=True, slots=True)
class Jars:
    """What is to be fetched: ``pom`` names it, ``sums`` lists all files that this brings; ``hint``: what else helps."""

    name: str
    """With its version: the directory's name in the cache."""
    pom: Path
    sums: Path
    hint: str = ""

    def find(self) -> Path:
        """Return the directory with the jars; downloads them if need be (needs mvn and the network)."""
        directory = cache_directory() / self.name
        with exclusive(cache_directory() / f"{self.name}.lock"):
            if not directory.is_dir():
                self._download(directory)
            self._check(directory, advice=f"Remove it: rm -r {directory}")
        return directory

    def _download(self, directory: Path) -> None:
        """Fetch the jars; the directory appears whole and checked, or not at all."""
        if shutil.which("mvn") is None:
            raise ServerError(f"{self.name} is fetched by Maven, and there is no mvn: sudo apt-get install maven")
        print(f"  fetching {self.name} by Maven, a quarter of a minute ...", flush=True)
        log_file = cache_directory() / "maven.log"
        with tempfile.TemporaryDirectory(dir=cache_directory(), prefix=f"{self.name}.") as scratch:
            fetched = Path(scratch, "jars")
            fetch: list[str | Path] = [
                "mvn",
                "--batch-mode",
                "--file",
                self.pom,
                f"-Dmaven.repo.local={scratch}/repository",
            ]
            goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={fetched}"]
            if not succeeds([*fetch, *goal], log_file):
                raise ServerError(f"Maven can't fetch {self.name}, see {log_file}. {self.hint}")
            self._check(fetched, advice="Nothing of it was kept.")
            fetched.rename(directory)

    def _check(self, directory: Path, advice: str) -> None:
        expected, found = read_sums(self.sums), sha256_sums(directory)
        if found != expected:
            names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise ServerError(f"{', '.join(names)} in {directory}: not the bytes that {self.sums} names. {advice}")
