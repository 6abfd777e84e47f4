#!/bin/bash
# Makes requirements/*.txt anew: every package pinned, with hashes, and no address of the index it came from.
set -euo pipefail
cd "$(dirname "$0")/../requirements"
for name in runtime dev; do
    env -u PIP_FIND_LINKS -u UV_FIND_LINKS ../.venv/bin/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url \
        --no-emit-find-links --python-version 3.11 --custom-compile-command "make lock" --output-file "$name.txt" "$name.in"
done
