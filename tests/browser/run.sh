#!/usr/bin/env bash
# The page in a real browser: run.sh NODE, a folder in which package.json beside this file is installed. It takes the
# chromedriver of the PATH, and on a Debian where it may, it installs one.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
node="$1"

if ! command -v chromedriver >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core >/dev/null
    else
        echo "no chromedriver: install Chromium and its driver (Debian: chromium chromium-driver)" >&2
        exit 1
    fi
fi

cd "$here/../.."
# The run that the tests share is nobody's to remove: all of theirs goes with this folder.
work="$(mktemp -d)"
# Browsers that are still ending may write there: what they leave fails no test.
trap 'rm -rf "$work" || { sleep 2; rm -rf "$work"; } || true' EXIT
export TMPDIR="$work"
export IP2P_CHROMEDRIVER="$(command -v chromedriver)"
export IP2P_AXE="$node/node_modules/axe-core/axe.min.js"
# With the whole workspace, because a selection of packages would be built with other features once more.
cargo test --workspace --test browser -- --test-threads 2
