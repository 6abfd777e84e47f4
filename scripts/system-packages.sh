#!/bin/bash
# Installs the Debian packages that Rowflow and its test servers need, those that are missing only. Every make target calls this.
set -euo pipefail

missing=()
need() { # need PACKAGE TEST...: the package is missing where the test fails
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
has_python_3_11() { python3 -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' || python3.11 --version; }
has_mysql_8() { mysqld --version 2>/dev/null | grep -v MariaDB | grep -Eq 'Ver ([89]|[1-9][0-9])\.'; }
has_java_17() { java --version | head -1 | grep -Eq ' (1[7-9]|[2-9][0-9])\b'; }

PATH=$PATH:/usr/sbin:/sbin
need gcc command -v gcc
need pkg-config command -v pkg-config
need libmariadb-dev pkg-config --exists libmariadb
need python3 has_python_3_11
need python3-dev python3-config --includes
need python3-venv python3 -c 'import ensurepip'
need openjdk-17-jre-headless has_java_17
need maven command -v mvn
need kcat command -v kcat
has_mysql_8 || need debootstrap command -v debootstrap # it fetches MySQL, which Debian 12 does not have

[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "Rowflow's servers are made for Debian 12; here, install by hand what is missing (Debian's names): ${missing[*]}"
    echo "MySQL: a mysqld 8.0 or later in the PATH. Python: 3.11 with headers. Java: 17 or later, and mvn for Kafka's jars."
    echo "Or use servers of your own: set ROWFLOW_SOURCE__URL, ROWFLOW_KAFKA__BOOTSTRAP_SERVERS and ROWFLOW_SINK__URL."
    exit 1
fi >&2

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}")
by_hand="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"

if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    echo "System packages are missing, and there is no sudo. As root: $by_hand" >&2
    exit 1
fi

echo "Installing system packages: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${as_root[@]}" apt-get update -qq && "${install[@]}"; } </dev/null >"$log" 2>&1; then
    tail -5 "$log" >&2
    echo "These system packages can't be installed. Try by hand, as root: $by_hand" >&2
    exit 1
fi
