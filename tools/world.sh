#!/usr/bin/env bash
# Makes an environment of its own for what cannot be in the project's, and keeps it: `airflow`,
# `petastorm` with the Arrow and NumPy that it was written for, and `clients` of other servers.
#
#   tools/world.sh NAME PYTHON CACHE    prints the interpreter of the environment of NAME_world.txt
#
# A line `# lacks PACKAGE` names one that is left out, though another asks for it: the list then has
# all others, which are installed as they stand there.
#
# The folder's name carries the recipe, so a change of any version makes another one.
set -euo pipefail

name=$1
python=$2
root=$3
requirements="$(dirname "$0")/${name}_world.txt"
lacks=$(sed -n 's/^# lacks //p' "$requirements")
python_tag=$("$python" -c 'import sys; print(f"cp{sys.version_info.major}{sys.version_info.minor}")')
world="$root/$name-world-$python_tag-$(cat "$0" "$requirements" | sha256sum | cut -c1-8)"

if [ -e "$world/made" ]; then
    echo "$world/bin/python"
    exit 0
fi

echo "Making an environment for $name (about a minute, once) ..." >&2
mkdir -p "$root"
exec 9>"$world.lock"
flock 9
if [ ! -e "$world/made" ]; then
    rm -rf "$world"
    "$python" -m venv "$world"
    "$world/bin/python" -m pip install --quiet --disable-pip-version-check \
        ${lacks:+--no-deps} -r "$requirements" >&2
    known="No broken requirements found.\|requires ${lacks:-nothing}, which is not installed"
    if grep -v "$known" <("$world/bin/python" -m pip check) >&2; then
        exit 1
    fi
    touch "$world/made"
fi
echo "$world/bin/python"
