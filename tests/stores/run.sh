#!/usr/bin/env bash
# The store tests on real servers: run.sh VENV [NODE]. VENV is a virtual environment with requirements.txt beside this
# file, NODE a folder in which package.json beside this file is installed; without it Azure is skipped.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
venv="$1"
node="${2:-}"
if [ -z "$node" ]; then
    echo "Azure is skipped: Azurite is an npm package, and there is no npm here"
fi

cd "$here/../.."
# The tests are built before the servers start, so that a slow build keeps no server waiting.
# With the whole workspace, because a selection of packages would be built with other features once more.
cargo test --workspace --test stores --no-run
"$venv/bin/python" "$here/serve.py" "$venv" "$node" cargo test --workspace --test stores -- --nocapture --test-threads 2
