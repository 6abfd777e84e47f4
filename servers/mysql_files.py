"""The mysqld to run: one of version 8.0 or later that is installed, else Debian sid's in the user's cache.

Debian stable has MariaDB only (its `mysqld` is a link to it), so the version a program prints decides, not its name.
Debian sid's MySQL comes as packages that debootstrap downloads and checks against the signed Release file; they are
unpacked, never installed, and run by that root's own loader and libraries. The mirror is the one that this machine's
own apt uses.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from servers.commands import printed_by, succeeds
from servers.downloads import cache_directory, exclusive, read_sums, sha256_sums, write_sums
from servers.errors import OWN_SERVERS_HINT, ServerError

# sid moves on. The last version that all tests passed with; what is found is printed beside it.
KNOWN_GOOD = "9.7.4"

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_ADMIN_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_KEPT = ("usr/sbin/mysqld", "usr/bin/mysql", "usr/lib64", "usr/lib/mysql", _LIBRARIES, "usr/share/mysql")


@dataclass(frozen=True, slots=True)
class MysqlFiles:
    """A mysqld and how to call it: `server` and `client` are the first words of a command line; options come after."""

    version: str
    server: tuple[str, ...]
    client: tuple[str, ...] | None
    options: tuple[str, ...]  # where its files are, as options of mysqld; empty for an installed one


@cache
def find_mysql() -> MysqlFiles:
    """Return the mysqld to use; downloads it if there is none (needs debootstrap and the network)."""
    return _installed() or _private_root()


def _installed() -> MysqlFiles | None:
    programs = (shutil.which("mysqld"), "/usr/sbin/mysqld", "/usr/local/mysql/bin/mysqld")
    for program in programs:
        version = _version([program]) if program else None
        if program and version:
            client = shutil.which("mysql")
            return MysqlFiles(version, (program,), (client,) if client else None, ())
    return None


def _version(command: Sequence[str]) -> str | None:
    """Return the version of a MySQL 8.0 or later; None for anything else."""
    printed = printed_by([*command, "--version"])
    found = re.search(r"Ver (\d+)\.(\d+)\.(\d+)", printed)
    if found is None or "MariaDB" in printed or int(found[1]) < 8:
        return None
    return ".".join(found.groups())


def _private_root() -> MysqlFiles:
    home = cache_directory() / "mysql-sid"
    with exclusive(cache_directory() / "mysql-sid.lock"):
        if not (home / "SHA256SUMS").exists():
            _download(home)
        if sha256_sums(home / "root") != read_sums(home / "SHA256SUMS"):
            raise ServerError(f"{home} is not what was downloaded: a file in it was changed. Remove it: rm -r {home}")
    files = _files_in(home / "root")
    if files.version != KNOWN_GOOD:
        print(f"  MySQL {files.version} of Debian sid (known good: {KNOWN_GOOD})", flush=True)
    return files


def _files_in(root: Path) -> MysqlFiles:
    libraries = f"{root / _LIBRARIES}:{root / 'usr/lib/mysql/private'}"
    loader = (str(root / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", libraries)
    server = (*loader, str(root / "usr/sbin/mysqld"))
    version = _version([*server, "--no-defaults"])
    if version is None:
        raise ServerError(f"The MySQL that Debian sid has now does not run here (in {root}). {OWN_SERVERS_HINT}")
    options = (
        f"--basedir={root / 'usr'}",
        f"--lc-messages-dir={root / 'usr/share/mysql'}",
        f"--character-sets-dir={root / 'usr/share/mysql/charsets'}",
        f"--plugin-dir={root / 'usr/lib/mysql/plugin'}",
    )
    client = (*loader, str(root / "usr/bin/mysql"))
    return MysqlFiles(version, server, client if (root / "usr/bin/mysql").exists() else None, options)


def _download(home: Path) -> None:
    """Fetch and unpack; `home` appears whole or not at all."""
    if shutil.which("debootstrap", path=_ADMIN_PATH) is None:
        raise ServerError(
            "There is no MySQL 8.0 or later here, and no debootstrap to fetch one: sudo apt-get install debootstrap "
            f"(on a system that is not Debian: its mysql-server). {OWN_SERVERS_HINT}"
        )
    mirror = _debian_mirror()
    print(f"  fetching MySQL from Debian sid ({mirror}), half a minute ...", flush=True)
    with tempfile.TemporaryDirectory(dir=cache_directory(), prefix="mysql-sid.") as scratch:
        packages, unpacked, ready = Path(scratch, "packages"), Path(scratch, "unpacked"), Path(scratch, "ready")
        _debootstrap(packages, mirror)
        _unpack(sorted(packages.rglob("*.deb")), unpacked)
        _keep(unpacked, ready / "root")
        _files_in(ready / "root")  # says so now if it does not run
        write_sums(ready / "PACKAGES.sha256", sha256_sums(packages / "var/cache/apt/archives"))
        write_sums(ready / "SHA256SUMS", sha256_sums(ready / "root"))
        shutil.rmtree(home, ignore_errors=True)
        ready.rename(home)


def _debian_mirror() -> str:
    """Return the address of the Debian archive in apt's own sources, whichever of their two forms they have."""
    mirror = _mirror_known_to_apt()
    if mirror is None:  # apt knows whose archive it is once it has fetched the Release file
        as_root = [] if os.geteuid() == 0 else ["sudo"]
        succeeds([*as_root, "apt-get", "update"], cache_directory() / "apt.log")
        mirror = _mirror_known_to_apt()
    if mirror is None:
        raise ServerError(f"There is no Debian mirror in apt's sources here to fetch MySQL from. {OWN_SERVERS_HINT}")
    return mirror


