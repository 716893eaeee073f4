#!/usr/bin/env bash
# Makes an environment with Airflow and its Spark provider, and keeps it. They need one of their own:
# what they require is not what the project requires.
#
#   tools/airflow_world.sh PYTHON CACHE    prints the environment's interpreter
#
# The folder's name carries the recipe, so a change of any version makes another one.
set -euo pipefail

python=$1
root=$2
requirements="$(dirname "$0")/airflow_world.txt"
python_tag=$("$python" -c 'import sys; print(f"cp{sys.version_info.major}{sys.version_info.minor}")')
world="$root/airflow-world-$python_tag-$(cat "$0" "$requirements" | sha256sum | cut -c1-8)"

if [ -e "$world/made" ]; then
    echo "$world/bin/python"
    exit 0
fi

echo "Making an environment for Airflow (about a minute, once) ..." >&2
mkdir -p "$root"
exec 9>"$world.lock"
flock 9
if [ ! -e "$world/made" ]; then
    rm -rf "$world"
    "$python" -m venv "$world"
    "$world/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2
    "$world/bin/python" -m pip check >&2
    touch "$world/made"
fi
echo "$world/bin/python"
