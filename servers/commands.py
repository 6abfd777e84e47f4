"""Programs that we run to their end: what they print goes into a log file, not to the terminal."""

import subprocess
from collections.abc import Sequence
from pathlib import Path


def succeeds(command: Sequence[str | Path], log_file: Path) -> bool:
    """Run a command without input, its output added to the log file; did it exit with 0?"""
    with log_file.open("ab") as log:
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False)
        except OSError as error:
            log.write(f"{error}\n".encode())
            return False
    return done.returncode == 0


def printed_by(command: Sequence[str | Path]) -> str:
    """Run a command and return what it printed on standard output; "" if it can't be started."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""