def _mirror_known_to_apt() -> str | None:
    targets = printed_by(["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"])
    labelled = (line.partition(" ") for line in targets.splitlines())
    return next((address for label, _, address in labelled if label == "Debian"), None)


def _debootstrap(packages: Path, mirror: str) -> None:
    """Download MySQL and all it needs; debootstrap checks it by Debian's signature on the Release file. No root needed."""
    log_file = cache_directory() / "debootstrap.log"
    environment = ["env", f"PATH={_ADMIN_PATH}", *_apt_proxy()]
    what = [f"--keyring={_KEYRING}", "--variant=minbase", "--include=mysql-server-core,mysql-client-core"]
    if not succeeds([*environment, "debootstrap", "--download-only", *what, "sid", str(packages), mirror], log_file):
        raise ServerError(f"debootstrap can't fetch sid's MySQL from {mirror}, see {log_file}. {OWN_SERVERS_HINT}")


def _apt_proxy() -> list[str]:
    """Return the proxy that apt uses, for debootstrap's own downloads, as a word for env(1)."""
    found = re.search(r"proxy='(.+)'", printed_by(["apt-config", "shell", "proxy", "Acquire::http::Proxy"]))
    return [f"http_proxy={found[1]}"] if found else []


def _unpack(archives: Sequence[Path], directory: Path) -> None:
    """Unpack packages over each other into a root whose top directories are links into usr/, as Debian's own are."""
    directory.mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (directory / "usr" / name).mkdir(parents=True)
        (directory / name).symlink_to(f"usr/{name}")
    unused = [f"--exclude=./usr/share/{name}" for name in ("doc", "man", "locale", "perl", "zoneinfo")]
    extract = ["tar", "--extract", "--keep-directory-symlink", "--no-same-owner", f"--directory={directory}", *unused]
    for archive in archives:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as contents:
            unpacked = subprocess.run(extract, stdin=contents.stdout, capture_output=True, text=True, check=False)
        if unpacked.returncode != 0 or contents.returncode != 0:
            raise ServerError(f"{archive.name} can't be unpacked: {unpacked.stderr.strip() or 'dpkg-deb failed'}")


def _keep(unpacked: Path, root: Path) -> None:
    """Move what mysqld and mysql need into place; the rest of the packages goes away with the scratch directory."""
    for name in _KEPT:
        if (unpacked / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (unpacked / name).rename(root / name)
