#!/bin/sh
# Make a virtual environment with the newest suitable Python: venv.sh FOLDER
# PYTHON=/path/to/python chooses one by hand.
set -eu

folder=$1
found=
for name in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    # A version manager's shim may stand for a version that is not there: ask, do not trust a name.
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        found=$name
        break
    fi
done
if [ -z "$found" ]; then
    echo "no Python 3.11 or newer was found (looked for ${PYTHON:-python3.13, python3.12, python3.11, python3, python})." >&2
    echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2
    exit 1
fi

# Half an environment would look like a whole one to make: it is removed where anything fails.
trap 'rm -rf "$folder"' EXIT
if "$found" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    "$found" -m venv "$folder"
elif "$found" -m virtualenv --version >/dev/null 2>&1; then
    "$found" -m virtualenv --quiet "$folder"
elif command -v virtualenv >/dev/null 2>&1; then
    virtualenv --quiet --python "$found" "$folder"
else
    version=$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "$found cannot make virtual environments: its venv module is not installed." >&2
    echo "On Debian and Ubuntu: apt install python$version-venv (or: apt install python3-virtualenv)" >&2
    exit 1
fi
trap - EXIT
