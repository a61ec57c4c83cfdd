#!/bin/sh
# Builds .venv/ from requirements.lock, on a machine that has Python 3.11 or newer with pip, and nothing else.
#
# uv goes into .tools/ (pinned and hashed in bootstrap.txt) and so does its cache: nothing outside this folder is
# written, so that it works without a home folder too. PYTHON names another interpreter.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
root=$(CDPATH='' cd -- "$here/../.." && pwd -P)
cd "$root"
uv=.tools/uv/bin/uv

say() { printf '%s\n' "$*" >&2; }
die() { say "bootstrap: $*"; exit 2; }

# A pyenv shim is on the PATH for versions that it then refuses to run: only running it tells.
usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 or newer."
        printf '%s' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        if usable "$candidate"; then printf '%s' "$candidate"; return; fi
    done
    die "no Python 3.11 or newer found. Install one, or name it: make PYTHON=/path/to/python3.12"
}

with_pip() {
    for candidate in "$1" python3; do
        if "$candidate" -m pip --version >/dev/null 2>&1; then printf '%s' "$candidate"; return; fi
    done
    die "$1 has no pip. Install it (on Debian: apt-get install python3-pip)."
}

pip_setting() { "$pip_python" -m pip config get "$1" 2>/dev/null || true; }

# uv does not read pip's configuration; a machine that names its mirror or certificates there means both.
follow_pip_configuration() {
    cert=${PIP_CERT:-$(pip_setting global.cert)}
    index=${PIP_INDEX_URL:-$(pip_setting global.index-url)}
    extra=${PIP_EXTRA_INDEX_URL:-$(pip_setting global.extra-index-url)}
    links=${PIP_FIND_LINKS:-$(pip_setting global.find-links)}
    [ -z "$cert" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"
    [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    # The lock's hashes decide what may be installed, so it does not matter which index has it.
    [ -z "$extra" ] || export UV_INDEX="${UV_INDEX:-$extra}" UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
    [ -z "$links" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$(printf '%s' "$links" | tr ' ' ',')}"
}

install_uv() {
    if [ -x "$uv" ] && cmp -s "$here/bootstrap.txt" .tools/uv/bootstrap.txt; then return; fi
    say "Installing uv into .tools/"
    rm -rf .tools/uv
    PIP_NO_CACHE_DIR=1 PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
        "$pip_python" -m pip install --quiet --require-hashes --target .tools/uv -r "$here/bootstrap.txt"
    cp "$here/bootstrap.txt" .tools/uv/bootstrap.txt
}

python=$(find_python)
pip_python=$(with_pip "$python")
export UV_CACHE_DIR="${UV_CACHE_DIR:-$root/.tools/uv-cache}" UV_PYTHON_DOWNLOADS=never
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}" UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"
mkdir -p .tools
install_uv
follow_pip_configuration

if [ "${1:-}" = lock ]; then
    uv_version=$("$uv" --version | cut -d' ' -f2)
    # Whatever else the machine offers, the lock is made from the default index alone.
    unset UV_INDEX UV_INDEX_STRATEGY UV_FIND_LINKS
    export UV_CUSTOM_COMPILE_COMMAND="make lock"
    compile() { "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes "$@"; }
    compile ${UPGRADE:+--upgrade} --extra local --extra traces --group dev pyproject.toml -o requirements.lock
    echo "uv==${UV_VERSION:-$uv_version}" | compile - -o "$here/bootstrap.txt"
    exit 0
fi

# What runs from .venv/ goes on while it is brought up to date; only another interpreter or place makes it anew.
made_here() {
    [ "$(cat .venv/.place 2>/dev/null)" = "$root" ] && .venv/bin/python -c '' 2>/dev/null || return 1
    [ -z "${PYTHON:-}" ] || [ "$(cat .venv/.python 2>/dev/null)" = "$PYTHON" ]
}

rm -f .venv/.ready
if made_here; then
    say "Bringing .venv/ up to date"
else
    say "Building .venv/ with $("$python" --version 2>&1)"
    "$uv" venv --quiet --clear --python "$("$python" -c 'import sys; print(sys.executable)')" .venv
    printf '%s\n' "$root" >.venv/.place
    printf '%s\n' "${PYTHON:-}" >.venv/.python
fi
"$uv" pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --no-index -e .
touch .venv/.ready
