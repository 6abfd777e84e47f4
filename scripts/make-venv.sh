#!/bin/bash
# Makes .venv with Python 3.11, the locked packages and Rowflow itself (editable). Usage: make-venv.sh STAMP_FILE
set -euo pipefail
stamp=$1

python=
for candidate in python3.11 python3 /usr/bin/python3.11; do
    if "$candidate" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Rowflow needs Python 3.11, and there is none in the PATH. On Debian 12: apt-get install python3" >&2
    exit 1
fi

if ! .venv/bin/python -c 'import sys, pip; raise SystemExit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    echo "Making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
fi
echo "Installing the locked Python packages, under a minute ..."
pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check)
if ! "${pip[@]}" install --require-hashes -r requirements/dev.txt; then
    echo "The Python packages can't be installed. Try by hand: ${pip[*]} install --require-hashes -r requirements/dev.txt" >&2
    exit 1
fi
"${pip[@]}" install --no-deps --no-build-isolation --editable .
touch "$stamp"
