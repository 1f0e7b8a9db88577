#!/usr/bin/env bash
# Chaos on a real S3 server: run.sh VENV [ARGUMENTS OF chaos]. VENV is a virtual environment with ../stores/requirements.txt.
# Without --minutes or --rounds it is short. For hours: run.sh VENV --minutes 180 --seed 1000
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
venv="$1"
shift

cd "$here/../.."
# The same build as all tests: another selection of packages would be built with other features once more.
cargo test --workspace --test chaos --no-run
chaos="${CARGO_TARGET_DIR:-target}/debug/chaos"
"$venv/bin/python" tests/stores/serve.py "$venv" "" "$chaos" --store s3 "$@"
