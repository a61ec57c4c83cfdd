#!/bin/sh
# Takes the scripts that pages use out of npm's registry, as package-lock.json has them by hash, into
# contracts/web/static/vendor/, where they are committed: whoever runs the services needs neither npm nor a network.
# tests/unit/test_vendored.py holds the committed files against what this installs, where npm is.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
root=$(CDPATH='' cd -- "$here/../.." && pwd -P)
modules=$root/.tools/web
vendor=$root/contracts/web/static/vendor

command -v npm >/dev/null 2>&1 || { echo "web: no npm here; the committed files stay as they are." >&2; exit 0; }
mkdir -p "$modules"
if ! cmp -s "$here/package-lock.json" "$modules/package-lock.json" || [ ! -d "$modules/node_modules" ]; then
    cp "$here/package.json" "$here/package-lock.json" "$modules/"
    npm ci --prefix "$modules" --ignore-scripts --no-audit --no-fund --loglevel=error >&2 || {
        echo "web: npm could not install; the committed files stay as they are." >&2
        rm -rf "$modules"
        exit 0
    }
fi
[ "${1:-}" = "--only-install" ] && exit 0
mkdir -p "$vendor"
for file in \
    chart.js/dist/chart.umd.min.js chart.js/LICENSE.md \
    htmx.org/dist/htmx.min.js htmx.org/LICENSE \
    htmx-ext-sse/dist/sse.min.js htmx-ext-sse/LICENSE \
    swagger-ui-dist/swagger-ui-bundle.js swagger-ui-dist/swagger-ui.css swagger-ui-dist/LICENSE
do
    package=${file%%/*}
    case $file in
        *LICENSE*) cp "$modules/node_modules/$file" "$vendor/$package.LICENSE" ;;
        *) cp "$modules/node_modules/$file" "$vendor/$(basename "$file")" ;;
    esac
done
# What is bundled in it has licences of its own.
cat "$modules/node_modules/swagger-ui-dist/NOTICE" "$modules/node_modules/swagger-ui-dist/swagger-ui-bundle.js.LICENSE.txt" \
    >>"$vendor/swagger-ui-dist.LICENSE"
ls "$vendor"
