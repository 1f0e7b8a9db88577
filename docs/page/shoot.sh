#!/usr/bin/env bash
# Draws the pictures of docs/page.md: docs/page/shoot.sh PROGRAM [CHROMIUM], of a fresh quickstart.
set -euo pipefail
program="$(realpath "${1:-target/release/ip2p-coordinator}")"
chromium="${2:-chromium}"
cd "$(dirname "$0")/../.."

work="$(mktemp -d)"
server=
trap 'if [ -n "$server" ]; then kill "$server"; fi; rm -rf "$work"' EXIT
"$program" run configs/quickstart.yaml --set "store=file://$work/out" --no-progress --no-web >/dev/null
"$program" serve "file://$work/out/quickstart" --web 127.0.0.1:0 2>"$work/said" &
server=$!
until grep -q '^page: ' "$work/said"; do sleep 0.1; done
url="$(sed -n 's/^page: \([^ ]*\).*/\1/p' "$work/said")"

# picture NAME PATH WIDTH HEIGHT [FLAG...]
picture() {
    local name="$1" path="$2" width="$3" height="$4"
    shift 4
    "$chromium" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run --user-data-dir="$work/profile" \
        --timeout=3000 --window-size="$width,$height" --screenshot="docs/page/$name.png" "$@" "$url$path" 2>/dev/null
}
picture run / 1280 1000
picture gallery /gallery 1280 900
picture quality /quality 1280 1180
picture dark /gallery 1280 900 --blink-settings=preferredColorScheme=0
picture phone / 500 1000
