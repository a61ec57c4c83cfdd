#!/bin/sh
# Puts promtool into .tools/promtool/, out of Debian's package `prometheus`, without installing it. Says where it is.
# Where there is one on the PATH already, or no apt-get, it does nothing; tests/unit/test_alerts.py then uses, or skips.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
root=$(CDPATH='' cd -- "$here/../.." && pwd -P)
place=$root/.tools/promtool

if command -v promtool >/dev/null 2>&1; then command -v promtool; exit 0; fi
if [ -x "$place/promtool" ]; then echo "$place/promtool"; exit 0; fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "promtool: no apt-get here. Install Prometheus (https://prometheus.io/download/) for its promtool." >&2
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if apt-get download prometheus >/dev/null 2>&1 || { apt-get update >/dev/null 2>&1; apt-get download prometheus >/dev/null 2>&1; }; then
    dpkg-deb -x prometheus_*.deb unpacked
    mkdir -p "$place"
    mv unpacked/usr/bin/promtool "$place/promtool.new"
    mv "$place/promtool.new" "$place/promtool"
    echo "$place/promtool"
else
    echo "promtool: Debian's package prometheus could not be had. The alert rules are not unit-tested here." >&2
fi
