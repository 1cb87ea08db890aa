#!/bin/sh
# The Autobahn WebSocket suite in an environment of its own: autobahn.sh FOLDER
# It runs on Python 2.7 only. PYTHON27=/path/to/python2.7 names one; else the usual places are tried.
set -eu

folder=$1
found=
for python in ${PYTHON27:-python2.7 python2 "$HOME"/.pyenv/versions/2.7.*/bin/python2.7}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' >/dev/null 2>&1; then
        found=$python
        break
    fi
done
if [ -z "$found" ]; then
    echo "no Python 2.7: the Autobahn suite cannot be had here" >&2
    exit 1
fi
trap 'rm -rf "$folder"' EXIT
tools=$folder-tools
mkdir -p "$tools"
"$found" -m pip install --quiet --target "$tools" 'virtualenv<20.22' 2>/dev/null
PYTHONPATH=$tools "$found" -m virtualenv --quiet "$folder"
"$folder/bin/python" -m pip install --quiet autobahntestsuite 2>/dev/null
rm -rf "$tools"
trap - EXIT
