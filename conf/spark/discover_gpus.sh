#!/usr/bin/env bash
# Spark's discovery script: the GPUs that this executor may use, as {"name": "gpu", "addresses": [...]}.
set -euo pipefail

found=$(nvidia-smi --query-gpu=index --format=csv,noheader)
addresses=$(printf '%s\n' "$found" | sed 's/.*/"&"/' | paste -sd, -)
printf '{"name": "gpu", "addresses": [%s]}\n' "$addresses"
