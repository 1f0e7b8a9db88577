#!/usr/bin/env bash
# Draws pictures of the main views into docs/page: docs/page/shoot.sh PROGRAM [CHROMIUM [RUN]]. Of a fresh quickstart, half
# way and at its end; or of a RUN that is there, given by its URL.
set -euo pipefail
program="$(realpath "${1:-target/release/ip2p-coordinator}")"
chromium="${2:-chromium}"
cd "$(dirname "$0")/../.."

work="$(mktemp -d)"
running=
trap 'if [ -n "$running" ]; then kill "$running" || true; fi; rm -rf "$work"' EXIT
run="${3:-file://$work/out/quickstart}"

# Starts the program with a page in the background, and learns where it is.
show() {
    "$program" "$@" --web 127.0.0.1:0 >/dev/null 2>"$work/said" &
    running=$!
    until grep -q '^page: ' "$work/said"; do sleep 0.1; done
    url="$(sed -n 's/^page: \([^ ]*\).*/\1/p' "$work/said")"
}

# picture NAME PATH WIDTH HEIGHT [FLAG...]
picture() {
    local name="$1" path="$2" width="$3" height="$4"
    shift 4
    "$chromium" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run --user-data-dir="$work/profile" \
        --timeout=5000 --window-size="$width,$height" --screenshot="docs/page/$name.png" "$@" "$url$path" 2>/dev/null
}

if [ $# -lt 3 ]; then
    show run configs/quickstart.yaml --set "store=file://$work/out" --no-progress
    # Stages of the pipeline at work side by side.
    until [ "$("$program" status "$run" --json 2>/dev/null | grep -c '"committed": [6-9]')" -ge 2 ]; do kill -0 "$running"; sleep 1; done
    picture run /?stage=pairs 1280 1000
    wait "$running"
fi
show serve "$run"
picture gallery /gallery 1280 720
picture quality /quality 1280 860
picture dark / 1280 620 --blink-settings=preferredColorScheme=0
picture phone / 500 900
