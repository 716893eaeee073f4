#!/usr/bin/env bash
# Names what the machine lacks, with the command that installs it, before anything long starts.
set -u
python=$1
lacks=0

need() { # COMMAND WHAT PACKAGES
    if ! command -v "$1" >/dev/null 2>&1; then
        echo "No $2 (command $1). Install it: sudo apt-get install -y $3" >&2
        lacks=1
    fi
}

need "$python" "Python 3.11 or newer" "python3 python3-venv python3-dev"
need java "Java 17" openjdk-17-jdk-headless
need g++ "C++ compiler" "g++ make cmake"
need cmake "CMake" cmake
need make "make" make

if command -v java >/dev/null 2>&1; then
    major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)
    if [ "${major:-0}" -lt 17 ]; then
        echo "Java ${major:-of an unknown version} found, 17 or newer needed:" \
            "sudo apt-get install -y openjdk-17-jdk-headless" >&2
        lacks=1
    fi
fi
if command -v "$python" >/dev/null 2>&1; then
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "$("$python" --version) found, 3.11 or newer needed; name another with PYTHON=..." >&2
        lacks=1
    elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "No venv module: sudo apt-get install -y python3-venv" >&2
        lacks=1
    elif [ ! -e "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" ]; then
        echo "No Python headers: sudo apt-get install -y python3-dev" >&2
        lacks=1
    fi
fi
exit $lacks
