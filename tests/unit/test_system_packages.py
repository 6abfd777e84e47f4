"""What scripts/system-packages.sh can't install it names, with what to do: run with a PATH that lacks it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/system-packages.sh"
NEEDED = ("bash", "env", "grep", "head", "id", "mktemp", "rm", "tail")
"""What the script itself is made of."""


def run_with(directory: Path, **commands: str) -> subprocess.CompletedProcess[str]:
    """Run the script where there are only NEEDED and these, each a line of shell."""
    for name in NEEDED:
        found = shutil.which(name)
        assert found is not None
        if name not in commands:
            (directory / name).symlink_to(found)
    for name, line in commands.items():
        file = directory / name.replace("_", "-")
        file.write_text(f"#!/bin/bash\n{line}\n")
        file.chmod(0o755)
    # The script looks into the administrator's directories too: its own line about them is left out.
    script = SCRIPT.read_text().replace("PATH=$PATH:/usr/sbin:/sbin\n", "")
    assert script != SCRIPT.read_text()
    bash = shutil.which("bash")
    assert bash is not None
    environment = {**os.environ, "PATH": str(directory)}
    return subprocess.run([bash, "-c", script], env=environment, capture_output=True, text=True, check=False)


def test_on_other_systems_three_lines_say_what_to_install(tmp_path: Path) -> None:
    done = run_with(tmp_path, python3="exit 1", kcat="exit 0")
    assert done.returncode == 1
    assert done.stdout == ""
    first, second, third = done.stderr.splitlines()
    assert "made for Debian 12; here, install by hand what is missing" in first
    missing = first.rpartition(": ")[2].split()
    assert {"gcc", "python3", "openjdk-17-jre-headless", "maven", "debootstrap"} <= set(missing)
    assert "kcat" not in missing, "what is there is not named"
    assert "mysqld 8.0 or later" in second
    assert "Java: 17 or later" in second
    for variable in ("ROWFLOW_SOURCE__URL", "ROWFLOW_KAFKA__BOOTSTRAP_SERVERS", "ROWFLOW_SINK__URL"):
        assert variable in third


@pytest.mark.parametrize(
    ("commands", "begin"),
    [
        ({"id": "echo 1000"}, "System packages are missing, and there is no sudo. As root: "),
        ({"id": "echo 0"}, "These system packages can't be installed. Try by hand, as root: "),
        ({"id": "echo 1000", "sudo": "exit 1"}, "These system packages can't be installed. Try by hand, as root: "),
    ],
    ids=["no-sudo", "refused", "sudo-refused"],
)
def test_what_cant_be_installed_is_named_with_the_command(tmp_path: Path, commands: dict[str, str], begin: str) -> None:
    done = run_with(tmp_path, apt_get='echo "E: Unable to locate package" >&2; exit 100', kcat="exit 0", **commands)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(begin)
    update, install = last.removeprefix(begin).split(" && ")
    assert update == "apt-get update"
    assert install.startswith("apt-get install -y --no-install-recommends gcc pkg-config ")
    assert "kcat" not in install
