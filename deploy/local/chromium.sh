#!/bin/sh
# Sees to a Chromium for the tests of pages: one that is there, or Debian's package where this is root's Debian. Says where
# it is, or that there is none; tests/browser.py then skips.
set -eu

for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then command -v "$name"; exit 0; fi
done
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    if apt-get install -y --no-install-recommends chromium >/dev/null 2>&1 \
        || { apt-get update >/dev/null 2>&1 && apt-get install -y --no-install-recommends chromium >/dev/null 2>&1; }; then
        command -v chromium
        exit 0
    fi
fi
echo "chromium: none here, and none could be installed. Install Chromium; the pages are not tested without." >&2
