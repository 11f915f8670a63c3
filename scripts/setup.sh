#!/bin/sh
# Make .venv from pyproject.toml and constraints.txt; do nothing if it is whole and up to date.
# The stamp is written last, so a set-up that was cut off has none and is done again.
set -eu
cd "$(dirname "$0")/.."

stamp=.venv/setup.stamp
sources=$(find histo_nb/widgets -name node_modules -prune -o -name static -prune -o -name '*.js*' -print)
# shellcheck disable=SC2086 # names of ours, without blanks
wanted="$PWD $(cat pyproject.toml constraints.txt hatch_build.py $sources | cksum)"
found=$(cat "$stamp" 2>/dev/null || true)
[ -x .venv/bin/python ] || found=
[ "$found" != "$wanted" ] || exit 0

case $found in
"$PWD "*) ;; # whole, but the requirements changed: pip brings it up to date
*) # missing, cut off, or copied from another folder
    for python in ${PYTHON:-python3.11 python3}; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
        python=
    done
    if [ -z "$python" ]; then
        echo "setup: Python 3.11 or newer is needed, tried: ${PYTHON:-python3.11 python3}." \
            "Install it, or name one: make setup PYTHON=/path/to/python3.12" >&2
        exit 1
    fi
    echo "setup: making .venv with $("$python" --version); this takes a few minutes" >&2
    "$python" -m venv --clear .venv
    ;;
esac

rm -f "$stamp"
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
    -c constraints.txt -e ".[dev]" >&2
echo "$wanted" >"$stamp"
echo "setup: .venv is ready" >&2
